"""Rehearsals of campaigns that have not begun: the fleet as it is and what presence taught of it, handed to a process that lets
the campaign run over it in virtual time. One at a time. What came out is kept with the campaign: a first band early, then better
ones in its place, until it is over.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from contextvars import Context
from typing import Protocol

import msgspec
from msgspec.structs import replace

from firmware.errors import OtariaError, RefusedError
from server.campaigns.casting import cast_of
from server.campaigns.reckoning import Hindsight, Reckoned, hindsight, of_campaign
from server.campaigns.rehearsal import Casting, Rehearsal, Task, Understudy
from server.campaigns.rehearsal_process import Progress
from server.errors import NotFoundError
from server.planner.words import CampaignState
from server.ports import (
    CampaignSpec,
    CampaignView,
    Clock,
    Database,
    RehearsalRecord,
    RehearsalState,
    ReleaseRecord,
    Unit,
)

log = logging.getLogger(__name__)
BEFORE = (CampaignState.DRAFT, CampaignState.AWAITING_APPROVAL, CampaignState.SCHEDULED)
REPLICAS = 20
MOST_REPLICAS = 100
MOST_DAYS = 60


class Rehearser(Protocol):
    """Lets a campaign run in virtual time. Raises typed errors; whoever cancels it ends it."""

    async def rehearse(self, task: Task, progress: Progress) -> Rehearsal: ...


class RehearsalService:
    """Starts, ends and keeps them."""

    def __init__(self, database: Database, clock: Clock, rehearser: Rehearser) -> None:
        self._database = database
        self._clock = clock
        self._rehearser = rehearser
        self._one = asyncio.Lock()
        self._casting = asyncio.Lock()
        self._now: tuple[str, asyncio.Task[None]] | None = None
        self._done = 0

    @property
    def done(self) -> int:
        """How many runs of the one that is under way are through."""
        return self._done

    async def show(self, campaign: str) -> RehearsalRecord:
        """The newest of a campaign; raises `NotFoundError`."""
        found = await self._database.read(lambda unit: unit.rehearsals.get(campaign))
        if found is None:
            raise NotFoundError(f"Campaign {campaign} was never rehearsed.")
        return found

    async def reality(self, record: RehearsalRecord) -> Sequence[Reckoned]:
        """What became of a rehearsed campaign, beside what was foretold; nothing while that isn't known."""
        return await self._database.read(lambda unit: of_campaign(unit, record))

    async def hindsight(self) -> Hindsight:
        """How often reality fell in the bands of former rehearsals."""
        return await self._database.read(hindsight)

    async def cast(self, product: str, version: str) -> tuple[Casting, Sequence[Understudy]]:
        """All active targets that a release is for, as a rehearsal elsewhere takes them; for one who asks at a time. Raises
        `NotFoundError`, or `RefusedError` (`too-large`)."""
        now = self._clock.now()
        async with self._casting:
            return await self._database.read(lambda unit: _casting(unit, product, version, now))

    async def start(self, campaign: str, *, by: str) -> RehearsalRecord:
        """Begin one; it goes on by itself. Raises `NotFoundError`, or `RefusedError` (`rehearsal-late`, `rehearsal-running`,
        `too-large`)."""
        async with self._one:
            if self._now is not None and not self._now[1].done():
                text = f"Campaign {self._now[0]} is being rehearsed; wait for it, or cancel it."
                raise RefusedError("rehearsal-running", text)
            now = self._clock.now()
            record, task = await self._database.read(lambda unit: _prepare(unit, campaign, by, now))
            await self._database.write(lambda unit: _begin(unit, record, len(task.fleet)))
            self._done = 0
            playing = asyncio.create_task(
                self._play(record, task),
                name=f"rehearsal of {campaign}",
                context=Context(),  # what it writes later is no part of what the person who started it asked for
            )
            self._now = (campaign, playing)
            return record

    async def cancel(self, campaign: str, *, by: str) -> RehearsalRecord:
        """End the one that is under way; raises `NotFoundError` when none is."""
        if self._now is None or self._now[0] != campaign or self._now[1].done():
            raise NotFoundError(f"No rehearsal of campaign {campaign} is under way.")
        running = self._now[1]
        record = replace(await self.show(campaign), state=RehearsalState.CANCELLED, text=f"{by} cancelled it.")
        await self._keep(record, by, "was cancelled")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return record

    async def run(self) -> None:
        """What a server that ended left under way has failed; and who ends this, ends what is under way."""
        for record in await self._database.read(lambda unit: unit.rehearsals.running()):
            text = "The server ended meanwhile; rehearse it again."
            await self._keep(replace(record, state=RehearsalState.FAILED, text=text), "server", "failed")
        try:
            await asyncio.Event().wait()
        finally:
            if self._now is not None:
                self._now[1].cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._now[1]

    async def _play(self, record: RehearsalRecord, task: Task) -> None:
        async def progress(done: int, found: Rehearsal | None) -> None:
            if found is not None:
                await self._database.write(lambda unit: note_band(unit, record, found))
            self._done = done

        try:
            found = await self._rehearser.rehearse(task, progress)
            record = replace(record, state=RehearsalState.DONE, result=msgspec.to_builtins(found))
        except OtariaError as error:
            record = await self._failed(record, error.text)
        except Exception:
            log.exception("a rehearsal broke")
            record = await self._failed(record, "It broke; the server's log says how.")
        await self._keep(record, record.by, "is done" if record.state is RehearsalState.DONE else "failed")

    async def _failed(self, record: RehearsalRecord, text: str) -> RehearsalRecord:
        """With what it had found by then."""
        found = await self._database.read(lambda unit: _kept(unit, record))
        return replace(record, state=RehearsalState.FAILED, text=text, result=found.result if found else None)

    async def _keep(self, record: RehearsalRecord, by: str, ended: str) -> None:
        text = f"The rehearsal of campaign {record.campaign} {ended}. {record.text}".strip()
        now = self._clock.now()

        def keep(unit: Unit) -> None:
            unit.rehearsals.put(record)
            unit.audit.add(at=now, kind="rehearsal-ended", text=text, actor=by, campaign=record.campaign)

        await self._database.write(keep)


