"""Gates are wrong no more often than they claim, and pass what is good as often as they say (`gate_trials`)."""

import pytest

from server.planner import betting
from tests.server.planner.gate_trials import POWER, SCENARIOS, STRICT, Scenario, at_most, trials

RUNS, DEEP_RUNS = 16, 400
SMALL = [scenario for scenario in SCENARIOS if not scenario.is_large]


def _named(scenario: Scenario) -> str:
    return f"{scenario.name}: {scenario.wrong}"


@pytest.mark.parametrize("scenario", SMALL, ids=_named)
def test_a_wrong_verdict_is_as_rare_as_claimed(scenario: Scenario) -> None:
    check(scenario, RUNS, seed=1)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=_named)
def test_a_wrong_verdict_is_as_rare_as_claimed_in_many_fleets(scenario: Scenario) -> None:
    check(scenario, DEEP_RUNS, seed=2)


@pytest.mark.parametrize("scenario", [one for one in POWER if not one.is_large], ids=_named)
def test_good_releases_pass_and_bad_ones_are_stopped(scenario: Scenario) -> None:
    tally = trials(scenario, RUNS)
    right = tally.failed if scenario.name.startswith(("50 %", "half", "30 %")) else tally.passed
    assert right >= RUNS * 0.55
    assert right + tally.held >= RUNS - 2


def test_the_power_that_is_told_is_the_power_there_is() -> None:
    told = betting.power_of(133, STRICT.max_failure_rate, 1 - STRICT.confidence, 0.005)
    scenario = next(one for one in POWER if "133" in one.name)
    tally = trials(scenario, 2 * RUNS, seed=3)
    assert told >= 0.8
    assert tally.passed >= 2 * RUNS - at_most(1 - told, 2 * RUNS)


def check(scenario: Scenario, runs: int, seed: int) -> None:
    tally = trials(scenario, runs, seed)
    given = {"pass": tally.passed, "fail": tally.failed}[str(scenario.wrong)]
    assert given <= at_most(scenario.claim, runs), f"{given} of {runs} were judged {scenario.wrong}"
