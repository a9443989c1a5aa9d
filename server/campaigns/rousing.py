"""A calendar that changed reaches those that wait for it: they are told to ask again soon, instead of at their hourly ask.

Rules
- It is a second signed `wait` to the last ask of each, which may only bring its next ask forward; what it gets then is decided
  then. So neither a replay nor a lost message does harm: who isn't reached asks at its time.
- A few are told at a time, as many as may ask in that time, and each at a moment of its own; how far it has come stands in the
  campaign's row.
"""

import hashlib
import logging
from collections.abc import Callable

from firmware.protocol.codec import convert
from firmware.protocol.permit import Ask, Permit, Verdict
from firmware.protocol.topics import Leaf, of_target
from server.campaigns.director import Director
from server.campaigns.engine import Engine
from server.campaigns.rounds import forever
from server.campaigns.signed import file_permit
from server.planner.events import Roused
from server.planner.rows import AssignmentRow, CampaignRow
from server.planner.waits import ASKS_A_SECOND
from server.ports import Clock, Database, Unit

EVERY_S = 5.0
PAGE = int(EVERY_S * ASKS_A_SECOND)
SPREAD_S = 20
"""Each is told to ask again after 1 to so many seconds."""
LIVES_S = 600.0
KIND = "calendar-changed"
_TEXT = "The campaign's windows or freezes changed; ask again."
_log = logging.getLogger(__name__)


class Rousing:
    """Keep `run` running. `page`: how many are told at a time. `on_outbox` is told when there is something to send."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        director: Director,
        engine: Engine,
        *,
        page: int = PAGE,
        on_outbox: Callable[[], None] = lambda: None,
    ) -> None:
        self._database, self._clock, self._director = database, clock, director
        self._engine, self._limit, self._on_outbox = engine, page, on_outbox

    async def run(self) -> None:
        """Tell the next few every some seconds, until cancelled."""
        await forever(self.settle, EVERY_S, _log, "words to targets whose calendar changed")

    async def settle(self) -> int:
        """Tell the next few of one campaign; returns how many were told."""
        row = await self._database.read(lambda unit: unit.campaigns.to_rouse())
        if row is None:
            return 0
        told, upto = await self._database.write(lambda unit: self._page(unit, row))
        at = self._clock.now()
        await self._engine.command(Roused(campaign=row.id, revision=row.revision, upto=upto, at=at))
        self._on_outbox()
        return told

    def _page(self, unit: Unit, row: CampaignRow) -> tuple[int, str | None]:
        """How many were told, and the last target of the page; None when it was the last page."""
        found = unit.campaigns.waiting_for_windows(row.id, row.rouse or "", self._limit)
        told = sum(self._tell(unit, row, one) for one in found)
        return told, found[-1].target if len(found) == self._limit else None

    def _tell(self, unit: Unit, row: CampaignRow, assignment: AssignmentRow) -> bool:
        item = unit.inbox.latest("ask", assignment.target)
        ask = None if item is None else convert(dict(item.body), Ask)
        if ask is None or ask.order_hash != assignment.order_hash:
            return False
        now = self._clock.now()
        permit = Permit(
            target=ask.target,
            agent=ask.agent,
            order_hash=ask.order_hash,
            counter=ask.counter,
            boot_id=ask.boot_id,
            nonce=ask.nonce,
            verdict=Verdict.WAIT,
            retry_after_s=soon_s(row, assignment.target),
            reason_kind=KIND,
            reason=_TEXT,
            campaign=row.id,
            change_id=row.change_id,
            issued_at=int(now),
        )
        topic = of_target(ask.agent, ask.target, Leaf.PERMIT)
        envelope = self._director.sign_permit(permit)
        file_permit(unit, permit, envelope, now)
        unit.outbox.add(topic, envelope, expires_at=now + LIVES_S)
        return True


def soon_s(row: CampaignRow, target: str) -> int:
    """After how many seconds a target is to ask again."""
    digest = hashlib.sha256(f"{row.seed} {row.revision} {target}".encode()).digest()
    return 1 + int.from_bytes(digest[:4], "big") % SPREAD_S
