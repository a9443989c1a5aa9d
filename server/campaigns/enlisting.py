"""Live selections: who fits by now comes into its campaign, and who has no order yet and fits no more drops out.

Looked for every minute, a page a time, so that a thousand devices that enrol at once keep nobody waiting.
"""

import logging

from server.campaigns.engine import Engine
from server.campaigns.members import LOOK_EVERY_S, PAGES, Membership, membership
from server.campaigns.rounds import forever
from server.planner.states import LIVE
from server.ports import CampaignView, Database, Unit

_log = logging.getLogger(__name__)


class Enlisting:
    """Keep `run` running."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine

    async def run(self) -> None:
        """Bring live campaigns up to date every minute, until cancelled."""
        await forever(self.settle, LOOK_EVERY_S, _log, "live selections")

    async def settle(self) -> None:
        """Bring every live campaign up to date."""
        views = await self._database.read(lambda unit: unit.campaigns.list())
        for view in views:
            if view.selection.is_live and view.row.state in LIVE:
                for _ in range(PAGES):
                    if not await self._page(view):
                        break

    async def _page(self, view: CampaignView) -> bool:
        """One page; whether there was anything to do. It is looked for without holding up who writes."""
        change = await self._database.read(lambda unit: _first(unit, view))
        if not change.gained and not change.back and not change.lost:
            return False
        await self._engine.write(lambda turn: turn.enlist(view.row.id, view.selection))
        return True


def _first(unit: Unit, view: CampaignView) -> Membership:
    return membership(unit, view.row, view.selection, 1)
