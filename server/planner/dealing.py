"""Strata, sites and controls of a campaign's cohorts, written down when it is made.

Rules
- What a target has then decides where it counts; so an update, which changes versions, moves nobody.
- A control is of a later cohort and of the same stratum, of the same site where there is one. Both are in random order by rank,
  so the pairing is as random as the cohorts; and each control serves one target.
- The number of strata is bounded: more would be more than anybody can have the power for.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from firmware.errors import RefusedError
from server.planner import strata
from server.planner.gate_rows import Stratum
from server.planner.rows import AssignmentRow, CohortRow
from server.planner.strategy import CohortPolicy, Strategy

MAX_STRATA = 64
Traits = Mapping[str, dict[str, str]]
"""By target, what it has: `hardware`, `version` and labels, as far as `strata.names` asks for them."""


def deal(
    strategy: Strategy, cohorts: Sequence[CohortRow], assignments: Sequence[AssignmentRow], traits: Traits
) -> tuple[list[CohortRow], Iterable[AssignmentRow]]:
    """The cohorts with their strata, and the assignments with their traits, the size of their sites and their controls: made
    while they are gone through, which can be done once, so that the rows of a large fleet aren't there twice. Those of a campaign
    that compares metrics are a list: who is whose control is known at the end only.

    Raises `RefusedError` (`too-many-strata`).
    """
    if not strata.names(strategy):
        return list(cohorts), assignments
    sizes: Counter[strata.Key] = Counter(key for row in assignments if (key := _key(strategy, row, traits)))
    told = _strata(sizes)
    for index, found in told.items():
        _check(strategy.cohorts[index], len(found))
    rows = (_counted(row, traits.get(row.target, {}), sizes, _key(strategy, row, traits)) for row in assignments)
    return [replace(row, strata=told.get(row.index, {})) for row in cohorts], _paired(strategy, rows)


def _key(strategy: Strategy, row: AssignmentRow, traits: Traits) -> strata.Key | None:
    where = strata.place_of(strategy.cohorts[row.cohort], row.target, traits.get(row.target, {}))
    return None if where is None else (row.cohort, *where)


def _counted(
    row: AssignmentRow, own: dict[str, str], sizes: Mapping[strata.Key, int], key: strata.Key | None
) -> AssignmentRow:
    return replace(row, traits=own, block_size=row.block_size if key is None else sizes[key])


def _strata(sizes: Mapping[strata.Key, int]) -> dict[int, dict[str, Stratum]]:
    targets: Counter[tuple[int, str]] = Counter()
    sites: Counter[tuple[int, str]] = Counter()
    for (cohort, stratum, _), size in sizes.items():
        targets[cohort, stratum] += size
        sites[cohort, stratum] += 1
    found: dict[int, dict[str, Stratum]] = defaultdict(dict)
    for (cohort, stratum), number in sorted(sites.items()):
        found[cohort][stratum] = Stratum(dealt=number, targets=targets[cohort, stratum], sites=number)
    return found


def _check(policy: CohortPolicy, number: int) -> None:
    gate = policy.grouping
    if gate is not None and number > MAX_STRATA:
        by = ", ".join(gate.by)
        text = f"Cohort {policy.name} has {number} strata by {by}, and at most {MAX_STRATA} can be judged; tell fewer apart."
        raise RefusedError("too-many-strata", text)


def _paired(strategy: Strategy, made: Iterable[AssignmentRow]) -> Iterable[AssignmentRow]:
    if not any(gate.kind == "metrics" for policy in strategy.cohorts for gate in policy.gates):
        return made
    rows, controls = list(made), dict[str, str]()
    for index, policy in enumerate(strategy.cohorts):
        if any(gate.kind == "metrics" for gate in policy.gates):
            treated = [row for row in rows if row.cohort == index]
            taken = set(controls.values())
            later = [row for row in rows if row.cohort > index and row.target not in taken]
            controls |= _pairs(policy, treated, later)
    return [replace(row, control=controls[row.target]) if row.target in controls else row for row in rows]


def _pairs(policy: CohortPolicy, treated: Sequence[AssignmentRow], later: Sequence[AssignmentRow]) -> dict[str, str]:
    """By target its control: first within the site, then within the stratum."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for same_site in (True, False):
        pools: dict[object, list[str]] = defaultdict(list)
        for row in reversed(later):
            if row.target not in taken:
                pools[_pool(policy, row, same_site=same_site)].append(row.target)
        for row in treated:
            pool = pools.get(_pool(policy, row, same_site=same_site))
            if row.target not in found and pool:
                found[row.target] = pool.pop()
                taken.add(found[row.target])
    return found


def _pool(policy: CohortPolicy, row: AssignmentRow, *, same_site: bool) -> object:
    where = strata.place(policy, row)
    return where if same_site or where is None else where[0]
