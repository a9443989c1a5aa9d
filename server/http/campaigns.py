"""Campaigns over REST: create from a campaign file, watch, and tell them what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import replace

from firmware.errors import RefusedError
from firmware.protocol.words import Id, ReasonKind
from server.campaigns.comparing import waiting
from server.campaigns.savings import Savings, savings
from server.errors import NotFoundError
from server.http.access import Caller, Need
from server.http.bodies import has_body, path_id, read_json, read_query
from server.http.paging import Paged, after, last_key, paged_reply, place
from server.http.revisions import CAMPAIGN_FILE, RevisionShown, campaign_text, revision_shown
from server.http.routes import Action, Route, reply
from server.planner.approvals import owed
from server.planner.gate_rows import GateInput
from server.planner.gates import evidence
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow
from server.planner.words import AssignmentState, CohortState, GateVerdict, Verb
from server.ports import CampaignSpec, CampaignView, Clock, Database, DeltaNeed, Leg, Unit


class Desk(Protocol):
    """What people can do with campaigns. Raises typed errors."""

    def parse(self, text: str) -> CampaignSpec: ...
    async def preview(self, spec: CampaignSpec) -> CampaignView: ...
    async def create(self, spec: CampaignSpec, *, by: str) -> CampaignView: ...
    async def command(self, campaign: str, verb: Verb, *, by: str, reason: str) -> CampaignView: ...
    async def take_back(
        self, campaign: str, *, target: str | None, cohort: str | None, by: str, reason: str
    ) -> CampaignView: ...
    async def skip(self, campaign: str, target: str, *, by: str, reason: str) -> CampaignView: ...
    async def answer_gate(
        self, campaign: str, cohort: str, verdict: GateVerdict, *, gate: str, by: str, reason: str
    ) -> CampaignView: ...
    async def compare(
        self, campaign: str, target: str, changes: Mapping[str, tuple[float | None, float]], *, by: str
    ) -> None: ...


class Why(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a verb: why, for the audit trail."""

    reason: Annotated[str, Meta(max_length=500)] = ""


