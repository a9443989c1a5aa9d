"""What people do to one part of a campaign, one release or one target: each asks once more, says what will happen, and takes a
reason for the trail. The API does the same; a page offers it to whoever may.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from server.campaigns.decommission import DecommissionService
from server.campaigns.standing import StandingService, Step
from server.errors import NotFoundError
from server.http.access import Need, require
from server.http.bodies import path_id, path_version, query_text
from server.http.campaigns import Desk
from server.http.releases import Judge
from server.planner.states import CAN_GO_BACK, IN_FLIGHT, WAITING
from server.planner.words import AssignmentState, GateVerdict
from server.ports import AgentStatus, Database, TargetView
from server.ui.forms import said_reason
from server.ui.rendering import Templates
from server.ui.sessions import Sessions

UNTRIED = (AssignmentState.PLANNED, *WAITING)


@dataclass(frozen=True, kw_only=True)
class Button:
    """One way to send a question's form: `value` goes with it as `choice`."""

    label: str
    value: str = ""
    is_danger: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked before something is done: where the form goes, with which hidden fields, and where "no" leads."""

    heading: str
    consequence: str
    action: str
    back: str
    back_name: str
    buttons: tuple[Button, ...]
    now: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    asks_reason: bool = True


TargetAct = Callable[[str, str, str], Awaitable[object]]
"""Does something to a target: its id, by whom, why."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What can be done to a target's standing."""

    need: Need
    label: str
    consequence: str
    act: TargetAct
    is_danger: bool = True


def standings(
    standing: StandingService, decommissioning: DecommissionService, on_shut_out: Callable[[], None]
) -> dict[str, Standing]:
    """The steps there are, by name, as the API has them."""

    def change(step: Step) -> TargetAct:
        async def act(target: str, by: str, reason: str) -> None:
            await standing.change(target, step, by=by, reason=reason)
            on_shut_out()

        return act

    async def take_out(target: str, by: str, reason: str) -> None:
        await decommissioning.decommission(target, by=by, reason=reason)
        on_shut_out()

    return {
        "quarantine": Standing(
            need=Need.OPERATE,
            label="Quarantine",
            consequence="It isn’t heard, served or permitted anything until an administrator releases it.",
            act=change(Step.QUARANTINE),
        ),
        "release": Standing(
            need=Need.ADMINISTER,
            label="Release from quarantine",
            consequence="It is heard and served again, and may ask for permits.",
            act=change(Step.RELEASE),
            is_danger=False,
        ),
        "revoke": Standing(
            need=Need.ADMINISTER,
            label="Revoke",
            consequence="It is shut out for ever, and its connection ends. It no longer counts against any budget.",
            act=change(Step.REVOKE),
        ),
        "decommission": Standing(
            need=Need.ADMINISTER,
            label="Decommission",
            consequence="It leaves the fleet for ever: its part in every campaign ends, and its order is withdrawn.",
            act=take_out,
        ),
    }


def steps_for(view: TargetView, may: Callable[[Need], bool]) -> list[tuple[str, str, bool]]:
    """What who may this much can do to a target's standing now: path, label, and whether it is grave."""
    if view.status.shut_out:
        return []
    steps = [
        ("quarantine", "Quarantine", Need.OPERATE, view.status is AgentStatus.ACTIVE),
        ("release", "Release from quarantine", Need.ADMINISTER, view.status is AgentStatus.QUARANTINED),
        ("revoke", "Revoke", Need.ADMINISTER, True),
        ("decommission", "Decommission", Need.ADMINISTER, True),
    ]
    return [
        (f"/fleet/{view.id}/{step}", label, step != "release")
        for step, label, need, fits in steps
        if fits and may(need)
    ]


def campaign_steps_for(view: TargetView, may: Callable[[Need], bool]) -> list[tuple[str, str, bool]]:
    """The same for its part in the campaign that holds it."""
    if view.campaign is None or view.state is None or not may(Need.OPERATE):
        return []
    place, steps = f"/campaigns/{view.campaign}/targets/{view.id}", []
    if view.state in UNTRIED:
        steps.append((f"{place}/skip", "Leave it out of the campaign", False))
    if view.state in (*UNTRIED, *IN_FLIGHT, *CAN_GO_BACK, AssignmentState.MISSING):
        steps.append((f"{place}/rollback", "Roll it back", True))
    return steps


