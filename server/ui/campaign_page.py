"""The page of one campaign: where it stands, its cohorts drawn, what its gates are judged by, who isn't moving and why."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aiohttp import web

from firmware.errors import OtariaError
from server.campaigns.chronicle import campaign_course, forecast_course, grown
from server.campaigns.reckoning import Hindsight, Reckoned, hindsight, hit_sentence, of_campaign
from server.campaigns.rehearsing import MOST_REPLICAS, REPLICAS
from server.campaigns.savings import savings
from server.errors import NotFoundError
from server.http.access import Need
from server.http.bodies import path_id
from server.http.campaigns import need_of
from server.http.fleet import Explainer
from server.http.forecasts import Forecasts
from server.http.rehearsals import Rehearsals
from server.planner import approvals
from server.planner.explain import Explanation
from server.planner.forecast import Forecast
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow
from server.planner.states import CAMPAIGN, CAN_GO_BACK, FAILURES, GOING_BACK, IN_FLIGHT
from server.planner.words import AssignmentState, CampaignState, CohortState, Verb
from server.ports import AuditRecord, CampaignView, Clock, Database, Point, RehearsalRecord, Unit
from server.ui.curves import ProgressPicture, progress_picture
from server.ui.evidence import GatePicture, gate_pictures
from server.ui.pictures import MAX_CELLS, CohortPicture, Reason, picture, reason_bars
from server.ui.rehearsal import reality_lines, rehearsal_picture
from server.ui.rendering import Templates
from server.ui.sessions import Session, Sessions, signed_in
from server.ui.timeline import gathered, held
from server.ui.wording import OVER

STUCK_SHOWN = 12
LONG_TIMELINE = 300
MOST_REASONS = 10_000
"""So many failures are looked at for their reasons; a page stays quick whatever went wrong."""
FORETOLD = (CampaignState.SCHEDULED, CampaignState.RUNNING, CampaignState.WATCHING)
"""Of which campaigns a page says when they will be through."""
NOT_STARTED = (CampaignState.DRAFT, CampaignState.AWAITING_APPROVAL, CampaignState.SCHEDULED)
STUCK = (
    AssignmentState.MISSING,
    AssignmentState.REGRESSED,
    AssignmentState.DRIFTED,
    AssignmentState.FAILED,
    AssignmentState.FELL_BACK,
    AssignmentState.REFUSED,
    AssignmentState.DEFERRED,
    AssignmentState.ASKING,
    AssignmentState.ORDERED,
)
"""Where a target is not moving by itself, the worst first."""
FAILED = tuple(state for state in STUCK if state in FAILURES)
MAY_RUN_IT = (*CAN_GO_BACK, *IN_FLIGHT, AssignmentState.MISSING)
"""Where a target may run the release, so that there is something to take back."""


class Loaded(NamedTuple):
    """What the page is made of, read in one transaction."""

    view: CampaignView
    rows: dict[int, list[AssignmentRow]]
    stuck: list[AssignmentRow]
    timeline: Sequence[AuditRecord]
    reasons: Mapping[tuple[AssignmentState, str], int]
    course: Sequence[Point]
    foretold: Sequence[Point]
    rehearsal: RehearsalRecord | None
    reality: Sequence[Reckoned]
    hindsight: Hindsight | None


class CampaignPage:
    """The handler."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        explainer: Explainer,
        forecasts: Forecasts,
        rehearsals: Rehearsals,
        templates: Templates,
        clock: Clock,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._explainer = explainer
        self._forecasts = forecasts
        self._rehearsals = rehearsals
        self._templates = templates
        self._clock = clock

    def mount(self, app: web.Application) -> None:
        """Add the page to the people's app."""
        app.router.add_get("/campaigns/{campaign}", signed_in(self._sessions, self.campaign))

    async def campaign(self, request: web.Request, session: Session) -> web.StreamResponse:
        name = path_id(request, "campaign")
        loaded = await self._database.read(lambda unit: _load(unit, name))
        if loaded is None:
            raise NotFoundError(f"There is no campaign {name}.")
        view, stuck = loaded.view, loaded.stuck
        stuck.sort(key=lambda row: (STUCK.index(row.state), row.state_since))
        return self._templates.page(
            "campaign.html",
            request,
            session,
            view=view,
            pictures=pictures_of(view, loaded.rows),
            gates=self._gates(view),
            progress=self._progress(loaded),
            backs=_backs(view) if session.caller.may(Need.OPERATE) else frozenset(),
            may_operate=session.caller.may(Need.OPERATE),
            reasons=_bars(loaded.reasons, name),
            failures=sum(loaded.reasons.values()),
            most_reasons=MOST_REASONS,
            stuck=held(await self._explained(stuck[:STUCK_SHOWN])),
            over=view.row.state in OVER,
            outlook=await self._outlook(view.row),
            sums=savings(view.legs, min_saving=view.row.strategy.deltas.min_saving) if view.legs else None,
            stuck_more=max(0, len(stuck) - STUCK_SHOWN),
            timeline=gathered(loaded.timeline),
            verbs=[verb for verb in verbs_for(view) if session.caller.may(need_of(verb))],
            owed=approvals.owed(view.row),
            begun=view.row.state not in NOT_STARTED,
            rehearsal=loaded.rehearsal,
            reality=reality_lines(loaded.rehearsal, loaded.reality) if loaded.rehearsal else (),
            calibration=hit_sentence(loaded.hindsight.done, "Of all campaigns, the end fell")
            if loaded.hindsight
            else "",
            rehearsed=rehearsal_picture(loaded.rehearsal, view.row.revision) if loaded.rehearsal else None,
            runs_done=self._rehearsals.done,
            runs=REPLICAS,
            most_runs=MOST_REPLICAS,
        )

    def _progress(self, loaded: Loaded) -> ProgressPicture | None:
        """Up to now: what is noted is some seconds old."""
        cohorts, now = loaded.view.cohorts, self._clock.now()
        values = {
            "targets": float(sum(cohort.size for cohort in cohorts)),
            "verified": float(sum(cohort.counts.get(AssignmentState.VERIFIED, 0) for cohort in cohorts)),
            "failed": float(sum(cohort.counts.get(state, 0) for cohort in cohorts for state in FAILURES)),
        }
        course = grown(loaded.course, now, values) if loaded.course else ()
        return progress_picture(course, loaded.foretold, now)

    def _gates(self, view: CampaignView) -> dict[int, tuple[GatePicture, ...]]:
        """What waits for nothing any more isn't drawn as if it did."""
        now, policies, over = self._clock.now(), view.row.strategy.cohorts, view.row.state in OVER
        judged = [cohort for cohort in view.cohorts if not (over and cohort.state is CohortState.OPEN)]
        pictures = {cohort.index: gate_pictures(policies, cohort, now) for cohort in judged}
        return {cohort.index: pictures.get(cohort.index, ()) for cohort in view.cohorts}

    async def _outlook(self, row: CampaignRow) -> Forecast | None:
        """When it will be through; None when nobody knows, or nothing is to come."""
        if row.state not in FORETOLD:
            return None
        try:
            found = await self._forecasts.forecast(row.id)
        except OtariaError:
            return None
        return found if found.targets else None

    async def _explained(self, rows: Sequence[AssignmentRow]) -> list[tuple[AssignmentRow, Explanation]]:
        return [(row, await self._explainer.explain(row.target)) for row in rows]


