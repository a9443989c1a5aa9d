"""Gates: what a cohort must show before the next one opens.

Rules
- Failure is told at once; success only when nothing in the cohort is undecided any more.
- Silence after a permit is a failure like any other. Who was never reached has left for `late` and counts for nothing.
- `insufficient` never turns into `pass` by waiting alone: without enough verified targets the cohort stays held, and the
  sentence says what is missing.
- A cohort that had nothing to do (empty, or all of it runs the release already) passes.
"""

from server.planner.model import AssignmentState, CohortRow, GateVerdict
from server.planner.states import FAILURES, NEUTRAL, UNDECIDED
from server.planner.strategy import GatePolicy


def judge(policy: GatePolicy, cohort: CohortRow) -> tuple[GateVerdict, str]:
    """The verdict on a cohort's counters, and one sentence with the numbers and what is missing."""
    failed, undecided = count(cohort, FAILURES), count(cohort, UNDECIDED)
    verified, needed = cohort.counts.get(AssignmentState.VERIFIED, 0), needed_of(policy, cohort)
    numbers = _numbers(cohort)
    if failed > allowed_failures(policy, cohort):
        return GateVerdict.FAIL, f"{_rule(policy)}, but {numbers}."
    if undecided:
        return GateVerdict.INSUFFICIENT, f"{numbers}; waiting for {undecided} to be decided."
    if verified < needed:
        return GateVerdict.INSUFFICIENT, f"{numbers}; {needed - verified} more must verify{_unreached(cohort)}."
    if not verified and not failed:
        return GateVerdict.PASS, "There was nothing to install in this cohort."
    return GateVerdict.PASS, f"{numbers}."


def count(cohort: CohortRow, states: frozenset[AssignmentState]) -> int:
    """How many of the cohort are in one of these states."""
    return sum(number for state, number in cohort.counts.items() if state in states)


def needed_of(policy: GatePolicy, cohort: CohortRow) -> int:
    """How many must verify: `min_verified`, or all there is to update when the cohort was made smaller than that."""
    skipped = cohort.counts.get(AssignmentState.SKIPPED, 0)
    return min(policy.min_verified, cohort.size + cohort.moved_to_late - skipped)


def allowed_failures(policy: GatePolicy, cohort: CohortRow) -> int:
    """How many failures the gate still bears, of all in the cohort that say something about the release."""
    if policy.kind == "all":
        return 0
    judged = cohort.size - count(cohort, NEUTRAL)
    return int(policy.max_failure_rate * judged + 1e-9)


def _rule(policy: GatePolicy) -> str:
    if policy.kind == "all":
        return "Every attempted target must verify"
    return f"At most {policy.max_failure_rate:.1%} may fail"


def _numbers(cohort: CohortRow) -> str:
    failures = {
        state: cohort.counts[state] for state in AssignmentState if state in FAILURES and state in cohort.counts
    }
    words = {AssignmentState.MISSING: "went silent after the permit"}
    details = ", ".join(f"{number} {words.get(state, state.replace('_', ' '))}" for state, number in failures.items())
    verified, undecided = cohort.counts.get(AssignmentState.VERIFIED, 0), count(cohort, UNDECIDED)
    failed = f"{sum(failures.values())} failed ({details})" if failures else "0 failed"
    return f"{cohort.attempted} attempted, {verified} verified, {failed}, {undecided} undecided of {cohort.size}"


def _unreached(cohort: CohortRow) -> str:
    if not cohort.moved_to_late:
        return ""
    return f", and {cohort.moved_to_late} were not reached: the next of them to be heard comes back into this cohort"
