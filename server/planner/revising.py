"""New revisions of a campaign that runs: what may change, when it takes effect, and for whom.

Rules
- The release, the cohorts' names, sizes and order, `order` and `together` stay: targets were dealt by them. The gate of a cohort
  that was opened stays, too, since it is not decided anew; of an open one only `accept_insufficient` may change.
- A revision binds whoever has no permit yet, `late` arrivals among them. Orders that are out stay, and so does who was admitted.
- One that lets more happen than the one before takes as many approvals as its rules ask for; until they are there, all goes on
  by the old one. What only holds more back takes effect at once. An emergency goes first and owes.
- Who waits for a window or a freeze that changed is told to ask again soon, a few at a time; what it gets then is decided then.
- Whoever is selected newly goes into the last cohort, while that is closed and tells no strata apart, or else into `late`, under
  its breaker. Whoever isn't selected any more and has no order yet is skipped, and comes in again once it is selected: into its
  own cohort, while that is closed, or else as anybody who is selected newly.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from msgspec import structs

from firmware.errors import RefusedError
from server.planner import approvals, progress
from server.planner.cohorts import rank_key
from server.planner.commands import Enlist
from server.planner.events import Commanded, Deselected, Enlisted, Revised, Roused
from server.planner.gate_words import plural
from server.planner.ledger import Ledger
from server.planner.revision_rows import RevisionRow, RevisionState
from server.planner.rows import AssignmentRow, CohortRow
from server.planner.states import LIVE, Move, TransitionError
from server.planner.strategy import CohortPolicy, RatePolicy, Strategy
from server.planner.words import AssignmentState, CohortState, Verb

KIND = "revision-refused"
DESELECTED = "deselected"


def revised(ledger: Ledger, event: Revised) -> None:
    """Take a new revision in: let it take effect, or wait for approvals. Raises `RefusedError` (`revision-refused`) or
    `TransitionError` (`wrong-state`)."""
    campaign, row = ledger.campaign, event.revision
    check_state(campaign.state)
    effective(campaign.strategy, row.strategy, ledger.cohorts)
    needed = row.needed if event.gained or grows(campaign.strategy, row.strategy) else 0
    if ledger.proposal is not None:
        ledger.set_proposal(state=RevisionState.REPLACED)
    row = structs.replace(row, needed=needed)
    text = f"Revision {row.number} by {row.by}: {'; '.join(row.changes) or 'the same strategy'}."[:1000]
    if needed and not campaign.strategy.emergency:
        ledger.add(structs.replace(row, state=RevisionState.PROPOSED))
        ledger.record("revision-proposed", f"{text} It takes effect when {needed} agree: {campaign.id} approve.")
        return
    ledger.add(structs.replace(row, state=RevisionState.ACCEPTED))
    if needed:
        ledger.set_campaign(approvals_needed=needed, approvals=(), asked_by=row.by)
        approvals.owe(ledger)
        ledger.record(
            "approval-owed", f"Revision {row.number} is part of an emergency; {needed} must still approve it."
        )
    _take_effect(ledger, row, text)


def is_meant(ledger: Ledger, event: Commanded) -> bool:
    """Whether somebody speaks about the proposed revision, rather than about the campaign's start."""
    is_answer = event.verb in (Verb.APPROVE, Verb.REJECT)
    return is_answer and ledger.proposal is not None and ledger.campaign.state in LIVE


def answered(ledger: Ledger, event: Commanded) -> None:
    """Somebody agrees to the proposed revision, or is against it and the campaign goes on as it is. Raises `TransitionError`
    (`approval-not-yours`, `approval-lapsed`)."""
    row = ledger.proposal
    if row is None:
        raise TransitionError("nothing-to-approve", "No revision of this campaign waits for approval.")
    why = f": {event.reason}" if event.reason else ""
    if event.verb is Verb.REJECT:
        ledger.set_proposal(state=RevisionState.REJECTED)
        ledger.record("rejected", f"Revision {row.number} rejected by {event.by}{why}.")
        return
    _may_approve(ledger, row, event)
    agreed = (*row.agreed, event.by)
    left = row.needed - len(agreed)
    after = f"{left} more must" if left > 0 else "it takes effect"
    ledger.record("approved", f"Revision {row.number} approved by {event.by}{why}; {after}.")
    ledger.set_proposal(agreed=agreed, state=RevisionState.PROPOSED if left > 0 else RevisionState.ACCEPTED)
    if left <= 0:
        _take_effect(ledger, row, f"Revision {row.number} by {row.by} was approved.")


