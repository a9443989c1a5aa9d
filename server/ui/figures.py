"""Figures of the fleet: how many installations succeed, and how long a release takes to reach those it is for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from server.planner.states import FAILURES
from server.planner.words import AssignmentState
from server.ports import CampaignView, Point

LATELY_S = 90 * 86400.0
REACHED = 0.9
"""A release has reached its targets when so many of them are verified."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of the campaigns that changed lately: installations that were decided, how many of them verified; and the median time in
    seconds from a release's publication until 90 % of a campaign's targets ran it (None: none got so far)."""

    decided: int
    verified: int
    remediation_s: float | None
    reached: int

    @property
    def rate(self) -> float | None:
        """The success rate in percent."""
        return 100 * self.verified / self.decided if self.decided else None


def figures(
    views: Sequence[CampaignView],
    published: Mapping[tuple[str, str], float],
    courses: Mapping[str, Sequence[Point]],
    now: float,
) -> Figures:
    """What they say; `published`: when each (product, version) was, `courses`: those of campaigns, by id."""
    lately = [view for view in views if view.row.changed_at >= now - LATELY_S]
    counts = [cohort.counts for view in lately for cohort in view.cohorts]
    verified = sum(one.get(AssignmentState.VERIFIED, 0) for one in counts)
    failed = sum(number for one in counts for state, number in one.items() if state in FAILURES)
    times = [
        at - since
        for view in lately
        if (since := published.get((view.row.release.product, view.row.release.version))) is not None
        and (at := reached_at(courses.get(view.row.id, ()))) is not None
    ]
    return Figures(
        decided=verified + failed,
        verified=verified,
        remediation_s=median(times) if times else None,
        reached=len(times),
    )


def reached_at(course: Sequence[Point]) -> float | None:
    """When 90 % of a campaign's targets were verified."""
    enough = (one.at for one in course if one.values["verified"] >= REACHED * one.values["targets"] > 0)
    return next(enough, None)
