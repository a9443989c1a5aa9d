"""What a campaign file would change, and the revisions that campaigns had."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind
from server.campaigns.revising import Plan
from server.http.access import Caller, Need
from server.http.bodies import path_id, read_bytes
from server.http.routes import Route, reply
from server.planner.differences import Difference
from server.planner.revision_rows import RevisionRow
from server.ports import CampaignSpec

MAX_CAMPAIGN_FILE_BYTES = 256 * 1024
MAX_NAMED = 100
"""Most targets that a plan names; it counts them all."""


class RevisionDesk(Protocol):
    """What people can ask about revisions. Raises typed errors."""

    def parse(self, text: str) -> CampaignSpec: ...
    async def plan(self, spec: CampaignSpec) -> Plan: ...
    async def revisions(self, campaign: str) -> Sequence[RevisionRow]: ...


class RevisionRoutes:
    """Handlers about revisions."""

    def __init__(self, desk: RevisionDesk) -> None:
        self._desk = desk

    def routes(self) -> Sequence[Route]:
        return (
            Route(method="POST", path="/plan", need=Need.OPERATE, action=self.plan),
            Route(method="GET", path="/campaigns/{campaign}/revisions", need=Need.READ, action=self.list),
        )

    async def plan(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Say what applying a campaign file would do; changes nothing."""
        return reply(plan_json(await self._desk.plan(self._desk.parse(await campaign_text(request)))))

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        rows = await self._desk.revisions(path_id(request, "campaign"))
        return reply({"revisions": [revision_json(row) for row in rows]})


async def campaign_text(request: web.Request) -> str:
    """The campaign file in a request's body; raises `RefusedError` (`too-large`, `malformed`)."""
    try:
        return (await read_bytes(request, MAX_CAMPAIGN_FILE_BYTES)).decode()
    except UnicodeDecodeError as error:
        raise RefusedError(ReasonKind.MALFORMED, "The campaign file is not UTF-8 text.") from error


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as the API shows it."""
    changes = [*plan.differences, *([plan.selection] if plan.selection else [])]
    row = plan.view.row if plan.view else None
    return {
        "campaign": plan.name,
        "exists": row is not None,
        "state": row.state if row else None,
        "revision": row.revision if row else None,
        "next": None if plan.is_same else plan.number,
        "changes": [_change(one) for one in changes],
        "gained": {
            "count": plan.members.comes_in,
            "targets": [*plan.members.gained, *plan.members.back][:MAX_NAMED],
        },
        "lost": {"count": len(plan.members.lost), "targets": list(plan.members.lost[:MAX_NAMED])},
        "effects": list(plan.effects),
        "approvals": plan.needed,
        "refused": plan.refused or None,
        "warnings": list(plan.warnings),
    }


def revision_json(row: RevisionRow) -> dict[str, Any]:
    """A revision as the API shows it."""
    shown: dict[str, Any] = msgspec.to_builtins(row)
    del shown["version"]
    return shown


def _change(one: Difference) -> dict[str, Any]:
    return {"where": one.where, "before": one.before, "after": one.after, "text": one.text}
