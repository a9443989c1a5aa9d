"""The planner's loop: one turn after another, each a transaction over the next messages and the deadlines that passed.

Nothing is remembered between turns but in rows, so that a process that dies between or within any two of them goes on
where the disk says. A message that breaks its turn is found, put on the trail and left behind; it never stops the loop.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from firmware.errors import UnavailableError
from firmware.protocol.codec import convert
from firmware.protocol.permit import Ask
from firmware.protocol.report import Report
from firmware.protocol.words import ReasonKind
from server.campaigns.director import Director
from server.campaigns.turn import Decide, Turn
from server.planner.events import (
    Asked,
    Commanded,
    Compared,
    DeltasReady,
    GateAnswered,
    LeftOut,
    ReminderDue,
    Reported,
    Revised,
    Roused,
    SliRead,
    TakenBack,
)
from server.planner.rows import AssignmentRow, CampaignRow
from server.planner.step import step
from server.ports import Clock, Database, InboxItem, Unit

BATCH = 250
LONGEST_WAIT_S = 60.0
RETRY_S = 1.0
_log = logging.getLogger(__name__)

Job = InboxItem | CampaignRow | AssignmentRow


class Engine:
    """Keep `run` running; `wake` says that there may be work. `on_outbox` is told when there may be messages to publish."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        director: Director,
        *,
        on_outbox: Callable[[], None] = lambda: None,
        decide: Decide = step,
    ) -> None:
        self._decide = decide
        self._database = database
        self._clock = clock
        self._director = director
        self._on_outbox = on_outbox
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Take a turn soon. Only from the event loop's thread."""
        self._wake.set()

    async def run(self) -> None:
        """Take turns until cancelled."""
        while True:
            self._wake.clear()
            try:
                if not await self.turn():
                    await self._rest()
            except UnavailableError as error:
                _log.error("the planner waits: %s", error, extra={"kind": error.kind})
                await asyncio.sleep(RETRY_S)

    async def turn(self) -> int:
        """Handle the next messages and deadlines; returns how many. Raises `UnavailableError` when storage fails."""
        if not await self._database.read(lambda unit: self._jobs(unit, 1)):
            return 0
        try:
            handled = await self._database.write(self._batch)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is: one message must not stop the fleet, so find it)
            _log.warning("a turn failed (%s: %s); taking its events one by one", type(error).__name__, error)
            handled = await self._singly()
        if handled:
            self._on_outbox()
        return handled

    async def settle(self) -> None:
        """Take turns until nothing is left to do now."""
        while await self.turn():
            pass

    async def command(
        self,
        event: Commanded
        | DeltasReady
        | GateAnswered
        | SliRead
        | Compared
        | TakenBack
        | LeftOut
        | Revised
        | ReminderDue
        | Roused,
    ) -> None:
        """Tell the planner at once what a person wants, or what was found out for it; raises the typed error with which it
        refuses."""
        await self._database.write(lambda unit: self._turn(unit).command(event))
        self._wake.set()
        self._on_outbox()

    async def write(self, work: Callable[[Turn], None]) -> None:
        """Do `work` in a turn of its own, and all that follows from it; raises what it raises."""

        def turn(unit: Unit) -> None:
            one = self._turn(unit)
            work(one)
            one.drain()

        await self._database.write(turn)
        self._wake.set()
        self._on_outbox()

    def _turn(self, unit: Unit) -> Turn:
        return Turn(unit, self._director, self._clock.now(), self._decide)

    def _batch(self, unit: Unit) -> int:
        turn = self._turn(unit)
        jobs = self._jobs(unit, BATCH)
        targets = [job.target for job in jobs if not isinstance(job, CampaignRow)]
        unit.campaigns.expect(targets)
        unit.orders.expect(targets)
        for job in jobs:
            _do(unit, turn, job)
        return len(jobs)

    def _jobs(self, unit: Unit, limit: int) -> Sequence[Job]:
        campaigns, assignments = unit.campaigns.due(self._clock.now(), limit)
        return [*unit.inbox.unprocessed(limit), *assignments, *campaigns]

    async def _singly(self) -> int:
        jobs = await self._database.read(lambda unit: self._jobs(unit, BATCH))
        for job in jobs:
            try:
                await self._alone(job)
            except UnavailableError:
                raise
            except Exception as error:  # noqa: BLE001 (found it: it goes to the trail, with its cause in the log)
                _log.exception("an event could not be handled")
                text = f"It could not be handled and was left out: {type(error).__name__}: {error}"[:1000]
                await self._leave_out(job, text)
        return len(jobs)

    async def _alone(self, job: Job) -> None:
        await self._database.write(lambda unit: _do(unit, self._turn(unit), job))

    async def _leave_out(self, job: Job, text: str) -> None:
        def work(unit: Unit) -> None:
            if not isinstance(job, InboxItem):
                self._turn(unit).postpone(job)
                return
            unit.inbox.mark_processed(job.id)
            unit.audit.add(at=self._clock.now(), kind="event-failed", text=text, target=job.target)

        await self._database.write(work)

    async def _rest(self) -> None:
        at = await self._database.read(lambda unit: unit.campaigns.next_wake())
        wait_s = LONGEST_WAIT_S if at is None else min(LONGEST_WAIT_S, max(0.0, at - self._clock.now()))
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return


def _do(unit: Unit, turn: Turn, job: Job) -> None:
    if not isinstance(job, InboxItem):
        turn.due(job)
        return
    if job.kind == "ask":
        ask = convert(dict(job.body), Ask)
        turn.feed(_asked(ask, turn.now), ask=ask)
    else:
        report = convert(dict(job.body), Report)
        equivocal = report.reason is not None and report.reason.kind == ReasonKind.EQUIVOCATION
        disputed = report.order_hash if equivocal else None
        turn.stay_ahead(report.target, disputed=disputed, introduced=report.inventory is not None)
        turn.feed(_reported(report, job.received_at))
    unit.inbox.mark_processed(job.id)


def _asked(ask: Ask, now: float) -> Asked:
    return Asked(target=ask.target, order_hash=ask.order_hash, boot_id=ask.boot_id, nonce=ask.nonce, at=now)


def _reported(report: Report, received_at: float) -> Reported:
    declined = report.evidence.get("declined")
    return Reported(
        target=report.target,
        state=report.state,
        order_hash=report.order_hash,
        running_version=report.running.version,
        running_sha256=report.running.sha256,
        rollback_available=report.running.rollback_available,
        reason_kind=report.reason.kind if report.reason else "none",
        reason=report.reason.text if report.reason else "",
        at=received_at,
        declined=tuple(declined.split()) if isinstance(declined, str) else (),
    )
