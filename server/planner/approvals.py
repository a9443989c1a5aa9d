"""Who must agree before a campaign starts, and when it does.

Rules
- How many must agree is settled when the campaign is made, by the strictest rule that fits it; with none it starts at once.
- Whoever asks for the start is not among them, and nobody counts twice: so one approval means two people.
- What isn't agreed to in time becomes a draft again, and so does what somebody rejects.
- An emergency starts at once and owes its approvals afterwards; until they are there the campaign says so.
- What is approved, or needs no approval, waits for its start time.
"""

from collections.abc import Collection

from msgspec.structs import replace

from server.planner.events import Commanded
from server.planner.ledger import Ledger
from server.planner.rows import Approval, CampaignRow
from server.planner.states import TransitionError, Turn, next_campaign
from server.planner.strategy import ApprovalPolicy, Strategy
from server.planner.words import CampaignState, Verb

WAITS = frozenset({CampaignState.AWAITING_APPROVAL})


def needed(policy: ApprovalPolicy, *, size: int, labelled: Collection[int]) -> int:
    """How many must agree for a campaign of `size` targets; `labelled`: the rules whose labels some of them have."""
    fitting = [
        rule.need
        for index, rule in enumerate(policy.rules)
        if size >= rule.targets and (not rule.labels or index in labelled)
    ]
    return max([policy.need, *fitting])


def owed(campaign: CampaignRow) -> int:
    """How many approvals a campaign that was started without them still lacks."""
    if not campaign.strategy.emergency or campaign.state in (CampaignState.DRAFT, CampaignState.SCHEDULED):
        return 0
    return lacking(campaign)


def lacking(campaign: CampaignRow) -> int:
    """How many more must agree."""
    return max(0, campaign.approvals_needed - len(campaign.approvals))


def ask(ledger: Ledger, event: Commanded) -> bool:
    """Somebody wants the campaign started: ask for approvals if it takes any; whether it may go on at once."""
    ledger.set_campaign(asked_by=event.by, approvals=())
    campaign = ledger.campaign
    if not lacking(campaign):
        return True
    if campaign.strategy.emergency:
        text = f"Started as an emergency by {event.by}, before anybody approved; {_missing(campaign)}."
        ledger.record("approval-owed", text)
        return True
    until = ledger.at + campaign.strategy.approvals.expires_s
    state = next_campaign(campaign.state, Turn.ASKED)
    reason = f"{event.by} asks for its start{f': {event.reason}' if event.reason else ''}; {_missing(campaign)}."
    ledger.set_campaign(state=state, reason_kind="approval", reason=reason, changed_at=ledger.at, wake_at=until)
    ledger.record("approval-asked", reason)
    return False


def approve(ledger: Ledger, event: Commanded) -> bool:
    """Somebody agrees; whether that was the last who had to, of a campaign that waits for it. Raises `TransitionError`
    (`nothing-to-approve`, `approval-not-yours`)."""
    campaign = ledger.campaign
    waits = campaign.state in WAITS
    if not waits and not owed(campaign):
        raise TransitionError("nothing-to-approve", "This campaign waits for no approval.")
    if event.by == campaign.asked_by:
        text = f"{event.by} asked for the start; somebody else must approve it."
        raise TransitionError("approval-not-yours", text)
    if any(one.by == event.by for one in campaign.approvals):
        raise TransitionError("approval-not-yours", f"{event.by} approved it already; somebody else must, too.")
    approval = Approval(by=event.by, at=ledger.at, reason=event.reason[:500])
    ledger.set_campaign(approvals=(*campaign.approvals, approval))
    left = lacking(ledger.campaign)
    after = f"{_missing(ledger.campaign)}" if left else "nobody else has to"
    ledger.record("approved", f"Approved by {event.by}{f': {event.reason}' if event.reason else ''}; {after}.")
    if waits and left:
        ledger.set_campaign(reason=f"{campaign.asked_by} asks for its start; {after}.")
    return waits and not left


def reject(ledger: Ledger, event: Commanded) -> None:
    """Somebody is against it: a draft again."""
    text = f"Rejected by {event.by}{f': {event.reason}' if event.reason else ''}."
    _back(ledger, Verb.REJECT, "rejected", text)


def lapse(ledger: Ledger) -> None:
    """Not agreed to in time: a draft again."""
    days = ledger.campaign.strategy.approvals.expires_s / 86400
    _back(
        ledger,
        Turn.NOT_APPROVED,
        "approval-lapsed",
        f"Not approved within {days:g} days of being asked for; ask again.",
    )


def wait_for_time(ledger: Ledger, reason: str) -> bool:
    """Whether the campaign has to wait for its start time, and now does."""
    start_at = ledger.campaign.start_at
    if start_at is None or start_at <= ledger.at:
        return False
    state = next_campaign(ledger.campaign.state, Turn.SCHEDULED)
    ledger.set_campaign(state=state, reason_kind="scheduled", reason=reason, changed_at=ledger.at, wake_at=start_at)
    ledger.record("campaign-scheduled", f"It starts at its time: {reason}")
    return True


def labels_of(strategy: Strategy) -> dict[int, dict[str, str]]:
    """By index, the rules for which somebody has to find out whether any target has their labels."""
    return {index: rule.labels for index, rule in enumerate(strategy.approvals.rules) if rule.labels}


def with_needed(campaign: CampaignRow, *, size: int, labelled: Collection[int]) -> CampaignRow:
    """The campaign with the number of approvals that it takes."""
    policy = campaign.strategy.approvals
    return replace(campaign, approvals_needed=needed(policy, size=size, labelled=labelled))


def _back(ledger: Ledger, cause: str, kind: str, text: str) -> None:
    state = next_campaign(ledger.campaign.state, cause)
    ledger.set_campaign(
        state=state, reason_kind=kind, reason=text, changed_at=ledger.at, wake_at=None, approvals=(), asked_by=""
    )
    ledger.record(kind, text)


def _missing(campaign: CampaignRow) -> str:
    left = lacking(campaign)
    return f"{left} more must approve it" if left != 1 else "one more must approve it"
