"""Worlds that can't be, and what in a world could never come about: refused at the place where they say so.

Rules
- What is refused is so whatever the seed is. What only chance may keep from happening is a world like any other.
- What would do nothing (a deed after the world's days, a label that is overwritten) is refused, too: who wrote it takes it for
  something.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from server.planner.budgets import CAMPAIGN
from server.planner.calendar import next_fit, zone_of
from server.planner.plain import bad
from simulator.virtual import deeds
from simulator.virtual.blocks import best_rate
from simulator.virtual.churn import successor
from simulator.virtual.making import matches
from simulator.virtual.world import Lot, Member, Release, Start, World, labels_of

DAY_S = 86400.0
LATEST = 4102444800.0
"""2100-01-01: no world begins later."""


def check(world: World) -> None:
    """Raise `StrategyError` (`bad-strategy`) for the first thing that can't be; `where` is its place in the scenario."""
    if not 0 <= world.begins <= LATEST:
        raise bad("begins", "be from 1970 to 2099")
    for n, lot in enumerate(world.lots):
        _check_lot(lot, f"fleet[{n}]", world.days * DAY_S)
    for n, release in enumerate(world.releases):
        _check_release(world, release, f"releases[{n}]")
    for n, start in enumerate(world.campaigns):
        _check_campaign(world, start, f"campaigns[{n}].file")
    _check_acts(world)
    _check_cuts(world)
    deeds.check(world)


def _check_lot(lot: Lot, where: str, lasts_s: float) -> None:
    given = (
        {"site": "sites"} | ({"pair": "pairs"} if lot.pairs else {}) | ({"gateway": "gateway"} if lot.gateway else {})
    )
    given |= {} if lot.zone == "UTC" else {"timezone": "timezone"}
    for label, key in given.items():
        if label in lot.labels:
            raise bad(f"{where}.labels.{label}", f"be left out: `{key}` says what this label is")
    if "timezone" in lot.labels and zone_of(lot.labels["timezone"]) is None:
        raise bad(f"{where}.labels.timezone", "be the name of a time zone, such as Europe/Berlin")
    if lot.link.latency_s > DAY_S:
        raise bad(f"{where}.link.latency", "be a day at most")
    habit = lot.habit
    if habit.outages.share >= 1:
        raise bad(f"{where}.presence.outages.share", "be less than 100%, or nobody is ever there")
    if habit.asleep >= 1 and habit.asleep_s >= lasts_s:
        raise bad(
            f"{where}.presence.asleep", "let some wake up before the world's days are over, or nobody is ever there"
        )


def _check_release(world: World, release: Release, where: str) -> None:
    lots = _lots_for(world, release)
    if not lots:
        raise bad(f"{where}.hardware", f"name hardware of the fleet: nobody has {', '.join(release.hardware)}")
    starts = [one.after_s for one in world.campaigns if one.spec.version == release.version]
    left_s = world.days * DAY_S - min(starts, default=0.0)
    quickest_s = min(release.size_bytes / _quickest(lot) for lot in lots)
    if quickest_s > left_s:
        text = f"be smaller: the quickest link of its devices takes {quickest_s / DAY_S:.1f} days for it"
        raise bad(f"{where}.image", f"{text}, and the world has {left_s / DAY_S:g}")
    for n, fault in enumerate(release.faults):
        if fault.after_s >= left_s:
            raise bad(
                f"{where}.defects[{n}].after", f"be shorter than the {left_s / DAY_S:g} days that are left for it"
            )


def _quickest(lot: Lot) -> float:
    """Bytes per second that the best of the lot's links may bring."""
    rate = lot.link.bytes_per_s * lot.link_spread
    return min(rate, best_rate(lot.link)) if lot.mqtt_only >= 1 else rate


def _check_campaign(world: World, start: Start, where: str) -> None:
    spec, ends = start.spec, world.begins + world.days * DAY_S
    if spec.start_at is not None and spec.start_at >= ends:
        raise bad(where, "have a `start_at` before the world's days are over")
    labels = {label for lot in world.lots for label in _labels_of(lot)}
    strategy = spec.strategy
    limits = [
        *(("budgets", budget.by) for budget in strategy.budgets),
        *(("rates", rate.by) for rate in (*strategy.rates, *strategy.rollback_rates)),
        *(("downloads", limit.by) for limit in strategy.downloads),
        *(("skew", skew.by) for skew in (strategy.skew,) if skew is not None),
        *(("together", group.by) for group in (strategy.together,) if group is not None),
    ]
    for key, by in limits:
        if by not in (CAMPAIGN, *labels):
            raise bad(where, f"have {key} by a label that somebody has ({', '.join(sorted(labels))}), not by {by}")
    if next(_selected(world, start), None) is None:
        raise bad(where, f"select somebody: nobody of the fleet is there for {spec.name} when it begins")
    _check_budgets(world, start, where)
    if not _has_time(world, start):
        raise bad(where, "have a window in the world's days: with its windows and freezes nobody may ever restart")


