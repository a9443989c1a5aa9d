"""What is done to all targets that fit the filters of the fleet page at once: each asks first, and says how many.

What was asked about is what is done: the question carries the targets that fitted then, so that who comes to fit meanwhile is not
touched. More than `MOST` are not taken; a narrower filter, or labels in a campaign's file, are the way.
"""

from collections import Counter
from collections.abc import Collection, Sequence

import yaml
from aiohttp import web

from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind
from server.campaigns.selection_file import MAX_TARGETS
from server.errors import NotFoundError
from server.http.access import Need, require
from server.http.bodies import query_text
from server.http.campaigns import Desk
from server.planner.slices import Footprint
from server.planner.words import CampaignState
from server.ports import Database, ReleaseState, TargetView, Unit
from server.ports.querying import MAX_CHARS, All, Query, one, parse
from server.ui.acts import UNTRIED
from server.ui.forms import said_reason
from server.ui.rendering import Templates
from server.ui.sessions import Sessions
from server.ui.wording import plural

FILTERS = ("version", "hardware", "campaign", "state")
MOST = MAX_TARGETS
MOST_PAGES = 100
PAGE = 500
NAME_CHARS = 56
"""What a name may have, and room for a number."""
UNDER_WAY = (CampaignState.SCHEDULED, CampaignState.RUNNING, CampaignState.PAUSED, CampaignState.WATCHING)


class BulkActs:
    """The handlers."""

    def __init__(self, *, database: Database, sessions: Sessions, desk: Desk, templates: Templates) -> None:
        self._database, self._sessions, self._desk, self._templates = database, sessions, desk, templates

    def mount(self, app: web.Application) -> None:
        """Add them to the people's app."""
        app.router.add_get("/bulk/skip", self.ask_skip)
        app.router.add_post("/bulk/skip", self.skip)
        app.router.add_get("/bulk/campaign", self.ask_campaign)

    async def ask_skip(self, request: web.Request) -> web.StreamResponse:
        """How many of those that fit can be left out of the campaigns that hold them."""
        session = await self._sessions.of(request)
        require(session.caller, Need.OPERATE)
        fitting = await self._fitting(request)
        able = await self._database.read(lambda unit: _waiting(unit, [view.id for view in fitting]))
        by_campaign = Counter(campaign for campaign, _ in able)
        return self._templates.page(
            "bulk_skip.html",
            request,
            session,
            able=[target for _, target in able],
            fitting=len(fitting),
            by_campaign=sorted(by_campaign.items()),
            targets=" ".join(f"{campaign}/{target}" for campaign, target in able),
            back=f"/fleet?{request.query_string}",
        )

    async def skip(self, request: web.Request) -> web.StreamResponse:
        """Leave these out. Who has begun meanwhile stays in, and is named."""
        session, fields = await self._sessions.for_form(request, Need.OPERATE)
        places = [place.partition("/") for place in fields.get("targets", "").split()]
        if not places or len(places) > MOST:
            raise RefusedError(ReasonKind.MALFORMED, "No targets were named; go back to the fleet and filter it anew.")
        left, reason = list[tuple[str, str]](), said_reason(fields)
        for campaign, _, target in places:
            try:
                await self._desk.skip(campaign, target, by=session.caller.name, reason=reason)
            except (NotFoundError, RefusedError) as error:
                left.append((target, error.text))
        return self._templates.page("bulk_done.html", request, session, done=len(places) - len(left), left=left)

    async def ask_campaign(self, request: web.Request) -> web.StreamResponse:
        """A draft of a campaign for those that fit; its form then says what it would do before anything is kept."""
        session = await self._sessions.of(request)
        require(session.caller, Need.OPERATE)
        fitting = await self._fitting(request)
        releases, names = await self._database.read(
            lambda unit: (unit.releases.list(), {view.name for view in unit.campaigns.list()})
        )
        active = [one for one in releases if one.state is ReleaseState.ACTIVE]
        newest = sorted(active, key=lambda one: (one.product, -one.counter))
        texts = [
            (
                one,
                sum(view.hardware in one.hardware for view in fitting),
                file_for(one.product, one.version, fitting, name=free_name(f"{one.product}-{one.version}", names)),
            )
            for one in newest
        ]
        back = f"/fleet?{request.query_string}"
        return self._templates.page(
            "bulk_campaign.html", request, session, fitting=len(fitting), texts=texts, back=back
        )

    async def _fitting(self, request: web.Request) -> Sequence[TargetView]:
        """The targets that fit; raises `RefusedError` when there are none, no filter, or more than `MOST`."""
        query, is_filtered = fleet_query(request)
        if not is_filtered:
            raise RefusedError("no-filter", "Filter the fleet first: this is done to those that fit.")
        none = "No target fits these filters any more."
        return await self._database.read(lambda unit: all_that_fit(unit, query, none))


def fleet_query(request: web.Request) -> tuple[Query, bool]:
    """What the address of the fleet page asks for, and whether it leaves anybody out. Raises `RefusedError` (`bad-query`)."""
    text, label = query_text(request, "query", max_chars=MAX_CHARS) or "", query_text(request, "label") or ""
    name, _, value = label.partition("=")
    labelled = [one("label", value, label=name)] if name and value else []
    asked = filters(request)
    query = All(parts=(parse(text), *(one(field, wanted) for field, wanted in asked.items()), *labelled))
    return query, bool(asked or labelled or text)


def filters(request: web.Request) -> dict[str, str]:
    """The fields beside the query that the page filters by."""
    found = {name: query_text(request, name) for name in FILTERS}
    return {name: text for name, text in found.items() if text}


def all_that_fit(unit: Unit, query: Query, none: str) -> Sequence[TargetView]:
    """The targets that fit. Raises `RefusedError`: `nothing-selected` with the sentence `none`, `too-large` above `MOST`."""
    found, cursor = list[TargetView](), None
    for _ in range(MOST_PAGES):
        page = unit.fleet.page(cursor=cursor, limit=PAGE, query=query)
        found += page.rows
        if len(found) > MOST:
            break
        if page.next is None:
            if not found:
                raise RefusedError("nothing-selected", none)
            return found
        cursor = page.next
    text = f"More than {plural(MOST, 'target')} fit, too many to act on at once; make the filter narrower."
    raise RefusedError(ReasonKind.TOO_LARGE, text)


def file_for(
    product: str, version: str, targets: Sequence[TargetView], *, name: str, strategy: str = "standard"
) -> str:
    """The campaign file that brings these targets to a release."""
    selection = {"targets": [view.id for view in targets]}
    whole = {"name": name, "product": product, "version": version, "selection": selection, "strategy": strategy}
    return yaml.safe_dump(whole, sort_keys=False)


def free_name(wanted: str, taken: Collection[str]) -> str:
    """A name for a campaign that none has yet: this one, as names are written, or with a number behind it."""
    plain = wanted.lower().replace(".", "-").replace("+", "-")[:NAME_CHARS]
    names = (plain, *(f"{plain}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def _waiting(unit: Unit, targets: Sequence[str]) -> list[tuple[str, str]]:
    """Which of these have no permit yet in a campaign that is under way, each with the campaign."""
    campaigns = [view.row.id for view in unit.campaigns.list() if view.row.state in UNDER_WAY]
    found = []
    for campaign in campaigns:
        for target in targets:
            row = unit.campaigns.load(Footprint(campaign=campaign, target=target)).assignment
            if row is not None and row.state in UNTRIED:
                found.append((campaign, target))
    return found