def enlisted(ledger: Ledger, event: Enlisted) -> None:
    """Take in targets that are selected newly."""
    index = _joins(ledger)
    is_late = index == ledger.late.index
    if is_late and ledger.late.state is CohortState.CLOSED:
        ledger.set_cohort_state(index, CohortState.OPEN, opened_at=ledger.at)
    seed, cohort = ledger.campaign.seed, ledger.cohorts[index]
    first_rank = sum(row.size for row in ledger.cohorts.values())
    names = sorted(event.targets, key=lambda target: rank_key(seed, target))
    for rank, target in enumerate(names, start=first_rank):
        ledger.add(
            AssignmentRow(
                campaign=ledger.campaign.id,
                target=target,
                cohort=index,
                rank=rank,
                state=AssignmentState.PLANNED,
                state_since=ledger.at,
                wake_at=ledger.at if is_late else None,
            )
        )
    planned = cohort.counts.get(AssignmentState.PLANNED, 0) + len(names)
    ledger.set_cohort(index, size=cohort.size + len(names), counts={**cohort.counts, AssignmentState.PLANNED: planned})
    ledger.record("targets-gained", f"{plural(len(names), 'target')} selected newly joined cohort {cohort.name}.")


def deselected(ledger: Ledger, event: Deselected) -> None:
    """Skip a target that isn't selected any more and has no order yet."""
    if ledger.known and ledger.assignment.state is AssignmentState.PLANNED:
        by = f"Revision {event.revision}" if event.revision else "The live selection"
        text = f"{by} doesn't select it any more."
        ledger.move(Move.SKIP, reason_kind=DESELECTED, reason=text)
        ledger.record("skipped", text, target=True)
        progress.settle(ledger)


def reselected(ledger: Ledger) -> None:
    """Take a target in again that dropped out only because it wasn't selected."""
    row = ledger.assignment
    if row.state is not AssignmentState.SKIPPED or row.reason_kind != DESELECTED or ledger.campaign.state not in LIVE:
        return
    if ledger.cohort.state is not CohortState.CLOSED:
        _rejoin(ledger, _joins(ledger))
    text = f"It is selected again; it joined cohort {ledger.cohort.name}."
    ledger.move(Move.SELECT_AGAIN, reason=text)
    ledger.set_assignment(wake_at=ledger.at if ledger.is_late else None)
    ledger.record("selected-again", text, target=True)
    progress.settle(ledger)


def _rejoin(ledger: Ledger, index: int) -> None:
    """Into the cohort of who is selected newly, which grows by that as by anybody."""
    if index == ledger.late.index and ledger.late.state is CohortState.CLOSED:
        ledger.set_cohort_state(index, CohortState.OPEN, opened_at=ledger.at)
    if index != ledger.assignment.cohort:
        ledger.change_cohort(index)
        if index != ledger.late.index:
            ledger.set_cohort(index, moved_to_late=ledger.cohorts[index].moved_to_late + 1)


def roused(ledger: Ledger, event: Roused) -> None:
    """Those up to this target were told; None: all were."""
    if ledger.campaign.rouse is not None and ledger.campaign.revision == event.revision:
        ledger.set_campaign(rouse=event.upto)


def check_state(state: str) -> None:
    """Raises `TransitionError` (`wrong-state`) for a campaign that takes no revision."""
    if state not in LIVE:
        text = (
            f"The campaign is {state.replace('_', ' ')}; only one that runs, is paused or watches takes a new revision."
        )
        raise TransitionError("wrong-state", text)


def effective(old: Strategy, new: Strategy, cohorts: Mapping[int, CohortRow]) -> Strategy:
    """The new strategy with the gates that stay; raises `RefusedError` (`revision-refused`) for what can't change."""
    if [_size_of(policy) for policy in old.cohorts] != [_size_of(policy) for policy in new.cohorts]:
        raise _refused("cohorts keep their names, sizes and order: targets were dealt into them")
    if old.leaves_first is not new.leaves_first:
        raise _refused("`order` stays: targets were dealt by it")
    if old.together != new.together:
        raise _refused("`together` stays: targets were dealt by it")
    pairs = zip(old.cohorts, new.cohorts, strict=True)
    return replace(new, cohorts=tuple(_policy(*pair, cohorts[index]) for index, pair in enumerate(pairs)))


def grows(old: Strategy, new: Strategy) -> bool:
    """Whether the new strategy may let more happen than the old one. What isn't known to hold back counts as more."""
    changed = [field.name for field in fields(Strategy) if getattr(old, field.name) != getattr(new, field.name)]
    return any(
        name not in _HOLDS_BACK or not _HOLDS_BACK[name](getattr(old, name), getattr(new, name)) for name in changed
    )


def _take_effect(ledger: Ledger, row: RevisionRow, text: str) -> None:
    before = ledger.campaign.strategy
    strategy = effective(before, row.strategy, ledger.cohorts)
    ledger.set_campaign(strategy=strategy, revision=row.number)
    if strategy.calendar != before.calendar:
        ledger.set_campaign(rouse="")
    ledger.record("campaign-revised", text)
    ledger.command(Enlist(campaign=ledger.campaign.id, revision=row.number, selection=row.selection))
    progress.look_again(ledger)
    progress.settle(ledger)


