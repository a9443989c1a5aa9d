"""Why a target isn't moving: the binding constraint, since when, until when, and what would release it.

Rules
- One true sentence for every state. What keeps a target from activating is asked of the same checks that answer its asks.
- `until` is a deadline that is stored, never a guess.
"""

from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from firmware.protocol.words import Action
from server.planner import downloads, drift, retrying, rivals, steps, suspicion, verifying
from server.planner.ask_events import binding
from server.planner.ledger import Ledger
from server.planner.rows import TokenRow
from server.planner.slices import Slice
from server.planner.states import IN_FLIGHT, LIVE, WAITING
from server.planner.words import AssignmentState, CampaignState, CohortState

_NOT_STARTED = {
    CampaignState.DRAFT: "someone starts the campaign",
    CampaignState.AWAITING_APPROVAL: "the campaign is approved and started",
    CampaignState.SCHEDULED: "the scheduled time comes",
}
_ENDS = {
    AssignmentState.VERIFIED: "It runs the release, committed and healthy.",
    AssignmentState.FELL_BACK: "It fell back to its previous slot.",
    AssignmentState.FAILED: "It failed.",
    AssignmentState.REFUSED: "The order was refused.",
    AssignmentState.MISSING: "It went silent.",
    AssignmentState.DRIFTED: "Its version was changed by hand.",
    AssignmentState.REGRESSED: "It had committed the release, and regressed.",
    AssignmentState.CANCELLED: "Its order was withdrawn.",
    AssignmentState.EXPIRED: "Its order expired.",
    AssignmentState.SKIPPED: "It was skipped.",
    AssignmentState.SUPERSEDED: "It was left to another campaign.",
    AssignmentState.ROLLED_BACK: "It went back to its previous slot.",
}
_READY = frozenset({AssignmentState.STAGED, AssignmentState.ASKING})


class Explanation(Struct, frozen=True, kw_only=True, gc=False):
    """Why a target isn't moving: the binding constraint, since when, until when (if known), what would release it."""

    target: str
    campaign: str | None
    state: str
    kind: str
    text: str
    since: float | None = None
    until: float | None = None
    release_by: str = ""


def explain(loaded: Slice, now: float) -> Explanation:
    """What binds the slice's target at `now` (POSIX seconds); raises `NotFoundError` when the slice holds no target."""
    ledger = Ledger(loaded, now)
    if not ledger.known:
        return _free(ledger)
    assignment = ledger.assignment
    if downloads.waits_for(ledger) is not None and ledger.campaign.state in LIVE:
        return _in_line(ledger, loaded)
    if assignment.state is AssignmentState.PLANNED:
        return _planned(ledger)
    if assignment.state in WAITING:
        return _waiting(ledger, loaded)
    if assignment.state in IN_FLIGHT:
        if assignment.out_until is not None:
            return _out(ledger)
        text = f"It has a permit and is {assignment.state}. If it isn't committed by the horizon, that counts as a failure."
        if ledger.back_reason and assignment.action is Action.INSTALL:
            text = f"It has a permit and is {assignment.state}. Once it has committed it is sent back. {ledger.back_reason}"
        text = f"{text} {steps.why(ledger)}".rstrip()
        return _say(
            ledger, "in-flight", text, "a signed report that it committed or fell back", assignment.permitted_at
        )
    return _committed(ledger) if assignment.state is AssignmentState.COMMITTED else _ended(ledger)


def _out(ledger: Ledger) -> Explanation:
    assignment = ledger.assignment
    until = datetime.fromtimestamp(assignment.out_until or 0.0, UTC).strftime("%Y-%m-%d %H:%M UTC")
    said = f" {assignment.reason}" if assignment.reason else ""
    text = f"Its order was given out for unattended use and may be followed until {until}.{said}"
    release_by = "its signed report: `otaria bundle import`, or `otaria bundle report`"
    return _say(ledger, "given-out", text, release_by, assignment.permitted_at)


