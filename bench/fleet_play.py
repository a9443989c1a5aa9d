"""A campaign played out in memory: a heap of events, the planner, and devices that do as they are told without a fault."""

from collections import defaultdict
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from bench.reports import HARDWARE, NEW_SHA256, OLD_SHA256, PRODUCT
from firmware.protocol.words import AgentState
from server.planner.cohorts import split
from server.planner.commands import Admit, Command, GrantPermit, SendOrder, TellWait
from server.planner.events import (
    Asked,
    AssignmentDue,
    CampaignDue,
    Candidate,
    CohortDrained,
    Commanded,
    Event,
    Ordered,
    Reported,
)
from server.planner.rows import AssignmentRow, CampaignRow, ReleaseKey, Row, TargetRow
from server.planner.step import footprint, step
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy, Strategy
from server.planner.words import CampaignState, Verb
from simulator.virtual.rows import RowStore

CAMPAIGN = "bench"
SITES = 50
IN_FLIGHT = 300
"""The budget: so low that part of the asks are told to wait."""

STRATEGY = Strategy(
    name="bench",
    cohorts=(CohortPolicy(name="canary", count=20, gate=GatePolicy(min_verified=20)), CohortPolicy(name="rest")),
    budgets=(BudgetPolicy(by="campaign", limit=IN_FLIGHT), BudgetPolicy(by="site", limit=IN_FLIGHT // 5)),
    healthy_s=10,
)
RELEASE = ReleaseKey(product=PRODUCT, version="2.0.0", counter=2, sha256=NEW_SHA256)
WORK_S = 0.01
"""How long a device takes from one word to its next."""

Timed = tuple[float, int, Event]


class Play:
    """A fleet of `targets` and one campaign over it. `events` were decided on; `rows` has the most rows that an event of
    each kind touched."""

    def __init__(self, targets: int) -> None:
        self.events = 0
        self.rows: defaultdict[str, int] = defaultdict(int)
        self.store = RowStore()
        self._heap: list[Timed] = []
        self._order = count()
        self._orders = count(1)
        names = [f"d-{number:07}" for number in range(targets)]
        row = CampaignRow(
            id=CAMPAIGN, change_id="change", state=CampaignState.DRAFT, release=RELEASE, strategy=STRATEGY, seed=1
        )
        cohorts, assignments = split(CAMPAIGN, names, STRATEGY, seed=1)
        self.store.add([row, *cohorts, *assignments, *map(_target, names)])
        self._push(Commanded(campaign=CAMPAIGN, verb=Verb.START, by="bench", reason="", at=0.0))

    @property
    def goes_on(self) -> bool:
        """Whether the campaign is not completed."""
        row = self.store.campaign(CAMPAIGN)
        return row is not None and row.state is not CampaignState.COMPLETED

    def run(self, limit: int) -> None:
        """Decide on events in the order of their times until the campaign is completed, or `limit` are done in all."""
        while self.goes_on and self.events < limit:
            event = heappop(self._heap)[2]
            if not self._is_stale(event):
                self._decide(event)

    def _decide(self, event: Event) -> None:
        decision = step(self.store.load(footprint(event)), event)
        self.store.commit(decision)
        self.events += 1
        kind = type(event).__name__
        self.rows[kind] = max(self.rows[kind], self.store.touched)
        for command in decision.commands:
            for following in self._answers(command, event.at):
                self._push(following)
        for change in decision.changes:
            due = _due(change.row)
            if due is not None:
                self._push(due)

    def _push(self, event: Event) -> None:
        heappush(self._heap, (event.at, next(self._order), event))

    def _is_stale(self, event: Event) -> bool:
        """Whether this is a deadline that was moved since."""
        match event:
            case AssignmentDue():
                row: Row | None = self.store.assignment(event.campaign, event.target)
            case CampaignDue():
                row = self.store.campaign(event.campaign)
            case _:
                return False
        due = None if row is None else _due(row)
        return due is None or due.at > event.at

    def _answers(self, command: Command, at: float) -> Iterator[Event]:
        match command:
            case Admit():
                found = self.store.candidates(CAMPAIGN, command.cohort, command.limit)
                yield from (Candidate(campaign=CAMPAIGN, target=row.target, at=at) for row in found)
                if len(found) < command.limit:
                    yield CohortDrained(campaign=CAMPAIGN, cohort=command.cohort, at=at)
            case SendOrder():
                digest = f"{next(self._orders):064x}"
                yield Ordered(campaign=CAMPAIGN, target=command.target, order_hash=digest, at=at)
                yield _said(command.target, AgentState.DOWNLOADING, digest, at + WORK_S)
                yield _said(command.target, AgentState.STAGED, digest, at + 2 * WORK_S)
                yield _asked(command.target, digest, "first", at + 3 * WORK_S)
            case GrantPermit():
                yield _said(command.target, AgentState.ACTIVATING, command.order_hash, at + WORK_S)
                yield _said(command.target, AgentState.TRIAL, command.order_hash, at + 2 * WORK_S)
                yield _said(command.target, AgentState.COMMITTED, command.order_hash, at + 3 * WORK_S, NEW_SHA256)
            case TellWait():
                yield _asked(command.target, command.order_hash, f"{at}", at + command.retry_after_s)


def _target(name: str) -> TargetRow:
    return TargetRow(
        id=name,
        agent=name,
        hardware=HARDWARE,
        running_version="1.0.0",
        running_sha256=OLD_SHA256,
        rollback_available=True,
        groups=(f"site={_site(name)}",),
    )


def _site(name: str) -> int:
    return int(name.removeprefix("d-")) % SITES


def _said(target: str, state: AgentState, order_hash: str, at: float, runs: str = OLD_SHA256) -> Reported:
    return Reported(
        target=target,
        state=state,
        order_hash=order_hash,
        running_version="1.0.0" if runs == OLD_SHA256 else RELEASE.version,
        running_sha256=runs,
        rollback_available=True,
        reason_kind="none",
        reason="",
        at=at,
    )


def _asked(target: str, order_hash: str, nonce: str, at: float) -> Asked:
    return Asked(target=target, order_hash=order_hash, boot_id="boot", nonce=nonce, at=at)


def _due(row: Row) -> AssignmentDue | CampaignDue | None:
    match row:
        case AssignmentRow(wake_at=float() | int() as at):
            return AssignmentDue(campaign=row.campaign, target=row.target, at=at)
        case CampaignRow(wake_at=float() | int() as at):
            return CampaignDue(campaign=row.id, at=at)
    return None
