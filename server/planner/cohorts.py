"""The split of a campaign's targets into cohorts: random, and the same for the same seed.

Rules
- Targets are ordered by sha256(seed, target id), which no property of a target can bias, and dealt out in that order;
  a cohort that asks for some first (`CohortPolicy.first`) takes those before others, in the same order.
- `percent` is of all targets, rounded up; a cohort may end up empty. The cohort that names no size takes the rest.
- A size that means reachable ones grows by the mean chance to come within the patience, the same for everybody: who comes more
  likely is not taken more likely.
- The last cohort is always `late`; it starts empty.
"""

import hashlib
import math
from collections.abc import Container, Iterable, Mapping
from fractions import Fraction

from server.planner.rows import AssignmentRow, CohortRow
from server.planner.strategy import CohortPolicy, Strategy
from server.planner.words import LATE, AssignmentState, CohortState

MOST_FILLED_UP = 10
"""No cohort grows by more than this, however rarely its targets come."""


def split(
    campaign: str,
    targets: Iterable[str],
    strategy: Strategy,
    seed: int,
    firsts: Mapping[int, Container[str]] | None = None,
    reach: float = 1.0,
) -> tuple[list[CohortRow], list[AssignmentRow]]:
    """The campaign's cohorts (with `late`) and one planned assignment per target, by rank; all to be inserted.

    `firsts`: by cohort index, the targets that carry the labels of that cohort's `first`. `reach`: the mean chance that a target
    comes within the patience.
    """
    ordered = sorted(set(targets), key=lambda target: rank_key(seed, target))
    left = ordered
    cohorts: list[CohortRow] = []
    assignments: list[AssignmentRow] = []
    for index, size in enumerate(sizes(strategy.cohorts, len(ordered), reach)):
        cohorts.append(_cohort(campaign, index, strategy.cohorts[index].name, size))
        taken, left = _take(left, size, (firsts or {}).get(index, ()))
        assignments += (
            AssignmentRow(campaign=campaign, target=target, cohort=index, rank=rank, state=AssignmentState.PLANNED)
            for rank, target in enumerate(taken, start=len(assignments))
        )
    cohorts.append(_cohort(campaign, len(cohorts), LATE, 0))
    return cohorts, assignments


def sizes(cohorts: Iterable[CohortPolicy], total: int, reach: float = 1.0) -> list[int]:
    """How many of `total` targets each cohort gets; `reach`: the mean chance that one comes within the patience."""
    left, found = total, []
    for cohort in cohorts:
        size = min(left, filled_up(wanted(cohort, total), reach) if cohort.reachable else wanted(cohort, total))
        found.append(size)
        left -= size
    return found


def rank_key(seed: int, target: str) -> bytes:
    """What targets are ordered by."""
    return hashlib.sha256(f"{seed}:{target}".encode()).digest()


def _take(left: list[str], size: int, first: Container[str]) -> tuple[list[str], list[str]]:
    """The next `size` targets, those in `first` before others, and who is left; both keep their order."""
    ahead = [target for target in left if target in first]
    taken = (ahead + [target for target in left if target not in first])[:size] if ahead else left[:size]
    gone = set(taken)
    return taken, [target for target in left if target not in gone]


def filled_up(size: int, reach: float) -> int:
    """So many that `size` of them are expected to come."""
    return math.ceil(size / max(reach, 1 / MOST_FILLED_UP) - 1e-9)


def wanted(cohort: CohortPolicy, total: int) -> int:
    """The size that a cohort names, of so many targets."""
    if cohort.count is not None:
        return cohort.count
    if cohort.percent is not None:
        return -int(-Fraction(str(cohort.percent)) * total // 100)
    return total


def _cohort(campaign: str, index: int, name: str, size: int) -> CohortRow:
    counts = {AssignmentState.PLANNED: size} if size else {}
    return CohortRow(campaign=campaign, index=index, name=name, state=CohortState.CLOSED, size=size, counts=counts)
