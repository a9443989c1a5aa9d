"""A host's packages on the wire: in signed reports, in parts; the whole once, then what changed.

Reports come in their order and none is passed over, so a difference meets what it leads from. When it doesn't, because the server
was restored or the agent began anew, the ack says what the server holds, and the next telling is the whole.
"""

from typing import Annotated

from msgspec import Meta, Struct

from firmware.protocol.words import Sha256

PART_BYTES = 12_000
"""With the rest of a report and its envelope they stay below `MAX_REPORT_BYTES`."""
MAX_PARTS = 64
Held = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")]
"""The hash of a host's packages as somebody holds them (`firmware.host_packages`); empty: none."""


class PackagesPart(Struct, frozen=True, kw_only=True):
    """Part `index` of `count` of a telling, compressed. It leads from `base` (empty: from nothing) to `now`; with equal ones it
    only says what is, and brings no data."""

    base: Held
    now: Sha256
    index: Annotated[int, Meta(ge=0, lt=MAX_PARTS)] = 0
    count: Annotated[int, Meta(ge=1, le=MAX_PARTS)] = 1
    data: Annotated[bytes, Meta(max_length=PART_BYTES)] = b""
