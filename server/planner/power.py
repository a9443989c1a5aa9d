"""Whether a campaign's gates can ever have the power to pass, told when it is made.

Rules
- A test that can't pass even if nothing fails is refused, with the numbers and what would help; unless the strategy says after
  how long the lack of evidence is accepted.
- A test that a good release would pass with less than the wanted probability is warned about.
"""

from collections.abc import Iterator, Sequence

from firmware.errors import RefusedError
from server.planner import betting, pair_gate, rate_gate
from server.planner.gate_rows import Stratum
from server.planner.gate_words import plural, share
from server.planner.rows import CohortRow
from server.planner.strata import WHOLE
from server.planner.strategy import GatePolicy, Strategy

_HELPS = (
    "Make the cohort larger, tell fewer strata apart (by), raise max_failure_rate, judge small ones by all (small_stratum: all), "
    "or say who accepts that (accept_insufficient)."
)


def check(strategy: Strategy, cohorts: Sequence[CohortRow]) -> tuple[str, ...]:
    """Sentences to warn with; raises `RefusedError` (`gate-without-power`) for a gate that could never pass."""
    found = []
    for policy, cohort in zip(strategy.cohorts, cohorts, strict=False):
        for gate in policy.gates:
            for text, is_hopeless in _faults(gate, cohort):
                if is_hopeless and gate.accept_after_s is None:
                    raise RefusedError("gate-without-power", text)
                found.append(text)
    return tuple(found)


def _faults(gate: GatePolicy, cohort: CohortRow) -> Iterator[tuple[str, bool]]:
    if gate.kind == "rate" and rate_gate.is_small(gate, cohort):
        needed, dealt = rate_gate.needed(gate), rate_gate.dealt(cohort)
        if dealt:
            yield _small(cohort.name, gate, needed, dealt), False
        return
    for name, stratum in cohort.strata.items():
        if gate.kind == "rate":
            yield from _rate_faults(gate, cohort.name, name, stratum)
        if gate.kind == "metrics":
            yield from _pair_faults(gate, cohort.name, name, stratum)


def _small(cohort: str, gate: GatePolicy, needed: int, dealt: int) -> str:
    return f"Cohort {cohort} has {plural(dealt, 'site')}, and {_takes(gate, needed)}; so all of it must verify."


def _rate_faults(gate: GatePolicy, cohort: str, name: str, stratum: Stratum) -> Iterator[tuple[str, bool]]:
    needed, alpha = rate_gate.needed(gate), 1 - gate.confidence
    has = f"Cohort {cohort}{_in(name)} has {plural(stratum.dealt, 'site')}"
    if stratum.dealt < needed and gate.small_stratum == "all":
        yield f"{has} and {needed} are needed for the test; so all of it must verify.", False
        return
    if stratum.dealt < needed:
        yield f"{has}, and {_takes(gate, needed)}: it could never pass. {_HELPS}", True
        return
    expected = gate.expected_rate or gate.max_failure_rate / 10
    power = betting.power_of(stratum.dealt, gate.max_failure_rate, alpha, expected)
    if power < gate.power:
        wanted = betting.needed_for_power(gate.max_failure_rate, alpha, expected, gate.power)
        more = f"; {wanted} would do" if wanted else ""
        yield (
            f"{has}: a release of which {share(expected)} fail would pass with a probability of {share(power)} only{more}.",
            False,
        )


def _pair_faults(gate: GatePolicy, cohort: str, name: str, stratum: Stratum) -> Iterator[tuple[str, bool]]:
    alpha, harm = 1 - gate.confidence, pair_gate.worse_with(gate.effect)
    needed = betting.needed(harm, alpha)
    has = f"Cohort {cohort}{_in(name)} has {plural(stratum.dealt, 'site')} to compare"
    if stratum.dealt < needed:
        yield f"{has}, and {needed} are needed at the very least: its metrics could never pass.", True
        return
    power = betting.power_of(stratum.dealt, harm, alpha, pair_gate.NO_EFFECT)
    if power < gate.power:
        yield f"{has}: a release that does no harm would pass with a probability of {share(power)} only.", False


def _takes(gate: GatePolicy, needed: int) -> str:
    bound, sure = share(gate.max_failure_rate), share(gate.confidence)
    return f"{needed} without a failure are needed to show a rate below {bound} with {sure} confidence"


def _in(name: str) -> str:
    return "" if name == WHOLE else f" in stratum {name}"
