"""MCUboot images: a header, the payload, and areas of type-length-value entries (MCUboot, `docs/design.md`, "Image format").

Protected entries are covered by the image's hash, the others (hash, signatures) are not. Both byte orders occur.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from firmware.errors import RefusedError
from firmware.images.facts import ImageFacts, Part
from firmware.images.source import Source
from firmware.protocol.words import ReasonKind

_MAGIC = 0x96F3B83D
_PLAIN_MAGIC, _PROTECTED_MAGIC = 0x6907, 0x6908
_MAX_AREA_BYTES = 64 << 10
_FLAGS = {
    0x1: "pic", 0x4: "encrypted-aes128", 0x8: "encrypted-aes256", 0x10: "non-bootable", 0x20: "ram-load",
    0x100: "rom-fixed", 0x200: "compressed-lzma1", 0x400: "compressed-lzma2", 0x800: "arm-thumb-filter",
}  # fmt: skip
_ENCRYPTED = 0x4 | 0x8
_TLVS = {
    0x01: "key-hash", 0x02: "public-key", 0x10: "sha256", 0x11: "sha384", 0x12: "sha512", 0x20: "rsa2048-signature",
    0x21: "ecdsa224-signature", 0x22: "ecdsa-signature", 0x23: "rsa3072-signature", 0x24: "ed25519-signature",
    0x25: "pure-signature", 0x30: "key-rsa2048", 0x31: "key-aes-kw", 0x32: "key-ec256", 0x33: "key-x25519",
    0x34: "key-x25519-sha512", 0x40: "dependency", 0x50: "security-counter", 0x60: "boot-record",
    0x70: "unpacked-size", 0x71: "unpacked-sha", 0x72: "unpacked-signature", 0x73: "packed-size",
    0x74: "vendor-id", 0x75: "class-id",
}  # fmt: skip
_HASHES = {0x10: "sha256", 0x11: "sha384", 0x12: "sha512"}
_PURE, _DEPENDENCY, _SECURITY_COUNTER = 0x25, 0x40, 0x50
_COMPRESSIONS = {0x200: "lzma1", 0x400: "lzma2"}
_TRAILERS = (bytes.fromhex("95f360d2ef7f3552500f2cb67980"), bytes.fromhex("2de15d29410b8d77679c110f1f8a"))
"""How a slot ends whose image waits to be tried: the boot magic, after its first two bytes, for small and large write sizes."""


@dataclass(frozen=True, kw_only=True)
class _Header:
    order: str
    load: int
    size: int
    protected: int
    payload: int
    flags: int
    version: str

    @property
    def hashed(self) -> int:
        """How many bytes from the beginning the hash covers: header, payload, protected entries."""
        return self.size + self.payload + self.protected


Entry = tuple[int, bytes]


@dataclass(frozen=True, kw_only=True)
class _Areas:
    """The entries, and where the image ends."""

    protected: list[Entry]
    plain: list[Entry]
    problems: tuple[str, ...] = ()
    end: int


def recognise(source: Source) -> ImageFacts | None:
    """MCUboot facts. Needs the magic and possible sizes; entries that are missing or broken are named as a problem."""
    header = _header(source.read(0, 32))
    if header is None:
        return None
    areas = _areas(source, header)
    checked, problems = ("not checked", areas.problems) if areas.problems else _checked(source, header, areas.plain)
    details = {
        "header_bytes": str(header.size),
        "payload_bytes": str(header.payload),
        "load_address": hex(header.load),
        "endian": "little" if header.order == "<" else "big",
        "flags": " ".join(_FLAGS.get(1 << bit, hex(1 << bit)) for bit in range(32) if header.flags >> bit & 1)
        or "none",
        "protected_tlvs": _listed(areas.protected),
        "tlvs": _listed(areas.plain),
        "hash": checked,
        **_dependencies(areas.protected, header.order),
        **({"trailer": "asks for a trial"} if _has_trailer(source) else {}),
    }
    return ImageFacts(
        kind="mcuboot",
        size_bytes=source.size_bytes,
        version=header.version,
        used_bytes=areas.end,
        compression=next((name for bit, name in _COMPRESSIONS.items() if header.flags & bit), None),
        security_counter=_security_counter(areas.protected, header.order),
        details=details,
        parts=tuple(_parts(header, areas.end)),
        problems=problems if source.size_bytes is not None else (),
    )


def _header(data: bytes) -> _Header | None:
    order = {_MAGIC.to_bytes(4, "little"): "<", _MAGIC.to_bytes(4, "big"): ">"}.get(data[:4])
    if len(data) != 32 or order is None:
        return None
    _, load, size, protected, payload, flags, major, minor, revision, build, _ = struct.unpack(
        order + "IIHHIIBBHII", data
    )
    if size < 32 or payload == 0:
        return None
    version = f"{major}.{minor}.{revision}" + (f"+{build}" if build else "")
    return _Header(
        order=order, load=load, size=size, protected=protected, payload=payload, flags=flags, version=version
    )


def _areas(source: Source, header: _Header) -> _Areas:
    at, protected = header.size + header.payload, list[Entry]()
    try:
        if header.protected:
            protected = _entries(source, at, _PROTECTED_MAGIC, header)
            at += header.protected
        plain = _entries(source, at, _PLAIN_MAGIC, header)
    except RefusedError as error:
        return _Areas(protected=protected, plain=[], problems=(error.text,), end=at)
    return _Areas(protected=protected, plain=plain, end=at + 4 + sum(4 + len(value) for _, value in plain))


def _entries(source: Source, at: int, magic: int, header: _Header) -> list[Entry]:
    """The entries of one area, whose own four bytes are magic and length; a protected one's is in the header as well."""
    found, length = struct.unpack(header.order + "HH", source.exactly(at, 4))
    if found != magic or length < 4 or (magic == _PROTECTED_MAGIC and length != header.protected):
        raise RefusedError(ReasonKind.MALFORMED, f"There is no area of entries at byte {at}, where the header says so.")
    data, here, out = source.exactly(at, length), 4, list[Entry]()
    while here < length:
        kind, size = struct.unpack_from(header.order + "HH", data, here) if here + 4 <= length else (0, length)
        if here + 4 + size > length:
            raise RefusedError(ReasonKind.MALFORMED, f"The area of entries at byte {at} ends within an entry.")
        if header.order == ">" and not kind & 0xFF:
            kind >>= 8  # written as one byte and a zero
        out.append((kind, data[here + 4 : here + 4 + size]))
        here += 4 + size
    return out


