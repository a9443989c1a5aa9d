"""Strata and sites: where an assignment counts, and what its moves do to the numbers of its site.

Rules
- A target's stratum and site are what it had when the campaign was made: an update changes versions, and people change labels.
- A site's number counts all its members in the cohort from its first attempt on. For a pass those undecided count as failed,
  for a stop as not failed; so it can only move to the side that was assumed, and looking early gains nothing.
- Who leaves unreached, or ends in a state that says nothing about the release, leaves the number. Who regresses, or turns out to
  have made it after all, moves it: the old number is taken out and the new one put in, exactly.
- `late` has no strata.
"""

from collections.abc import Mapping
from enum import StrEnum

from msgspec.structs import replace

from firmware.protocol.words import Action
from server.planner import betting
from server.planner.gate_rows import BlockRow, Stratum
from server.planner.rows import AssignmentRow
from server.planner.states import FAILURES, IN_FLIGHT, NEUTRAL
from server.planner.strategy import CohortPolicy, Strategy
from server.planner.words import AssignmentState

WHOLE = "all"
"""The stratum of a gate that tells none apart."""
UNKNOWN = "unknown"
Key = tuple[int, str, str]
"""Cohort, stratum, site."""


class Standing(StrEnum):
    """What a member says about the release so far. `early`: it failed before any attempt."""

    WAITING = "waiting"
    UNDER_WAY = "under_way"
    VERIFIED = "verified"
    FAILED = "failed"
    EARLY = "early"


def names(strategy: Strategy) -> tuple[str, ...]:
    """What has to be known of each target: `hardware`, `version`, or names of labels."""
    found = [gate for policy in strategy.cohorts if (gate := policy.grouping)]
    return tuple(sorted({name for gate in found for name in (*gate.by, gate.block)}))


def place(policy: CohortPolicy, assignment: AssignmentRow) -> tuple[str, str] | None:
    """The stratum and site in which an assignment counts in a cohort under `policy`. One without a site is its own."""
    return place_of(policy, assignment.target, assignment.traits)


def place_of(policy: CohortPolicy, target: str, traits: Mapping[str, str]) -> tuple[str, str] | None:
    """The same for a target with such traits."""
    gate = policy.grouping
    if gate is None:
        return None
    stratum = ",".join([f"{name}={traits.get(name, UNKNOWN)}" for name in gate.by]) if gate.by else WHOLE
    site = traits.get(gate.block)
    return stratum, target if site is None else f"{gate.block}={site}"


def keys(strategy: Strategy, assignment: AssignmentRow, open_cohort: int) -> tuple[Key, ...]:
    """The sites that an event about an assignment may touch: in its own cohort, and in the open one, to which it may come
    back."""
    found: list[Key] = []
    policies, own = strategy.cohorts, assignment.cohort
    for index in (own,) if own == open_cohort else sorted((own, open_cohort)):
        where = place(policies[index], assignment) if index < len(policies) else None
        if where is not None:
            found.append((index, *where))
    return tuple(found)


def standing(assignment: AssignmentRow) -> Standing | None:
    """What an assignment says about the release; None when nothing."""
    state = assignment.state
    if state in NEUTRAL:
        return None
    if state is AssignmentState.VERIFIED:
        return Standing.VERIFIED
    if state in FAILURES:
        return Standing.FAILED if assignment.attempt else Standing.EARLY
    if assignment.action is Action.INSTALL and (state in IN_FLIGHT or state is AssignmentState.COMMITTED):
        return Standing.UNDER_WAY
    return Standing.WAITING


def adopted(block: BlockRow, assignment: AssignmentRow) -> BlockRow:
    """The site's row with its dealt members counted, which the first of them to move brings along."""
    if not assignment.block_size or block.is_dealt:
        return block
    return replace(block, size=block.size + assignment.block_size, is_dealt=True)


def moved(block: BlockRow, assignment: AssignmentRow, before: Standing | None, after: Standing | None) -> BlockRow:
    """The site's row after one of its members moved (None: isn't, or no longer, a member that says something)."""

    def change(of: Standing) -> int:
        return (after is of) - (before is of)

    has_left_planned = after is not None and assignment.state is not AssignmentState.PLANNED
    return replace(
        block,
        size=block.size + (after is not None) - (before is not None),
        verified=block.verified + change(Standing.VERIFIED),
        failed=block.failed + change(Standing.FAILED),
        early=block.early + change(Standing.EARLY),
        is_admitted=block.is_admitted or has_left_planned,
        is_tried=block.is_tried or after not in (None, Standing.WAITING),
    )


def retold(stratum: Stratum, before: BlockRow, after: BlockRow) -> Stratum:
    """The stratum after one of its sites changed."""
    was, now = _numbers(before), _numbers(after)
    return replace(
        stratum,
        targets=stratum.targets + after.size - before.size,
        sites=stratum.sites + (after.size > 0) - (before.size > 0),
        verified=stratum.verified + after.verified - before.verified,
        failed=stratum.failed + after.failed + after.early - before.failed - before.early,
        worst=betting.changed(stratum.worst, was[0], now[0]),
        best=betting.changed(stratum.best, was[1], now[1]),
        early=betting.changed(stratum.early, was[2], now[2]),
    )


def joined(stratum: Stratum, before: BlockRow, after: BlockRow) -> Stratum:
    """The stratum after a site's dealt members, whom it counts already, were added to the site's row."""
    told = retold(stratum, before, after)
    return replace(told, targets=stratum.targets, sites=stratum.sites - (before.size > 0))


def spoken(stratum: Stratum, metric: str, half_points: int) -> Stratum:
    """The stratum after a site's first pair was compared: 0 better, 1 equal, 2 worse than its control."""
    number = half_points * betting.LATTICE // 2
    metrics = {**stratum.metrics, metric: betting.changed(stratum.metrics.get(metric, ()), None, number)}
    return replace(stratum, metrics=metrics)


def _numbers(block: BlockRow) -> tuple[int | None, int | None, int | None]:
    if block.size <= 0:
        return None, None, None
    worst = betting.rounded_up(block.size - block.verified, block.size) if block.is_tried else None
    best = betting.rounded_down(block.failed, block.size) if block.is_tried else None
    return worst, best, betting.rounded_down(block.early, block.size) if block.is_admitted else None
