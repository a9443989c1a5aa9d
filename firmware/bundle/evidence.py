"""Signed reports as they leave a site without a network: as lines of a file, or as text that a person or a camera carries.

Both hold whole envelopes, so the server checks what comes this way exactly as what comes from the broker. The text is packed
(the reports of one update repeat each other) and split into parts that fit a QR code of a terminal. A part is
`OTARIA1:NUMBER/PARTS:SET:CHECK:DATA`, in the alphabet of QR's alphanumeric mode: SET names the whole, CHECK covers the part, DATA
is base32. Parts may come in any order, wrapped and in lower case.
"""

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.report import MAX_REPORT_BYTES
from firmware.protocol.topics import Leaf, of_target
from firmware.protocol.unverified import MAX_SIGNATURES, read_envelope
from firmware.protocol.words import ReasonKind

MAX_REPORTS = 64
"""In one text. A file may hold whatever an outbox does."""
MAX_PACKED_BYTES, MAX_PLAIN_BYTES = 1 << 16, 1 << 20
PART_CHARS = 560
MAX_PARTS = 200
MAX_TEXT_CHARS = 1 << 18
MAX_LINE_BYTES = 2 * MAX_REPORT_BYTES
MAX_FILE_LINES = 1024
_PART = re.compile(r"OTARIA1:([1-9][0-9]{0,2})/([1-9][0-9]{0,2}):([A-Z2-7]{13}):([0-9A-F]{8}):([A-Z2-7]{1,2000})")


class Sent(Struct, frozen=True, kw_only=True):
    """One signed report: the leaf of the topic it belongs on, and its envelope as JSON."""

    leaf: Annotated[str, Meta(pattern=r"^(?:report|inventory)\Z")]
    envelope: dict[str, Any]


class _Signature(Struct, frozen=True, kw_only=True):
    keyid: Annotated[str, Meta(max_length=128)]
    sig: Annotated[str, Meta(max_length=2048)]


class _Packed(Struct, frozen=True, kw_only=True):
    """An envelope whose payload is plain text, which packs better than base64 of it."""

    leaf: Annotated[str, Meta(pattern=r"^(?:report|inventory)\Z")]
    kind: Annotated[str, Meta(max_length=128)]
    payload: Annotated[str, Meta(max_length=MAX_REPORT_BYTES)]
    signatures: Annotated[list[_Signature], Meta(min_length=1, max_length=MAX_SIGNATURES)]


class _Whole(Struct, frozen=True, kw_only=True):
    reports: Annotated[list[_Packed], Meta(min_length=1, max_length=MAX_REPORTS)]


def to_line(leaf: str, envelope: bytes) -> bytes:
    """A report as one line of a file on a stick."""
    return canonical({"leaf": leaf, "envelope": parse_json(envelope, max_bytes=MAX_LINE_BYTES)}) + b"\n"


def parse_line(line: bytes) -> Sent:
    """The report of a line. Raises `RefusedError` (`too-large`, `malformed`); who signed it is not looked at here."""
    return convert(parse_json(line, max_bytes=MAX_LINE_BYTES), Sent)


def address(sent: Sent) -> tuple[str, bytes]:
    """The topic that the broker would have carried it on, by its own words, and the envelope's bytes. Raises `RefusedError`
    (`malformed`)."""
    data = canonical(sent.envelope)
    _, words = read_envelope(data, max_bytes=MAX_LINE_BYTES)
    payload = parse_json(words, max_bytes=MAX_LINE_BYTES)
    agent, target = payload.get("agent"), payload.get("target")
    if not isinstance(agent, str) or not isinstance(target, str):
        raise RefusedError(ReasonKind.MALFORMED, "The report doesn't say whose it is.")
    return of_target(agent, target, Leaf(sent.leaf)), data


def to_text(reports: Sequence[tuple[str, bytes]]) -> list[str]:
    """The parts that carry these (leaf, envelope) pairs. Raises `RefusedError` (`too-large`) when they are too many."""
    packed = _pack(reports)
    name = _name(packed)
    data = base64.b32encode(packed).decode().rstrip("=")
    pieces = [data[at : at + PART_CHARS] for at in range(0, len(data), PART_CHARS)]
    return [_part(number, len(pieces), name, piece) for number, piece in enumerate(pieces, start=1)]


