"""Deltas between encrypted images, inside the delta worker: plain bytes lie only in files without a name.

Such a file belongs to this process alone and is gone with it, however it ends; nothing else ever opens it. The delta is
encrypted before it gets its name, under a salt of its own, and so under a key that no other file has.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from firmware.atomic import atomic_output
from firmware.delta.facts import DeltaFacts
from firmware.encryption.chunked import Decryption, Encryption
from firmware.encryption.content_key import ContentKey

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Opener:
    """What opens one encrypted image: key and salt in hex, and its plain length in bytes."""

    key: str
    salt: str
    length: int

    def __repr__(self) -> str:
        return f"Opener(length={self.length})"


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Openers of the images of one delta; `source` None: it is stored as it is. The delta is encrypted by the target's key."""

    source: Opener | None
    target: Opener


@dataclass(frozen=True, kw_only=True)
class EncryptedDelta:
    """An encrypted delta: what it joins and how long it took, with the encrypted file's length and sha256; its salt."""

    facts: DeltaFacts
    salt: str


def make_encrypted_delta(source: Path, target: Path, out: Path, secrets: Secrets, *, level: int) -> EncryptedDelta:
    """Write to `out`, atomically, an encrypted delta. Raises as `make_delta`, and `RefusedError` as `Decryption.decrypt`."""
    from firmware.delta.make import write_delta  # only the worker has a use for its numpy

    folder = out.parent
    encryption, digest, length = Encryption(_key(secrets.target)), hashlib.sha256(), 0
    with (
        _plain(source, secrets.source, folder) as old,
        _plain(target, secrets.target, folder) as new,
        TemporaryFile(dir=folder) as patch,
        atomic_output(out) as file,
    ):
        plain = write_delta(old, new, patch, level=level)
        patch.seek(0)
        for chunk in encryption.encrypt(_blocks(patch)):
            digest.update(chunk)
            length += len(chunk)
            file.write(chunk)
    facts = DeltaFacts(ends=plain.ends, length=length, sha256=digest.hexdigest(), seconds=plain.seconds)
    return EncryptedDelta(facts=facts, salt=encryption.salt)


@contextmanager
def _plain(image: Path, opener: Opener | None, folder: Path) -> Iterator[Path]:
    """A path that reads as the plain image while the block lasts."""
    if opener is None:
        yield image
        return
    with TemporaryFile(dir=folder) as plain, image.open("rb") as file:
        for chunk in Decryption(_key(opener), opener.salt, opener.length).decrypt(_blocks(file)):
            plain.write(chunk)
        plain.flush()
        yield Path(f"/proc/self/fd/{plain.fileno()}")


def _key(opener: Opener) -> ContentKey:
    return ContentKey(bytes.fromhex(opener.key))


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(_BLOCK_BYTES), b"")
