"""The planner's shell in virtual time: feeds events, commits what is decided, and carries commands out.

It does what `server.campaigns.turn` does, over rows in memory. People answer at once: a campaign that asks for approvals is taken
to have them (or `approving` says when), and deltas are made at once. What needs the world outside (checks, evidence, indicators)
is refused when a world is made. Nobody revises a campaign, so nothing asks to `Enlist`; live selections are looked after beside
(`enlisting`).
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from firmware.errors import RefusedError
from firmware.protocol.words import Action
from server.planner.ask_events import CHECKS, Check
from server.planner.commands import (
    PAGE,
    Admit,
    Command,
    Displace,
    Doubt,
    GrantPermit,
    PrepareDeltas,
    Recall,
    Record,
    SendOrder,
    TellWait,
)
from server.planner.decision import Decision, Put
from server.planner.download_line import NextInLine, PlaceFree
from server.planner.events import (
    AssignmentDue,
    CampaignDue,
    Candidate,
    CohortDrained,
    DeltasReady,
    Displaced,
    Doubted,
    Event,
    Ordered,
    Recalled,
)
from server.planner.rows import AssignmentRow, CampaignRow
from server.planner.slices import Slice
from server.planner.step import footprint, step
from server.planner.words import CampaignState
from simulator.virtual.agenda import Agenda
from simulator.virtual.rows import RowStore

POSTPONE_S = 60.0
_TIMED = (AssignmentRow, CampaignRow)
"""Rows that have deadlines."""
Answer = GrantPermit | TellWait


class Shell:
    """`on_order` is handed each order with its hash; `observe`, each event with what it was decided on and what was decided."""

    def __init__(
        self,
        store: RowStore,
        *,
        on_order: Callable[[SendOrder, str, float], None],
        observe: Callable[[Slice, Event, Decision], None] = lambda *_: None,
        checks: tuple[Check, ...] = CHECKS,
    ) -> None:
        self.store = store
        self.events = 0
        self.asks = 0
        self.kinds: Counter[str] = Counter()
        """How often it was told to wait, by kind."""
        self.ignored: Counter[str] = Counter()
        self.campaigns: list[str] = []
        self._checks = checks
        self._on_order = on_order
        self._observe = observe
        self.deadlines = Agenda[tuple[float, int, str, str]]()
        """When rows are due, each with its campaign and target; one may have been moved since."""
        self._order = 0
        self._pushed = 0
        self._following: deque[Event] = deque()
        self._answer: Answer | None = None

    def feed(self, event: Event) -> Answer | None:
        """Feed an event and all that follows from it; what an ask is answered. One that is refused moves nothing."""
        self._answer = None
        self._following.append(event)
        while self._following:
            following = self._following.popleft()
            try:
                self._one(following)
            except RefusedError as error:
                self.ignored[f"{type(following).__name__}: {error.kind}"] += 1
        return self._answer

    def tell(self, events: Sequence[Event]) -> None:
        """Feed events that one transaction found out, in the order in which `server.campaigns.turn.Turn.drain` does."""
        first, *others = events
        self._following.extend(others)
        self.feed(first)

    def due(self, now: float) -> None:
        """Feed the deadline that passes first (`deadlines`), unless it was moved. One that nothing handles is postponed."""
        at, _, campaign, target = self.deadlines.take()
        row = self._row(campaign, target)
        if row is None or row.wake_at != at:
            return
        passed: AssignmentDue | CampaignDue = CampaignDue(campaign=campaign, at=now)
        if target:
            passed = AssignmentDue(campaign=campaign, target=target, at=now)
        self.feed(passed)
        if self._row(campaign, target) == row:
            self.ignored["deadline-postponed"] += 1
            self.store.commit(Decision(changes=(Put(row=replace(row, wake_at=now + POSTPONE_S)),)))
            self._push(now + POSTPONE_S, campaign, target)

    def _row(self, campaign: str, target: str) -> CampaignRow | AssignmentRow | None:
        return self.store.assignment(campaign, target) if target else self.store.campaign(campaign)

    def _one(self, event: Event) -> None:
        loaded = self.store.load(footprint(event))
        decision = step(loaded, event, checks=self._checks)
        self.store.commit(decision)
        self.events += 1
        self._observe(loaded, event, decision)
        for change in decision.changes:
            row = change.row
            if isinstance(row, _TIMED) and row.wake_at is not None:
                self._note_deadline(loaded, row, row.wake_at)
        for command in decision.commands:
            self._carry_out(command, event.at)

    def _note_deadline(self, loaded: Slice, row: AssignmentRow | CampaignRow, wake_at: float) -> None:
        """Remember when a row is due, if that is new."""
        if isinstance(row, AssignmentRow):
            before, campaign, target = loaded.assignment, row.campaign, row.target
            is_same = before is not None and before.campaign == campaign and before.target == target
        else:
            before, campaign, target = loaded.campaign, row.id, ""  # type: ignore[assignment]
            is_same = before is not None
        if not (is_same and before is not None and before.wake_at == wake_at):
            self._push(wake_at, campaign, target)

    def _push(self, at: float, campaign: str, target: str) -> None:
        self._pushed += 1
        self.deadlines.put((at, self._pushed, campaign, target))

    def _carry_out(self, command: Command, at: float) -> None:
        match command:
            case Record():
                pass  # worlds have no trail
            case GrantPermit():
                self._answer = command
            case TellWait():
                self._answer = command
                self.kinds[command.reason_kind] += 1
            case SendOrder():
                self._send(command, at)
            case Admit():
                self._admit(command, at)
            case Recall():
                self._recall(command, at)
            case Displace():
                told: dict[str, Any] = {"target": command.target, "by": command.by, "over": command.over}
                self._following.append(Displaced(campaign=command.campaign, at=at, **told))
            case PrepareDeltas():
                self._following.append(DeltasReady(campaign=command.campaign, at=at))
            case NextInLine():
                self._next_in_line(command, at)
            case Doubt():
                self._doubt(command, at)

    def _send(self, command: SendOrder, at: float) -> None:
        self._order += 1
        digest = f"{self._order:064x}"
        self._following.append(Ordered(campaign=command.campaign, target=command.target, order_hash=digest, at=at))
        self._on_order(command, digest, at)

    def _admit(self, command: Admit, at: float) -> None:
        limit = min(command.limit, PAGE)
        rows = self.store.candidates(command.campaign, command.cohort, limit)
        self._following.extend(Candidate(campaign=row.campaign, target=row.target, at=at) for row in rows)
        if len(rows) < limit:
            self._following.append(CohortDrained(campaign=command.campaign, cohort=command.cohort, at=at))

    def _recall(self, command: Recall, at: float) -> None:
        found = 0
        why: dict[str, Any] = {"reason_kind": command.reason_kind, "reason": command.reason}
        for row in self.store.in_states(command.campaign, command.states):
            if row.action is Action.INSTALL and command.cohort in (None, row.cohort):
                self._following.append(
                    Recalled(campaign=row.campaign, target=row.target, action=command.action, at=at, **why)
                )
                found += 1
                if found == PAGE:
                    return

    def _next_in_line(self, command: NextInLine, at: float) -> None:
        admitting = (CampaignState.RUNNING, CampaignState.WATCHING)
        line = [
            row
            for row in self.store.line(command.group)
            if (campaign := self.store.campaign(row.campaign)) is not None and campaign.state in admitting
        ]
        if line:
            row = min(line, key=lambda row: (row.since, row.target))
            self._following.append(PlaceFree(campaign=row.campaign, target=row.target, group=command.group, at=at))

    def _doubt(self, command: Doubt, at: float) -> None:
        for name in self.campaigns:
            row = self.store.campaign(name)
            if row is None or row.suspect:
                continue
            if (row.release.product, row.release.version) == (command.product, command.version):
                self._following.append(Doubted(campaign=name, reason=command.reason, at=at))
