"""A target and its control by their own hours: what the gate of kind `metrics` is told, and what it waits for.

Rules
- After: the whole hours from the target's commit on, for as long as the gate observes. Before: the same hours of the week in the
  `WEEKS` before its permit. An hour counts where both were measured, so what belongs to a time of day or week is no change.
- A target and its control are compared over the same hours. The change of each is the mean over those of after minus before.
- A control that got a permit between the target's own and the end of the observation is none; nobody takes its place, for who is
  taken later would be taken by how things went.
- Nothing is compared before both have told what is later than the observation, or have had `PATIENCE_S` for it. A target that
  was measured before and then told less than half of what its control did is silent, which is worse whatever the number was.
- What was not measured before can't be compared; that is said, and no gate passes by it.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from msgspec import Struct

from server.planner.gate_words import plural
from server.planner.strategy import GatePolicy

HOUR_S = 3600.0
WEEK = 168
WEEKS = 4
PATIENCE_S = 12 * HOUR_S
"""Longer than an agent may wait until it tells what it measured."""
LEAST_SHARE = 0.5
Hours = Mapping[int, float]
"""By hours since 1970 UTC."""


class Pair(Struct, frozen=True, kw_only=True, gc=False):
    """A verified target and its control. `disturbed_at`: the first permit that the control got after the target's own."""

    target: str
    control: str
    rank: int
    permitted_at: float
    committed_at: float
    disturbed_at: float | None = None
    is_updated: bool = False
    """Whether the control runs the release, however that came."""


class Comparison(Struct, frozen=True, kw_only=True, gc=False):
    """`changes`: of the target and its control, by metric; None as long as they can't be compared, for which `text` says why.
    `until`: when that may be otherwise; None where that isn't known."""

    changes: dict[str, tuple[float | None, float]] | None = None
    text: str = ""
    until: float | None = None


def observed(gate: GatePolicy, pair: Pair) -> range:
    """The hours after the commit that are compared."""
    first = math.ceil(pair.committed_at / HOUR_S)
    return range(first, first + max(1, math.ceil(gate.observe_s / HOUR_S)))


def needed(gate: GatePolicy, pair: Pair) -> tuple[range, ...]:
    """All hours that a comparison looks at: those observed with some after them, and the same of each week before."""
    hours = observed(gate, pair)
    before = (range(hours.start - WEEK * week, hours.stop - WEEK * week) for week in range(1, WEEKS + 1))
    return range(hours.start, hours.stop + int(PATIENCE_S // HOUR_S)), *before


def unready(gate: GatePolicy, pair: Pair, now: float) -> Comparison | None:
    """Why a pair isn't compared at `now`, whatever was measured; None when that decides."""
    end = observed(gate, pair).stop * HOUR_S
    if pair.disturbed_at is not None and pair.disturbed_at < end:
        return Comparison(text=f"Its control {pair.control} was updated meanwhile, so it is compared with nobody.")
    if pair.is_updated and pair.disturbed_at is None:
        return Comparison(text=f"Its control {pair.control} runs the release, too, so it is compared with nobody.")
    if now < end:
        text = f"Its metrics are observed until {_moment(end)}, and those of its control {pair.control}."
        return Comparison(text=text, until=end)
    return None


def compare(gate: GatePolicy, pair: Pair, told: Mapping[tuple[str, str], Hours], now: float) -> Comparison:
    """The comparison of a pair at `now`; `told`: by target and metric, what was measured in the hours of `needed`."""
    early = unready(gate, pair, now)
    if early is not None:
        return early
    hours = observed(gate, pair)
    end = hours.stop * HOUR_S
    silent = [one for one in (pair.target, pair.control) if not _told_beyond(gate, told, one, hours.stop)]
    patience = end + PATIENCE_S
    if silent and now < patience:
        who = f"{' and '.join(silent)} {'has' if len(silent) == 1 else 'have'}"
        return Comparison(text=f"{who} yet to tell what was measured until {_moment(end)}.", until=patience)
    return _compared(gate, pair, told, hours)


def _compared(gate: GatePolicy, pair: Pair, told: Mapping[tuple[str, str], Hours], hours: range) -> Comparison:
    before = int(pair.permitted_at // HOUR_S)
    changes: dict[str, tuple[float | None, float]] = {}
    lacking: list[str] = []
    for metric in gate.metrics:
        own, control = (told.get((one, metric.name), {}) for one in (pair.target, pair.control))
        found = _changes(own, control, hours, before)
        if isinstance(found, str):
            lacking.append(f"{metric.name}: {found.format(target=pair.target, control=pair.control)}")
        else:
            changes[metric.name] = found
    if changes:
        return Comparison(changes=changes, text=" ".join(lacking))
    return Comparison(text=f"It can't be compared with {pair.control}. {' '.join(lacking)}")


def _changes(own: Hours, control: Hours, hours: range, before: int) -> tuple[float | None, float] | str:
    """The changes of target and control, or a sentence about what is missing."""
    after = [hour for hour in hours if hour in control]
    if not after:
        return f"{{control}} told nothing of {_hours(hours)} after the commit."
    of_control = {hour: control[hour] - was for hour in after if (was := _before(control, hour, before)) is not None}
    if not of_control:
        return f"{{control}} told nothing of the same hours of the {WEEKS} weeks before."
    own_before = {hour: was for hour in of_control if (was := _before(own, hour, before)) is not None}
    if not own_before:
        return f"{{target}} told nothing of the same hours of the {WEEKS} weeks before."
    both = [hour for hour in own_before if hour in own]
    if len(both) < LEAST_SHARE * len(own_before):
        return None, _mean(of_control.values())
    return _mean([own[hour] - own_before[hour] for hour in both]), _mean([of_control[hour] for hour in both])


def _before(told: Hours, hour: int, before: int) -> float | None:
    """The mean of the same hour of the weeks before hour `before`; None when none was measured."""
    same = [told[then] for week in range(1, WEEKS + 1) if (then := hour - WEEK * week) < before and then in told]
    return _mean(same) if same else None


def _told_beyond(gate: GatePolicy, told: Mapping[tuple[str, str], Hours], target: str, hour: int) -> bool:
    """Whether the target told something of an hour that is not before this one. Hours are told in order."""
    return any(max(told.get((target, metric.name), {}), default=-1) >= hour - 1 for metric in gate.metrics)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


def _hours(hours: range) -> str:
    return plural(len(hours), "hour") if len(hours) > 1 else "the hour"


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
