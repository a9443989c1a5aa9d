"""What is said about an image, for people. Nothing is installed because of it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of an image: a partition, a segment. Offset and size in bytes; `content` is what was recognised in it."""

    name: str
    kind: str
    offset_bytes: int
    size_bytes: int
    details: dict[str, str] = field(default_factory=dict)
    content: "ImageFacts | None" = None


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What some bytes are. `kind` is `unknown` unless all that makes the kind was found.

    `size_bytes` is how many bytes were given, None where they end is not known; `used_bytes` how many of them the image takes by
    its own headers. `problems` are whole sentences about what contradicts itself: a hash that differs, a file that is cut off.
    """

    kind: str
    size_bytes: int | None
    version: str | None = None
    used_bytes: int | None = None
    compression: str | None = None
    security_counter: int | None = None
    details: dict[str, str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    content: "ImageFacts | None" = None
    problems: tuple[str, ...] = ()


def printable(text: str | bytes, limit: int = 100) -> str:
    """Text from a file, at most `limit` characters of it, safe to print."""
    if isinstance(text, bytes):
        text = text.split(b"\0")[0].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text[:limit])