def _may_approve(ledger: Ledger, row: RevisionRow, event: Commanded) -> None:
    if event.by in (row.by, *row.agreed):
        text = (
            f"{event.by} {'made it' if event.by == row.by else 'approved it already'}; somebody else must approve it."
        )
        raise TransitionError("approval-not-yours", text)
    expires_s = ledger.campaign.strategy.approvals.expires_s
    if event.at > row.at + expires_s:
        text = f"Revision {row.number} was not agreed to within {expires_s / 86400:g} days; apply it again."
        raise TransitionError("approval-lapsed", text)


def _joins(ledger: Ledger) -> int:
    """The index of the cohort for who is selected newly."""
    strategy, last = ledger.campaign.strategy, ledger.late.index - 1
    is_dealt = strategy.leaves_first or strategy.together is not None or strategy.cohorts[last].grouping
    return ledger.late.index if is_dealt or ledger.cohorts[last].state is not CohortState.CLOSED else last


def _size_of(policy: CohortPolicy) -> object:
    return policy.name, policy.count, policy.percent, policy.first, policy.reachable


def _policy(old: CohortPolicy, new: CohortPolicy, cohort: CohortRow) -> CohortPolicy:
    """The gates of a cohort after the revision."""
    if cohort.state is CohortState.CLOSED:
        if _dealt_by(old) != _dealt_by(new):
            raise _refused(f"cohort {old.name} keeps its strata, sites and controls: targets were dealt by them")
        return new
    if cohort.state is not CohortState.OPEN or len(old.gates) != len(new.gates):
        return old
    gates = [
        replace(mine, accept_after_s=theirs.accept_after_s, accept_by=theirs.accept_by)
        if mine.kind == theirs.kind
        else mine
        for mine, theirs in zip(old.gates, new.gates, strict=True)
    ]
    return replace(old, gate=gates[0], more_gates=tuple(gates[1:]))


def _dealt_by(policy: CohortPolicy) -> object:
    gate = policy.grouping
    return None if gate is None else (gate.by, gate.block, any(one.kind == "metrics" for one in policy.gates))


def _refused(text: str) -> RefusedError:
    return RefusedError(KIND, f"A revision can't change that: {text}. Make another campaign.")


def _budgets_hold(old: Any, new: Any) -> bool:
    """Each budget of before is there, and lets no more be down."""
    after = {budget.by: budget for budget in new}
    return all(
        budget.by in after
        and (budget.limit or 0) >= (after[budget.by].limit or 0)
        and (budget.percent or 0) >= (after[budget.by].percent or 0)
        and budget.at_least >= after[budget.by].at_least
        and (budget.keep or 0) <= (after[budget.by].keep or 0)
        and budget.offline_counts <= after[budget.by].offline_counts
        and [budget.limit is None, budget.percent is None]
        == [after[budget.by].limit is None, after[budget.by].percent is None]
        for budget in old
    )


def _rates_hold(old: Any, new: Any) -> bool:
    """Each rate of before is there, and is no faster."""
    after = {rate.by: rate for rate in new}
    return all(rate.by in after and _is_slower(rate, after[rate.by]) for rate in old)


def _bandwidth_holds(old: Any, new: Any) -> bool:
    """Each limit of before is there, and is no higher."""
    after = {policy.by: policy.limit for policy in new}
    return all(policy.by in after and after[policy.by] <= policy.limit for policy in old)


def _is_slower(old: RatePolicy, new: RatePolicy) -> bool:
    same = replace(new, count=old.count, every_s=old.every_s) == old
    return same and new.count * old.every_s <= old.count * new.every_s


def _calendar_holds(old: Any, new: Any) -> bool:
    """Only freezes came, or the windows stayed."""
    more = all(set(getattr(old.freezes, one)) <= set(getattr(new.freezes, one)) for one in ("weekly", "cron", "dates"))
    return more and replace(new, freezes=old.freezes) == old


_HOLDS_BACK: Mapping[str, Callable[[Any, Any], bool]] = {
    "name": lambda old, new: True,
    "budgets": _budgets_hold,
    "rates": _rates_hold,
    "bandwidth": _bandwidth_holds,
    "calendar": _calendar_holds,
    "healthy_s": lambda old, new: new > old,
    "max_attempts": lambda old, new: new < old,
    "late_max_failures": lambda old, new: new < old,
    "requires": lambda old, new: set(old) <= set(new),
    "after": lambda old, new: set(old) <= set(new),
}
"""By field, whether the new value holds back more."""
