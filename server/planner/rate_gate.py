"""The gate of kind `rate`: an anytime-valid test of the failure rate against a bound, in every stratum, with sites as blocks.

Rules
- It passes when in every stratum "the rate is at least the bound" is rejected; so a release that is bad in one stratum passes
  with a probability of at most 1 - confidence, however many strata there are.
- It fails when in one stratum "the rate is at most the bound" is rejected. There each stratum is a chance to be wrong, so they
  share the error, and so do the two things that are looked at: failed attempts, and failures before any attempt.
- Everything undecided counts against either verdict until it is decided (`server.planner.strata`).
- A cohort or a stratum with too few sites to ever pass is judged as by `all`, or held, as the strategy says.
"""

from typing import Any

from server.planner import betting
from server.planner.gate_counts import count, count_gate, needed_of, numbers_of, unreached
from server.planner.gate_rows import Stratum
from server.planner.gate_words import Finding, plural, share
from server.planner.rows import CohortRow
from server.planner.states import UNDECIDED
from server.planner.strata import WHOLE
from server.planner.strategy import GatePolicy
from server.planner.words import AssignmentState, GateVerdict

LOOKS = 2
"""Failed attempts, and failures before any attempt: each has its own test against the same bound."""
SHOWN_STRATA = 3
"""So many strata are named in the sentence; the evidence has all."""


def judge(policy: GatePolicy, cohort: CohortRow, _at: float = 0.0) -> Finding:
    """The verdict on a cohort's strata."""
    if is_small(policy, cohort):
        finding = count_gate(policy, cohort)
        takes = f"it takes {plural(needed(policy), 'site')}, and there are {dealt(cohort)}"
        why = f"Too small for a test of {share(policy.max_failure_rate)}: {takes}."
        rule = "" if finding.verdict is GateVerdict.FAIL else " All must verify:"
        return Finding(verdict=finding.verdict, text=f"{why}{rule} {finding.text}", data=finding.data)
    numbers = numbers_of(cohort)
    bad = [text for name, stratum in cohort.strata.items() if (text := _failure(policy, cohort, name, stratum))]
    if bad:
        return Finding(verdict=GateVerdict.FAIL, text=f"{' '.join(bad[:SHOWN_STRATA])} {numbers}.")
    planned = cohort.counts.get(AssignmentState.PLANNED, 0)
    short = [text for name, stratum in cohort.strata.items() if (text := _shortage(policy, name, stratum))]
    lacking = _needed_verified(policy, cohort)
    if lacking:
        short.insert(0, f"{lacking} more must verify")
    if planned:
        short.insert(0, f"{planned} are still to be ordered")
    if not short:
        below = f"the failure rate is below {share(policy.max_failure_rate)} with {share(policy.confidence)} confidence"
        return Finding(verdict=GateVerdict.PASS, text=f"{numbers}; {below}{_each(cohort)}.")
    more = f", and {len(short) - SHOWN_STRATA} strata more" if len(short) > SHOWN_STRATA else ""
    text = f"{numbers}; {'; '.join(short[:SHOWN_STRATA])}{more}{'' if count(cohort, UNDECIDED) else unreached(cohort)}."
    return Finding(verdict=GateVerdict.INSUFFICIENT, text=text)


def detail(policy: GatePolicy, cohort: CohortRow) -> dict[str, Any]:
    """The evidence: what the test is, and each stratum's numbers with their bounds."""
    strata = [_stratum_detail(policy, cohort, name, stratum) for name, stratum in cohort.strata.items()]
    return {
        "bound": policy.max_failure_rate,
        "confidence": policy.confidence,
        "fail_confidence": 1 - _alpha_each(policy, cohort) * LOOKS,
        "expected_rate": policy.expected_rate,
        "judged_by": "all" if is_small(policy, cohort) else "rate",
        "n": sum(one["n"] for one in strata),
        "effective_n": sum(one["effective_n"] for one in strata),
        "strata": strata,
    }


def is_small(policy: GatePolicy, cohort: CohortRow) -> bool:
    """Whether the whole cohort is judged as by `all`, since it was dealt too few sites for the test."""
    return policy.small_cohort == "all" and dealt(cohort) < needed(policy)


