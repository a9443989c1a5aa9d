"""Ask and permit: the second phase. Nothing disruptive happens on a target without a fresh permit."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from firmware.protocol.order import Counter
from firmware.protocol.words import Id, Kind, Nonce, Posix, Seconds, Sha256, Text

ASK_KIND = "ask"
PERMIT_KIND = "permit"
MAX_BYTES = 8192


class Ask(Struct, frozen=True, kw_only=True):
    """Signed by the target's report key: "I hold this order staged and verified; may I activate now?"

    `nonce` is new for every ask; `boot_id` names the current boot. A permit answers exactly one ask.
    """

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    target: Id
    agent: Id
    order_hash: Sha256
    counter: Counter
    boot_id: Nonce
    nonce: Nonce


class Verdict(StrEnum):
    """The planner's answer to an ask."""

    GRANTED = "granted"
    WAIT = "wait"


class Permit(Struct, frozen=True, kw_only=True):
    """Signed by the director. `granted` is good for `valid_s` seconds of the target's monotonic clock, counted from when
    the target *sent* the ask, and dies with a reboot before activation. `wait` says not before how many seconds, and why; a
    second `wait` to the same ask may only bring the next one forward.
    """

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    target: Id
    agent: Id
    order_hash: Sha256
    counter: Counter
    boot_id: Nonce
    nonce: Nonce
    verdict: Verdict
    valid_s: Seconds = 0
    retry_after_s: Seconds = 0
    reason_kind: Kind = "none"
    reason: Text = ""
    campaign: Id | None = None
    change_id: Id
    issued_at: Posix
