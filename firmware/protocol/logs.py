"""Logs on request: the director asks a target for its latest log lines, and the agent answers in signed parts.

A request is good once: its counter must be above that of every request the agent took before, so that nobody who holds the
broker can make a device send its logs again. The answer names request and counter; its parts together are one UTF-8 text.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from firmware.protocol.order import Counter
from firmware.protocol.report import Reason
from firmware.protocol.words import Id, Posix

REQUEST_KIND = "log-request"
PART_KIND = "log-part"
MAX_REQUEST_BYTES = 8192
MAX_LOG_BYTES = 256 << 10
PART_BYTES = 16 << 10
MAX_PARTS = MAX_LOG_BYTES // PART_BYTES


class What(StrEnum):
    """Which log. `agent`: the agent's own lines of this boot. `trial`: the lines of the last trial, whichever slot it ran in.
    `health`: what checks said. `hooks`: what hooks said. `boot`: what the device's own command prints, such as the journal of
    the boot before."""

    AGENT = "agent"
    TRIAL = "trial"
    HEALTH = "health"
    HOOKS = "hooks"
    BOOT = "boot"


class LogRequest(Struct, frozen=True, kw_only=True):
    """Signed by the director. At most `max_bytes` of UTF-8 are to come, the latest lines of each. Times are POSIX seconds."""

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    target: Id
    agent: Id
    id: Id
    counter: Counter
    what: Annotated[list[What], Meta(min_length=1, max_length=len(What))]
    max_bytes: Annotated[int, Meta(ge=1, le=MAX_LOG_BYTES)]
    issued_at: Posix
    expires_at: Posix


class LogPart(Struct, frozen=True, kw_only=True):
    """Signed by the target's report key; on the report topic. Part `index` of `count`; with a `reason` nothing more comes."""

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    target: Id
    agent: Id
    id: Id
    counter: Counter
    index: Annotated[int, Meta(ge=0, lt=MAX_PARTS)]
    count: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    data: bytes = b""
    reason: Reason | None = None
