"""Fleet, claim tokens and the audit trail over REST."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from firmware.protocol.words import Label
from server.campaigns.standing import Step
from server.errors import NotFoundError
from server.http.access import Caller, Need
from server.http.bodies import path_id, query_count, query_text, read_json
from server.http.campaigns import Why
from server.http.routes import Route, reply
from server.planner.explain import Explanation
from server.ports import ClaimToken, Database, TargetView

FILTERS = ("version", "hardware", "campaign", "state")
MAX_CLAIM_S = 366 * 86400


class Claims(Protocol):
    """Makes claim tokens; only this answer ever holds the secret."""

    async def create_claim(
        self, *, uses: int, expires_s: int, labels: Mapping[str, str], by: str
    ) -> tuple[ClaimToken, str]: ...


class Standing(Protocol):
    """Quarantines, releases and revokes targets. Raises typed errors."""

    async def change(self, target: str, step: Step, *, by: str, reason: str) -> TargetView: ...


class Decommissioning(Protocol):
    """Takes targets out of the fleet, in order. Raises typed errors."""

    async def decommission(self, target: str, *, by: str, reason: str) -> TargetView: ...


class Explainer(Protocol):
    async def explain(self, target: str) -> Explanation: ...


class NewClaim(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /claim-tokens`."""

    uses: Annotated[int, Meta(ge=1, le=100_000)] = 1
    expires_s: Annotated[int, Meta(ge=60, le=MAX_CLAIM_S)] = 86400
    labels: Annotated[dict[Annotated[str, Meta(pattern=r"^[a-z][a-z0-9._-]{0,62}\Z")], Label], Meta(max_length=32)] = {}


class FleetRoutes:
    """Handlers about targets, claim tokens and the trail.

    Whoever operates may stop a device at once; only administrators let one (back) in or shut it out for ever.
    """

    def __init__(
        self,
        *,
        database: Database,
        claims: Claims,
        explainer: Explainer,
        standing: Standing,
        decommissioning: Decommissioning,
        on_shut_out: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_shut_out` is told whenever somebody may have been shut out for ever."""
        self._database = database
        self._standing = standing
        self._decommissioning = decommissioning
        self._on_shut_out = on_shut_out
        self._claims = claims
        self._explainer = explainer

    def routes(self) -> Sequence[Route]:
        return (
            Route(method="GET", path="/fleet", need=Need.READ, action=self.fleet),
            Route(method="GET", path="/fleet/{target}", need=Need.READ, action=self.target),
            Route(method="GET", path="/fleet/{target}/explain", need=Need.READ, action=self.explain),
            Route(method="POST", path="/fleet/{target}/quarantine", need=Need.OPERATE, action=self.stand),
            Route(method="POST", path="/fleet/{target}/release", need=Need.ADMINISTER, action=self.stand),
            Route(method="POST", path="/fleet/{target}/revoke", need=Need.ADMINISTER, action=self.stand),
            Route(method="POST", path="/fleet/{target}/decommission", need=Need.ADMINISTER, action=self.decommission),
            Route(method="GET", path="/claim-tokens", need=Need.ADMINISTER, action=self.claims),
            Route(method="POST", path="/claim-tokens", need=Need.ADMINISTER, action=self.new_claim),
            Route(method="GET", path="/audit", need=Need.READ, action=self.audit),
        )

    async def fleet(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """A page of targets: `{"targets": […], "next": cursor or null, "count": …, "versions": {…}, "drifted": …}`."""
        limit = query_count(request, "limit", 100, least=1)
        cursor, query = query_text(request, "cursor"), filters(request)
        page, count, versions, drifted = await self._database.read(
            lambda unit: (
                unit.fleet.page(cursor=cursor, limit=limit, query=query),
                unit.fleet.count(),
                unit.fleet.versions(),
                unit.fleet.drifted(),
            )
        )
        return reply(
            {"targets": page.rows, "next": page.next, "count": count, "versions": versions, "drifted": drifted}
        )

    async def target(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        name = path_id(request, "target")
        view = await self._database.read(lambda unit: unit.fleet.target(name))
        if view is None:
            raise NotFoundError(f"There is no target {name}; `otaria fleet list` shows those there are.")
        return reply(view)

    async def explain(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return reply(await self._explainer.explain(path_id(request, "target")))

    async def stand(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Quarantine, release or revoke; the body may say why. Answers with the target as it is then."""
        step = Step(request.path.rpartition("/")[2])
        why = await read_json(request, Why) if request.can_read_body else Why()
        view = await self._standing.change(path_id(request, "target"), step, by=caller.name, reason=why.reason)
        self._on_shut_out()
        return reply(view)

    async def decommission(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Take a target out of the fleet; the body may say why. Answers with the target as it is then."""
        why = await read_json(request, Why) if request.can_read_body else Why()
        target = path_id(request, "target")
        view = await self._decommissioning.decommission(target, by=caller.name, reason=why.reason)
        self._on_shut_out()
        return reply(view)

    async def claims(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        tokens = await self._database.read(lambda unit: unit.identities.claims())
        return reply({"claim_tokens": [without_secret(token) for token in tokens]})

    async def new_claim(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        wanted = await read_json(request, NewClaim)
        token, text = await self._claims.create_claim(
            uses=wanted.uses, expires_s=wanted.expires_s, labels=wanted.labels, by=caller.name
        )
        response = reply({**without_secret(token), "token": text}, status=201)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def audit(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """`after`: records with a greater id, oldest first; without it the newest, newest first."""
        limit = query_count(request, "limit", 100, least=1)
        campaign, target = query_text(request, "campaign"), query_text(request, "target")
        if "after" in request.query:
            after = query_count(request, "after", 0, most=1 << 53)
            records = await self._database.read(
                lambda unit: unit.audit.page(after=after, limit=limit, campaign=campaign, target=target)
            )
        else:
            records = await self._database.read(
                lambda unit: unit.audit.latest(limit=limit, campaign=campaign, target=target)
            )
        return reply({"audit": records})


def filters(request: web.Request) -> dict[str, str]:
    """The filters of a fleet query: version, hardware, campaign, state and `label.NAME`."""
    names = [name for name in request.query if name in FILTERS or name.startswith("label.")]
    found = {name: query_text(request, name) for name in names[:16]}
    return {name: text for name, text in found.items() if text}


def without_secret(token: ClaimToken) -> dict[str, Any]:
    """A claim token as people may see it."""
    shown: dict[str, Any] = msgspec.to_builtins(token)
    return {name: value for name, value in shown.items() if name != "secret_sha256"}
