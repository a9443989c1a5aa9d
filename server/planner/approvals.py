"""Who must agree before a campaign starts, and when it does.

Rules
- How many must agree is settled when the campaign is made, by the strictest rule that fits it; with none it starts at once.
- Whoever asks for the start is not among them, and nobody counts twice: so one approval means two people.
- What isn't agreed to in time becomes a draft again, and so does what somebody rejects.
- An emergency starts at once and owes its approvals afterwards; until they are there the campaign says so, and they are asked for
  again: after a time, then after half of it, then every quarter, in ever more urgent words. Its end settles nothing.
- Who is against what was started so says that once, and is named with each reminder; somebody else must still agree.
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

MOST_OFTEN = 4
"""Reminders come at most as many times as often as the first."""
URGENCY = ("", "overdue", "urgent")
"""By how often it was reminded of already; what comes after the last stays that."""
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
    ledger.set_campaign(asked_by=event.by, approvals=(), declined=(), remind_at=None, reminders=0)
    campaign = ledger.campaign
    if not lacking(campaign):
        return True
    if campaign.strategy.emergency:
        text = f"Started as an emergency by {event.by}, before anybody approved; {_missing(campaign)}."
        ledger.record("approval-owed", text)
        owe(ledger)
        return True
    until = ledger.at + campaign.strategy.approvals.expires_s
    state = next_campaign(campaign.state, Turn.ASKED)
    reason = f"{event.by} asks for its start{f': {event.reason}' if event.reason else ''}; {_missing(campaign)}."
    ledger.set_campaign(state=state, reason_kind="approval", reason=reason, changed_at=ledger.at, wake_at=until)
    ledger.record("approval-asked", reason)
    return False


def owe(ledger: Ledger) -> None:
    """From now on the campaign owes approvals: they are asked for again in time."""
    remind_at = ledger.at + ledger.campaign.strategy.urgency.remind_s
    ledger.set_campaign(remind_at=remind_at, reminders=0, declined=())


def remind(ledger: Ledger) -> None:
    """The time for it has come: say once more what is owed, more urgently each time."""
    campaign = ledger.campaign
    if campaign.remind_at is None or ledger.at < campaign.remind_at:
        return
    if not owed(campaign):
        ledger.set_campaign(remind_at=None)
        return
    said = campaign.reminders + 1
    wait_s = campaign.strategy.urgency.remind_s / min(2**said, MOST_OFTEN)
    ledger.set_campaign(reminders=said, remind_at=ledger.at + wait_s)
    word = urgency(ledger.campaign)
    told = f" ({word})" if word else ""
    against = "".join(f" {_against(one)}" for one in campaign.declined)
    text = f"Reminder {said}{told}: it ran as an emergency of {campaign.asked_by}; {_missing(campaign)}.{against}"
    ledger.record("approval-overdue", text[:1000])


def urgency(campaign: CampaignRow) -> str:
    """How urgent the approvals are that it owes: nothing, `overdue` or `urgent`."""
    return URGENCY[min(max(0, campaign.reminders - 1), len(URGENCY) - 1)]


def decline(ledger: Ledger, event: Commanded) -> None:
    """Somebody is against what was started without asking. Raises `TransitionError` (`nothing-to-approve`,
    `approval-not-yours`)."""
    campaign = ledger.campaign
    if not owed(campaign):
        raise TransitionError("nothing-to-approve", "This campaign waits for no approval.")
    _check_who(campaign, event.by)
    one = Approval(by=event.by, at=ledger.at, reason=event.reason[:500])
    ledger.set_campaign(declined=(*campaign.declined, one))
    ledger.record("approval-declined", f"{_against(one)} It is done already; {_missing(campaign)}.")


def approve(ledger: Ledger, event: Commanded) -> bool:
    """Somebody agrees; whether that was the last who had to, of a campaign that waits for it. Raises `TransitionError`
    (`nothing-to-approve`, `approval-not-yours`)."""
    campaign = ledger.campaign
    waits = campaign.state in WAITS
    if not waits and not owed(campaign):
        raise TransitionError("nothing-to-approve", "This campaign waits for no approval.")
    _check_who(campaign, event.by)
    approval = Approval(by=event.by, at=ledger.at, reason=event.reason[:500])
    ledger.set_campaign(approvals=(*campaign.approvals, approval))
    left = lacking(ledger.campaign)
    if not left:
        ledger.set_campaign(remind_at=None)
    after = f"{_missing(ledger.campaign)}" if left else "nobody else has to"
    ledger.record("approved", f"Approved by {event.by}{f': {event.reason}' if event.reason else ''}; {after}.")
    if waits and left:
        ledger.set_campaign(reason=f"{campaign.asked_by} asks for its start; {after}.")
    return waits and not left


def reject(ledger: Ledger, event: Commanded) -> None:
    """Somebody is against it: a draft again, or, of an emergency that runs, a word against it. Raises as `decline`."""
    if ledger.campaign.state not in WAITS:
        decline(ledger, event)
        return
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


def _check_who(campaign: CampaignRow, by: str) -> None:
    """Raise `TransitionError` (`approval-not-yours`) for whoever asked for the start, or was heard already."""
    if by == campaign.asked_by:
        text = f"{by} asked for the start; somebody else must approve it."
        raise TransitionError("approval-not-yours", text)
    if any(one.by == by for one in campaign.approvals):
        raise TransitionError("approval-not-yours", f"{by} approved it already; somebody else must, too.")
    if any(one.by == by for one in campaign.declined):
        raise TransitionError("approval-not-yours", f"{by} declined it already; somebody else must approve it.")


def _against(one: Approval) -> str:
    return f"{one.by} declined it{f': {one.reason}' if one.reason else ''}."


def _missing(campaign: CampaignRow) -> str:
    left = lacking(campaign)
    return f"{left} more must approve it" if left != 1 else "one more must approve it"
