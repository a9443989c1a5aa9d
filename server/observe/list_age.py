"""Says on the trail, and so to whoever is told events, that the revocation list grew old, and that it is signed again.

Each is said once: what was said last is on the trail itself, so that neither a restart nor another leader says it again. It
stands in the partition of the server's own acts, which are few.
"""

import asyncio
import logging
from pathlib import Path

from server.campaigns.rounds import forever
from server.identity.revocation import ListState, list_state
from server.ports import Clock, Database, Unit

LOOK_EVERY_S = 60.0
PAGE = 500
ACTOR = PARTITION = "server"
OLD, RENEWED = "revocation-list-old", "revocation-list-renewed"
_log = logging.getLogger(__name__)


class ListAge:
    """Keep `run` running. `path`: the file of the revocation lists."""

    def __init__(self, database: Database, clock: Clock, path: Path) -> None:
        self._database, self._clock, self._path = database, clock, path
        self._said: bool | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        await forever(self.settle, LOOK_EVERY_S, _log, "words on the revocation list's age")

    async def settle(self) -> None:
        """Say what became of the list if that is news. Raises `UnavailableError`."""
        now = self._clock.now()
        state = await asyncio.to_thread(list_state, self._path, now)
        if self._said is None:
            self._said = await self._database.read(_was_old)
        if state.is_old is not self._said:
            await self._database.write(lambda unit: _say(unit, state, now))
            self._said = state.is_old


def _say(unit: Unit, state: ListState, now: float) -> None:
    if not state.is_old:
        text = "The revocation list is signed again: brokers that read it know who is shut out."
    elif state.made_at is None:
        text = "The revocation list can't be read, so brokers may let in who was shut out. The server's log says why."
    else:
        hours = (now - state.made_at) / 3600
        text = (
            f"The revocation list was last signed {hours:.0f} h ago, so brokers may let in who was shut out since. The "
            "server's log says why it isn't signed."
        )
    kind = OLD if state.is_old else RENEWED
    unit.audit.add(at=now, kind=kind, text=text, actor=ACTOR, data={"signed_at": state.made_at})


def _was_old(unit: Unit) -> bool:
    """Whether the last that was said of the list is that it is old."""
    head = unit.audit.heads().get(PARTITION)
    upto, begin = (0, 0) if head is None else (head.number, head.gone_number)
    while upto > begin:
        after = max(begin, upto - PAGE)
        for record in reversed(unit.audit.chain(PARTITION, after=after, upto=upto, limit=PAGE)):
            if record.kind in (OLD, RENEWED):
                return record.kind == OLD
        upto = after
    return False
