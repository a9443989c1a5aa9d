"""Forecasts: the undecided targets of a campaign with what presence taught of them, handed to the planner's simulation.

One at a time is worked out, beside the event loop; the same question soon after gets the same answer.
"""

import asyncio
import math
import random
from collections.abc import Sequence

from firmware.errors import RefusedError
from server.errors import NotFoundError
from server.planner.arrivals import Outlook, pooled
from server.planner.forecast import MOST_MEMBERS, Forecast, Member, Situation, forecast, groups_of, names_of
from server.planner.rows import CampaignRow, CohortRow
from server.planner.states import IN_FLIGHT, LIVE, UNDECIDED, WAITING
from server.planner.words import AssignmentState, CampaignState
from server.ports import CampaignView, Clock, Database, Unit, Waiting

FRESH_S = 60.0
MAX_KEPT = 64
BEFORE = (CampaignState.DRAFT, CampaignState.AWAITING_APPROVAL, CampaignState.SCHEDULED)
_BUSY = (*IN_FLIGHT, AssignmentState.COMMITTED)


class Forecaster:
    """Says when campaigns will be through."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._one = asyncio.Lock()
        self._kept: dict[str, tuple[int, Forecast]] = {}

    async def forecast(self, campaign: str) -> Forecast:
        """When it is through, from how it stands now, or stood less than `FRESH_S` ago; one that has not begun is taken to begin
        at once or at its time. Raises `NotFoundError`, or `RefusedError` (`forecast-over`, `nothing-learned`)."""
        async with self._one:
            version = await self._database.read(lambda unit: _version(unit, campaign))
            kept = self._kept.get(campaign)
            if kept is not None and kept[0] == version and 0 <= self._clock.now() - kept[1].at < FRESH_S:
                return kept[1]
            situation = await self._database.read(lambda unit: load(unit, campaign, self._clock.now()))
            chances = random.Random(situation.seed)  # noqa: S311 (a simulation that must be the same again)
            made = await asyncio.to_thread(forecast, situation, chances.random)
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[campaign] = (version, made)
            return made


def load(unit: Unit, campaign: str, now: float) -> Situation:
    """A campaign with a sample of its undecided targets; raises as `Forecaster.forecast` does."""
    view = unit.campaigns.view(campaign)
    if view is None:
        raise NotFoundError(f"There is no campaign {campaign}; `otaria campaign list` shows those there are.")
    row = view.row
    if row.state not in (*BEFORE, *LIVE):
        text = f"The campaign is {row.state.replace('_', ' ')}; a forecast is about one that is under way or to come."
        raise RefusedError("forecast-over", text)
    index = _open(row)
    begins = max(now, row.start_at or now if row.state in BEFORE else row.deltas_until or now)
    opened = {cohort.index: cohort.opened_at for cohort in view.cohorts}
    members = _members(unit, view, index, now, begins)
    return Situation(
        now=now,
        begins=begins,
        strategy=row.strategy,
        cohort=index,
        members=tuple(members),
        opened_at=opened.get(index) if row.state in LIVE else None,
        seed=row.seed,
    )


def _open(row: CampaignRow) -> int:
    """The cohort with which it goes on; all are behind a campaign that watches."""
    if row.state in BEFORE:
        return 0
    return len(row.strategy.cohorts) if row.state is CampaignState.WATCHING else row.cohort


def _members(unit: Unit, view: CampaignView, index: int, now: float, begins: float) -> list[Member]:
    strategy = view.row.strategy
    lots = [(cohort, _sample(unit, view, cohort)) for cohort in view.cohorts]
    found = [one for _, some in lots for one in some]
    rows = unit.presences.of(sorted({one.agent for one in found}), now)
    if found and not rows:
        text = (
            "Nothing is known yet of when its targets are there: the server must have heard their presence first. "
            "Ask again later."
        )
        raise RefusedError("nothing-learned", text)
    fleet = pooled(list(rows.values()))
    labels = unit.presences.labels([one.target for one in found], names_of(strategy))
    members = []
    for cohort, some in lots:
        undecided = _undecided(cohort)
        for one in some:
            is_late = cohort.index == len(strategy.cohorts)
            until = one.wake_at if is_late and one.state in WAITING else None
            members.append(
                Member(
                    cohort=cohort.index if is_late else max(index, cohort.index),
                    outlook=Outlook(rows.get(one.agent), fleet, now),
                    groups=groups_of(labels.get(one.target, {})),
                    zone=one.zone,
                    late_until=(until or begins + strategy.order_ttl_s) if is_late else None,
                    is_busy=one.state in _BUSY,
                    weight=undecided / len(some),
                )
            )
    if index == len(strategy.cohorts):
        members = [_as_late(one, begins + strategy.order_ttl_s) for one in members]
    return members


def _as_late(member: Member, until: float) -> Member:
    """Of a campaign past all cohorts: whoever is undecided is waited for like the late ones."""
    if member.late_until is not None:
        return member
    return Member(
        cohort=member.cohort,
        outlook=member.outlook,
        groups=member.groups,
        zone=member.zone,
        late_until=until,
        is_busy=member.is_busy,
        weight=member.weight,
    )


def _sample(unit: Unit, view: CampaignView, cohort: CohortRow) -> Sequence[Waiting]:
    """Some of a cohort's undecided targets: all, or as many of `MOST_MEMBERS` as its share is."""
    undecided = _undecided(cohort)
    if not undecided:
        return ()
    total = sum(_undecided(one) for one in view.cohorts)
    room = max(50, MOST_MEMBERS * undecided // total)
    step = math.ceil(undecided / room)
    states = tuple(UNDECIDED)
    return unit.presences.waiting(view.row.id, cohort.index, states, step) or unit.presences.waiting(
        view.row.id, cohort.index, states, 1
    )


def _undecided(cohort: CohortRow) -> int:
    return sum(cohort.counts.get(state, 0) for state in UNDECIDED)


def _version(unit: Unit, campaign: str) -> int:
    view = unit.campaigns.view(campaign)
    return -1 if view is None else view.row.version
