"""What a run gave, cohort by cohort, and what that says of the whole fleet that it is a sample of.

Rules
- Each target of a cohort stands for as many as the cohort is smaller than it will be; one of `late`, for as many as those that
  left for it did.
- A gate that bears as many failures however large its cohort is stops a campaign after as many as it will: those that were known
  by then stand for themselves, and only those that were under way with them for more.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from server.planner.commands import TellWait
from server.planner.decision import Decision, Put
from server.planner.events import Event
from server.planner.gate_counts import count
from server.planner.rows import CohortRow, campaign_group
from server.planner.slices import Slice
from server.planner.states import FAILURES
from server.planner.strategy import CohortPolicy
from server.planner.words import AssignmentState, CohortState
from simulator.sampling import Scaled
from simulator.virtual.run import UNREACHED, Run

DECIDED = FAILURES | {AssignmentState.VERIFIED}


class CohortTally(NamedTuple):
    """A cohort at the end of a run. `moved`: to `late`; `harmed`: by their own truth; `known`: those of them that it took to stop
    the campaign, if that is a number; `admitted`: who had got a permit by the time it was stopped, or else in all, and `settled`:
    those of them who were decided by then, if it was stopped by a number; `waits`: how often its asks were told to wait, by
    kind."""

    size: int
    moved: int
    verified: int
    unreached: int
    harmed: int
    known: int
    admitted: int
    settled: int
    waits: dict[str, int]


class Tally:
    """Watches a run of one campaign, and gives the campaign the strategy of each cohort when that opens."""

    def __init__(self, run: Run, scaled: Scaled) -> None:
        self._run = run
        self._scaled = scaled
        self._known: dict[int, int] = {}
        self._settled: dict[int, int] = {}
        self._admitted: dict[int, int] = {}
        self._waits: defaultdict[int, Counter[str]] = defaultdict(Counter)
        run.observers.append(self._observe)

    def cohorts(self, campaign: str) -> tuple[CohortTally, ...]:
        """Once it is over: by index, `late` the last."""
        store, harmed = self._run.store, Counter[int]()
        for name, device in self._run.devices.items():
            row = store.assignment(campaign, name) if campaign in device.harmed_by else None
            if row is not None:
                harmed[row.cohort] += 1
        return tuple(
            CohortTally(
                size=one.size,
                moved=one.moved_to_late,
                verified=one.counts.get(AssignmentState.VERIFIED, 0),
                unreached=sum(one.counts.get(state, 0) for state in UNREACHED),
                harmed=harmed[one.index],
                known=min(harmed[one.index], self._known.get(one.index, 0)),
                admitted=self._admitted.get(one.index, one.attempted),
                settled=self._settled.get(one.index, 0),
                waits=dict(self._waits[one.index]),
            )
            for one in store.cohorts(campaign)
        )

    def _observe(self, loaded: Slice, event: Event, decision: Decision) -> None:
        if loaded.assignment is not None:
            for command in decision.commands:
                if isinstance(command, TellWait):
                    self._waits[loaded.assignment.cohort][command.reason_kind] += 1
        for change in decision.changes:
            if isinstance(change.row, CohortRow):
                self._noticed(loaded, change.row)

    def _noticed(self, loaded: Slice, row: CohortRow) -> None:
        before = next((one for one in loaded.cohorts if one.index == row.index), None)
        if before is None or before.state is row.state:
            return
        if row.state is CohortState.FAILED:
            self._admitted = self._admitted or {one.index: one.attempted for one in loaded.cohorts}
            if _bears_a_number(self._scaled.cohorts[row.index]):
                self._known[row.index] = count(row, FAILURES)
                self._settled[row.index] = min(row.attempted, count(row, DECIDED))
        elif row.state is CohortState.OPEN and not self._scaled.part.is_all:
            self._turn_to(row.campaign, row.index)

    def _turn_to(self, campaign: str, cohort: int) -> None:
        store = self._run.store
        row = store.campaign(campaign)
        if row is not None:
            strategy = self._scaled.strategy(cohort, self._held(campaign))
            store.commit(Decision(changes=(Put(row=replace(row, strategy=strategy)),)))

    def _held(self, campaign: str) -> Counter[int]:
        store, group = self._run.store, campaign_group(campaign)
        return Counter(
            row.cohort
            for row in store.in_states(campaign, tuple(AssignmentState))
            if any(token.group == group for token in store.tokens_of(row.target))
        )


class Whole:
    """What the tally of a run over a part says of the whole. `verified`: as a share of all; `waits`: how often asks were told
    to wait, by kind."""

    def __init__(self, scaled: Scaled, cohorts: Sequence[CohortTally]) -> None:
        weights = _weights(scaled, cohorts)
        weighed = list(zip(cohorts, weights, strict=True))
        self.sizes = [one.size * weight for one, weight in weighed]
        self.verified = sum(one.verified * weight for one, weight in weighed) / sum(self.sizes)
        self.unreached = sum(one.unreached * weight for one, weight in weighed)
        self.harmed = sum(one.known + (one.harmed - one.known) * weight for one, weight in weighed)
        self.admitted = sum(one.settled + (one.admitted - one.settled) * weight for one, weight in weighed)
        self.waits = defaultdict[str, float](float)
        for one, weight in weighed:
            for kind, number in one.waits.items():
                self.waits[kind] += number * weight


def _weights(scaled: Scaled, cohorts: Sequence[CohortTally]) -> list[float]:
    """For how many of the whole fleet a target of each cohort stands."""
    weights = [1 / part for part in scaled.parts]
    moved = sum(one.moved for one in cohorts)
    late = sum(one.moved * weight for one, weight in zip(cohorts, weights, strict=False))
    return [*weights, late / moved if moved else 1 / scaled.part.share]


def _bears_a_number(policy: CohortPolicy) -> bool:
    """Whether what stops it is a number of failures, and no share of the cohort."""
    return any(gate.kind != "share" for gate in policy.gates)