class Acts:
    """Handlers of what is done to a part of a campaign, a release or a target. `standings`: by the step's name."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        desk: Desk,
        judge: Judge,
        standings: dict[str, Standing],
        templates: Templates,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._desk = desk
        self._judge = judge
        self._standings = standings
        self._templates = templates

    def mount(self, app: web.Application) -> None:
        """Add every form to the people's app; before the campaign's verbs, which take any word."""
        for path, question, act in (
            ("/campaigns/{campaign}/cohorts/{cohort}/rollback", self.ask_cohort, self.take_cohort_back),
            ("/campaigns/{campaign}/cohorts/{cohort}/gate", self.ask_gate, self.answer_gate),
            ("/campaigns/{campaign}/targets/{target}/rollback", self.ask_target, self.take_target_back),
            ("/campaigns/{campaign}/targets/{target}/skip", self.ask_skip, self.skip),
            ("/releases/{product}/{version}/{verdict:suspect|clear}", self.ask_release, self.judge_release),
            (f"/fleet/{{target}}/{{step:{'|'.join(self._standings)}}}", self.ask_standing, self.stand),
        ):
            app.router.add_get(path, question)
            app.router.add_post(path, act)

    async def ask_cohort(self, request: web.Request) -> web.StreamResponse:
        campaign, cohort = path_id(request, "campaign"), path_id(request, "cohort")
        text = (
            "Targets of this cohort that run the release go back to their previous slot, within the budgets; who has no "
            "permit yet gets none. The campaign pauses, since what came after it rests on it."
        )
        button = Button(label="Roll back the cohort", is_danger=True)
        return await self._of_campaign(
            request, campaign, f"Roll back cohort {cohort} of {campaign}?", text, (button,), Need.OPERATE
        )

    async def take_cohort_back(self, request: web.Request) -> web.StreamResponse:
        session, fields = await self._sessions.for_form(request, Need.OPERATE)
        campaign, cohort = path_id(request, "campaign"), path_id(request, "cohort")
        said = {"by": session.caller.name, "reason": said_reason(fields)}
        await self._desk.take_back(campaign, target=None, cohort=cohort, **said)
        return _to(f"/campaigns/{campaign}")

    async def ask_gate(self, request: web.Request) -> web.StreamResponse:
        campaign, cohort = path_id(request, "campaign"), path_id(request, "cohort")
        gate = query_text(request, "gate") or ""
        text = "A cohort passes when every gate of it does; it fails, and stops the campaign, when one does."
        buttons = (Button(label="It passes", value="pass"), Button(label="It fails", value="fail", is_danger=True))
        heading = f"Does {cohort} pass {gate or 'its gate'}?"
        return await self._of_campaign(
            request, campaign, heading, text, buttons, Need.OPERATE, fields=(("gate", gate),)
        )

    async def answer_gate(self, request: web.Request) -> web.StreamResponse:
        session, fields = await self._sessions.for_form(request, Need.OPERATE)
        campaign, cohort = path_id(request, "campaign"), path_id(request, "cohort")
        try:
            verdict = {"pass": GateVerdict.PASS, "fail": GateVerdict.FAIL}[fields.get("choice", "")]
        except KeyError as error:
            raise NotFoundError("A gate passes or fails; go back and choose one.") from error
        said = {"by": session.caller.name, "reason": said_reason(fields)}
        await self._desk.answer_gate(campaign, cohort, verdict, gate=fields.get("gate", "")[:63], **said)
        return _to(f"/campaigns/{campaign}")

    async def ask_target(self, request: web.Request) -> web.StreamResponse:
        campaign, target = path_id(request, "campaign"), path_id(request, "target")
        text = (
            "It goes back to its previous slot once it may, under the same budgets and windows; if it has no permit yet, it "
            "gets none. This campaign doesn’t order it again."
        )
        button = Button(label="Roll back the target", is_danger=True)
        return await self._of_target(request, f"Roll back {target} in {campaign}?", text, button)

    async def take_target_back(self, request: web.Request) -> web.StreamResponse:
        session, fields = await self._sessions.for_form(request, Need.OPERATE)
        campaign, target = path_id(request, "campaign"), path_id(request, "target")
        said = {"by": session.caller.name, "reason": said_reason(fields)}
        await self._desk.take_back(campaign, target=target, cohort=None, **said)
        return _to(f"/fleet/{target}")

    async def ask_skip(self, request: web.Request) -> web.StreamResponse:
        campaign, target = path_id(request, "campaign"), path_id(request, "target")
        text = "It gets no order from this campaign. That says nothing about the release, so no gate counts it."
        return await self._of_target(request, f"Leave {target} out of {campaign}?", text, Button(label="Leave it out"))

    async def skip(self, request: web.Request) -> web.StreamResponse:
        session, fields = await self._sessions.for_form(request, Need.OPERATE)
        campaign, target = path_id(request, "campaign"), path_id(request, "target")
        await self._desk.skip(campaign, target, by=session.caller.name, reason=said_reason(fields))
        return _to(f"/fleet/{target}")

    async def ask_release(self, request: web.Request) -> web.StreamResponse:
        session = await self._sessions.of(request)
        require(session.caller, Need.OPERATE)
        product, version = path_id(request, "product"), path_version(request)
        release = await self._database.read(lambda unit: unit.releases.get(product, version))
        if release is None:
            raise NotFoundError(f"There is no release {version} of {product}.")
        is_doubt = request.match_info["verdict"] == "suspect"
        question = Question(
            heading=f"Mark {product} {version} suspect?" if is_doubt else f"Clear {product} {version}?",
            consequence=(
                "Its campaigns pause, and for those that have ended a campaign that brings their targets back is proposed."
                if is_doubt
                else "It is active again. Campaigns that it paused stay so until somebody resumes them."
            ),
            action=request.path,
            back="/releases",
            back_name="Releases",
            buttons=(Button(label="Mark it suspect", is_danger=True) if is_doubt else Button(label="Clear it"),),
            now=f"It is {release.state}.",
        )
        return self._templates.page("question.html", request, session, question=question)

    async def judge_release(self, request: web.Request) -> web.StreamResponse:
        session, fields = await self._sessions.for_form(request, Need.OPERATE)
        act = self._judge.doubt if request.match_info["verdict"] == "suspect" else self._judge.clear
        product, version = path_id(request, "product"), path_version(request)
        await act(product, version, by=session.caller.name, reason=said_reason(fields))
        return _to("/releases")

    async def ask_standing(self, request: web.Request) -> web.StreamResponse:
        session = await self._sessions.of(request)
        step = self._standings[request.match_info["step"]]
        require(session.caller, step.need)
        target = path_id(request, "target")
        view = await self._target(target)
        question = Question(
            heading=f"{step.label} {target}?",
            consequence=step.consequence,
            action=request.path,
            back=f"/fleet/{target}",
            back_name=target,
            buttons=(Button(label=step.label, is_danger=step.is_danger),),
            now=f"It is {view.status}.",
        )
        return self._templates.page("question.html", request, session, question=question)

    async def stand(self, request: web.Request) -> web.StreamResponse:
        step, target = self._standings[request.match_info["step"]], path_id(request, "target")
        session, fields = await self._sessions.for_form(request, step.need)
        await step.act(target, session.caller.name, said_reason(fields))
        return _to(f"/fleet/{target}")

    async def _of_campaign(
        self,
        request: web.Request,
        campaign: str,
        heading: str,
        consequence: str,
        buttons: tuple[Button, ...],
        need: Need,
        *,
        fields: tuple[tuple[str, str], ...] = (),
    ) -> web.StreamResponse:
        session = await self._sessions.of(request)
        require(session.caller, need)
        cohort = path_id(request, "cohort")
        view = await self._database.read(lambda unit: unit.campaigns.view(campaign))
        found = next((row for row in view.cohorts if row.name == cohort), None) if view else None
        if found is None:
            raise NotFoundError(f"There is no cohort {cohort} in a campaign {campaign}.")
        question = Question(
            heading=heading,
            consequence=consequence,
            action=request.path,
            back=f"/campaigns/{campaign}",
            back_name=campaign,
            buttons=buttons,
            now=found.verdict_text,
            fields=fields,
        )
        return self._templates.page("question.html", request, session, question=question)

    async def _of_target(
        self, request: web.Request, heading: str, consequence: str, button: Button
    ) -> web.StreamResponse:
        session = await self._sessions.of(request)
        require(session.caller, Need.OPERATE)
        target = path_id(request, "target")
        view = await self._target(target)
        question = Question(
            heading=heading,
            consequence=consequence,
            action=request.path,
            back=f"/fleet/{target}",
            back_name=target,
            buttons=(button,),
            now=f"It is {str(view.state or 'without an order').replace('_', ' ')}. {view.reason}".strip(),
        )
        return self._templates.page("question.html", request, session, question=question)

    async def _target(self, target: str) -> TargetView:
        view = await self._database.read(lambda unit: unit.fleet.target(target))
        if view is None:
            raise NotFoundError(f"There is no target {target}.")
        return view


def _to(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})
