"""What a campaign file would change, and the revisions that campaigns had."""

from collections.abc import Sequence
from typing import Protocol

from aiohttp import web
from msgspec import Struct
from msgspec.structs import asdict

from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind
from server.campaigns.revising import Plan
from server.http.access import Caller, Need
from server.http.bodies import path_id, read_bytes, read_query
from server.http.paging import Key, Paged, after, last_key, paged_reply, place
from server.http.routes import Raw, Route, reply
from server.planner.differences import Difference
from server.planner.revision_rows import RevisionRow, RevisionState
from server.planner.selection import Selection
from server.planner.strategy import Strategy
from server.planner.words import CampaignState
from server.ports import CampaignSpec

MAX_CAMPAIGN_FILE_BYTES = 256 * 1024
MAX_NAMED = 100
"""Most targets that a plan names; it counts them all."""
CAMPAIGN_FILE = Raw(media="application/yaml", text="A campaign file: YAML, or JSON, which is YAML, too.")


class ChangeShown(Struct, frozen=True, kw_only=True):
    """What differs, where, before and after, and in words."""

    where: str
    before: str | None
    after: str | None
    text: str


class Members(Struct, frozen=True, kw_only=True):
    """How many targets, and the first of them."""

    count: int
    targets: list[str]


class PlanShown(Struct, frozen=True, kw_only=True):
    """What applying a campaign file would do. `state` and `revision` as they are; `next`: the revision that it would become
    (null: nothing changes). `refused`: why it can't be applied."""

    campaign: str
    exists: bool
    state: CampaignState | None
    revision: int | None
    next: int | None
    changes: list[ChangeShown]
    gained: Members
    lost: Members
    effects: list[str]
    approvals: int
    refused: str | None
    warnings: list[str]


class RevisionShown(Struct, frozen=True, kw_only=True):
    """A revision as the API shows it: strategy and selection as the file had them."""

    campaign: str
    number: int
    state: RevisionState
    strategy: Strategy
    selection: Selection
    needed: int
    agreed: tuple[str, ...]
    by: str
    at: float
    changes: tuple[str, ...]


class RevisionPage(Struct, frozen=True, kw_only=True):
    """A page of them, oldest first."""

    revisions: list[RevisionShown]
    next: str | None


class RevisionDesk(Protocol):
    """What people can ask about revisions. Raises typed errors."""

    def parse(self, text: str) -> CampaignSpec: ...
    async def plan(self, spec: CampaignSpec) -> Plan: ...
    async def revisions(self, campaign: str, after: int = 0, limit: int | None = None) -> Sequence[RevisionRow]: ...


class RevisionRoutes:
    """Handlers about revisions."""

    def __init__(self, desk: RevisionDesk) -> None:
        self._desk = desk

    def routes(self) -> Sequence[Route]:
        return (
            Route(
                method="POST",
                path="/plan",
                need=Need.OPERATE,
                action=self.plan,
                body=CAMPAIGN_FILE,
                answer=PlanShown,
            ),
            Route(
                method="GET",
                path="/campaigns/{campaign}/revisions",
                need=Need.READ,
                action=self.list,
                query=Paged,
                answer=RevisionPage,
            ),
        )

    async def plan(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Say what applying a campaign file would do; changes nothing."""
        return reply(plan_shown(await self._desk.plan(self._desk.parse(await campaign_text(request)))))

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """A campaign's revisions, oldest first."""
        paged = read_query(request, Paged)
        key = place(request, paged, int)
        begin = 0 if key is None else int(key[0])
        page = await self._desk.revisions(path_id(request, "campaign"), begin, paged.limit)
        following = after(request, last_key(page, paged.limit, _key))
        return paged_reply(request, RevisionPage(revisions=[revision_shown(row) for row in page], next=following))


async def campaign_text(request: web.Request) -> str:
    """The campaign file in a request's body; raises `RefusedError` (`too-large`, `malformed`)."""
    try:
        return (await read_bytes(request, MAX_CAMPAIGN_FILE_BYTES)).decode()
    except UnicodeDecodeError as error:
        raise RefusedError(ReasonKind.MALFORMED, "The campaign file is not UTF-8 text.") from error


def plan_shown(plan: Plan) -> PlanShown:
    """A plan as the API shows it."""
    changes = [*plan.differences, *([plan.selection] if plan.selection else [])]
    row = plan.view.row if plan.view else None
    gained = [*plan.members.gained, *plan.members.back]
    return PlanShown(
        campaign=plan.name,
        exists=row is not None,
        state=row.state if row else None,
        revision=row.revision if row else None,
        next=None if plan.is_same else plan.number,
        changes=[_change(one) for one in changes],
        gained=Members(count=plan.members.comes_in, targets=gained[:MAX_NAMED]),
        lost=Members(count=len(plan.members.lost), targets=list(plan.members.lost[:MAX_NAMED])),
        effects=list(plan.effects),
        approvals=plan.needed,
        refused=plan.refused or None,
        warnings=list(plan.warnings),
    )


def revision_shown(row: RevisionRow) -> RevisionShown:
    """A revision as the API shows it."""
    shown = asdict(row)
    del shown["version"]
    return RevisionShown(**shown)


def _key(row: RevisionRow) -> Key:
    return (row.number,)


def _change(one: Difference) -> ChangeShown:
    return ChangeShown(where=one.where, before=one.before, after=one.after, text=one.text)
