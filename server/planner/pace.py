"""Rates: how many activations of a group may begin in a time, spread evenly.

Rules
- One activation uses up an equal share of `every_s`; the next may begin when that is over. So no span of `every_s` has more than
  `count` + 1, whoever asks when; nothing is saved up while nobody asks. (The generic cell rate algorithm with a burst of one,
  ITU-T I.371.)
- A rate is one for the whole campaign, `late` included: who joins late doesn't get around it. A rate by label is shared by all
  running campaigns.
- A ramp multiplies the rate by `grow` whenever `after` more targets of the campaign have verified, up to `most`.
- Who has to wait is told to come back when its turn is likely, not when the next slot is: else all that wait would come at once.
- A permit that is granted again for the same attempt uses nothing.
"""

import math
from collections.abc import Iterator

from msgspec.structs import replace

from firmware.protocol.words import Action
from server.planner.budgets import CAMPAIGN, UNLIMITED
from server.planner.ledger import Ledger
from server.planner.rows import GroupRow, campaign_group
from server.planner.strategy import RatePolicy
from server.planner.words import AssignmentState

ASKS_A_SLOT = 4
"""About so many asks come for each activation that may begin."""
_MOST_FACTOR = 1e6


def first_fast(ledger: Ledger) -> tuple[RatePolicy, str, float] | None:
    """The rate that stands in the way, its group, and from when on it doesn't; None when the target may go now."""
    waits = [
        (policy, key, ledger.groups[key].paced_at)
        for policy, key in _paced(ledger)
        if key in ledger.groups and ledger.groups[key].paced_at > ledger.at
    ]
    return max(waits, key=lambda wait: wait[2], default=None)


def note(ledger: Ledger) -> None:
    """An activation begins now: the next of its groups may when its share is over."""
    for policy, key in _paced(ledger):
        group = ledger.groups.get(key, GroupRow(key=key, limit=UNLIMITED))
        until = max(group.paced_at, ledger.at) + interval_s(policy, ledger.count(AssignmentState.VERIFIED))
        ledger.put_group(replace(group, paced_at=until))


def interval_s(policy: RatePolicy, verified: int) -> float:
    """Seconds from one activation to the next, once so many targets of the campaign have verified."""
    steps = verified // policy.after if policy.after else 0
    factor = min(policy.grow ** min(steps, 64), _MOST_FACTOR)
    count = min(policy.count * factor, policy.most or math.inf)
    return policy.every_s / count


def retry_s(ledger: Ledger, policy: RatePolicy, free_at: float) -> float:
    """After how long the target should ask again: when a fair share of those that wait has gone before it."""
    waiting = ledger.count(AssignmentState.STAGED, AssignmentState.ASKING)
    turn_s = interval_s(policy, ledger.count(AssignmentState.VERIFIED)) * waiting / ASKS_A_SLOT
    return max(free_at - ledger.at, turn_s)


def _paced(ledger: Ledger) -> Iterator[tuple[RatePolicy, str]]:
    """The rates that bind this target, with the group of each."""
    strategy = ledger.campaign.strategy
    back = ledger.assignment.action is Action.ROLLBACK
    for policy in strategy.rollback_rates if back else strategy.rates:
        if policy.by == CAMPAIGN:
            yield policy, campaign_group(ledger.campaign.id)
        for key in ledger.target.groups:
            if key.startswith(f"{policy.by}="):
                yield policy, key
