"""Fleet, claim tokens and the audit trail over REST."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Protocol

from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import asdict

from firmware.protocol.words import Label
from server.campaigns.standing import Step
from server.errors import NotFoundError
from server.http.access import Caller, Need
from server.http.bodies import has_body, path_id, read_json, read_query
from server.http.campaigns import Why
from server.http.paging import Paged, after, last_key, paged_reply, place
from server.http.routes import Route, reply
from server.planner.explain import Explanation
from server.ports import AuditRecord, ClaimToken, Database, TargetView, Unit
from server.ports.querying import MAX_CHARS, parse

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


class WhichTargets(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of the fleet. `query`: which targets, in the fleet's query language."""

    query: Annotated[str, Meta(max_length=MAX_CHARS)] = ""


class WhichRecords(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of the trail. `after`: records with a greater id, oldest first; without it the newest first."""

    campaign: Annotated[str, Meta(max_length=256)] | None = None
    target: Annotated[str, Meta(max_length=256)] | None = None
    kind: Annotated[str, Meta(max_length=256)] | None = None
    actor: Annotated[str, Meta(max_length=256)] | None = None
    after: Annotated[int, Meta(ge=0, lt=1 << 53)] | None = None


class TargetPage(Struct, frozen=True, kw_only=True):
    """A page of targets, by id; it may be short and yet have a `next`. `count`: how many fit, told with the first page; unless
    `count_is_exact` there may be more."""

    targets: list[TargetView]
    next: str | None
    count: int | None
    count_is_exact: bool


class FleetSummary(Struct, frozen=True, kw_only=True):
    """The whole fleet. `versions`: number by running version (`unknown`: none told yet); `drifted`: number whose version was
    changed by hand."""

    count: int
    versions: dict[str, int]
    drifted: int


class ClaimShown(Struct, frozen=True, kw_only=True):
    """A claim token without its secret."""

    id: str
    expires_at: float
    uses_left: int
    labels: dict[str, str]
    created_by: str


class MadeClaim(ClaimShown, frozen=True, kw_only=True):
    """A claim token that was made. `token` is in this answer and nowhere else."""

    token: str


class ClaimPage(Struct, frozen=True, kw_only=True):
    """A page of claim tokens, by id."""

    claim_tokens: list[ClaimShown]
    next: str | None


class AuditPage(Struct, frozen=True, kw_only=True):
    """A page of the trail."""

    audit: list[AuditRecord]
    next: str | None


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
            Route(
                method="GET",
                path="/fleet",
                need=Need.READ,
                action=self.fleet,
                query=WhichTargets,
                answer=TargetPage,
            ),
            Route(method="GET", path="/fleet-summary", need=Need.READ, action=self.summary, answer=FleetSummary),
            Route(method="GET", path="/fleet/{target}", need=Need.READ, action=self.target, answer=TargetView),
            Route(
                method="GET",
                path="/fleet/{target}/explain",
                need=Need.READ,
                action=self.explain,
                answer=Explanation,
            ),
            *self._standings(),
            Route(
                method="GET",
                path="/claim-tokens",
                need=Need.ADMINISTER,
                action=self.claims,
                query=Paged,
                answer=ClaimPage,
            ),
            Route(
                method="POST",
                path="/claim-tokens",
                need=Need.ADMINISTER,
                action=self.new_claim,
                body=NewClaim,
                answer=MadeClaim,
                statuses=(201,),
            ),
            Route(method="GET", path="/audit", need=Need.READ, action=self.audit, query=WhichRecords, answer=AuditPage),
        )

    def _standings(self) -> Sequence[Route]:
        return [
            Route(
                method="POST",
                path=f"/fleet/{{target}}/{step}",
                need=need,
                action=action,
                body=Why,
                may_be_left_out=True,
                answer=TargetView,
                text=text,
            )
            for step, need, action, text in (
                (
                    "quarantine",
                    Need.OPERATE,
                    self.stand,
                    "Stop a target at once: it isn't heard, served or permitted anything until it is released.",
                ),
                ("release", Need.ADMINISTER, self.stand, "Lift a target's quarantine."),
                (
                    "revoke",
                    Need.ADMINISTER,
                    self.stand,
                    "Shut a target out for ever; it no longer counts against any budget.",
                ),
                (
                    "decommission",
                    Need.ADMINISTER,
                    self.decommission,
                    "Take a target out of the fleet for ever, in order.",
                ),
            )
        ]

    async def fleet(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Targets, by id, that fit a query."""
        which = read_query(request, WhichTargets)
        key, query = place(request, which, str), parse(which.query)
        begin = str(key[0]) if key else None
        page, (count, is_exact) = await self._database.read(
            lambda unit: (
                unit.fleet.page(cursor=begin, limit=which.limit, query=query),
                unit.fleet.fitting(query) if begin is None else (None, False),
            )
        )
        following = after(request, (page.next,) if page.next else None)
        answer = TargetPage(targets=list(page.rows), next=following, count=count, count_is_exact=is_exact)
        return paged_reply(request, answer)

    async def summary(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """How many targets there are, what they run, and how many drifted."""
        count, versions, drifted = await self._database.read(
            lambda unit: (unit.fleet.count(), unit.fleet.versions(), unit.fleet.drifted())
        )
        return reply(FleetSummary(count=count, versions=dict(versions), drifted=drifted))

    async def target(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """One target."""
        name = path_id(request, "target")
        view = await self._database.read(lambda unit: unit.fleet.target(name))
        if view is None:
            raise NotFoundError(f"There is no target {name}; `otaria fleet list` shows those there are.")
        return reply(view)

    async def explain(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Why a target isn't moving."""
        return reply(await self._explainer.explain(path_id(request, "target")))

    async def stand(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Quarantine, release or revoke; the body may say why. Answers with the target as it is then."""
        step = Step(request.path.rpartition("/")[2])
        why = await read_json(request, Why) if has_body(request) else Why()
        view = await self._standing.change(path_id(request, "target"), step, by=caller.name, reason=why.reason)
        self._on_shut_out()
        return reply(view)

    async def decommission(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Take a target out of the fleet; the body may say why. Answers with the target as it is then."""
        why = await read_json(request, Why) if has_body(request) else Why()
        target = path_id(request, "target")
        view = await self._decommissioning.decommission(target, by=caller.name, reason=why.reason)
        self._on_shut_out()
        return reply(view)

    async def claims(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Claim tokens by id, without their secrets."""
        paged = read_query(request, Paged)
        begin = str((place(request, paged, str) or ("",))[0])
        tokens = await self._database.read(lambda unit: unit.identities.claims(after=begin, limit=paged.limit))
        following = after(request, last_key(tokens, paged.limit, lambda token: (token.id,)))
        return paged_reply(request, ClaimPage(claim_tokens=[claim_shown(token) for token in tokens], next=following))

    async def new_claim(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Make a claim token."""
        wanted = await read_json(request, NewClaim)
        token, text = await self._claims.create_claim(
            uses=wanted.uses, expires_s=wanted.expires_s, labels=wanted.labels, by=caller.name
        )
        response = reply(MadeClaim(**asdict(claim_shown(token)), token=text), status=201)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def audit(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The trail: with `after` the oldest after that record first, without it the newest first."""
        which = read_query(request, WhichRecords)
        key = place(request, which, int)
        records = await self._database.read(lambda unit: _records(unit, which, int(key[0]) if key else None))
        following = after(request, last_key(records, which.limit, lambda record: (record.id,)))
        return paged_reply(request, AuditPage(audit=list(records), next=following))


def _records(unit: Unit, which: WhichRecords, place_: int | None) -> Sequence[AuditRecord]:
    limit, campaign, target, kind, actor = which.limit, which.campaign, which.target, which.kind, which.actor
    if which.after is None:
        return unit.audit.latest(before=place_, limit=limit, campaign=campaign, target=target, kind=kind, actor=actor)
    begin = which.after if place_ is None else place_
    return unit.audit.page(after=begin, limit=limit, campaign=campaign, target=target, kind=kind, actor=actor)


def claim_shown(token: ClaimToken) -> ClaimShown:
    """A claim token as people may see it."""
    return ClaimShown(
        id=token.id,
        expires_at=token.expires_at,
        uses_left=token.uses_left,
        labels=dict(token.labels),
        created_by=token.created_by,
    )
