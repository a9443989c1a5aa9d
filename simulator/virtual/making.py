"""Campaigns are made as `server.campaigns.service` makes them: the same pure functions, over members instead of tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from server.planner.cohorts import split
from server.planner.dealing import deal
from server.planner.gateways import Path
from server.planner.grouping import leaves_first, regroup, whole_groups
from server.planner.rows import AssignmentRow, CohortRow
from server.planner.selection import Match, Selection
from server.planner.strata import names as strata_names
from server.planner.strategy import Strategy
from server.planner.surroundings import BehindRow
from simulator.virtual.world import Member


class Known(Protocol):
    """A target, as far as it is selected by what it is."""

    @property
    def id(self) -> str: ...
    @property
    def hardware(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...


class Made(Struct, frozen=True, kw_only=True):
    """The rows of a campaign that is made."""

    cohorts: list[CohortRow]
    assignments: Iterable[AssignmentRow]
    behind: list[BehindRow]
    targets: int


def make(strategy: Strategy, name: str, members: Sequence[Member], seed: int, *, gates: Mapping[str, Path]) -> Made:
    """A campaign's cohorts and assignments, dealt as `server.campaigns.service` deals them."""
    labels = {one.id: one.labels for one in members}
    chosen: Sequence[str] = list(labels)
    by = strategy.together.by if strategy.together else None
    values = {target: own[by] for target, own in labels.items() if by in own} if by else {}
    if values:
        chosen, _ = whole_groups(chosen, values)
    firsts = {
        index: frozenset(one.id for one in members if cohort.first.items() <= dict(one.labels).items())
        for index, cohort in enumerate(strategy.cohorts)
        if cohort.first
    }
    cohorts, assignments = split(name, chosen, strategy, seed, firsts)
    behind: list[BehindRow] = []
    if strategy.leaves_first:
        dealt = leaves_first(name, cohorts, assignments, gates, values)
        cohorts, assignments, behind = dealt.cohorts, dealt.assignments, list(dealt.behind)
    elif values:
        cohorts, assignments = regroup(cohorts, assignments, values)
    rows, dealt_out = deal(strategy, cohorts, assignments, _traits(members, strata_names(strategy)))
    return Made(cohorts=rows, assignments=dealt_out, behind=behind, targets=sum(row.size for row in rows))


def _traits(members: Sequence[Member], wanted: Sequence[str]) -> dict[str, dict[str, str]]:
    """By target what of it is wanted; those who have the same share it."""
    found: dict[str, dict[str, str]] = {}
    same: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for one in members if wanted else ():
        of = {**one.labels, "hardware": one.hardware, "version": one.version}
        own = {key: value for key, value in of.items() if key in wanted}
        found[one.id] = same.setdefault(tuple(own.items()), own)
    return found


def selects(selection: Selection, one: Known, runs: str) -> bool:
    """Whether a selection takes a member that runs this version."""
    return matches(selection, one, runs) and not any(matches(match, one, runs) for match in selection.exclude)


def matches(match: Match, one: Known, runs: str) -> bool:
    for name, wanted in match.labels.items():
        if one.labels.get(name) not in ((wanted,) if isinstance(wanted, str) else wanted):
            return False
    named_in = ((match.hardware, one.hardware), (match.versions, runs), (match.targets, one.id))
    return all(not some or value in some for some, value in named_in)