def verbs_for(view: CampaignView) -> tuple[Verb, ...]:
    """What a person can tell a campaign now: what the planner's table has a row for, and to approve or decline what it owes.
    To roll back only once some target may run the release."""
    row, answers = view.row, (Verb.APPROVE, Verb.REJECT) if approvals.owed(view.row) else ()
    has_taken = any(cohort.counts.get(state) for cohort in view.cohorts for state in MAY_RUN_IT)
    return tuple(
        verb
        for verb in Verb
        if (verb in CAMPAIGN[row.state] or verb in answers) and (verb is not Verb.ROLLBACK or has_taken)
    )


def pictures_of(view: CampaignView, rows: dict[int, list[AssignmentRow]]) -> list[CohortPicture]:
    """The campaign's cohorts drawn; `rows`: assignments by cohort, where each has a cell of its own."""
    total = sum(cohort.size for cohort in view.cohorts)
    over = view.row.state in OVER
    return [
        picture(cohort, total=total, over=over, assignments=rows.get(cohort.index))
        for cohort in view.cohorts
        if cohort.size
    ]


def _load(unit: Unit, name: str) -> Loaded | None:
    view = unit.campaigns.view(name)
    if view is None:
        return None
    rehearsal = unit.rehearsals.get(name)
    reality = of_campaign(unit, rehearsal) if rehearsal else ()
    return Loaded(
        view=view,
        rows=_rows_for_cells(unit, view),
        stuck=list(unit.campaigns.assignments(name, states=STUCK, limit=STUCK_SHOWN * 8).rows),
        timeline=unit.audit.latest(limit=LONG_TIMELINE, campaign=name),
        reasons=unit.campaigns.reasons(name, FAILED, MOST_REASONS),
        course=unit.courses.get(campaign_course(name)),
        foretold=unit.courses.get(forecast_course(name)),
        rehearsal=rehearsal,
        reality=reality,
        hindsight=hindsight(unit) if reality else None,
    )


def _rows_for_cells(unit: Unit, view: CampaignView) -> dict[int, list[AssignmentRow]]:
    """Every assignment by cohort when the campaign is small enough for cells, else none."""
    rows: dict[int, list[AssignmentRow]] = {}
    if sum(cohort.size for cohort in view.cohorts) > MAX_CELLS:
        return rows
    cursor: str | None = None
    while True:
        page = unit.campaigns.assignments(view.row.id, cursor=cursor, limit=500)
        for row in page.rows:
            rows.setdefault(row.cohort, []).append(row)
        if page.next is None:
            return rows
        cursor = page.next


def _bars(reasons: Mapping[tuple[AssignmentState, str], int], campaign: str) -> tuple[Reason, ...]:
    """The reasons by number; those without one are named by their state."""
    return reason_bars({(str(state), kind): number for (state, kind), number in reasons.items()}, campaign)


def _backs(view: CampaignView) -> frozenset[str]:
    """The cohorts that can be taken back on their own."""
    if view.row.state in NOT_STARTED or view.row.state in GOING_BACK:
        return frozenset()
    return frozenset(cohort.name for cohort in view.cohorts if _can_go_back(cohort))


def _can_go_back(cohort: CohortRow) -> bool:
    is_judged = cohort.state in (CohortState.OPEN, CohortState.PASSED, CohortState.FAILED)
    return is_judged and any(cohort.counts.get(state) for state in MAY_RUN_IT) and not cohort.back_reason
