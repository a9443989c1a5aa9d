"""The form of the chains: which bytes a record is, and how each is tied to the one before it.

A record's *body* is canonical JSON of all that it says, its partition, its number there, and the hash of its predecessor; its
hash is the sha256 of these bytes. A *line* of an export is the body with the hash put in front, so that whoever has a line has
the very bytes that were hashed, in any language: take the first 75 away, put a `{` before the rest.

Partitions exist so that writers don't wait for each other's last record: each has its own numbers from 1 on.
"""

import hashlib
from typing import Any

import msgspec
from msgspec import Raw, Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical
from firmware.protocol.words import ReasonKind

FORMAT = "otaria-audit-1"
GENESIS = hashlib.sha256(b"otaria-audit-1").digest()
"""What the first record of every partition has for a predecessor."""
PEOPLE, PLANNER, DEVICES, KEYS, SERVER = "people", "planner", "devices", "keys", "server"
PARTITIONS = (DEVICES, KEYS, PEOPLE, PLANNER, SERVER)
REPORTS_STORED = "reports-stored"
"""The kind of record that holds the hashes of signed reports; there are many, and each says little to people."""
MAX_LINE_BYTES = 4 << 20
_OF_ACTOR = {
    "": SERVER,
    "enrolment": KEYS,
    "ingest": DEVICES,
    "planner": PLANNER,
    "releases": SERVER,
    "restore": SERVER,
    "server": SERVER,
    "webhooks": SERVER,
}
_HEAD = b'{"hash":"'
_HEAD_BYTES = len(_HEAD) + 64 + len(b'",')


class Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record as it stands in an export, without its own hash. The fields are in the order of their names."""

    actor: str
    at: float
    campaign: str | None
    change_id: str | None
    data: Raw
    kind: str
    number: int
    partition: str
    previous: str
    target: str | None
    text: str


def partition_of(actor: str, kind: str) -> str:
    """Where a record belongs: by who writes it, since whoever writes it holds the end of that chain until the commit."""
    if kind.startswith("ca-"):
        return KEYS
    if actor.startswith("check "):
        return SERVER
    return _OF_ACTOR.get(actor, PEOPLE)


def body_of(line: Line) -> bytes:
    """The bytes that are hashed."""
    return msgspec.json.encode(line)


def digest_of(body: bytes) -> bytes:
    """A record's hash, as 32 bytes."""
    return hashlib.sha256(body).digest()


def data_of(value: Any) -> Raw:
    """`data` as its canonical bytes."""
    return Raw(canonical(value))


def line_of(body: bytes, digest: str) -> bytes:
    """A line of an export, without its newline; the hash (hex) is the one that was stored, whether or not it fits."""
    return b'%b%b",%b' % (_HEAD, digest.encode(), body[1:])


def split_line(data: bytes) -> tuple[str, bytes]:
    """The hash that a line names (hex), and the body it belongs to; raises `RefusedError` (`malformed`)."""
    if not data.startswith(_HEAD) or data[_HEAD_BYTES - 2 : _HEAD_BYTES] != b'",':
        raise RefusedError(ReasonKind.MALFORMED, "The line is no record of an audit export.")
    return data[len(_HEAD) : len(_HEAD) + 64].decode("ascii", "replace"), b"{" + data[_HEAD_BYTES:]


def parse_body(body: bytes) -> Line:
    """The record that these bytes say, canonical or not; raises `RefusedError` (`malformed`)."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RefusedError(ReasonKind.MALFORMED, f"The record is malformed: {str(error)[:200]}.") from error


_DECODER = msgspec.json.Decoder(Line)
