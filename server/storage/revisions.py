"""The revisions of campaigns. They are never removed."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select

from server.planner.revision_rows import RevisionRow, RevisionState
from server.storage.rows import revision_row
from server.storage.tables import REVISION

_PROPOSED = select(REVISION).where(
    REVISION.c.campaign == bindparam("campaign"), REVISION.c.state == str(RevisionState.PROPOSED)
)
_SOME = (
    select(REVISION)
    .where(REVISION.c.campaign == bindparam("campaign"), REVISION.c.number > bindparam("after"))
    .order_by(REVISION.c.number)
)


def proposal(db: Connection, campaign: str) -> RevisionRow | None:
    """The campaign's revision that waits for approvals; there is one at most."""
    row = db.execute(_PROPOSED, {"campaign": campaign}).mappings().first()
    return None if row is None else revision_row(row)


def of(db: Connection, campaign: str, after: int, limit: int | None) -> Sequence[RevisionRow]:
    """Those of the campaign's after that number, oldest first."""
    found = db.execute(_SOME.limit(limit), {"campaign": campaign, "after": after})
    return [revision_row(row) for row in found.mappings()]