def _committed(ledger: Ledger) -> Explanation:
    assignment, campaign = ledger.assignment, ledger.campaign
    waits = verifying.waits(ledger)
    if waits is not None:
        return _say(ledger, verifying.KIND, *waits, assignment.state_since)
    if assignment.via is None:
        text = f"Committed; it must stay healthy for {campaign.strategy.healthy_s:g} s to be verified."
        return _say(ledger, "healthy", text, "that time passing without a regression", assignment.committed_at)
    on_it = f"{steps.told(ledger)} It goes on once it has been healthy for {campaign.strategy.healthy_s:g} s"
    if campaign.state is CampaignState.PAUSED:
        release_by = "an operator resumes, aborts or rolls back the campaign"
        return _say(ledger, "paused", f"{on_it} and the campaign is resumed.", release_by, campaign.changed_at)
    return _say(ledger, "on-the-way", f"{on_it}.", "that time passing without a regression", assignment.committed_at)


def _free(ledger: Ledger) -> Explanation:
    text = "No campaign has ordered this target, so there is nothing for it to do."
    release_by = "a campaign that selects it"
    if ledger.target.holder is not None:
        text = f"It belongs to campaign {ledger.target.holder}, which wasn't asked about."
        release_by = f"asking for campaign {ledger.target.holder}"
    return Explanation(
        target=ledger.target.id, campaign=None, state="free", kind="no-campaign", text=text, release_by=release_by
    )


def _planned(ledger: Ledger) -> Explanation:
    campaign, cohort, assignment = ledger.campaign, ledger.cohort, ledger.assignment
    state = campaign.state.replace("_", " ")
    if campaign.state in _NOT_STARTED and suspicion.holds(campaign):
        text = f"The campaign is {state}, and its release is suspect. {campaign.suspect}"
        return _say(ledger, "suspect", text, "a person clears the release", campaign.changed_at)
    if campaign.state in _NOT_STARTED:
        return _say(
            ledger, "not-started", f"The campaign is {state}.", _NOT_STARTED[campaign.state], campaign.changed_at
        )
    if campaign.state is CampaignState.PAUSED:
        return _paused(ledger)
    if campaign.state not in (CampaignState.RUNNING, CampaignState.WATCHING):
        text = f"It was never ordered: the campaign is {state}. {campaign.reason}".strip()
        return _say(ledger, "campaign-over", text, "another campaign that selects it", campaign.changed_at)
    if assignment.reason_kind in rivals.WAITS_FOR:
        release_by, kind = "that campaign being done with it", assignment.reason_kind
        return _say(ledger, kind, assignment.reason, release_by, assignment.state_since)
    if campaign.deltas_until is not None:
        return _waits_for_deltas(ledger)
    if cohort.state is CohortState.CLOSED:
        return _behind(ledger)
    if cohort.back_reason:
        return _say(ledger, "withdrawn", cohort.back_reason, "another campaign that selects it", campaign.changed_at)
    if cohort.state is CohortState.FAILED:
        text = f"Cohort {cohort.name} failed its gate. {cohort.verdict_text}"
        return _say(ledger, "gate", text, "another campaign that selects it", campaign.changed_at)
    text = f"Cohort {cohort.name} is open; the target is being admitted."
    return _say(ledger, "admission", text, "the planner's next page", cohort.opened_at)


def _in_line(ledger: Ledger, loaded: Slice) -> Explanation:
    if ledger.campaign.state is CampaignState.PAUSED:
        return _paused(ledger)
    full = downloads.first_full(ledger)
    if full is None:
        text, held = "There is room for its download; it is ordered at its turn.", ""
    else:
        text, held = downloads.full_text(full), _holders(loaded, full.key)
    release_by = "its turn, when a target that downloads has staged or ended"
    return _say(ledger, "downloads", text + held, release_by, ledger.assignment.state_since)


def _waits_for_deltas(ledger: Ledger) -> Explanation:
    campaign, until = ledger.campaign, ledger.campaign.deltas_until
    stamp = datetime.fromtimestamp(until or 0.0, UTC).strftime("%Y-%m-%d %H:%M:%S")
    text = f"Waiting for deltas until {stamp} UTC at the latest; then the first cohort opens, with those that are made."
    said = _say(ledger, "deltas", text, "the last delta being made, or that time", campaign.changed_at)
    return replace(said, until=until)


def _behind(ledger: Ledger) -> Explanation:
    before = ledger.cohorts[ledger.campaign.cohort]
    text = f"Cohort {ledger.cohort.name} opens after cohort {before.name} has passed. {before.verdict_text}".strip()
    return _say(ledger, "gate", text, f"cohort {before.name} passes its gate", before.opened_at)


