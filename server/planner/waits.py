"""Why a target may not go now, as a value."""

import math

from msgspec import Struct

from server.planner.ledger import Ledger
from server.planner.words import AssignmentState

PATIENT_FACTOR = 4
"""How much later than `retry_s` to ask again when only people can change the answer."""

LONGEST_RETRY_S = 3600
"""Who waits for long, for a window or behind a crowd, asks this often at least, because strategies and freezes change."""
ASKS_A_SECOND = 20
"""What all who wait in a campaign may ask together: a slot that gets free is taken at once all the same, by whoever asks next."""


WINDOW_KINDS = ("window", "freeze", "no-timezone")
"""Kinds of waits that a strategy's calendar makes."""


class Wait(Struct, frozen=True, kw_only=True, gc=False):
    """Why not now: a stable kind, a sentence, what would release it, after how many seconds to ask again, until when it holds
    if that is known, and the group whose tokens are waited for. `is_late`: its cohort shouldn't wait for that."""

    kind: str
    text: str
    release_by: str
    retry_s: int
    until: float | None = None
    group: str | None = None
    is_late: bool = False


def wait(ledger: Ledger, kind: str, text: str, release_by: str, factor: int = 1) -> Wait:
    """A wait that ends with an ask after the strategy's `retry_s`, times `factor`; later where many wait."""
    crowd = ledger.count(AssignmentState.STAGED, AssignmentState.ASKING)
    turn_s = min(LONGEST_RETRY_S, math.ceil(crowd / ASKS_A_SECOND))
    retry_s = max(ledger.campaign.strategy.retry_s * factor, turn_s)
    return Wait(kind=kind, text=text, release_by=release_by, retry_s=retry_s)
