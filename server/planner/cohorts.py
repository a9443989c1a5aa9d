"""The split of a campaign's targets into cohorts: random, and the same for the same seed.

Rules
- Targets are ordered by sha256(seed, target id), which no property of a target can bias, and dealt out in that order;
  a cohort that asks for some first (`CohortPolicy.first`) takes those before others, in the same order.
- `percent` is of all targets, rounded up; a cohort may end up empty. The cohort that names no size takes the rest.
- The last cohort is always `late`; it starts empty.
"""

import hashlib
from collections.abc import Container, Iterable, Mapping
from fractions import Fraction

from server.planner.model import LATE, AssignmentRow, AssignmentState, CohortRow, CohortState
from server.planner.strategy import CohortPolicy, Strategy


def split(
    campaign: str,
    targets: Iterable[str],
    strategy: Strategy,
    seed: int,
    firsts: Mapping[int, Container[str]] | None = None,
) -> tuple[list[CohortRow], list[AssignmentRow]]:
    """The campaign's cohorts (with `late`) and one planned assignment per target, by rank; all to be inserted.

    `firsts`: by cohort index, the targets that carry the labels of that cohort's `first`.
    """
    ordered = sorted(set(targets), key=lambda target: rank_key(seed, target))
    left = ordered
    cohorts: list[CohortRow] = []
    assignments: list[AssignmentRow] = []
    for index, size in enumerate(sizes(strategy.cohorts, len(ordered))):
        cohorts.append(_cohort(campaign, index, strategy.cohorts[index].name, size))
        taken, left = _take(left, size, (firsts or {}).get(index, ()))
        assignments += (
            AssignmentRow(campaign=campaign, target=target, cohort=index, rank=rank, state=AssignmentState.PLANNED)
            for rank, target in enumerate(taken, start=len(assignments))
        )
    cohorts.append(_cohort(campaign, len(cohorts), LATE, 0))
    return cohorts, assignments


def sizes(cohorts: Iterable[CohortPolicy], total: int) -> list[int]:
    """How many of `total` targets each cohort gets."""
    left, found = total, []
    for cohort in cohorts:
        size = min(left, _wanted(cohort, total))
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


def _wanted(cohort: CohortPolicy, total: int) -> int:
    if cohort.count is not None:
        return cohort.count
    if cohort.percent is not None:
        return -int(-Fraction(str(cohort.percent)) * total // 100)
    return total


def _cohort(campaign: str, index: int, name: str, size: int) -> CohortRow:
    counts = {AssignmentState.PLANNED: size} if size else {}
    return CohortRow(campaign=campaign, index=index, name=name, state=CohortState.CLOSED, size=size, counts=counts)