def _paused(ledger: Ledger) -> Explanation:
    campaign = ledger.campaign
    release_by = "an operator resumes, aborts or rolls back the campaign"
    if suspicion.holds(campaign):
        release_by = "a person clears the release, and an operator resumes the campaign"
    return _say(ledger, "paused", f"The campaign is paused: {campaign.reason}", release_by, campaign.changed_at)


def _waiting(ledger: Ledger, loaded: Slice) -> Explanation:
    said = _waiting_at(ledger, loaded)
    step = steps.why(ledger)
    if ledger.assignment.action is Action.ROLLBACK:
        why = ledger.back_reason or ledger.campaign.reason
        step = f"{f'It was ordered back to its previous slot. {why}'.rstrip('. ')}."
    return replace(said, text=f"{said.text} {step}") if step else said


def _waiting_at(ledger: Ledger, loaded: Slice) -> Explanation:
    assignment, since = ledger.assignment, ledger.assignment.state_since
    if assignment.order_hash is None and assignment.retry_at is not None:
        paused = retrying.is_paused(ledger)
        release_by = "an operator resumes, aborts or rolls back the campaign" if paused else "that time coming"
        text = f"It failed and will be tried again. {assignment.reason}"
        said = _say(ledger, "paused" if paused else "retry", text, release_by, since)
        return replace(said, until=None if paused else assignment.retry_at)
    if assignment.order_hash is None:
        return _say(ledger, "signing", "Its order is being signed.", "the order being stored", since)
    wait = binding(ledger)
    if wait is not None and (assignment.state in _READY or wait.kind in ("paused", "withdrawn", "quarantined")):
        said = _say(ledger, wait.kind, wait.text + _holders(loaded, wait.group), wait.release_by, since)
        return said if wait.until is None else replace(said, until=wait.until)
    if assignment.state in _READY:
        return _say(
            ledger, "ask", "Nothing stands in its way; it may activate when it next asks.", "its next ask", since
        )
    if assignment.state is AssignmentState.DEFERRED:
        text = f"The target puts it off. {assignment.reason}".strip()
        return _say(ledger, "deferred", text, "the target, when its own condition is met", since)
    if not assignment.heard:
        return _say(
            ledger, "unreached", f"Ordered; not heard from since{_late(ledger)}.", "the target coming online", since
        )
    text = f"It is {assignment.state}{_late(ledger)}."
    return _say(ledger, "staging", text, "a signed report that it is staged", since)


def _late(ledger: Ledger) -> str:
    return ", and moved to the late cohort" if ledger.is_late else ""


def _holders(loaded: Slice, group: str | None) -> str:
    tokens = sorted((t for t in loaded.holders if t.group == group), key=lambda token: token.since)
    names = ", ".join(f"{token.target} ({_why_held(token)})" for token in tokens[:5])
    return f" Held by {names}." if names else ""


def _why_held(token: TokenRow) -> str:
    kind = token.kind.replace("_", " ")
    return f"{kind}, campaign {token.campaign}" if token.campaign else kind


def _ended(ledger: Ledger) -> Explanation:
    assignment = ledger.assignment
    text = f"{_ENDS[assignment.state]} {assignment.reason}".strip()
    release_by = "nothing; this campaign is done with it"
    if assignment.state is AssignmentState.MISSING:
        release_by = "a signed report of how it ended, or another campaign that repairs it"
    elif ledger.tokens:
        text += " It still counts against its budgets."
        release_by = "another campaign that repairs it"
    if assignment.state is AssignmentState.DRIFTED:
        release_by = drift.remedy(ledger)
    kind = assignment.reason_kind if assignment.reason_kind != "none" else assignment.state.replace("_", "-")
    return _say(ledger, kind, text, release_by, assignment.state_since)


def _say(ledger: Ledger, kind: str, text: str, release_by: str, since: float | None) -> Explanation:
    return Explanation(
        target=ledger.target.id,
        campaign=ledger.campaign.id,
        state=ledger.assignment.state,
        kind=kind,
        text=text if text.endswith((".", "!", "?")) else f"{text}.",
        since=since,
        until=ledger.assignment.wake_at,
        release_by=release_by,
    )
