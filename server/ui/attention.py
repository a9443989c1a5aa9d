"""What needs a person now, each in one sentence. What moves by itself is not here, however interesting it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.identity.revocation import ListState
from server.planner.approvals import owed, urgency
from server.planner.states import UNDECIDED
from server.planner.words import AssignmentState as A
from server.planner.words import CampaignState, CohortState
from server.ports import CampaignView, Webhook, WebhookState
from server.ui.wording import campaign_sentence, plural, span, spoken

WAIT_FOR_SOMEBODY = (CampaignState.DRAFT, CampaignState.AWAITING_APPROVAL, CampaignState.PAUSED)
ENDED_EARLY = (CampaignState.ABORTED, CampaignState.ROLLED_BACK)
LOOK = (A.MISSING, A.REGRESSED, A.DRIFTED, A.FAILED, A.REFUSED)
"""States that a running campaign does not heal by itself."""
FAILS_S = 3600.0
"""After so long a webhook that fails needs somebody."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """A campaign that waits for somebody, why, and what they could do."""

    view: CampaignView
    tone: str
    text: str
    advice: str

    @property
    def href(self) -> str:
        return f"/campaigns/{self.view.row.id}"

    @property
    def name(self) -> str:
        return self.view.name


@dataclass(frozen=True, kw_only=True)
class WebhookNeed:
    """A webhook that takes nothing any more. `href`: empty for who may not go there."""

    name: str
    tone: str
    text: str
    advice: str
    href: str


def webhook_needs(hooks: Sequence[Webhook], now: float, *, href: str = "") -> list[WebhookNeed]:
    """What needs somebody among the webhooks: those that are switched off, and those that have failed for long."""
    found = []
    for hook in hooks:
        if hook.state is WebhookState.OFF:
            text = "is switched off: nobody is told what happens through it."
            advice = f"Mend the receiver, then `otaria webhook resume {hook.name}`; what it missed follows."
            found.append(WebhookNeed(name=hook.name, tone="bad", text=text, advice=advice, href=href))
        elif hook.state is WebhookState.ON and hook.failing_since is not None and now - hook.failing_since >= FAILS_S:
            text = f"has taken nothing for {span(now - hook.failing_since)}; its events wait."
            advice = f"`otaria webhook show {hook.name}` says what it answers."
            found.append(WebhookNeed(name=hook.name, tone="attention", text=text, advice=advice, href=href))
    return found


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something of the server itself that needs somebody; it has no page."""

    name: str
    tone: str
    text: str
    advice: str
    href: str = ""


def list_needs(lists: ListState, now: float) -> list[Notice]:
    """What needs somebody when the revocation lists are not renewed: a broker goes on letting in who was shut out since."""
    if not lists.is_old:
        return []
    text = (
        "can't be read."
        if lists.made_at is None
        else f"was last signed {span(now - lists.made_at)} ago, and not since."
    )
    advice = (
        "Brokers may let in who was shut out. Look at the server's log for why it can't write `identity/fleet-crl.pem`."
    )
    return [Notice(name="The revocation list", tone="bad", text=text, advice=advice)]


def needs(views: Sequence[CampaignView]) -> list[Need]:
    """What needs somebody among these campaigns, in their order.

    A campaign that its gate ended needs somebody until the next campaign of the same product is made.
    """
    newest = {
        view.row.release.product: view.row.id for view in sorted(views, key=lambda v: (v.created_at, v.row.change_id))
    }
    found = (_need(view, is_newest=newest[view.row.release.product] == view.row.id) for view in views)
    return [need for need in found if need is not None]


def stopped_by_gate(view: CampaignView) -> bool:
    """Whether a cohort's gate failed."""
    return any(cohort.state is CohortState.FAILED for cohort in view.cohorts)


def _need(view: CampaignView, *, is_newest: bool) -> Need | None:
    state = view.row.state
    if state is CampaignState.DRAFT and view.row.undoes is not None:
        text = f"is proposed: it would bring the targets of {view.row.undoes} back. {view.row.reason}"
        return Need(view=view, tone="bad", text=text, advice="Start it, or clear the release and abort it.")
    if state is CampaignState.DRAFT:
        return Need(view=view, tone="waiting", text=_sentence(view), advice="Start it when you are ready.")
    if state is CampaignState.AWAITING_APPROVAL:
        return Need(view=view, tone="attention", text=_sentence(view), advice="Approve it, or reject it with a reason.")
    missing = owed(view.row)
    if missing:
        return _owes(view, missing)
    if state in WAIT_FOR_SOMEBODY:
        tone = "bad" if stopped_by_gate(view) else "attention"
        return Need(view=view, tone=tone, text=_sentence(view), advice="Look at why, then resume or abort it.")
    if state in ENDED_EARLY and is_newest and stopped_by_gate(view):
        advice = "Look at what the targets say, and publish a release that mends it."
        return Need(view=view, tone="bad", text=_outcome(view), advice=advice)
    if gate := _unanswered(view):
        text = f"has come to the gate {gate}, which waits for somebody to say whether it passes."
        return Need(view=view, tone="attention", text=text, advice="Look at its page, and say so there.")
    lost = {name: sum(cohort.counts.get(name, 0) for cohort in view.cohorts) for name in LOOK}
    if state is CampaignState.RUNNING and any(lost.values()):
        words = ", ".join(f"{number} {spoken(name)}" for name, number in lost.items() if number)
        text = f"{plural(sum(lost.values()), 'target')} of it will not come by themselves: {words}."
        return Need(view=view, tone="bad", text=text, advice="Its page says why for each.")
    return None


def _unanswered(view: CampaignView) -> str:
    """The external gate that its open cohort only waits for; empty when there is none."""
    cohort = next((one for one in view.cohorts if one.state is CohortState.OPEN), None)
    policies = view.row.strategy.cohorts
    if view.row.state is not CampaignState.RUNNING or cohort is None or cohort.index >= len(policies):
        return ""
    if not cohort.attempted or any(cohort.counts.get(state) for state in UNDECIDED):
        return ""
    gates = policies[cohort.index].gates
    return next((gate.name for gate in gates if gate.kind == "external" and gate.name not in cohort.inputs), "")


def _owes(view: CampaignView, missing: int) -> Need:
    """An emergency's approvals that aren't there, the more urgent the more often they were asked for."""
    word, row = urgency(view.row), view.row
    text = f"ran as an emergency and still owes {plural(missing, 'approval')}; {row.asked_by} started it."
    if word:
        text += f" That is {word}: it was asked for again {plural(row.reminders, 'time')}."
    for one in row.declined:
        text += f" {one.by} declined it{f': {one.reason}' if one.reason else ''}."
    tone = "bad" if word or row.declined else "attention"
    return Need(view=view, tone=tone, text=text, advice="Look at what was done, and approve or decline it afterwards.")


def _outcome(view: CampaignView) -> str:
    """How it ended where its gate failed, by what is known now."""
    failed = next(cohort for cohort in view.cohorts if cohort.state is CohortState.FAILED)
    counts = ", ".join(f"{number:,} {spoken(state)}" for state, number in failed.counts.items() if number)
    return f"was stopped by the gate of cohort {failed.name}: of {plural(failed.size, 'target')}, {counts}."


def _sentence(view: CampaignView) -> str:
    return campaign_sentence(view.row, tuple(view.cohorts))