def _checked(source: Source, header: _Header, plain: Iterable[Entry]) -> tuple[str, tuple[str, ...]]:
    """What became of the hash, and problems with it. An encrypted image's is over bytes that are not here."""
    if header.flags & _ENCRYPTED:
        return "not checked: encrypted", ()
    stored = next(((_HASHES[kind], value) for kind, value in plain if kind in _HASHES), None)
    if stored is None:
        return "none", () if any(kind == _PURE for kind, _ in plain) else ("The image carries no hash.",)
    name, wanted = stored
    found = hashlib.new(name)
    try:
        for block in source.blocks(0, header.hashed):
            found.update(block)
    except RefusedError as error:
        return f"not checked: {error.text}", ()
    if found.digest() != wanted:
        return f"{name} wrong", (f"The image's {name} does not fit its content.",)
    return f"{name} verified", ()


def _has_trailer(source: Source) -> bool:
    size = source.size_bytes or 0
    return size > 48 and source.read(size - 16, 16)[2:] in _TRAILERS


def _security_counter(protected: Iterable[Entry], order: str) -> int | None:
    found = (value for kind, value in protected if kind == _SECURITY_COUNTER and len(value) == 4)
    return next((struct.unpack(order + "I", value)[0] for value in found), None)


def _dependencies(protected: Iterable[Entry], order: str) -> dict[str, str]:
    """Which other images, of which versions at least, this one needs."""
    form = struct.Struct(order + "B3xBBHI")
    found = [form.unpack(value) for kind, value in protected if kind == _DEPENDENCY and len(value) == form.size]
    text = ", ".join(f"image {image} from {one}.{two}.{three}+{build}" for image, one, two, three, build in found)
    return {"needs": text} if text else {}


def _parts(header: _Header, end: int) -> Iterable[Part]:
    tail = header.size + header.payload
    yield Part(name="header", kind="header", offset_bytes=0, size_bytes=header.size)
    yield Part(name="payload", kind="payload", offset_bytes=header.size, size_bytes=header.payload)
    if header.protected:
        yield Part(name="protected", kind="tlvs", offset_bytes=tail, size_bytes=header.protected)
    if end > header.hashed:
        yield Part(name="unprotected", kind="tlvs", offset_bytes=header.hashed, size_bytes=end - header.hashed)


def _listed(entries: Iterable[Entry]) -> str:
    return " ".join(_TLVS.get(kind, hex(kind)) for kind, _ in entries) or "none"
