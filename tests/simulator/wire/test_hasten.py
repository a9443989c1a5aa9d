"""A campaign that goes faster: every duration is divided, none below what the wire takes, and hours of the day are refused."""

import pytest

from firmware.errors import RefusedError
from server.campaigns.strategy_file import parse_campaign
from simulator.virtual.library import load, names
from simulator.wire.hasten import LEAST_TRIAL_S, MORE_S, hastened

TEXT = """
name: spring
product: lamp
version: "2.0.0"
strategy:
  extends: standard
  name: careful
  patience: 12h
  rates: [{count: 20, every: 1h}]
  retry: 30s
"""


def test_one_is_the_same_word_for_word() -> None:
    assert hastened(TEXT, 1) == TEXT


def test_what_is_said_what_is_extended_and_what_is_usual_are_divided() -> None:
    before, after = parse_campaign(TEXT).strategy, parse_campaign(hastened(TEXT, 60)).strategy
    assert after.patience_s == before.patience_s / 60 == 720
    assert after.rates[0].every_s == 60
    assert after.healthy_s == 5
    assert after.cohorts == before.cohorts
    assert after.budgets == before.budgets


def test_none_is_below_what_the_wire_takes() -> None:
    found = parse_campaign(hastened(TEXT, 2000)).strategy
    assert (found.trial_s, found.horizon_s, found.retry_s) == (LEAST_TRIAL_S, LEAST_TRIAL_S + MORE_S, 2)


@pytest.mark.parametrize(
    "more",
    ['  windows: [{days: [tue], start: "01:30", end: "04:00"}]', '  freezes: [{from: "2026-12-24", to: "2026-12-27"}]'],
)
def test_hours_of_the_day_are_refused(more: str) -> None:
    with pytest.raises(RefusedError) as refused:
        hastened(f"{TEXT}{more}\n", 60)
    assert refused.value.kind == "not-hastened"
    assert "spring" in refused.value.text


def is_refused(text: str) -> bool:
    """Whether the campaign is bound to hours; else it can be hastened."""
    try:
        parse_campaign(hastened(text, 600))
    except RefusedError as error:
        return error.kind == "not-hastened"
    return False


def test_every_scenario_of_the_library_can_be_hastened_or_is_bound_to_hours() -> None:
    assert [name for name in names() if any(is_refused(start.text) for start in load(name).campaigns)] == [
        "night-shift"
    ]


@pytest.mark.parametrize("name", [name for name in names(wire=True) if load(name, deeds=True).deeds])
def test_what_only_the_wire_shows_is_refused_in_virtual_time_with_the_way_to_run_it(name: str) -> None:
    with pytest.raises(RefusedError) as refused:
        load(name)
    assert refused.value.kind == "not-in-virtual-time"
    assert "--wire" in refused.value.text
    assert load(name, deeds=True).deeds
