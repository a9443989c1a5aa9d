"""The gate of kind `metrics`: is an updated target worse than one that isn't, by its own health metrics?

Rules
- One number per target: after minus before, at the same hours of the week. Raw samples would be correlated, and a restart resets
  leaks. A target is paired with a control that was chosen at random in the same stratum when the campaign was made, in the
  same site where there is one; of each site the first pair that is compared speaks, once per metric.
- A pair is worse (1), better (0) or equal (half). Without any effect, worse is as likely as better; with an effect of so many
  standard deviations it has another probability, which a sign can be tested against, whatever the numbers are distributed like.
- Passes when for every metric in every stratum a harm of that size is rejected; fails when for one "not worse" is. Metrics and
  strata share the error of a false alarm; for a pass each must be shown, so there is nothing to share.
- A target that tells nothing while its control does is worse: silence is failure.
"""

from math import erf
from typing import Any

from server.planner import betting
from server.planner.gate_words import Finding, plural, share
from server.planner.rows import CohortRow
from server.planner.strata import WHOLE
from server.planner.strategy import GatePolicy, MetricPolicy
from server.planner.words import GateVerdict

NO_EFFECT = 0.5
WORSE, EQUAL, BETTER = 2, 1, 0
"""In half points."""


def judge(policy: GatePolicy, cohort: CohortRow, _at: float = 0.0) -> Finding:
    """The verdict on a cohort's pairs."""
    alarms = [text for text in (_alarm(policy, cohort, *one) for one in _tested(policy, cohort)) if text]
    if alarms:
        return Finding(verdict=GateVerdict.FAIL, text=" ".join(alarms))
    short = [text for text in (_shortage(policy, cohort, *one) for one in _tested(policy, cohort)) if text]
    if short:
        more = f", and {len(short) - 1} tests more" if len(short) > 1 else ""
        return Finding(verdict=GateVerdict.INSUFFICIENT, text=f"Metrics: {short[0]}{more}.")
    text = f"No harm of {policy.effect:g} standard deviations, with {share(policy.confidence)} confidence."
    return Finding(verdict=GateVerdict.PASS, text=text)


def detail(policy: GatePolicy, cohort: CohortRow) -> dict[str, Any]:
    """The evidence: each metric in each stratum with its pairs and bounds on the probability of being worse."""
    alpha, each = 1 - policy.confidence, _alpha_each(policy, cohort)
    harm = worse_with(policy.effect)
    rows = []
    for stratum, metric in _tested(policy, cohort):
        numbers = _numbers(cohort, stratum, metric)
        rows.append(
            {
                "name": stratum,
                "metric": metric,
                "effective_n": betting.blocks_in(numbers),
                "worse": betting.mean_of(numbers),
                "lower": betting.lower(numbers, each),
                "upper": betting.upper(numbers, alpha),
                "missing": _missing(policy, numbers),
                "power": betting.power_of(cohort.strata[stratum].dealt, harm, alpha, NO_EFFECT),
            }
        )
    return {"bound": harm, "effect": policy.effect, "confidence": policy.confidence, "strata": rows}


def half_points(metric: MetricPolicy, own: float | None, control: float) -> int:
    """How a target compares with its control by their changes of one metric."""
    if own is None:
        return WORSE
    harm = own - control if metric.worse == "higher" else control - own
    if abs(harm) <= metric.margin:
        return EQUAL
    return WORSE if harm > 0 else BETTER


def worse_with(effect: float) -> float:
    """The probability of being worse than a control when harmed by so many standard deviations of the change of a target, both
    being distributed normally: that of a difference of two."""
    return 0.5 * (1 + erf(effect / 2))


def _tested(policy: GatePolicy, cohort: CohortRow) -> list[tuple[str, str]]:
    strata = [name for name, stratum in cohort.strata.items() if stratum.sites or stratum.metrics]
    return [(name, metric.name) for name in strata for metric in policy.metrics]


def _alarm(policy: GatePolicy, cohort: CohortRow, stratum: str, metric: str) -> str:
    numbers, alpha = _numbers(cohort, stratum, metric), _alpha_each(policy, cohort)
    if not betting.is_above(numbers, NO_EFFECT, alpha):
        return ""
    mean = betting.mean_of(numbers) or 0.0
    pairs = plural(betting.blocks_in(numbers), "pair")
    return f"{_named(stratum)}{metric} is worse than without the release in {share(mean)} of {pairs}."


def _shortage(policy: GatePolicy, cohort: CohortRow, stratum: str, metric: str) -> str:
    numbers = _numbers(cohort, stratum, metric)
    lacking = _missing(policy, numbers)
    if not lacking:
        return ""
    pairs, done = plural(lacking, "more pair"), plural(betting.blocks_in(numbers), "site")
    return f"{_named(stratum)}{metric} was compared in {done}; about {pairs} without a difference needed"


def _missing(policy: GatePolicy, numbers: betting.Numbers) -> int:
    """How many more pairs that are equal it takes."""
    bound, alpha = worse_with(policy.effect), 1 - policy.confidence
    return betting.missing_with(numbers, EQUAL * betting.LATTICE // 2, bound, alpha)


def _numbers(cohort: CohortRow, stratum: str, metric: str) -> betting.Numbers:
    return cohort.strata[stratum].metrics.get(metric, ())


def _alpha_each(policy: GatePolicy, cohort: CohortRow) -> float:
    return (1 - policy.confidence) / max(1, len(cohort.strata) * len(policy.metrics))


def _named(name: str) -> str:
    return "" if name == WHOLE else f"{name}: "
