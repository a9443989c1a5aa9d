"""Preparation: the deltas that campaigns need, made before their first cohort opens.

What is to be made is in rows (`Leg`), written in the transaction that starts the campaign: so a server that dies in the
middle goes on where it was. A delta that can't be made is settled as refused, with its reason, and never holds a campaign
up; when a campaign wants none any more, the planner is told. The planner's own deadline opens the cohort when this takes
longer; what is still wanted then is made all the same, for the cohorts to come.
"""

import asyncio
import logging
from typing import Protocol

from firmware.errors import OtariaError
from server.campaigns.engine import Engine
from server.campaigns.paths import saves_enough
from server.planner.events import DeltasReady
from server.ports import Clock, Database, DeltaNeed, Leg, ReleaseRecord, Unit

LOOK_EVERY_S = 5.0
log = logging.getLogger(__name__)


class DeltaMaker(Protocol):
    """Makes one delta, between two releases' images for a slot set, unless it is there; an empty text, or why there is none.
    Raises typed errors."""

    async def make_delta(self, source: ReleaseRecord, release: ReleaseRecord, slot: str) -> str: ...


class Preparation:
    """Keep `run` running; `wake` says that a campaign was started."""

    def __init__(self, *, database: Database, maker: DeltaMaker, engine: Engine, clock: Clock) -> None:
        self._database = database
        self._maker = maker
        self._engine = engine
        self._clock = clock
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look soon. Only from the event loop's thread."""
        self._wake.set()

    async def run(self) -> None:
        """Make what is wanted until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.settle()
            except OtariaError as error:
                log.error("deltas wait: %s", error, extra={"kind": error.kind})
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def settle(self) -> None:
        """Make every delta that is wanted now, and tell the planner of each campaign that is done with it."""
        await self._tell()
        while leg := await self._database.read(lambda unit: unit.campaigns.next_leg()):
            await self._settle(leg, await self._make(leg))
            await self._tell()

    async def _settle(self, leg: Leg, trouble: str) -> None:
        await self._database.write(lambda unit: _settled(unit, leg, trouble))

    async def _tell(self) -> None:
        for campaign in await self._database.read(lambda unit: unit.campaigns.awaiting_deltas()):
            await self._engine.command(DeltasReady(campaign=campaign, at=self._clock.now()))

    async def _make(self, leg: Leg) -> str:
        """Make the delta of a leg; an empty text, or why there is none."""
        source, release = await self._database.read(lambda unit: _ends(unit, leg))
        if source is None or release is None:
            return "One of its releases is gone."
        try:
            return await self._maker.make_delta(source, release, leg.slot)
        except OtariaError as error:
            log.warning("no delta to %s: %s", release.version, error, extra={"kind": error.kind})
            return str(error)
        except Exception as error:
            log.exception("no delta to %s", release.version)
            return f"Making it met {type(error).__name__}, which nobody expected."


def _ends(unit: Unit, leg: Leg) -> tuple[ReleaseRecord | None, ReleaseRecord | None]:
    """The releases whose images for the leg's slot set are the ends of its delta; those of its versions before others."""
    found: dict[str, ReleaseRecord] = {}
    for release in unit.releases.list():
        image = release.image(leg.slot)
        if image is None:
            continue
        if image.file.sha256 not in found or release.version in (leg.source_version, leg.target_version):
            found[image.file.sha256] = release
    return found.get(leg.source_sha256), found.get(leg.target_sha256)


def _settled(unit: Unit, leg: Leg, trouble: str) -> None:
    view = unit.campaigns.view(leg.campaign)
    delta = unit.releases.delta(leg.source_sha256, leg.target_sha256)
    least = view.row.strategy.deltas.min_saving if view else 0.0
    if delta is None or trouble:
        unit.campaigns.settle_leg(leg, DeltaNeed.REFUSED, trouble or "It was not made.")
    elif not saves_enough(delta.file.length, leg.image_bytes, least):
        text = f"It would save less than the {least:.0%} that the strategy asks for."
        unit.campaigns.settle_leg(leg, DeltaNeed.REFUSED, text)
    else:
        unit.campaigns.settle_leg(leg, DeltaNeed.MADE)