def _kept(unit: Unit, record: RehearsalRecord) -> RehearsalRecord | None:
    """The record as it is kept; None once another rehearsal has its place."""
    kept = unit.rehearsals.get(record.campaign)
    return kept if kept is not None and kept.at == record.at else None


def note_band(unit: Unit, record: RehearsalRecord, found: Rehearsal) -> None:
    """Keep what is known so far, unless it was cancelled meanwhile."""
    kept = _kept(unit, record)
    if kept is not None and kept.state is RehearsalState.RUNNING:
        unit.rehearsals.put(replace(kept, result=msgspec.to_builtins(found)))


def _prepare(unit: Unit, campaign: str, by: str, now: float) -> tuple[RehearsalRecord, Task]:
    view = unit.campaigns.view(campaign)
    if view is None:
        raise NotFoundError(f"There is no campaign {campaign}; `otaria campaign list` shows those there are.")
    row = view.row
    if row.state not in BEFORE:
        text = f"The campaign is {row.state.replace('_', ' ')}; a rehearsal is about one that has not begun."
        raise RefusedError("rehearsal-late", text)
    begins = max(now, row.start_at or now)
    record = RehearsalRecord(
        campaign=campaign, revision=row.revision, state=RehearsalState.RUNNING, by=by, at=now, begins=begins
    )
    return record, _task(unit, view, begins, now)


def _begin(unit: Unit, record: RehearsalRecord, targets: int) -> None:
    unit.rehearsals.put(record)
    text = f"{record.by} had campaign {record.campaign} rehearsed over the fleet of {targets}."
    unit.audit.add(at=record.at, kind="rehearsal-started", text=text, actor=record.by, campaign=record.campaign)


def _casting(unit: Unit, product: str, version: str, now: float) -> tuple[Casting, Sequence[Understudy]]:
    release = unit.releases.get(product, version)
    if release is None:
        raise NotFoundError(f"There is no release {version} of {product}; publish it first.")
    cast = cast_of(unit, product, release.hardware, now)
    size = _image_bytes(release)
    head = Casting(targets=len(cast.fleet), image_bytes=size, frailties=cast.frailties, basis=cast.basis)
    return head, cast.fleet


def _task(unit: Unit, view: CampaignView, begins: float, now: float) -> Task:
    row = view.row
    release = unit.releases.get(row.release.product, row.release.version)
    if release is None:
        raise RefusedError("release-unknown", f"There is no release {row.release.version} any more.")
    cast = cast_of(unit, row.release.product, release.hardware, now)
    return Task(
        spec=CampaignSpec(
            name=row.id,
            product=row.release.product,
            version=row.release.version,
            strategy=row.strategy,
            selection=view.selection,
        ),
        fleet=cast.fleet,
        begins=begins,
        days=min(MOST_DAYS, row.strategy.order_ttl_s / 86400 + 1),
        replicas=REPLICAS,
        most=MOST_REPLICAS,
        image_bytes=_image_bytes(release),
        frailties=cast.frailties,
        basis=cast.basis,
    )


def _image_bytes(release: ReleaseRecord) -> int:
    return sum(image.file.length for image in release.images)
