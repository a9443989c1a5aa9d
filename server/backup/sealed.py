"""Encrypted backups: a line that says how, and the archive in chunks that are encrypted as they are written.

The chunks are `firmware.encryption`'s (STREAM over AES-256-GCM), under a random key for each backup. The first line holds that
key once for each who may open it: wrapped by HPKE to an X25519 key, or under a passphrase by scrypt. A backup is read as hostile,
so what scrypt may cost is bounded here and not by the file.
"""

import io
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta, Struct

from firmware.encryption.chunked import Decryption, Encryption
from firmware.encryption.content_key import ContentKey, from_text, key_id, public_text, to_text
from firmware.encryption.layout import plain_length
from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Sha256
from server.backup.archive import damaged

BEGINS = b'{"chunks":"'
MAX_HEAD_BYTES = 16_384
MAX_SLOTS = 16
SCRYPT_N = 1 << 17
"""128 MiB and about half a second, for each guess."""
MAX_SCRYPT_N = 1 << 20
PIECE = 1 << 20
_INFO = b"otaria backup key v1"
_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

Text = Annotated[str, Meta(min_length=1, max_length=256)]


class PassphraseSlot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="by", tag="scrypt"):
    """The backup's key under a passphrase: AES-256-GCM, the key by scrypt (r 8, p 1)."""

    n: Annotated[int, Meta(ge=1 << 10, le=MAX_SCRYPT_N)]
    salt: Text
    wrapped: Text


class KeySlot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="by", tag="x25519"):
    """The backup's key for the holder of a key; `to`: the sha256 of its public half."""

    to: Sha256
    wrapped: Text


class Head(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line. `salt`: of the chunks (hex)."""

    chunks: Literal["aes-256-gcm-64k"] = "aes-256-gcm-64k"
    format: Literal["otaria-backup-1"] = "otaria-backup-1"
    salt: Sha256
    slots: Annotated[list[PassphraseSlot | KeySlot], Meta(min_length=1, max_length=MAX_SLOTS)]


@contextmanager
def sealing(
    out: IO[bytes], *, passphrase: str | None = None, recipients: Sequence[X25519PublicKey] = (), n: int = SCRYPT_N
) -> Iterator[IO[bytes]]:
    """A file whose bytes go to `out` encrypted, for whoever knows the passphrase or holds one of the keys. It is whole only
    when the block ended without an error."""
    key = ContentKey.new()
    encryption = Encryption(key)
    slots: list[PassphraseSlot | KeySlot] = [_for_key(key, one) for one in recipients]
    if passphrase is not None:
        slots.append(_for_passphrase(key, passphrase, n))
    head = Head(salt=encryption.salt, slots=slots)
    out.write(canonical(msgspec.to_builtins(head)) + b"\n")
    yield _Sealing(out, encryption)  # type: ignore[misc]  # as much of a file as `tarfile` wants
    out.write(encryption.finish())


def is_sealed(file: IO[bytes]) -> bool:
    """Whether a backup is encrypted; leaves the file where it was."""
    at = file.tell()
    begins = file.read(len(BEGINS))
    file.seek(at)
    return begins == BEGINS


def opened(file: IO[bytes], *, passphrase: Callable[[], str], keys: Sequence[X25519PrivateKey] = ()) -> IO[bytes]:
    """What was encrypted, to be read from its beginning. `passphrase` is asked when no key opens it.

    Raises `RefusedError`: `backup-locked` when neither opens it, `backup-damaged`; reading raises the latter too.
    """
    line = file.readline(MAX_HEAD_BYTES)
    try:
        head = convert(parse_json(line, max_bytes=MAX_HEAD_BYTES), Head)
    except RefusedError as error:
        raise damaged(f"its first line is none of an encrypted backup: {error.text}") from error
    key = _opened(head, passphrase, keys)
    begin = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(begin)
    try:
        decryption = Decryption(key, head.salt, plain_length(end - begin))
    except RefusedError as error:
        raise damaged("it breaks off") from error
    return io.BufferedReader(_Opened(decryption.decrypt(iter(lambda: file.read(PIECE), b""))), PIECE)


def _for_key(key: ContentKey, public: X25519PublicKey) -> KeySlot:
    try:
        wrapped = _HPKE.encrypt(key.reveal(), public, _INFO)
    except ValueError as error:
        raise RefusedError(
            "bad-encryption-key", "This is not an X25519 public key that can be encrypted to."
        ) from error
    return KeySlot(to=key_id(public_text(public)), wrapped=to_text(wrapped))


def _for_passphrase(key: ContentKey, passphrase: str, n: int) -> PassphraseSlot:
    salt = secrets.token_bytes(32)
    sealed = _under(passphrase, salt, n).encrypt(bytes(12), key.reveal(), _INFO)  # the salt makes the key new each time
    return PassphraseSlot(n=n, salt=to_text(salt), wrapped=to_text(sealed))


def _under(passphrase: str, salt: bytes, n: int) -> AESGCM:
    return AESGCM(Scrypt(salt=salt, length=32, n=n, r=8, p=1).derive(passphrase.encode()))


def _opened(head: Head, passphrase: Callable[[], str], keys: Sequence[X25519PrivateKey]) -> ContentKey:
    held = {key_id(public_text(key.public_key())): key for key in keys}
    try:
        for slot in head.slots:
            if isinstance(slot, KeySlot) and slot.to in held:
                return ContentKey(_HPKE.decrypt(from_text(slot.wrapped), held[slot.to], _INFO))
        for slot in head.slots:
            if isinstance(slot, PassphraseSlot):
                under = _under(passphrase(), from_text(slot.salt), slot.n)
                return ContentKey(under.decrypt(bytes(12), from_text(slot.wrapped), _INFO))
    except (InvalidTag, ValueError) as error:
        raise RefusedError("backup-locked", "The passphrase or key does not open this backup.") from error
    text = "The backup is encrypted to keys of which none was given; name the private one with --key."
    raise RefusedError("backup-locked", text)


class _Sealing(io.RawIOBase):
    """Encrypts what is written into it."""

    def __init__(self, out: IO[bytes], encryption: Encryption) -> None:
        self._out, self._encryption = out, encryption

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]  # narrower than any buffer
        for chunk in self._encryption.feed(bytes(data)):
            self._out.write(chunk)
        return len(data)


class _Opened(io.RawIOBase):
    """Reads what is decrypted piece by piece."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: "bytearray | memoryview") -> int:  # type: ignore[override]  # narrower than any buffer
        if not self._rest:
            try:
                self._rest = memoryview(next(self._pieces, b""))
            except RefusedError as error:
                raise damaged("its encrypted bytes were changed, or it breaks off") from error
        taken = self._rest[: len(into)]
        into[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)
