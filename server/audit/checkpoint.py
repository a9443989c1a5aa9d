"""Signed checkpoints: where every partition ends, in one statement that names the one before it.

A checkpoint is DSSE around canonical JSON. It carries the hash of its predecessor's words, so that none can be left out; the
end of each partition, so that no record can be changed, removed or put in below it; and what was removed by rule, so that
whoever verifies can tell that from what was taken away.
"""

from typing import Annotated

from msgspec import Meta, Struct

from firmware.protocol.words import Sha256

KIND = "audit-checkpoint"
FIRST = "0" * 64
"""What the first checkpoint has for a predecessor."""
MAX_BYTES = 1 << 20

Number = Annotated[int, Meta(ge=0, lt=1 << 53)]
Partition = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,62}\Z")]


class Place(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record: its number, and its hash."""

    number: Number
    hash: Sha256


class Checkpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`heads`: the last record of each partition that has any. `gone`: up to where records were removed by rule. `lost`: a
    checkpoint that the server had signed and its database no longer had, since it was put back to what it was before."""

    number: Annotated[int, Meta(ge=1, lt=1 << 53)]
    at: int
    previous: Sha256
    heads: dict[Partition, Place]
    gone: dict[Partition, Place] = {}
    lost: Place | None = None
