"""What presence taught, loaded for what is decided when a campaign is made, and told with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.planner import cohorts, expectations
from server.planner.arrivals import Outlook, pooled
from server.planner.strategy import Strategy
from server.ports import CampaignSpec, Unit

SAMPLE = 2000


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The strategy with what was chosen for it, the mean chance that a target comes within the patience, and why."""

    strategy: Strategy
    reach: float = 1.0
    notes: Sequence[str] = ()


def expected(unit: Unit, spec: CampaignSpec, targets: Sequence[str], now: float) -> Expected:
    """Choose when orders expire, and by how much cohorts are filled up, where the strategy leaves that to what was learned."""
    strategy = spec.strategy
    if not strategy.order_ttl_auto and not any(cohort.reachable for cohort in strategy.cohorts):
        return Expected(strategy=strategy)
    outlooks = _outlooks(unit, targets, now)
    notes: list[str] = []
    if strategy.order_ttl_auto:
        strategy, told = _with_expiry(strategy, outlooks)
        notes.append(told)
    chance = expectations.reach(outlooks, strategy.patience_s)
    notes += _filled_up(strategy, len(targets), chance)
    return Expected(strategy=strategy, reach=1.0 if chance is None else chance, notes=notes)


def kept(spec: CampaignSpec, before: Strategy) -> CampaignSpec:
    """The file as it is compared with what is there: what was chosen then stands."""
    if not (spec.strategy.order_ttl_auto and before.order_ttl_auto):
        return spec
    return replace(spec, strategy=replace(spec.strategy, order_ttl_s=before.order_ttl_s))


def _outlooks(unit: Unit, targets: Sequence[str], now: float) -> list[Outlook]:
    some = targets[:: math.ceil(len(targets) / SAMPLE)] if targets else targets
    agents = unit.presences.agents(some)
    rows = unit.presences.of(sorted(set(agents.values())), now)
    fleet = pooled(list(rows.values()))
    return [Outlook(rows.get(agents.get(target, "")), fleet, now) for target in some]


def _with_expiry(strategy: Strategy, outlooks: Sequence[Outlook]) -> tuple[Strategy, str]:
    chosen = expectations.expiry_s(outlooks, strategy.patience_s)
    if chosen is None:
        days = f"{strategy.order_ttl_s / 86400:g}"
        return (
            strategy,
            f"Orders expire after {days} days (order_ttl: auto): nothing is known yet of when targets come.",
        )
    never = expectations.unexpected(outlooks)
    apart = f", apart from the {never:.1%} that aren't expected at all" if never >= 0.0005 else ""
    text = (
        f"Orders expire after {chosen / 86400:.3g} days (order_ttl: auto): by then 99 % of those that come are expected"
        f" to have come{apart}."
    )
    return replace(strategy, order_ttl_s=chosen), text


def _filled_up(strategy: Strategy, total: int, chance: float | None) -> list[str]:
    mine = [cohort for cohort in strategy.cohorts if cohort.reachable]
    if mine and chance is None:
        return ["No cohort is filled up (reachable): nothing is known yet of when targets come."]
    found = []
    for cohort, size in zip(strategy.cohorts, cohorts.sizes(strategy.cohorts, total, chance or 1.0), strict=True):
        if cohort.reachable:
            named = cohorts.wanted(cohort, total)
            comes = f"{chance:.0%} of them are expected within the patience on average"
            short = "" if size >= cohorts.filled_up(named, chance or 1.0) else "; there are no more"
            found.append(f"Cohort {cohort.name} takes {size} targets for {named} reachable ones: {comes}{short}.")
    return found
