"""Comparisons of metrics for cohorts whose gates ask for them: what targets told becomes what the planner counts.

All is found again in rows: who was compared is marked there, and what was measured is kept for weeks. So a server that starts
anew goes on, and one pair is counted once, whoever looks twice. A look takes a page of pairs of each cohort and one query for
the hours of each pair.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from server.campaigns.engine import Engine
from server.campaigns.rounds import forever
from server.planner.comparing import Comparison, Pair, compare, needed, unready
from server.planner.events import Compared
from server.planner.rows import AssignmentRow
from server.planner.states import LIVE
from server.planner.strategy import GatePolicy, Strategy
from server.planner.words import CohortState
from server.ports import CampaignView, Clock, Database, Unit

LOOK_EVERY_S = 60.0
PAGE = 200
SHOWN = 20
LOOKED_AT = 1000
_JUDGED = (CohortState.OPEN, CohortState.PASSED)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A cohort whose gate asks for metrics."""

    campaign: str
    cohort: int
    release_sha256: str
    gate: GatePolicy


class Comparer:
    """Keep `run` running."""

    def __init__(self, database: Database, engine: Engine, clock: Clock) -> None:
        self._database = database
        self._engine = engine
        self._clock = clock
        self._after: dict[tuple[str, int], int] = {}
        """By cohort, the rank up to which this round has looked."""

    async def run(self) -> None:
        """Compare what can be compared until cancelled."""
        await forever(self.settle, LOOK_EVERY_S, log, "comparisons")

    async def settle(self) -> None:
        """Look at the next page of each cohort, and tell the planner."""
        for event in await self._database.read(self._look):
            await self._engine.command(event)

    def _look(self, unit: Unit) -> list[Compared]:
        now, found = self._clock.now(), []
        wanted = [one for view in unit.campaigns.list() for one in judged_in(view)]
        known, self._after = self._after, {}
        for judged in wanted:
            key = (judged.campaign, judged.cohort)
            after = known.get(key, -1)
            pairs = unit.campaigns.pairs(*key, judged.release_sha256, after, PAGE)
            self._after[key] = pairs[-1].rank if len(pairs) == PAGE else -1
            for pair in pairs:
                changes = compared(unit, judged, pair, now).changes
                if changes is not None:
                    found.append(Compared(campaign=judged.campaign, target=pair.target, changes=changes, at=now))
        return found


def compared(unit: Unit, judged: Judged, pair: Pair, now: float) -> Comparison:
    """What can be said of a pair at `now`."""
    early = unready(judged.gate, pair, now)
    if early is not None:
        return early
    names = [metric.name for metric in judged.gate.metrics]
    told = unit.metrics.of((pair.target, pair.control), names, needed(judged.gate, pair))
    return compare(judged.gate, pair, told, now)


def comparison_of(unit: Unit, campaign: str, target: str, now: float) -> Comparison | None:
    """What the comparison of a verified target waits for; None when it has none to wait for."""
    view = unit.campaigns.view(campaign)
    for judged in judged_in(view) if view is not None else ():
        for pair in unit.campaigns.pairs(campaign, judged.cohort, judged.release_sha256, -1, 1, target=target):
            return compared(unit, judged, pair, now)
    return None


def waiting(unit: Unit, view: CampaignView, now: float) -> list[dict[str, Any]]:
    """The first verified targets of a campaign that were not compared yet, each with its control and what it waits for."""
    found: list[dict[str, Any]] = []
    for judged in judged_in(view):
        pairs = unit.campaigns.pairs(judged.campaign, judged.cohort, judged.release_sha256, -1, SHOWN)
        for pair in pairs:
            one = compared(unit, judged, pair, now)
            text = one.text if one.changes is None else "It is compared at the next look."
            found.append({"target": pair.target, "control": pair.control, "text": text, "until": one.until})
    return found


def unmeasured(unit: Unit, strategy: Strategy, assignments: Iterable[AssignmentRow], now: float) -> list[str]:
    """What to say of cohorts whose gates compare metrics that their targets, or their controls, didn't tell lately; of many
    targets some are looked at. Without such gates the assignments aren't gone through."""
    said = []
    for index, policy in enumerate(strategy.cohorts):
        gate = next((gate for gate in policy.gates if gate.kind == "metrics"), None)
        own = (
            [row for row in assignments if row.cohort == index and row.control is not None][:LOOKED_AT] if gate else []
        )
        both = [name for row in own for name in (row.target, row.control) if name is not None]
        for metric in gate.metrics if gate is not None and both else ():
            telling = unit.metrics.telling(both, metric.name, now)
            if telling < len(both):
                text = f"Cohort {policy.name}: {telling} of {len(both)} targets and controls told {metric.name} lately"
                said.append(f"{text}; the server compares those who did a week before.")
    return said


def judged_in(view: CampaignView) -> Iterator[Judged]:
    """The cohorts of a campaign whose pairs still count."""
    policies = view.row.strategy.cohorts
    for cohort in view.cohorts if view.row.state in LIVE else ():
        if cohort.state in _JUDGED and cohort.index < len(policies):
            for gate in policies[cohort.index].gates:
                if gate.kind == "metrics":
                    sha256 = view.row.release.sha256
                    yield Judged(campaign=view.row.id, cohort=cohort.index, release_sha256=sha256, gate=gate)
