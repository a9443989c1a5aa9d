"""Readings of service level indicators for the open cohorts whose gates ask for them.

What was read is an event; what could not be read is one, too, since a gap is no good reading. Nothing is remembered but when
each was read last, so a server that starts anew merely reads once more.
"""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from firmware.errors import OtariaError
from server.campaigns.engine import Engine
from server.campaigns.rounds import forever
from server.planner.events import SliRead
from server.planner.states import LIVE
from server.planner.strategy import GatePolicy
from server.planner.words import CohortState
from server.ports import CampaignView, Clock, Database, SliPort

LOOK_EVERY_S = 5.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    campaign: str
    cohort: int
    gate: GatePolicy

    @property
    def key(self) -> tuple[str, int, str]:
        return self.campaign, self.cohort, self.gate.name


class Indicators:
    """Keep `run` running."""

    def __init__(self, *, database: Database, port: SliPort, engine: Engine, clock: Clock) -> None:
        self._database = database
        self._port = port
        self._engine = engine
        self._clock = clock
        self._read_at: dict[tuple[str, int, str], float] = {}

    async def run(self) -> None:
        """Read what is wanted until cancelled."""
        await forever(self.settle, LOOK_EVERY_S, log, "indicators")

    async def settle(self) -> None:
        """Read every indicator that is due, all at once, and tell the planner."""
        views = await self._database.read(lambda unit: unit.campaigns.list())
        wanted = [one for view in views for one in _wanted(view)]
        self._read_at = {one.key: self._read_at[one.key] for one in wanted if one.key in self._read_at}
        now = self._clock.now()
        due = [one for one in wanted if now - self._read_at.get(one.key, -one.gate.every_s) >= one.gate.every_s]
        for event in await asyncio.gather(*(self._read(one) for one in due)):
            await self._engine.command(event)

    async def _read(self, wanted: _Wanted) -> SliRead:
        value, reason = None, ""
        try:
            value = await self._port.read(wanted.gate.name)
        except OtariaError as error:
            reason = error.text
        at = self._clock.now()
        self._read_at[wanted.key] = at
        return SliRead(
            campaign=wanted.campaign, cohort=wanted.cohort, name=wanted.gate.name, value=value, reason=reason, at=at
        )


def _wanted(view: CampaignView) -> Iterator[_Wanted]:
    policies = view.row.strategy.cohorts
    for cohort in view.cohorts if view.row.state in LIVE else ():
        if cohort.state is CohortState.OPEN and cohort.index < len(policies):
            for gate in policies[cohort.index].gates:
                if gate.kind == "sli":
                    yield _Wanted(campaign=view.row.id, cohort=cohort.index, gate=gate)
