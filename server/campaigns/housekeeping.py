"""Forgetting: what was handled leaves the inbox after a time, a page at a time, so that nobody waits for it; and
learning, likewise, when agents are there that neither came nor went for long.

Until then it tells a repeated report from a clone's. What the planner made of it stays on the trail.
"""

import asyncio
import logging

from firmware.errors import UnavailableError
from server.campaigns.logs import KEEP_EACH
from server.ports import Clock, Database, Unit

KEEP_S = 30 * 86400.0
PAGE = 1000
LEARN_AFTER_S = 7 * 86400.0
LEARN_PAGE = 200
EVERY_S = 3600.0
_log = logging.getLogger(__name__)


class Housekeeping:
    """Keep `run` running."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Tidy up now and every hour, until cancelled."""
        while True:
            try:
                forgotten = await self.tidy()
                if forgotten:
                    _log.info("forgot %d handled messages", forgotten)
            except UnavailableError as error:
                _log.error("nothing could be forgotten: %s", error)
            await asyncio.sleep(EVERY_S)

    async def tidy(self) -> int:
        """Forget what is older than `KEEP_S`; returns how many messages. Raises `UnavailableError`."""
        total, now = 0, self._clock.now()
        while True:
            page = await self._database.write(lambda unit: _forget(unit, now))
            total += page
            if not page:
                break
        while await self._database.write(lambda unit: unit.presences.refresh(now - LEARN_AFTER_S, now, LEARN_PAGE)):
            continue
        return total


def _forget(unit: Unit, now: float) -> int:
    """A page of each kind."""
    messages = unit.inbox.forget(now - KEEP_S, now, PAGE)
    messages += unit.envelopes.forget(now - KEEP_S, PAGE)
    messages += unit.metrics.forget(now, PAGE)
    messages += unit.inquiries.forget(now - KEEP_S, PAGE)
    messages += unit.replies.forget(now, PAGE)
    return messages + unit.logs.expire(now, PAGE) + unit.logs.forget(now - KEEP_S, KEEP_EACH, PAGE)
