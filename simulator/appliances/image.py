"""Images of emulated boxes: real files whose first line tells what comes of booting them; the rest is noise."""

import hashlib
import random
from pathlib import Path

import msgspec
from msgspec import Struct

MAGIC = b"OTARIA-EMULATED-IMAGE "


class ImageFacts(Struct, frozen=True, kw_only=True):
    """What an image is, and does. `boots`: whether it comes up at all. `loses`: neighbours and interfaces that are gone under it.
    `rewrites`: lines of the configuration that it adds by itself."""

    kind: str
    version: str
    boots: bool = True
    loses: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()


def make_image(path: Path, facts: ImageFacts, *, length: int = 200_000, seed: int = 0) -> Path:
    """Write an image of about this many bytes."""
    head = MAGIC + msgspec.json.encode(facts) + b"\n"
    path.write_bytes(head + random.Random(f"{seed} {facts.version}").randbytes(max(0, length - len(head))))  # noqa: S311
    return path


def read_image(path: Path) -> ImageFacts | None:
    """What an image says of itself; None when it is none, or not all of it is there."""
    try:
        with path.open("rb") as file:
            head = file.readline(4096)
        return msgspec.json.decode(head.removeprefix(MAGIC), type=ImageFacts) if head.startswith(MAGIC) else None
    except (OSError, msgspec.DecodeError):
        return None


def digests_of(path: Path) -> dict[str, str]:
    """The hashes that boxes know."""
    data = path.read_bytes()
    return {name: hashlib.new(name, data, usedforsecurity=False).hexdigest() for name in ("sha256", "sha512", "md5")}