def from_text(text: str) -> list[Sent]:
    """The reports that a text carries. Raises `RefusedError` (`too-large`, `malformed`, `text-incomplete`)."""
    if len(text) > MAX_TEXT_CHARS:
        raise RefusedError(ReasonKind.TOO_LARGE, f"The text has more than {MAX_TEXT_CHARS} characters.")
    packed = _bytes_of(_joined(_parts(text)))
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(packed, MAX_PLAIN_BYTES)
    except zlib.error as error:
        raise _bad("what it holds can't be unpacked") from error
    if inflate.unconsumed_tail or not inflate.eof or inflate.unused_data:
        raise _bad("what it holds is too long, or not whole")
    whole = convert(parse_json(plain, max_bytes=MAX_PLAIN_BYTES), _Whole)
    return [Sent(leaf=one.leaf, envelope=_envelope(one)) for one in whole.reports]


def _bytes_of(data: str) -> bytes:
    """Of base32 without padding. Raises `RefusedError` (`malformed`)."""
    try:
        return base64.b32decode(data + "=" * (-len(data) % 8))
    except binascii.Error as error:
        raise _bad("it is not base32") from error


def _pack(reports: Sequence[tuple[str, bytes]]) -> bytes:
    if not 0 < len(reports) <= MAX_REPORTS:
        raise RefusedError(
            ReasonKind.TOO_LARGE, f"A text carries 1 to {MAX_REPORTS} reports, not {len(reports)}; take a stick."
        )
    packed = zlib.compress(canonical({"reports": [_plain(leaf, data) for leaf, data in reports]}), 9)
    if len(packed) > MAX_PACKED_BYTES:
        raise RefusedError(ReasonKind.TOO_LARGE, "The reports are too long for a text; take a stick.")
    return packed


def _plain(leaf: str, data: bytes) -> dict[str, Any]:
    value = parse_json(data, max_bytes=MAX_LINE_BYTES)
    payload = base64.b64decode(value["payload"]).decode()
    return {"leaf": leaf, "kind": value["payloadType"], "payload": payload, "signatures": value["signatures"]}


def _envelope(one: _Packed) -> dict[str, Any]:
    payload = base64.b64encode(one.payload.encode()).decode()
    return {"payload": payload, "payloadType": one.kind, "signatures": msgspec.to_builtins(one.signatures)}


def _part(number: int, parts: int, name: str, piece: str) -> str:
    return f"OTARIA1:{number}/{parts}:{name}:{_check(number, parts, name, piece)}:{piece}"


def _check(number: int, parts: int, name: str, piece: str) -> str:
    return f"{zlib.crc32(f'{number}/{parts}:{name}:{piece}'.encode()):08X}"


def _name(packed: bytes) -> str:
    return base64.b32encode(hashlib.sha256(packed).digest()[:8]).decode()[:13]


def _parts(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Number, parts, set and data of every part in a text."""
    for chunk in re.sub(r"\s+", "", text.upper()).split("OTARIA1:")[1:]:
        found = _PART.fullmatch("OTARIA1:" + chunk)
        if found is None:
            raise _bad("one of its parts is not as a device prints it")
        number, parts, name, check, data = int(found[1]), int(found[2]), found[3], found[4], found[5]
        if check != _check(number, parts, name, data):
            raise _bad(f"part {number} was changed on the way; read or type it again")
        yield number, parts, name, data


def _joined(parts: Iterable[tuple[int, int, str, str]]) -> str:
    known: dict[int, str] = {}
    ids = set()
    for number, total, name, data in parts:
        ids.add((total, name))
        known[number] = data
    if len(ids) != 1:
        raise _bad("it holds no part" if not ids else "its parts belong to different reports")
    total, name = ids.pop()
    missing = [str(number) for number in range(1, total + 1) if number not in known]
    if missing or max(known) > total:
        raise RefusedError(
            "text-incomplete", f"The text lacks part {', '.join(missing[:20])} of {total}; read that one too."
        )
    data = "".join(known[number] for number in range(1, total + 1))
    if _name(_bytes_of(data)) != name:
        raise _bad("its parts don't make what they were made from")
    return data


def _bad(why: str) -> RefusedError:
    return RefusedError(ReasonKind.MALFORMED, f"This is no text of `otaria-agent report`: {why}.")
