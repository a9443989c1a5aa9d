"""What groups and gateways mean for a campaign that is about to be made: who goes where, what is refused, what is warned of."""

from collections.abc import Mapping, Sequence

from firmware.errors import RefusedError
from server.planner import budgets
from server.planner.budgets import CAMPAIGN
from server.planner.gateways import LABELS, OWN_LABELS
from server.planner.group_checks import steps_between
from server.planner.grouping import Dealt as Dealt
from server.planner.grouping import check_paths, leaves_first, paths_of, regroup, whole_groups
from server.planner.rows import AssignmentRow, CohortRow
from server.planner.strategy import BudgetPolicy, Strategy
from server.planner.surroundings import MAX_PEERS
from server.ports import CampaignSpec, ReleaseRecord, Unit

SHOWN = 5


def choose(unit: Unit, spec: CampaignSpec, targets: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """The targets that the campaign takes, and warnings about who is left out or held for ever.

    Raises `RefusedError` (`bad-strategy`, `gateway-path`) for what can't come to an end.
    """
    strategy = spec.strategy
    check_after(unit, spec)
    labels = unit.fleet.labels((*LABELS, *OWN_LABELS))
    check_paths(targets, labels)
    warnings: list[str] = []
    if strategy.together is not None:
        by = strategy.together.by
        targets, left = whole_groups(targets, _values(unit, by))
        if left:
            warnings.append(
                f"{_shown(by, left)} left out: the campaign doesn't take all of its members."
                if len(left) == 1
                else f"{_shown(by, left)} are left out: the campaign doesn't take all of their members."
            )
    held = [name for name, path in paths_of(targets, labels).items() if path.fault]
    if held:
        warnings.append(f"{_names(held)} will be held, because nobody knows the management path (gateway-path).")
    return targets, warnings


def deal(
    unit: Unit, spec: CampaignSpec, campaign: str, cohorts: Sequence[CohortRow], assignments: Sequence[AssignmentRow]
) -> Dealt:
    """The cohorts as groups and gateways ask for."""
    strategy = spec.strategy
    values = {} if strategy.together is None else _values(unit, strategy.together.by)
    if strategy.leaves_first:
        paths = paths_of([row.target for row in assignments], unit.fleet.labels((*LABELS, *OWN_LABELS)))
        return leaves_first(campaign, cohorts, assignments, paths, values)
    if values:
        cohorts, assignments = regroup(cohorts, assignments, values)
    return Dealt(cohorts=list(cohorts), assignments=list(assignments), behind=[])


def warn(unit: Unit, spec: CampaignSpec, release: ReleaseRecord, targets: Sequence[str]) -> list[str]:
    """What of the strategy can never let some of these targets go."""
    strategy, found = spec.strategy, []
    for budget in strategy.budgets:
        found += _of_budget(unit, budget, targets)
    found += _of_skew(unit, strategy, release) + _of_bandwidth(strategy, release)
    for policy in (strategy.skew, strategy.together):
        if policy is not None:
            sizes = _sizes(unit, policy.by, targets)
            large = [value for value, number in sizes.items() if number > MAX_PEERS]
            if large:
                found.append(f"{_shown(policy.by, large)}: more than {MAX_PEERS} members are too many to compare.")
    return found


def check_after(unit: Unit, spec: CampaignSpec) -> None:
    """A campaign is made after those it comes after, so that they can't form a cycle; only it itself could, or a revision.
    Raises `RefusedError` (`bad-strategy`)."""
    for policy in spec.strategy.after:
        if policy.campaign == spec.name:
            text = f"The campaign comes after itself: {spec.name} → {spec.name}. Name another one in `after`."
            raise RefusedError("bad-strategy", text)
        if unit.campaigns.view(policy.campaign) is None:
            raise RefusedError("bad-strategy", f"There is no campaign {policy.campaign} to come after; make it first.")
    circle = _circle(unit, spec.name, tuple(policy.campaign for policy in spec.strategy.after))
    if circle:
        text = f"Campaigns would come after each other in a circle: {' → '.join(circle)}. Take one `after` out."
        raise RefusedError("bad-strategy", text)


def _circle(unit: Unit, name: str, after: tuple[str, ...]) -> tuple[str, ...]:
    """The campaigns from `name` back to itself, each after the next; empty when there is no such way."""
    ways: list[tuple[str, ...]] = [(name, one) for one in after]
    seen = {name}
    while ways:
        way = ways.pop()
        if way[-1] == name:
            return way
        view = unit.campaigns.view(way[-1]) if way[-1] not in seen else None
        seen.add(way[-1])
        ways += [(*way, policy.campaign) for policy in view.row.strategy.after] if view else []
    return ()


def _of_budget(unit: Unit, budget: BudgetPolicy, targets: Sequence[str]) -> list[str]:
    if budget.by == CAMPAIGN:
        none = budgets.share_of(budget, len(targets)) == 0
        return [f"{budget.percent:g} % of {len(targets)} targets is none, so none could ever go."] if none else []
    values = _values(unit, budget.by)
    found = []
    outside = sum(target not in values for target in targets)
    if outside:
        found.append(
            f"{outside} of {len(targets)} targets have no label {budget.by}, so that budget doesn't bind them."
        )
    sizes = _sizes(unit, budget.by, targets, values)
    small = [value for value, number in sizes.items() if budgets.share_of(budget, number) == 0]
    if small:
        why = f"{budget.keep} must stay up" if budget.keep is not None else f"{budget.percent:g} % of them is none"
        found.append(f"{_shown(budget.by, small)} too small: {why}, so none of it may ever go (too-few-members).")
    return found


def _of_bandwidth(strategy: Strategy, release: ReleaseRecord) -> list[str]:
    """Limits at which a whole image takes longer than its order lives, or than it may download."""
    found, places = [], {policy.by: policy.limit for policy in strategy.downloads}
    ends: list[tuple[float, str]] = [(strategy.order_ttl_s, "its order expires")]
    if strategy.timeouts.download_s is not None:
        ends.append((strategy.timeouts.download_s, "its download is given up"))
    longest_s, end = min(ends)
    for policy in strategy.bandwidth:
        each = policy.limit // places[policy.by]
        needs_s = release.length / each
        if needs_s > longest_s:
            share = f"At {each} bytes per second, its share of the {policy.limit} of {policy.by}"
            takes = f"a whole image of {release.length} bytes takes {needs_s / 3600:.1f} hours"
            found.append(f"{share}, {takes}, and {end} after {longest_s / 3600:.1f}.")
    return found


def _of_skew(unit: Unit, strategy: Strategy, release: ReleaseRecord) -> list[str]:
    if strategy.skew is None:
        return []
    known, runs = [row for row in unit.releases.list() if row.product == release.product], unit.fleet.versions()
    counters = tuple(sorted(row.counter for row in known))
    run = [row.counter for row in known if row.version in runs]
    far = [one for one in run if steps_between(counters, one, release.counter) > strategy.skew.most]
    if not far:
        return []
    apart = f"more than {strategy.skew.most} steps from {release.version}"
    return [f"Who runs a release {apart} can't go while another of its group does (skew); take the steps one by one."]


def _values(unit: Unit, label: str) -> dict[str, str]:
    return {target: own[label] for target, own in unit.fleet.labels((label,)).items()}


def _sizes(unit: Unit, label: str, targets: Sequence[str], values: Mapping[str, str] | None = None) -> dict[str, int]:
    """How many members the groups have that these targets are in."""
    values = _values(unit, label) if values is None else values
    mine = {values[target] for target in targets if target in values}
    sizes: dict[str, int] = {}
    for value in values.values():
        if value in mine:
            sizes[value] = sizes.get(value, 0) + 1
    return dict(sorted(sizes.items()))


def _shown(label: str, values: Sequence[str]) -> str:
    names = ", ".join(f"{label}={value}" for value in values[:SHOWN])
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return f"{names}{more}: {len(values)} groups" if len(values) > 1 else f"{names}"


def _names(targets: Sequence[str]) -> str:
    more = f" and {len(targets) - SHOWN} more" if len(targets) > SHOWN else ""
    return ", ".join(targets[:SHOWN]) + more
