"""How the groups of a campaign's targets are dealt into its cohorts, when it is made.

Rules
- `together`: a group goes into one cohort, whole: the one that has room when the first of its members is dealt. So a cohort may
  become larger than asked by less than a group. A group with members that the campaign doesn't take is left out, whole.
- `leaves-first`: a gateway is dealt right after the last of those behind it, so into the last of their cohorts or the one after;
  an earlier cohort could never be decided.
- Paths that come back to themselves by operators' labels are refused. Made by devices' own labels they hold those devices only.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from firmware.errors import RefusedError
from server.planner.gateways import LABELS, Path, named, path_of
from server.planner.rows import AssignmentRow, CohortRow
from server.planner.surroundings import BehindRow
from server.planner.words import LATE, AssignmentState

Labels = Mapping[str, Mapping[str, str]]
"""Labels by target."""


class Dealt(Struct, frozen=True, kw_only=True, gc=False):
    """A campaign's cohorts and assignments, and the counters of its gateways."""

    cohorts: list[CohortRow]
    assignments: list[AssignmentRow]
    behind: list[BehindRow]


def whole_groups(targets: Sequence[str], values: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The targets without those whose group isn't taken whole, and the names of the groups left out. `values`: of each target of
    the fleet the value of the label by which they go together."""
    taken, others = set(targets), set()
    for target, value in values.items():
        if target not in taken:
            others.add(value)
    return [target for target in targets if values.get(target) not in others], sorted(
        {values[target] for target in targets if values.get(target) in others}
    )


def regroup(
    cohorts: Sequence[CohortRow], assignments: Sequence[AssignmentRow], values: Mapping[str, str]
) -> tuple[list[CohortRow], list[AssignmentRow]]:
    """Deal again, in the same order, group by group."""
    return _refill(cohorts, _units(assignments, values))


def leaves_first(
    campaign: str,
    cohorts: Sequence[CohortRow],
    assignments: Sequence[AssignmentRow],
    paths: Mapping[str, Path],
    values: Mapping[str, str] | None = None,
) -> Dealt:
    """Deal again, gateways after their leaves, and count what is behind each. `paths`: of targets that have one; `values`: as in
    `regroup`."""
    mine = {row.target for row in assignments}
    above = {target: tuple(g for g in _gateways(paths, target) if g in mine) for target in mine}
    units = _units(assignments, values or {})
    _, dealt = _refill(cohorts, _gateways_later(units, above))
    place, last = {row.target: row.cohort for row in dealt}, dict[str, int]()
    waiting: dict[str, int] = {}
    for target, gateways in above.items():
        for gateway in gateways:
            last[gateway] = max(last.get(gateway, 0), place[target])
            waiting[gateway] = waiting.get(gateway, 0) + 1
    moved = [replace(row, cohort=max(row.cohort, last.get(row.target, 0)), gateways=above[row.target]) for row in dealt]
    return Dealt(
        cohorts=_resized(cohorts, moved),
        assignments=moved,
        behind=[BehindRow(campaign=campaign, gateway=name, waiting=number) for name, number in sorted(waiting.items())],
    )


def paths_of(targets: Iterable[str], labels: Labels) -> dict[str, Path]:
    """The path of each target that has one; targets behind the same gateways share it."""
    found: dict[str, Path] = {}
    known: dict[tuple[str, ...], Path] = {}
    names = {target: named(own) for target, own in labels.items()}
    above = {gateway for own in names.values() for gateway in own}
    for target in targets:
        first = names.get(target, ())
        if not first:
            continue
        if target in above:
            found[target] = path_of(target, lambda frontier: {name: names.get(name, ()) for name in frontier})
        else:
            if first not in known:
                known[first] = path_of(target, lambda frontier: {name: names.get(name, ()) for name in frontier})
            found[target] = known[first]
    return found


def check_paths(targets: Iterable[str], labels: Labels) -> None:
    """Raise `RefusedError` (`gateway-path`) for the first target whose path, by operators' labels alone, is at fault."""
    ours = {name: {label: value for label, value in own.items() if label in LABELS} for name, own in labels.items()}
    for target, path in paths_of(targets, ours).items():
        if path.fault:
            raise RefusedError("gateway-path", f"{target} can't be updated safely: {path.fault}. Correct the labels.")


def _gateways(paths: Mapping[str, Path], target: str) -> tuple[str, ...]:
    path = paths.get(target)
    return path.gateways if path else ()


def _units(assignments: Sequence[AssignmentRow], values: Mapping[str, str]) -> list[list[AssignmentRow]]:
    """The assignments by group, in the order of the first of each; who is in no group stands alone."""
    groups: dict[str, list[AssignmentRow]] = {}
    units: list[list[AssignmentRow]] = []
    for row in assignments:
        value = values.get(row.target)
        unit = groups.get(value) if value is not None else None
        if unit is None:
            unit = []
            units.append(unit)
            if value is not None:
                groups[value] = unit
        unit.append(row)
    return units


def _gateways_later(
    units: Sequence[Sequence[AssignmentRow]], above: Mapping[str, tuple[str, ...]]
) -> list[Sequence[AssignmentRow]]:
    """The units in an order in which each gateway's comes right after the last of those behind it."""
    unit_of = {row.target: number for number, unit in enumerate(units) for row in unit}
    last = list(range(len(units)))
    for target, gateways in above.items():
        for gateway in gateways:
            last[unit_of[gateway]] = max(last[unit_of[gateway]], unit_of[target])
    depth = [max(len(above[row.target]) for row in unit) for unit in units]
    return [units[number] for number in sorted(range(len(units)), key=lambda number: (last[number], -depth[number]))]


def _refill(
    cohorts: Sequence[CohortRow], units: Sequence[Sequence[AssignmentRow]]
) -> tuple[list[CohortRow], list[AssignmentRow]]:
    dealt: list[AssignmentRow] = []
    place, room = 0, cohorts[0].size
    for unit in units:
        while room <= 0 and place + 1 < len(cohorts) - 1:
            place += 1
            room = cohorts[place].size
        dealt += [replace(row, cohort=place, rank=len(dealt) + number) for number, row in enumerate(unit)]
        room -= len(unit)
    return _resized(cohorts, dealt), dealt


def _resized(cohorts: Sequence[CohortRow], assignments: Iterable[AssignmentRow]) -> list[CohortRow]:
    sizes = dict.fromkeys((row.index for row in cohorts), 0)
    for row in assignments:
        sizes[row.cohort] += 1
    return [
        row
        if row.name == LATE
        else replace(
            row,
            size=sizes[row.index],
            counts={AssignmentState.PLANNED: sizes[row.index]} if sizes[row.index] else {},
        )
        for row in cohorts
    ]
