"""Gates that count a cohort: `all` must verify, or at most a `share` may fail. They say how this cohort did, and nothing about
the rate of failures elsewhere."""

from server.planner.gate_words import Finding
from server.planner.rows import CohortRow
from server.planner.states import FAILURES, NEUTRAL, UNDECIDED
from server.planner.strategy import GatePolicy
from server.planner.words import AssignmentState, GateVerdict

_FAILURES = tuple(state for state in AssignmentState if state in FAILURES)
"""In the order in which a sentence names them."""


def count_gate(policy: GatePolicy, cohort: CohortRow, _at: float = 0.0) -> Finding:
    """The verdict on a cohort's counters."""
    failed, undecided = count(cohort, FAILURES), count(cohort, UNDECIDED)
    verified, needed = cohort.counts.get(AssignmentState.VERIFIED, 0), needed_of(policy, cohort)
    numbers = numbers_of(cohort)
    data = {"n": verified + failed, "verified": verified, "failed": failed, "undecided": undecided}
    if failed > allowed_failures(policy, cohort):
        return Finding(verdict=GateVerdict.FAIL, text=f"{_rule(policy)}, but {numbers}.", data=data)
    if undecided:
        text = f"{numbers}; waiting for {undecided} to be decided."
        return Finding(verdict=GateVerdict.INSUFFICIENT, text=text, data={**data, "missing": needed - verified})
    if verified < needed:
        text = f"{numbers}; {needed - verified} more must verify{unreached(cohort)}."
        return Finding(verdict=GateVerdict.INSUFFICIENT, text=text, data={**data, "missing": needed - verified})
    if not verified and not failed:
        return Finding(verdict=GateVerdict.PASS, text="There was nothing to install in this cohort.", data=data)
    return Finding(verdict=GateVerdict.PASS, text=f"{numbers}.", data=data)


def count(cohort: CohortRow, states: frozenset[AssignmentState]) -> int:
    """How many of the cohort are in one of these states."""
    return sum(number for state, number in cohort.counts.items() if state in states)


def needed_of(policy: GatePolicy, cohort: CohortRow) -> int:
    """How many must verify: `min_verified`, or all there is to update when the cohort was made smaller than that."""
    skipped = cohort.counts.get(AssignmentState.SKIPPED, 0)
    return min(policy.min_verified, cohort.size + cohort.moved_to_late - skipped)


def allowed_failures(policy: GatePolicy, cohort: CohortRow) -> int:
    """How many failures the gate still bears, of all in the cohort that say something about the release."""
    if policy.kind != "share":
        return 0
    judged = cohort.size - count(cohort, NEUTRAL)
    return int(policy.max_failure_rate * judged + 1e-9)


def numbers_of(cohort: CohortRow) -> str:
    """The cohort's numbers in words."""
    failures = {state: cohort.counts[state] for state in _FAILURES if state in cohort.counts}
    words = {AssignmentState.MISSING: "went silent after the permit"}
    details = ", ".join(f"{number} {words.get(state, state.replace('_', ' '))}" for state, number in failures.items())
    verified, undecided = cohort.counts.get(AssignmentState.VERIFIED, 0), count(cohort, UNDECIDED)
    failed = f"{sum(failures.values())} failed ({details})" if failures else "0 failed"
    return f"{cohort.attempted} attempted, {verified} verified, {failed}, {undecided} undecided of {cohort.size}"


def unreached(cohort: CohortRow) -> str:
    """Who may still come, in words."""
    if not cohort.moved_to_late:
        return ""
    return f", and {cohort.moved_to_late} were not reached: the next of them to be heard comes back into this cohort"


def _rule(policy: GatePolicy) -> str:
    if policy.kind != "share":
        return "Every attempted target must verify"
    return f"At most {policy.max_failure_rate:.1%} may fail"