class Back(Why, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `rollback`: all of the campaign, or only one cohort (by its name) or one target of it."""

    cohort: Id | None = None
    target: Id | None = None


class Skip(Why, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `skip`."""

    target: Id


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a gate's answer. `gate`: which external gate of the cohort, when it has several."""

    verdict: Literal["pass", "fail"]
    reason: Annotated[str, Meta(max_length=500)] = ""
    gate: Annotated[str, Meta(max_length=63)] = ""


Finite = Annotated[float, Meta(ge=-1e15, le=1e15)]


class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a metric changed, after minus before at the same hours of the week. `own` null: the target told nothing."""

    own: Finite | None
    control: Finite


class Comparison(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a comparison: by metric, the changes of a target and of its control."""

    changes: Annotated[dict[Annotated[str, Meta(max_length=64)], Change], Meta(min_length=1, max_length=8)]


_STATE = "|".join(AssignmentState)


_SAID = {
    Verb.START: "Start a campaign: ask for approval first where it takes any, and wait for `start_at`.",
    Verb.APPROVE: "Agree to the start that somebody else asked for, to a revision that somebody else made, or to an emergency "
    "afterwards.",
    Verb.REJECT: "Be against a start, and it is a draft again; a revision is rejected and the campaign goes on; of an "
    "emergency it is recorded.",
    Verb.PAUSE: "Pause a campaign: no more orders and permits.",
    Verb.RESUME: "Let a campaign that was paused go on.",
    Verb.ABORT: "Abort a campaign: withdraw what isn't activated.",
    Verb.ROLLBACK: "Send back who took it: all of the campaign, or one cohort or one target of it.",
}


class HowCreated(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of `POST /campaigns`. `dry_run`: only say what it would be."""

    dry_run: bool = False


class WhichAssignments(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a campaign's assignments. `state`: one, or several with commas; `cohort`: its index."""

    state: Annotated[str, Meta(pattern=rf"^(?:{_STATE})(?:,(?:{_STATE}))*\Z", max_length=512)] | None = None
    cohort: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None


class CohortShown(Struct, frozen=True, kw_only=True):
    """A cohort with its counters (states without any are left out) and the evidence of its gates."""

    campaign: str
    index: int
    name: str
    state: CohortState
    size: int
    counts: dict[AssignmentState, int]
    attempted: int
    moved_to_late: int
    opened_at: float | None
    verdict: GateVerdict
    verdict_text: str
    inputs: dict[str, GateInput]
    evidence: tuple[dict[str, Any], ...]
    going_back: int
    back_reason: str
    version: int


class LegShown(Struct, frozen=True, kw_only=True):
    """One image that targets of a campaign need, from what a slot set holds to a release's."""

    rank: int
    slot: str
    source_sha256: str
    source_version: str
    target_sha256: str
    target_version: str
    image_bytes: int
    targets: int
    capable: int
    need: DeltaNeed
    reason: str
    delta_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Downloads(Savings):
    """What a campaign's targets download, and each image that some of them need."""

    legs: list[LegShown]


class Compared(Struct, frozen=True, kw_only=True):
    """A verified target that was not compared yet, its control, and what the comparison waits for."""

    target: str
    control: str
    text: str
    until: float | None


class CampaignShown(CampaignRow, frozen=True, kw_only=True, gc=False):
    """A campaign as the API shows it: its row, its name, its cohorts. `downloads`: once it was started; `comparisons`: where one
    campaign is looked at."""

    name: str
    cohorts: list[CohortShown]
    created_at: float
    created_by: str
    owed_approvals: int
    proposal: RevisionShown | None
    downloads: Downloads | None
    warnings: list[str]
    comparisons: list[Compared] | None = None


class CampaignPage(Struct, frozen=True, kw_only=True):
    """A page of them, newest first."""

    campaigns: list[CampaignShown]
    next: str | None


class AssignmentPage(Struct, frozen=True, kw_only=True):
    """A page of a campaign's assignments, by cohort and rank."""

    assignments: list[AssignmentRow]
    next: str | None


class ComparedTarget(Struct, frozen=True, kw_only=True):
    """Whose comparison was taken in."""

    target: str


class CampaignRoutes:
    """Handlers about campaigns."""

    def __init__(self, *, database: Database, desk: Desk, clock: Clock) -> None:
        self._database = database
        self._desk = desk
        self._clock = clock

    def routes(self) -> Sequence[Route]:
        one = "/campaigns/{campaign}"
        return (
            Route(method="GET", path="/campaigns", need=Need.READ, action=self.list, query=Paged, answer=CampaignPage),
            Route(
                method="POST",
                path="/campaigns",
                need=Need.OPERATE,
                action=self.create,
                query=HowCreated,
                body=CAMPAIGN_FILE,
                answer=CampaignShown,
                statuses=(200, 201),
            ),
            Route(method="GET", path=one, need=Need.READ, action=self.show, answer=CampaignShown),
            Route(
                method="GET",
                path=f"{one}/assignments",
                need=Need.READ,
                action=self.assignments,
                query=WhichAssignments,
                answer=AssignmentPage,
            ),
            Route(
                method="POST",
                path=f"{one}/comparisons/{{target}}",
                need=Need.OPERATE,
                action=self.compare,
                body=Comparison,
                answer=ComparedTarget,
            ),
            Route(
                method="POST",
                path=f"{one}/cohorts/{{cohort}}/gate",
                need=Need.OPERATE,
                action=self.gate,
                body=Answer,
                answer=CampaignShown,
            ),
            Route(
                method="POST",
                path=f"{one}/skip",
                need=Need.OPERATE,
                action=self.skip,
                body=Skip,
                answer=CampaignShown,
            ),
            *(
                Route(
                    method="POST",
                    path=f"{one}/{verb}",
                    need=need_of(verb),
                    action=self._action(verb),
                    body=Back if verb is Verb.ROLLBACK else Why,
                    may_be_left_out=True,
                    answer=CampaignShown,
                    text=_SAID[verb],
                )
                for verb in Verb
            ),
        )

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Campaigns with their cohorts, newest first."""
        paged = read_query(request, Paged)
        key = place(request, paged, float, str)
        begin = (float(key[0]), str(key[1])) if key else None
        views = await self._database.read(lambda unit: unit.campaigns.page(limit=paged.limit, after=begin))
        following = after(request, last_key(views, paged.limit, lambda view: (view.created_at, view.row.id)))
        return paged_reply(request, CampaignPage(campaigns=[campaign_shown(view) for view in views], next=following))

    async def create(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Create a campaign from its file, or revise it: 201 with the draft, or with the campaign and its new revision. With
        `dry_run` nothing is kept: 200 with what it would be."""
        spec = self._desk.parse(await campaign_text(request))
        if read_query(request, HowCreated).dry_run:
            return reply(self._one(await self._desk.preview(spec)))
        return reply(self._one(await self._desk.create(spec, by=caller.name)), status=201)

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """One campaign, with the evidence of its gates as it is now, and what its comparisons wait for."""
        name, now = path_id(request, "campaign"), self._clock.now()

        def look(unit: Unit) -> CampaignShown:
            view = unit.campaigns.view(name)
            if view is None:
                raise NotFoundError(f"There is no campaign {name}; `otaria campaign list` shows those there are.")
            compared = [Compared(**one) for one in waiting(unit, view, now)]
            return replace(campaign_shown(view, at=now), comparisons=compared)

        return reply(await self._database.read(look))

    def _one(self, view: CampaignView) -> CampaignShown:
        return campaign_shown(view, at=self._clock.now())

    async def assignments(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """A campaign's assignments, by cohort and rank."""
        name, which = path_id(request, "campaign"), read_query(request, WhichAssignments)
        key = place(request, which, str)
        begin = str(key[0]) if key else None
        states = [AssignmentState(part) for part in which.state.split(",")] if which.state else None
        view, page = await self._database.read(
            lambda unit: (
                unit.campaigns.view(name),
                unit.campaigns.assignments(name, states=states, cohort=which.cohort, cursor=begin, limit=which.limit),
            )
        )
        if view is None:
            raise NotFoundError(f"There is no campaign {name}.")
        following = after(request, (page.next,) if page.next else None)
        return paged_reply(request, AssignmentPage(assignments=list(page.rows), next=following))

    async def compare(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Take in how the metrics of a verified target changed beside its control's; once per target."""
        told = await read_json(request, Comparison)
        changes = {name: (one.own, one.control) for name, one in told.changes.items()}
        target = path_id(request, "target")
        await self._desk.compare(path_id(request, "campaign"), target, changes, by=caller.name)
        return reply(ComparedTarget(target=target))

    async def gate(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Say whether a cohort passes its external gate."""
        answer = await read_json(request, Answer)
        view = await self._desk.answer_gate(
            path_id(request, "campaign"),
            path_id(request, "cohort"),
            GateVerdict(answer.verdict),
            gate=answer.gate,
            by=caller.name,
            reason=answer.reason,
        )
        return reply(self._one(view))

    def _action(self, verb: Verb) -> Action:
        return self.rollback if verb is Verb.ROLLBACK else self.command

    async def rollback(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Roll back the campaign, or the cohort or the target that the body names."""
        told = await read_json(request, Back) if has_body(request) else Back()
        campaign, said = path_id(request, "campaign"), {"by": caller.name, "reason": told.reason}
        if told.cohort is not None and told.target is not None:
            raise RefusedError(ReasonKind.MALFORMED, "Name a cohort or a target, not both.")
        if told.cohort is None and told.target is None:
            return reply(self._one(await self._desk.command(campaign, Verb.ROLLBACK, **said)))
        view = await self._desk.take_back(campaign, target=told.target, cohort=told.cohort, **said)
        return reply(self._one(view))

    async def skip(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Leave out one target that has no permit yet."""
        told = await read_json(request, Skip)
        campaign = path_id(request, "campaign")
        return reply(self._one(await self._desk.skip(campaign, told.target, by=caller.name, reason=told.reason)))

    async def command(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        verb = Verb(request.path.rpartition("/")[2])
        why = await read_json(request, Why) if has_body(request) else Why()
        view = await self._desk.command(path_id(request, "campaign"), verb, by=caller.name, reason=why.reason)
        return reply(self._one(view))


def need_of(verb: Verb) -> Need:
    """What it takes to tell a campaign this."""
    return Need.APPROVE if verb in (Verb.APPROVE, Verb.REJECT) else Need.OPERATE


def campaign_shown(view: CampaignView, *, at: float | None = None) -> CampaignShown:
    """A campaign as the API shows it: the row's fields, its name, its cohorts with their counters and, for one that is looked at
    alone (at time `at`), what its gates are judged by and, once it was started, what its targets download."""
    return CampaignShown(
        **_fields(view.row),
        name=view.name,
        cohorts=[_cohort(view, cohort, at) for cohort in view.cohorts],
        created_at=view.created_at,
        created_by=view.created_by,
        owed_approvals=owed(view.row),
        proposal=revision_shown(view.proposal) if view.proposal else None,
        downloads=_downloads(view) if view.legs else None,
        warnings=list(view.warnings),
    )


def _cohort(view: CampaignView, row: CohortRow, at: float | None) -> CohortShown:
    """A cohort with the evidence of its gates: as it was decided by, or else as it is now."""
    cohort = _fields(row)
    cohort["counts"] = {state: number for state, number in row.counts.items() if number}
    del cohort["strata"]
    policies = view.row.strategy.cohorts
    if not row.evidence and at is not None and row.index < len(policies):
        cohort["evidence"] = evidence(policies[row.index], row, at)
    return CohortShown(**cohort)


def _downloads(view: CampaignView) -> Downloads:
    sums = savings(view.legs, min_saving=view.row.strategy.deltas.min_saving)
    return Downloads(**vars(sums), legs=[_leg(leg) for leg in view.legs])


def _leg(leg: Leg) -> LegShown:
    return LegShown(**{name: value for name, value in vars(leg).items() if name != "campaign"})


def _fields(row: CampaignRow | CohortRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}
