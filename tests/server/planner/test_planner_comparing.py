"""A target and its control by their hours: over the same hours of the week, or not at all."""

from collections.abc import Iterable

import numpy as np
import pytest

from server.planner import pair_gate
from server.planner.comparing import HOUR_S, LEAST_SHARE, PATIENCE_S, WEEK, Comparison, Pair, compare, needed, observed
from server.planner.strategy import GatePolicy, MetricPolicy

GATE = GatePolicy(kind="metrics", metrics=(MetricPolicy(name="free"),), observe_s=4 * HOUR_S)
PERMIT = 5000
"""The hour of the permit; the commit is half an hour later."""
PAIR = Pair(target="t", control="c", rank=0, permitted_at=PERMIT * HOUR_S, committed_at=(PERMIT + 0.5) * HOUR_S)
AFTER = range(PERMIT + 1, PERMIT + 5)
BEFORE = range(AFTER.start - WEEK, AFTER.stop - WEEK)
END = AFTER.stop * HOUR_S
Told = dict[tuple[str, str], dict[int, float]]


def told(own: Iterable[tuple[int, float]], control: Iterable[tuple[int, float]], metric: str = "free") -> Told:
    return {("t", metric): dict(own), ("c", metric): dict(control)}


def level(hours: Iterable[int], value: float) -> dict[int, float]:
    return dict.fromkeys(hours, value)


def weeks(before: float, after: float) -> list[tuple[int, float]]:
    return [*level(BEFORE, before).items(), *level(AFTER, after).items()]


def say(told: Told, *, gate: GatePolicy = GATE, pair: Pair = PAIR, now: float = END) -> Comparison:
    return compare(gate, pair, told, now)


def changes(told: Told, **options: object) -> tuple[float | None, float] | None:
    found = say(told, **options).changes  # type: ignore[arg-type]
    return None if found is None else found["free"]


def test_the_change_is_after_minus_before_of_each() -> None:
    assert observed(GATE, PAIR) == AFTER
    assert changes(told(weeks(100, 40), weeks(200, 190))) == (-60.0, -10.0)


def test_the_hours_of_the_day_cancel_because_only_the_same_hours_are_compared() -> None:
    wave = {hour: float(1000 * (hour % 24)) for hour in range(PERMIT - WEEK * 4, PERMIT + 10)}
    own = {hour: value - (7 if hour > PERMIT else 0) for hour, value in wave.items()}
    assert changes(told(own.items(), wave.items())) == (-7.0, 0.0)


def test_several_weeks_before_are_averaged_and_none_further_back_counts() -> None:
    own = {hour - WEEK * week: float(week) for hour in AFTER for week in range(6)}
    assert changes(told(own.items(), weeks(0, 0))) == (-2.5, 0.0)


def test_an_hour_counts_only_where_both_were_measured_before_and_after() -> None:
    own = weeks(0, 10)
    control = [(hour, value) for hour, value in weeks(0, 1) if hour not in (AFTER[0], BEFORE[1])]
    uneven = [(hour, 1000.0 if hour in (AFTER[0], AFTER[1]) else value) for hour, value in own]
    assert changes(told(uneven, control)) == (10.0, 1.0)
    less = [(hour, value) for hour, value in own if hour != AFTER[3]]
    spoiled = [(hour, 500.0 if hour == AFTER[3] else value) for hour, value in control]
    assert changes(told(less, spoiled), now=END + PATIENCE_S) == (10.0, 1.0)


def test_hours_after_the_update_are_no_hours_before_however_long_it_is_observed() -> None:
    gate = GatePolicy(kind="metrics", metrics=GATE.metrics, observe_s=2 * WEEK * HOUR_S)
    hours = observed(gate, PAIR)
    own = {hour: 100.0 if hour < PERMIT else 0.0 for hour in range(PERMIT - WEEK * 4, hours.stop)}
    same = dict.fromkeys(own, 5.0)
    assert changes(told(own.items(), same.items()), gate=gate, now=hours.stop * HOUR_S) == (-100.0, 0.0)


def test_nothing_is_compared_before_the_observation_is_over() -> None:
    said = say(told(weeks(0, 0), weeks(0, 0)), now=END - 1)
    assert (said.changes, said.until) == (None, END)
    assert "observed until 1970-07-28 13:00 UTC, and those of its control c" in said.text


@pytest.mark.parametrize("late", ["t", "c"])
def test_who_has_yet_to_tell_is_waited_for_and_named(late: str) -> None:
    short = [(hour, value) for hour, value in weeks(0, 1) if hour < AFTER[-1]]
    full = weeks(0, 1)
    what = told(short, full) if late == "t" else told(full, short)
    said = say(what, now=END + PATIENCE_S - 1)
    assert (said.changes, said.until) == (None, END + PATIENCE_S)
    assert said.text == f"{late} has yet to tell what was measured until 1970-07-28 13:00 UTC."
    assert changes(what, now=END + PATIENCE_S) == (1.0, 1.0)
    both = say(told(short, short), now=END)
    assert both.text.startswith("t and c have yet to tell")