def needed(policy: GatePolicy) -> int:
    """How many sites it takes when none fails."""
    return betting.needed(policy.max_failure_rate, 1 - policy.confidence)


def dealt(cohort: CohortRow) -> int:
    """How many sites the cohort was dealt, in all strata."""
    return sum(stratum.dealt for stratum in cohort.strata.values())


def lacks_sites(policy: GatePolicy, cohort: CohortRow, name: str | None) -> bool:
    """Whether a stratum that lost targets to `late` can't pass with the sites it has left, even if all goes well from now on."""
    stratum = cohort.strata.get(name) if name is not None else None
    if stratum is None or not stratum.late or is_small(policy, cohort) or _is_small_stratum(policy, stratum):
        return False
    untried = stratum.sites - betting.blocks_in(stratum.best)
    hopeful = betting.added(stratum.best, 0, untried)
    return not betting.is_below(hopeful, policy.max_failure_rate, 1 - policy.confidence)


def _failure(policy: GatePolicy, cohort: CohortRow, name: str, stratum: Stratum) -> str:
    """Why a stratum fails; empty when it doesn't."""
    bound, alpha = policy.max_failure_rate, _alpha_each(policy, cohort)
    if _is_small_stratum(policy, stratum) and stratum.failed:
        return f"{_named(name)}too small for the test, all must verify, but {stratum.failed} failed."
    for numbers, what in ((stratum.best, "fail"), (stratum.early, "fail before any attempt")):
        if betting.is_above(numbers, bound, alpha):
            least = share(betting.lower(numbers, alpha))
            return f"{_named(name)}at least {least} {what}, where {share(bound)} may."
    return ""


def _shortage(policy: GatePolicy, name: str, stratum: Stratum) -> str:
    """What a stratum lacks to pass; empty when it passes."""
    if not stratum.sites and not stratum.late:
        return ""
    if _is_small_stratum(policy, stratum):
        left = stratum.targets + stratum.late - stratum.verified - stratum.failed
        return f"{_named(name)}too small for the test, so all must verify: {left} more" if left else ""
    lacking = betting.missing(stratum.worst, policy.max_failure_rate, 1 - policy.confidence)
    if not lacking:
        return ""
    told = f"about {plural(lacking, 'more success')}".replace("successs", "successes")
    untried = stratum.sites - betting.blocks_in(stratum.worst)
    if name == WHOLE:
        return f"{told} needed" if untried else f"{told} needed than there are"
    return f"{told} in stratum {name}" + ("" if untried else ", which has no more sites to try")


def _stratum_detail(policy: GatePolicy, cohort: CohortRow, name: str, stratum: Stratum) -> dict[str, Any]:
    bound, alpha = policy.max_failure_rate, 1 - policy.confidence
    expected = policy.expected_rate or bound / 10
    return {
        "name": name,
        "targets": stratum.targets,
        "sites": stratum.sites,
        "unreached": stratum.late,
        "n": stratum.verified + stratum.failed,
        "verified": stratum.verified,
        "failed": stratum.failed,
        "effective_n": betting.blocks_in(stratum.worst),
        "seen": betting.mean_of(stratum.best),
        "lower": betting.lower(stratum.best, _alpha_each(policy, cohort)),
        "upper": betting.upper(stratum.worst, alpha),
        "missing": betting.missing(stratum.worst, bound, alpha),
        "needed": needed(policy),
        "power": betting.power_of(stratum.dealt, bound, alpha, expected),
        "judged_by": "all" if _is_small_stratum(policy, stratum) or is_small(policy, cohort) else "rate",
    }


def _is_small_stratum(policy: GatePolicy, stratum: Stratum) -> bool:
    return policy.small_stratum == "all" and stratum.dealt < needed(policy)


def _alpha_each(policy: GatePolicy, cohort: CohortRow) -> float:
    return (1 - policy.confidence) / (LOOKS * max(1, len(cohort.strata)))


def _needed_verified(policy: GatePolicy, cohort: CohortRow) -> int:
    return max(0, needed_of(policy, cohort) - cohort.counts.get(AssignmentState.VERIFIED, 0))


def _named(name: str) -> str:
    return "" if name == WHOLE else f"{name}: "


def _each(cohort: CohortRow) -> str:
    return f" in each of {len(cohort.strata)} strata" if len(cohort.strata) > 1 else ""
