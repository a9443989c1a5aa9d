"""Campaigns over REST: create from a campaign file, watch, and tell them what to do."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.words import Id, ReasonKind
from server.campaigns.comparing import waiting
from server.campaigns.savings import savings
from server.errors import NotFoundError
from server.http.access import Caller, Need
from server.http.bodies import path_id, query_count, query_text, read_json
from server.http.revisions import campaign_text, revision_json
from server.http.routes import Action, Route, reply
from server.planner.approvals import owed
from server.planner.gates import evidence
from server.planner.rows import CohortRow
from server.planner.words import AssignmentState, GateVerdict, Verb
from server.ports import CampaignSpec, CampaignView, Clock, Database, Unit


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


class CampaignRoutes:
    """Handlers about campaigns."""

    def __init__(self, *, database: Database, desk: Desk, clock: Clock) -> None:
        self._database = database
        self._desk = desk
        self._clock = clock

    def routes(self) -> Sequence[Route]:
        one = "/campaigns/{campaign}"
        return (
            Route(method="GET", path="/campaigns", need=Need.READ, action=self.list),
            Route(method="POST", path="/campaigns", need=Need.OPERATE, action=self.create),
            Route(method="GET", path=one, need=Need.READ, action=self.show),
            Route(method="GET", path=f"{one}/assignments", need=Need.READ, action=self.assignments),
            Route(method="POST", path=f"{one}/comparisons/{{target}}", need=Need.OPERATE, action=self.compare),
            Route(method="POST", path=f"{one}/cohorts/{{cohort}}/gate", need=Need.OPERATE, action=self.gate),
            Route(method="POST", path=f"{one}/skip", need=Need.OPERATE, action=self.skip),
            *(
                Route(method="POST", path=f"{one}/{verb}", need=need_of(verb), action=self._action(verb))
                for verb in Verb
            ),
        )

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        views = await self._database.read(lambda unit: unit.campaigns.list())
        return reply({"campaigns": [campaign_json(view) for view in views]})

    async def create(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Create a campaign from its file (YAML or JSON text), or revise it; `?dry_run=1` only says what it would be."""
        spec = self._desk.parse(await campaign_text(request))
        if request.query.get("dry_run") in ("1", "true"):
            return reply(self._one(await self._desk.preview(spec)))
        return reply(self._one(await self._desk.create(spec, by=caller.name)), status=201)

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        name, now = path_id(request, "campaign"), self._clock.now()

        def look(unit: Unit) -> dict[str, Any]:
            view = unit.campaigns.view(name)
            if view is None:
                raise NotFoundError(f"There is no campaign {name}; `otaria campaign list` shows those there are.")
            return {**campaign_json(view, at=now), "comparisons": waiting(unit, view, now)}

        return reply(await self._database.read(look))

    def _one(self, view: CampaignView) -> dict[str, Any]:
        return campaign_json(view, at=self._clock.now())

    async def assignments(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        name = path_id(request, "campaign")
        states, cohort = _states(request), query_text(request, "cohort")
        index = query_count(request, "cohort", 0, most=1 << 20) if cohort is not None else None
        limit, cursor = query_count(request, "limit", 100, least=1), query_text(request, "cursor")
        view, page = await self._database.read(
            lambda unit: (
                unit.campaigns.view(name),
                unit.campaigns.assignments(name, states=states, cohort=index, cursor=cursor, limit=limit),
            )
        )
        if view is None:
            raise NotFoundError(f"There is no campaign {name}.")
        return reply({"assignments": page.rows, "next": page.next})

    async def compare(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Take in how a verified target's metrics changed beside its control's."""
        told = await read_json(request, Comparison)
        changes = {name: (one.own, one.control) for name, one in told.changes.items()}
        target = path_id(request, "target")
        await self._desk.compare(path_id(request, "campaign"), target, changes, by=caller.name)
        return reply({"target": target})

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
        told = await read_json(request, Back) if request.can_read_body else Back()
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
        why = await read_json(request, Why) if request.can_read_body else Why()
        view = await self._desk.command(path_id(request, "campaign"), verb, by=caller.name, reason=why.reason)
        return reply(self._one(view))


def need_of(verb: Verb) -> Need:
    """What it takes to tell a campaign this."""
    return Need.APPROVE if verb in (Verb.APPROVE, Verb.REJECT) else Need.OPERATE


def campaign_json(view: CampaignView, *, at: float | None = None) -> dict[str, Any]:
    """A campaign as the API shows it: the row's fields, its name, its cohorts with their counters and, for one that is looked at
    alone (at time `at`), what its gates are judged by and, once it was started, what its targets download."""
    row: dict[str, Any] = msgspec.to_builtins(view.row)
    cohorts = [_cohort(view, cohort, at) for cohort in view.cohorts]
    return {
        **row,
        "name": view.name,
        "cohorts": cohorts,
        "created_at": view.created_at,
        "created_by": view.created_by,
        "owed_approvals": owed(view.row),
        "proposal": revision_json(view.proposal) if view.proposal else None,
        "downloads": _downloads(view) if view.legs else None,
        "warnings": list(view.warnings),
    }


def _cohort(view: CampaignView, row: CohortRow, at: float | None) -> dict[str, Any]:
    """A cohort with the evidence of its gates: as it was decided by, or else as it is now."""
    cohort: dict[str, Any] = msgspec.to_builtins(row)
    cohort["counts"] = {state: number for state, number in cohort["counts"].items() if number}
    del cohort["strata"]
    policies = view.row.strategy.cohorts
    if not row.evidence and at is not None and row.index < len(policies):
        cohort["evidence"] = list(evidence(policies[row.index], row, at))
    return cohort


def _downloads(view: CampaignView) -> dict[str, Any]:
    sums = savings(view.legs, min_saving=view.row.strategy.deltas.min_saving)
    legs: list[dict[str, Any]] = msgspec.to_builtins(list(view.legs))
    for leg in legs:
        del leg["campaign"]
    return {**msgspec.to_builtins(sums), "legs": legs}


def _states(request: web.Request) -> list[AssignmentState] | None:
    text = query_text(request, "state")
    if text is None:
        return None
    try:
        return [AssignmentState(part) for part in text.split(",")]
    except ValueError as error:
        known = ", ".join(AssignmentState)
        raise RefusedError(ReasonKind.MALFORMED, f"`state` must be one or more of: {known}.") from error
