"""Reminders of approvals that emergencies owe. When the next is due stands in the campaign's row, so a restart loses none."""

import logging

from server.campaigns.engine import Engine
from server.campaigns.rounds import forever
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
        await forever(self.settle, LOOK_EVERY_S, _log, "reminders")

    async def settle(self) -> None:
        """Tell the planner of the campaigns whose reminders are due, `PAGE` at most."""
        now = self._clock.now()
        for name in await self._database.read(lambda unit: unit.campaigns.to_remind(now, PAGE)):
            await self._engine.command(ReminderDue(campaign=name, at=now))
