"""Courses of numbers over time, a row for each; and saved views of the fleet."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, delete, insert, or_, select

from server.planner.states import FAILURES, GOING_BACK, LIVE
from server.planner.words import AssignmentState, CampaignState
from server.ports import Point, SavedView, Standing
from server.storage.tables import CAMPAIGN, COHORT, COURSE, SAVED_VIEW

_UNDER_WAY = {*LIVE, *GOING_BACK, CampaignState.PAUSED} - {CampaignState.ROLLED_BACK}
_OVER = (CampaignState.COMPLETED, CampaignState.ABORTED, CampaignState.ROLLED_BACK)


class SqlCourses:
    """`server.ports.Courses` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def get(self, name: str) -> Sequence[Point]:
        """A course, oldest first; empty when there is none."""
        found = self._db.execute(select(COURSE.c.points).where(COURSE.c.name == name)).scalar()
        return msgspec.convert(found or [], list[Point])

    def put(self, name: str, points: Sequence[Point]) -> None:
        """Keep a course in place of what it was."""
        self._db.execute(delete(COURSE).where(COURSE.c.name == name))
        self._db.execute(insert(COURSE), {"name": name, "points": msgspec.to_builtins(list(points))})

    def under_way(self, changed_since: float) -> Sequence[Standing]:
        """How campaigns stand that were started and are not over, or became so since then."""
        states = [str(state) for state in _UNDER_WAY]
        ended = CAMPAIGN.c.state.in_([str(state) for state in _OVER]) & (CAMPAIGN.c.changed_at >= changed_since)
        rows = self._db.execute(
            select(COHORT.c.campaign, COHORT.c.size, COHORT.c.counts)
            .join(CAMPAIGN, CAMPAIGN.c.id == COHORT.c.campaign)
            .where(or_(CAMPAIGN.c.state.in_(states), ended))
        )
        sums: dict[str, list[int]] = {}
        for campaign, size, counts in rows:
            sum_ = sums.setdefault(campaign, [0, 0, 0])
            sum_[0] += size
            sum_[1] += counts.get(AssignmentState.VERIFIED, 0)
            sum_[2] += sum(counts.get(state, 0) for state in FAILURES)
        return [
            Standing(campaign=name, targets=targets, verified=verified, failed=failed)
            for name, (targets, verified, failed) in sorted(sums.items())
        ]


class SqlSavedViews:
    """`server.ports.SavedViews` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def list(self) -> Sequence[SavedView]:
        """All of them, by name."""
        rows = self._db.execute(select(SAVED_VIEW).order_by(SAVED_VIEW.c.name)).mappings()
        return [SavedView(**row) for row in rows]

    def put(self, view: SavedView) -> None:
        """Keep one, in place of one of the same name."""
        self.remove(view.name)
        self._db.execute(insert(SAVED_VIEW), msgspec.to_builtins(view))

    def remove(self, name: str) -> bool:
        """Whether there was one."""
        return bool(self._db.execute(delete(SAVED_VIEW).where(SAVED_VIEW.c.name == name)).rowcount)
