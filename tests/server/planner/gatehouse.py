"""One cohort under its gates, played fast: the planner's own ledger and judgement, without orders, budgets and other cohorts.

Every target moves by the real tables; after every move the cohort is judged, as the planner does it. So a simulation of
thousands of fleets takes seconds, and looks as often as it can.
"""

from collections.abc import Mapping

from server.planner.dealing import deal
from server.planner.gate_rows import BlockRow
from server.planner.gates import judge
from server.planner.ledger import Ledger
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow, TargetRow
from server.planner.slices import Slice
from server.planner.states import Move
from server.planner.strata import Key, keys
from server.planner.strategy import CohortPolicy, GatePolicy, Strategy
from server.planner.words import AssignmentState, CampaignState, CohortState, GateVerdict
from tests.server.planner.playbook import RELEASE

FAIL, PASS, HELD = GateVerdict.FAIL, GateVerdict.PASS, GateVerdict.INSUFFICIENT


class Gatehouse:
    """A cohort of targets with traits (`{"t1": {"hardware": "r1", "site": "berlin"}}`), all ordered, under some gates."""

    def __init__(self, gates: tuple[GatePolicy, ...], traits: Mapping[str, Mapping[str, str]]) -> None:
        first, *more = gates
        self.policy = CohortPolicy(name="wave", gate=first, more_gates=tuple(more))
        strategy = Strategy(name="test", cohorts=(self.policy,))
        self.campaign = CampaignRow(
            id="c", change_id="x", state=CampaignState.RUNNING, release=RELEASE, strategy=strategy, seed=1, version=1
        )
        size = len(traits)
        counts = {AssignmentState.PLANNED: size}
        cohort = CohortRow(
            campaign="c", index=0, name="wave", state=CohortState.OPEN, size=size, counts=counts, opened_at=0.0
        )
        late = CohortRow(campaign="c", index=1, name="late", state=CohortState.OPEN, size=0)
        rows = [
            AssignmentRow(campaign="c", target=name, cohort=0, rank=rank, state=AssignmentState.PLANNED)
            for rank, name in enumerate(traits)
        ]
        cohorts, dealt = deal(strategy, [cohort, late], rows, {name: dict(own) for name, own in traits.items()})
        self.cohorts: list[CohortRow] = list(cohorts)
        self.rows = {row.target: row for row in dealt}
        self.blocks: dict[Key, BlockRow] = {}
        self.now = 0.0

    @property
    def cohort(self) -> CohortRow:
        return self.cohorts[0]

    def move(self, target: str, cause: str, **values: object) -> GateVerdict:
        """Move a target by its table, and judge."""
        self.pass_on(target, cause, **values)
        return self.judge()

    def pass_on(self, target: str, cause: str, **values: object) -> None:
        """Move a target by its table, without looking."""
        ledger = self.ledger(target)
        ledger.move(cause, **values)
        self.keep(ledger)

    def to_late(self, target: str) -> GateVerdict:
        ledger = self.ledger(target)
        ledger.change_cohort(1)
        self.keep(ledger)
        return self.judge()

    def back(self, target: str) -> GateVerdict:
        """From late into the cohort again."""
        ledger = self.ledger(target)
        ledger.change_cohort(0)
        self.keep(ledger)
        return self.judge()

    def judge(self) -> GateVerdict:
        return judge(self.policy, self.cohort, self.now).verdict

    def text(self) -> str:
        return judge(self.policy, self.cohort, self.now).text

    def order(self, *targets: str) -> None:
        for target in targets or tuple(self.rows):
            self.pass_on(target, Move.ADMIT)

    def attempt(self, target: str) -> GateVerdict:
        return self.move(target, Move.PERMIT, attempt=self.rows[target].attempt + 1)

    def verify(self, target: str) -> GateVerdict:
        self.pass_on(target, "committed")
        return self.move(target, Move.HEALTHY)

    def ledger(self, target: str) -> Ledger:
        row = self.rows[target]
        found = [self.blocks[key] for key in keys(self.campaign.strategy, row, 0) if key in self.blocks]
        known = TargetRow(id=target, agent=target, hardware="board")
        loaded = Slice(
            campaign=self.campaign, cohorts=tuple(self.cohorts), target=known, assignment=row, blocks=tuple(found)
        )
        return Ledger(loaded, self.now)

    def keep(self, ledger: Ledger) -> None:
        self.rows[ledger.assignment.target] = ledger.assignment
        self.cohorts = list(ledger.cohorts.values())
        self.blocks |= ledger.blocks


def rate(bound: float = 0.05, **values: object) -> GatePolicy:
    """A gate of kind rate over one stratum."""
    return GatePolicy(**{"kind": "rate", "max_failure_rate": bound, "small_cohort": "hold", **values})