def _check_budgets(world: World, start: Start, where: str) -> None:
    """A budget leaves somebody free to go."""
    for budget in start.spec.strategy.budgets:
        if budget.keep is not None:
            most = _largest(world, budget.by)
            if budget.keep >= most:
                raise bad(
                    where, f"keep fewer up: no {budget.by} has more than {most}, so with keep {budget.keep} nobody goes"
                )


def _largest(world: World, label: str) -> int:
    """How many devices the largest group by a label has."""
    sizes: Counter[str] = Counter()
    for lot in world.lots:
        of_site = -(-lot.devices // lot.sites)
        dealt = {"site": of_site} | ({"pair": min(of_site, 2)} if lot.pairs else {})
        dealt |= {"gateway": of_site - 1} if lot.gateway else {}
        if label in dealt:
            sizes[f"{lot.name}-"] = dealt[label]
        elif label in (labels := labels_of(lot, 0)):
            sizes[labels[label]] += lot.devices
    return max(sizes.values())


def _has_time(world: World, start: Start) -> bool:
    """Whether some device that it may be for may be down at some time of the world's days."""
    strategy, ends = start.spec.strategy, world.begins + world.days * DAY_S
    calendar, begins = strategy.calendar, max(world.begins + start.after_s, start.spec.start_at or 0.0)
    if not calendar:
        return True
    lots = _lots_for(world, _release_of(world, start))
    own = {lot.labels.get("timezone", calendar.zone if lot.zone == "UTC" else lot.zone) for lot in lots}
    for name in own:
        zone = zone_of(name)
        at = None if zone is None else next_fit(calendar, zone, begins, strategy.away_s)
        if at is not None and at < ends:
            return True
    return False


def _check_acts(world: World) -> None:
    begins = {start.spec.name: start.after_s for start in world.campaigns}
    for n, act in enumerate(world.acts):
        if act.after_s < begins[act.campaign]:
            raise bad(f"acts[{n}].after", f"be later than {act.campaign} begins ({begins[act.campaign]:g} s)")
        if act.after_s >= world.days * DAY_S:
            raise bad(f"acts[{n}].after", "be before the world's days are over")


def _check_cuts(world: World) -> None:
    """Who loses power at an operation of an update may get one."""
    for n, lot in enumerate(world.lots):
        alone = replace(world, lots=(lot,))
        if lot.cuts and not any(
            start.spec.selection.is_live or next(_selected(alone, start), None) for start in world.campaigns
        ):
            raise bad(f"fleet[{n}].faults.power_cuts", "be left out: no campaign is for these devices")


def _members(world: World, lot: Lot) -> Iterator[Member]:
    """A lot's devices, by what selections look at."""
    first = next(replace(world, lots=(lot,)).members(world.seed))
    for number in range(lot.devices):
        name, labels = f"{lot.name}-{number:06}", labels_of(lot, number)
        yield Member(id=name, hardware=lot.hardware, labels=labels, week=(), version=first.version)


def _release_of(world: World, start: Start) -> Release:
    return next(one for one in world.releases if one.version == start.spec.version)


def _lots_for(world: World, release: Release) -> list[Lot]:
    return [lot for lot in world.lots if not release.hardware or lot.hardware in release.hardware]


def _labels_of(lot: Lot) -> set[str]:
    given = {"timezone": lot.zone != "UTC", "pair": lot.pairs, "gateway": lot.gateway and lot.devices > lot.sites}
    return {"site", *lot.labels, *(label for label, is_given in given.items() if is_given)}


def _selected(world: World, start: Start) -> Iterator[Member]:
    """Whom it selects when it begins, whatever chance says: who joins later, or is shut out before, is not there."""
    selection = start.spec.selection
    before = [one.spec.version for one in world.campaigns if one.after_s < start.after_s]
    replaced = {one.lot for one in world.churn if one.kind == "replace"}

    def fits(one: Member) -> bool:
        return any(
            matches(selection, one, runs) and not any(matches(out, one, runs) for out in selection.exclude)
            for runs in (one.version, *before)
        )

    for lot in _lots_for(world, _release_of(world, start)):
        if not _is_out(world, lot, start.after_s):
            for one in _members(world, lot):
                if fits(one) or (lot.name in replaced and fits(successor(one))):
                    yield one


def _is_out(world: World, lot: Lot, at_s: float) -> bool:
    """Whether no device of the lot is in the fleet at this time, as all of them join later, or were copied before."""
    for one in world.churn:
        if one.lot == lot.name:
            is_late = one.kind == "join" and at_s <= one.after_s
            was_copied = one.kind == "clone" and one.after_s + one.within_s <= at_s
            if not (is_late or was_copied):
                return False
            if one.share >= 1:
                return True
    return False
