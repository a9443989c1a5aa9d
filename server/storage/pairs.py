"""Verified targets and the controls that their metrics are compared with."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from server.planner.comparing import Pair
from server.planner.words import AssignmentState
from server.storage.tables import ASSIGNMENT, TARGET


def of(
    db: Connection, campaign: str, cohort: int, release_sha256: str, after: int, limit: int, target: str | None
) -> Sequence[Pair]:
    """Those of a cohort that were not compared yet, by rank above `after`; only this target if given."""
    own, other = ASSIGNMENT.alias("own"), ASSIGNMENT.alias("other")
    disturbed = (
        select(func.min(other.c.permitted_at))
        .where(other.c.target == own.c.control, other.c.permitted_at >= own.c.permitted_at)
        .scalar_subquery()
    )
    wanted = (
        select(
            own.c.target,
            own.c.control,
            own.c.rank,
            own.c.permitted_at,
            own.c.committed_at,
            disturbed.label("disturbed_at"),
            (func.coalesce(TARGET.c.running_sha256, "") == release_sha256).label("is_updated"),
        )
        .join(TARGET, TARGET.c.id == own.c.control)
        .where(own.c.campaign == campaign, own.c.cohort == cohort, own.c.state == str(AssignmentState.VERIFIED))
        .where(own.c.rank > after, own.c.compared.is_(False), own.c.permitted_at.is_not(None))
        .where(own.c.committed_at.is_not(None))
        .order_by(own.c.rank)
        .limit(limit)
    )
    if target is not None:
        wanted = wanted.where(own.c.target == target)
    return [Pair(**{**row, "is_updated": bool(row["is_updated"])}) for row in db.execute(wanted).mappings()]
