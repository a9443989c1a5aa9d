"""Numbers for whoever watches the server."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Table, case, func, select, tuple_

from server.ports import Budgets, Course, FleetCounts, Queues, TrailEvent
from server.storage.tables import ASSIGNMENT, AUDIT, CAMPAIGN, COHORT, GROUP, INBOX, OUTBOX, RELEASE, TARGET

MOST_COUNTED = 10_000
LATE = "late"


class SqlObservations:
    """`server.ports.Observations` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def queues(self) -> Queues:
        oldest = select(INBOX.c.received_at).where(INBOX.c.pending.is_(True)).order_by(INBOX.c.id).limit(1)
        return Queues(
            inbox=self._some(INBOX, INBOX.c.pending.is_(True)),
            inbox_since=self._db.execute(oldest).scalar(),
            outbox=self._some(OUTBOX),
            outbox_first=self._db.execute(select(func.min(OUTBOX.c.id))).scalar(),
        )

    def budgets(self) -> Budgets:
        """Rows of groups, of which there are as many as sites and the like."""
        full, exceeded = GROUP.c.used >= GROUP.c.limit, GROUP.c.used > GROUP.c.limit
        counted = [func.count(), *(func.coalesce(func.sum(case((one, 1), else_=0)), 0) for one in (full, exceeded))]
        row = self._db.execute(select(*counted).select_from(GROUP).where(GROUP.c.limit > 0)).one()
        return Budgets(groups=int(row[0]), full=int(row[1]), exceeded=int(row[2]))

    def fleet(self) -> FleetCounts:
        rows = self._db.execute(select(TARGET.c.presence, func.count()).group_by(TARGET.c.presence))
        found = {bool(online): number for online, number in rows}
        return FleetCounts(targets=sum(found.values()), online=found.get(True, 0))

    def campaigns(self) -> Mapping[str, int]:
        rows = self._db.execute(select(CAMPAIGN.c.state, func.count()).group_by(CAMPAIGN.c.state))
        return {str(state): int(number) for state, number in rows}

    def cohorts(self) -> Mapping[tuple[str, str], int]:
        place = case((COHORT.c.name == LATE, LATE), (COHORT.c.index == 0, "canary"), else_="wave").label("place")
        rows = self._db.execute(select(place, COHORT.c.state, func.count()).group_by(place, COHORT.c.state))
        return {(where, state): number for where, state, number in rows}

    def trail_end(self) -> int:
        return self._db.execute(select(func.max(AUDIT.c.id))).scalar() or 0

    def trail(self, after: int, limit: int) -> Sequence[TrailEvent]:
        columns = (AUDIT.c.id, AUDIT.c.at, AUDIT.c.kind, AUDIT.c.campaign, AUDIT.c.target)
        rows = self._db.execute(select(*columns).where(AUDIT.c.id > after).order_by(AUDIT.c.id).limit(limit)).mappings()
        return [TrailEvent(**row) for row in rows]

    def courses(self, of: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Course]:
        if not of:
            return {}
        published = {
            (product, version): at
            for product, version, at in self._db.execute(
                select(RELEASE.c.product, RELEASE.c.version, RELEASE.c.published_at)
            )
        }
        asks = (
            select(INBOX.c.target, func.max(INBOX.c.received_at))
            .where(INBOX.c.kind == "ask", INBOX.c.target.in_(sorted({target for _, target in of})))
            .group_by(INBOX.c.target)
        )
        asked = {str(target): float(at) for target, at in self._db.execute(asks)}
        rows = self._db.execute(
            select(
                ASSIGNMENT.c.campaign,
                ASSIGNMENT.c.target,
                ASSIGNMENT.c.permitted_at,
                COHORT.c.opened_at,
                CAMPAIGN.c.release,
            )
            .join(CAMPAIGN, CAMPAIGN.c.id == ASSIGNMENT.c.campaign)
            .join(COHORT, (COHORT.c.campaign == ASSIGNMENT.c.campaign) & (COHORT.c.index == ASSIGNMENT.c.cohort))
            .where(tuple_(ASSIGNMENT.c.campaign, ASSIGNMENT.c.target).in_(list(of)))
        )
        return {
            (campaign, target): Course(
                published_at=published.get((release["product"], release["version"])),
                opened_at=opened_at,
                asked_at=asked.get(target),
                permitted_at=permitted_at,
            )
            for campaign, target, permitted_at, opened_at, release in rows
        }

    def _some(self, table: Table, *where: object) -> int:
        rows = select(table.c.id).where(*where).limit(MOST_COUNTED).subquery()  # type: ignore[arg-type]  # conditions
        return self._db.execute(select(func.count()).select_from(rows)).scalar_one()
