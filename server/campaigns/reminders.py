"""Reminders of approvals that emergencies owe. When the next is due stands in the campaign's row, so a restart loses none."""

import asyncio
import logging

from firmware.errors import OtariaError
from server.campaigns.engine import Engine
from server.planner.events import ReminderDue
from server.ports import Clock, Database

LOOK_EVERY_S = 30.0
PAGE = 50
_log = logging.getLogger(__name__)


class Reminders:
    """Keep `run` running."""

    def __init__(self, database: Database, clock: Clock, engine: Engine) -> None:
        self._database = database
        self._clock = clock
        self._engine = engine

    async def run(self) -> None:
        """Remind of what is due until cancelled."""
        while True:
            try:
                await self.settle()
            except OtariaError as error:
                _log.error("reminders wait: %s", error, extra={"kind": error.kind})
            await asyncio.sleep(LOOK_EVERY_S)

    async def settle(self) -> None:
        """Tell the planner of each campaign whose reminder is due."""
        now = self._clock.now()
        while due := await self._database.read(lambda unit: unit.campaigns.to_remind(now, PAGE)):
            for name in due:
                await self._engine.command(ReminderDue(campaign=name, at=now))
