"""What a campaign that is being made may expect of its targets: how long its orders should wait, and how many of a cohort come.

Rules
- Both are chosen once, from a sample of the targets, and then stand: nothing that presence says later moves them.
- A forged presence could make orders live up to `LONGEST_S`, or cohorts larger by `cohorts.MOST_FILLED_UP`; no more.
"""

import math
from collections.abc import Sequence

from server.planner.arrivals import Outlook

COME = 0.99
LONGEST_S = 90 * 86400
_STEP = 1.05
_DAY_S = 86400


def expiry_s(outlooks: Sequence[Outlook], patience_s: float) -> int | None:
    """After how many seconds an order should expire: when `COME` of those that are ever expected are expected to have come, in
    whole days, at least `patience_s` and at most `LONGEST_S` (or the patience, when that is longer). None without a record."""
    known = [one for one in outlooks if one.known]
    least = math.ceil(patience_s)
    if not known:
        return None
    ever = sum(one.within(LONGEST_S) for one in known)
    span = float(max(least, _DAY_S))
    while span < LONGEST_S and sum(one.within(span) for one in known) < COME * ever:
        span *= _STEP
    return max(least, min(LONGEST_S, math.ceil(span / _DAY_S) * _DAY_S))


def unexpected(outlooks: Sequence[Outlook]) -> float:
    """The share of those with a record that isn't expected within `LONGEST_S` at all."""
    known = [one for one in outlooks if one.known]
    return 1 - sum(one.within(LONGEST_S) for one in known) / len(known) if known else 0.0


def reach(outlooks: Sequence[Outlook], patience_s: float) -> float | None:
    """The mean chance that a target comes within its patience, of those with a record; None without any."""
    known = [one for one in outlooks if one.known]
    return sum(one.usually_within(patience_s) for one in known) / len(known) if known else None
