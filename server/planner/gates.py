"""Gates: what a cohort must show before the next one opens.

Rules
- A cohort passes when every gate of it does, and fails when one does. Failure is told at once.
- Silence after a permit is a failure like any other. Who was never reached has left for `late` and counts for nothing.
- `insufficient` never turns into `pass` by waiting alone, and the sentence says what is missing; unless the strategy says after
  how long, and who signed that.
- A cohort that had nothing to do (empty, or all of it runs the release already) passes.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from server.planner import outside_gates, pair_gate, rate_gate
from server.planner.gate_counts import count, count_gate, needed_of
from server.planner.gate_words import Finding
from server.planner.rows import CohortRow
from server.planner.states import IN_FLIGHT, UNDECIDED
from server.planner.strategy import CohortPolicy, GatePolicy
from server.planner.words import AssignmentState, GateVerdict

_JUDGES: Mapping[str, Callable[[GatePolicy, CohortRow, float], Finding]] = {
    "all": count_gate,
    "share": count_gate,
    "rate": rate_gate.judge,
    "metrics": pair_gate.judge,
    "sli": outside_gates.judge_sli,
    "external": outside_gates.judge_external,
}
"""What judges each kind of gate; `rate` and `metrics` by strata."""
_ON_THEIR_WAY = UNDECIDED - {AssignmentState.PLANNED}


class Judgement(Struct, frozen=True, kw_only=True, gc=False):
    """What all gates of a cohort say together: the sentence holds the numbers and what is missing. `accepted`: it passes without
    enough evidence, because the strategy says so."""

    verdict: GateVerdict
    text: str
    accepted: bool = False


def judge(policy: CohortPolicy, cohort: CohortRow, at: float) -> Judgement:
    """The verdict on a cohort at time `at`."""
    if _has_nothing_to_do(cohort):
        return Judgement(verdict=GateVerdict.PASS, text="There was nothing to install in this cohort.")
    findings = [(gate, _JUDGES[gate.kind](gate, cohort, at)) for gate in policy.gates]
    failed = [finding for _, finding in findings if finding.verdict is GateVerdict.FAIL]
    if failed:
        return Judgement(verdict=GateVerdict.FAIL, text=_joined(failed))
    short = [(gate, finding) for gate, finding in findings if finding.verdict is GateVerdict.INSUFFICIENT]
    if not short:
        return Judgement(verdict=GateVerdict.PASS, text=_joined(finding for _, finding in findings))
    if all(_is_accepted(gate, cohort, at) for gate, _ in short):
        signed = " ".join(_accepted_text(gate) for gate, _ in short)
        text = f"{_joined(finding for _, finding in short)} {signed}"
        return Judgement(verdict=GateVerdict.PASS, text=text, accepted=True)
    return Judgement(verdict=GateVerdict.INSUFFICIENT, text=_joined(finding for _, finding in short))


def stays_the_same(policy: CohortPolicy, before: CohortRow, now: CohortRow) -> bool:
    """Whether what changed about a cohort can make no difference to its judgement, neither to the verdict nor to a word of it.

    No gate tells apart those who are on their way: only how many that are, those apart who aren't ordered yet. What time alone
    may change has to be judged.
    """
    if not policy.is_timeless or before.attempted != now.attempted or before.size != now.size:
        return False
    if before.strata != now.strata or before.inputs != now.inputs or before.moved_to_late != now.moved_to_late:
        return False
    if before.state is not now.state or before.opened_at != now.opened_at:
        return False
    return _told_apart(before) == _told_apart(now)


def _told_apart(cohort: CohortRow) -> dict[AssignmentState, int]:
    """The counts that a gate may look at, one by one; with the size they say how many are on their way."""
    return {state: number for state, number in cohort.counts.items() if state not in _ON_THEIR_WAY}


def evidence(policy: CohortPolicy, cohort: CohortRow, at: float) -> tuple[dict[str, Any], ...]:
    """What each gate of a cohort is judged by at time `at`, as plain data: n, effective n, outcomes, bounds, power, and what is
    missing."""
    found = []
    for gate in policy.gates:
        finding = _JUDGES[gate.kind](gate, cohort, at)
        detail = {"rate": rate_gate.detail, "metrics": pair_gate.detail}.get(gate.kind)
        found.append(
            {
                "kind": gate.kind,
                **({"name": gate.name} if gate.name else {}),
                "verdict": str(finding.verdict),
                "text": finding.text,
                "attempted": cohort.attempted,
                **finding.data,
                **(detail(gate, cohort) if detail else {}),
            }
        )
    return tuple(found)


def look_again_at(policy: CohortPolicy, cohort: CohortRow, at: float) -> float | None:
    """When the verdict may change though nothing happens: one of its gates is then accepted as it is; None when never."""
    if cohort.opened_at is None or policy.is_timeless:
        return None
    times = [cohort.opened_at + gate.accept_after_s for gate in policy.gates if gate.accept_after_s is not None]
    return min((time for time in times if time > at), default=None)


def lacks_members(policy: CohortPolicy, cohort: CohortRow, stratum: str | None) -> bool:
    """Whether a cohort lost so many to `late` that it can't pass with those it has left; `stratum`: that of a target which may
    come back."""
    if not cohort.moved_to_late:
        return False
    hopeful = cohort.counts.get(AssignmentState.VERIFIED, 0) + count(cohort, UNDECIDED)
    if any(hopeful < needed_of(gate, cohort) for gate in policy.gates):
        return True
    return any(rate_gate.lacks_sites(gate, cohort, stratum) for gate in policy.gates if gate.kind == "rate")


def _has_nothing_to_do(cohort: CohortRow) -> bool:
    return cohort.size + cohort.moved_to_late == cohort.counts.get(AssignmentState.SKIPPED, 0)


def _is_accepted(gate: GatePolicy, cohort: CohortRow, at: float) -> bool:
    if gate.accept_after_s is None or cohort.opened_at is None or at < cohort.opened_at + gate.accept_after_s:
        return False
    return not count(cohort, frozenset({*IN_FLIGHT, AssignmentState.COMMITTED}))


def _accepted_text(gate: GatePolicy) -> str:
    return (
        f"That is accepted {(gate.accept_after_s or 0) / 3600:g} h after the cohort opened, as {gate.accept_by} signed."
    )


def _joined(findings: Iterable[Finding]) -> str:
    return " ".join(dict.fromkeys(finding.text for finding in findings))