def test_a_target_that_falls_silent_while_its_control_tells_is_worse() -> None:
    before_only = level(BEFORE, 5.0).items()
    assert changes(told(before_only, weeks(0, 3)), now=END) is None, "it may still tell"
    assert changes(told(before_only, weeks(0, 3)), now=END + PATIENCE_S) == (None, 3.0)
    some = [*before_only, (AFTER[3], 1.0)]
    assert 1 / len(AFTER) < LEAST_SHARE
    assert changes(told(some, weeks(0, 3))) == (None, 3.0)
    half = [*before_only, (AFTER[2], 1.0), (AFTER[3], 1.0)]
    assert changes(told(half, weeks(0, 3))) == (-4.0, 3.0)


@pytest.mark.parametrize(
    ("own", "control", "why"),
    [
        (weeks(0, 1), [*level(BEFORE, 0).items()], "c told nothing of 4 hours after the commit."),
        (weeks(0, 1), [*level(AFTER, 0).items()], "c told nothing of the same hours of the 4 weeks before."),
        ([*level(AFTER, 0).items()], weeks(0, 1), "t told nothing of the same hours of the 4 weeks before."),
        ([], weeks(0, 1), "t told nothing of the same hours of the 4 weeks before."),
        ([], [], "c told nothing of 4 hours after the commit."),
    ],
)
def test_what_was_not_measured_is_named_and_nothing_is_compared(
    own: list[tuple[int, float]], control: list[tuple[int, float]], why: str
) -> None:
    said = say(told(own, control), now=END + PATIENCE_S)
    assert said.changes is None
    assert said.text == f"It can't be compared with c. free: {why}"


def test_a_metric_that_is_missing_does_not_hold_up_the_others() -> None:
    gate = GatePolicy(kind="metrics", metrics=(*GATE.metrics, MetricPolicy(name="crashes")), observe_s=GATE.observe_s)
    said = say(told(weeks(0, 1), weeks(0, 2)), gate=gate)
    assert said.changes == {"free": (1.0, 2.0)}
    assert said.text.startswith("crashes: c told nothing")


def test_a_control_that_was_updated_meanwhile_is_none() -> None:
    full = told(weeks(0, 1), weeks(0, 2))
    at = PAIR.permitted_at
    for pair in (
        Pair(**{**fields(), "disturbed_at": at}),
        Pair(**{**fields(), "disturbed_at": END - 1}),
        Pair(**{**fields(), "is_updated": True}),
    ):
        said = say(full, pair=pair)
        assert said.changes is None
        assert "so it is compared with nobody" in said.text
    afterwards = Pair(**{**fields(), "disturbed_at": END, "is_updated": True})
    assert changes(full, pair=afterwards) == (1.0, 2.0)


def worse(effect: float, dice: np.random.Generator) -> float:
    """The half points of one pair of devices whose level goes with the hour of the week, wanders, and falls with each boot; by
    `effect` standard deviations of an hour it is lower after the update."""
    hours = np.arange(PERMIT - WEEK * 4, AFTER.stop)
    busy = 30 * np.sin(hours * 2 * np.pi / 24) + 50 * (hours % WEEK < 48)
    found: Told = {}
    for name in ("t", "c"):
        wander = np.zeros(len(hours))
        for place in range(1, len(hours)):
            wander[place] = 0 if dice.random() < 0.01 else 0.95 * wander[place - 1] + dice.normal()
        level = 1000 * dice.random() + busy + wander
        if name == "t":
            level = level - effect * wander.std() * (hours >= PERMIT)
        found[name, "free"] = dict(zip(hours.tolist(), level.tolist(), strict=True))
    own, control = changes(found) or (None, 0.0)
    return pair_gate.half_points(MetricPolicy(name="free", worse="lower"), own, control) / 2


def test_without_an_effect_worse_is_as_likely_as_better_and_with_one_it_is_not() -> None:
    dice = np.random.default_rng(7)
    none = np.mean([worse(0.0, dice) for _ in range(400)])
    assert 0.42 < none < 0.58, "four standard errors around an even chance are 0.1"
    assert np.mean([worse(2.0, dice) for _ in range(200)]) > 0.8


def test_the_hours_needed_hold_all_that_is_looked_at() -> None:
    now, *before = needed(GATE, PAIR)
    assert now.start == AFTER.start
    assert now.stop > AFTER.stop
    assert before == [range(AFTER.start - WEEK * week, AFTER.stop - WEEK * week) for week in (1, 2, 3, 4)]


def fields() -> dict[str, object]:
    return {name: getattr(PAIR, name) for name in PAIR.__struct_fields__}
