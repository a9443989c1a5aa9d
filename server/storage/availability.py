"""What presence taught, one compact row for each agent; and when the server had a link to hear it.

A row is written when its agent comes or goes, and now and then when neither happens: never at a heartbeat. Its hours and lengths
are floats of 32 bits in one column, since nobody searches in them.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection, RowMapping, bindparam, delete, func, insert, select, update

from server.planner.availability import EDGES, HOURS, SETTLE_S, Availability, Watch, heard, learned
from server.planner.states import UNDECIDED
from server.planner.words import AssignmentState
from server.ports import Waiting
from server.storage.rows import ZONE_LABELS
from server.storage.tables import ASSIGNMENT, AVAILABILITY, TARGET, TARGET_LABEL, WATCH

LAPSE_S = 180.0
"""A watch that was noted so short a time ago goes on; the note is a minute old at most while there is a link."""
_PAGE = 500
_BINS = struct.Struct(f"<{2 * HOURS + len(EDGES) + 1}f")
_OF = select(AVAILABILITY).where(AVAILABILITY.c.agent == bindparam("of_agent"))
_UPDATE = update(AVAILABILITY).where(AVAILABILITY.c.agent == bindparam("of_agent"))


class SqlPresences:
    """`server.ports.Presences` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def linked(self, at: float) -> None:
        """The server has a new link to its broker."""
        self._db.execute(delete(WATCH).where(WATCH.c.since >= at))
        self._db.execute(insert(WATCH), {"since": at, "until": at})

    def watching(self, at: float) -> None:
        """The link is still there."""
        newest = select(func.max(WATCH.c.since)).scalar_subquery()
        self._db.execute(update(WATCH).where(WATCH.c.since == newest, WATCH.c.until < at).values(until=at))

    def heard(self, agent: str, *, online: bool, at: float) -> None:
        """The broker said that an agent is there or not."""
        found = self._db.execute(_OF, {"of_agent": agent}).mappings().first()
        known = None if found is None else _availability(found)
        row = heard(known, agent, online=online, at=at, watches=self._watches(known, at))
        if row is not known:
            self._put([row], is_new=known is None)

    def of(self, agents: Sequence[str], now: float) -> Mapping[str, Availability]:
        """What is known of these agents, learned up to now; nothing of those that were never heard."""
        found: dict[str, Availability] = {}
        for page in pages(agents):
            wanted = select(AVAILABILITY).where(AVAILABILITY.c.agent.in_(page))
            rows = [_availability(row) for row in self._db.execute(wanted).mappings()]
            found |= {row.agent: row for row in self._learned(rows, now)}
        return found

    def refresh(self, before: float, now: float, limit: int) -> int:
        """Learn up to now what some agents did that neither came nor went since `before`, and forget watches that no row needs
        any more; returns how many agents."""
        stale = select(AVAILABILITY).where(AVAILABILITY.c.learned_to < before).order_by(AVAILABILITY.c.learned_to)
        rows = [_availability(row) for row in self._db.execute(stale.limit(limit)).mappings()]
        self._put(list(self._learned(rows, now)))
        if len(rows) < limit:
            newest = select(func.max(WATCH.c.since)).scalar_subquery()
            self._db.execute(delete(WATCH).where(WATCH.c.until < before - SETTLE_S, WATCH.c.since < newest))
        return len(rows)

    def waiting(self, campaign: str, cohort: int, states: Sequence[AssignmentState], step: int) -> Sequence[Waiting]:
        """Every `step`-th undecided assignment of a cohort by rank, which is random, with its agent and time zone."""
        names = [str(state) for state in states if state in UNDECIDED]
        wanted = (
            select(ASSIGNMENT.c.target, ASSIGNMENT.c.state, ASSIGNMENT.c.wake_at, TARGET.c.agent)
            .join(TARGET, TARGET.c.id == ASSIGNMENT.c.target)
            .where(ASSIGNMENT.c.campaign == campaign, ASSIGNMENT.c.cohort == cohort, ASSIGNMENT.c.state.in_(names))
            .where(ASSIGNMENT.c.rank % step == 0)
            .order_by(ASSIGNMENT.c.rank)
        )
        rows = self._db.execute(wanted).all()
        zones = self.labels([row.target for row in rows], ZONE_LABELS)
        return [
            Waiting(
                target=row.target,
                agent=row.agent,
                state=AssignmentState(row.state),
                wake_at=row.wake_at,
                zone=next((own[name] for name in ZONE_LABELS if name in (own := zones.get(row.target, {}))), None),
            )
            for row in rows
        ]

    def agents(self, targets: Sequence[str]) -> Mapping[str, str]:
        """The agent of each target."""
        found: dict[str, str] = {}
        for page in pages(targets):
            wanted = select(TARGET.c.id, TARGET.c.agent).where(TARGET.c.id.in_(page))
            found |= {row.id: row.agent for row in self._db.execute(wanted)}
        return found

    def labels(self, targets: Sequence[str], names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """The labels of these names that these targets have."""
        found: dict[str, dict[str, str]] = {}
        for page in pages(targets if names else ()):
            own = (TARGET_LABEL.c.target.in_(page), TARGET_LABEL.c.name.in_(list(names)))
            for row in self._db.execute(select(TARGET_LABEL).where(*own)):
                found.setdefault(row.target, {})[row.name] = row.value
        return found

    def _learned(self, rows: Sequence[Availability], now: float) -> Iterator[Availability]:
        oldest = min(rows, key=lambda row: row.learned_to, default=None)
        watches = self._watches(oldest, now)
        return (learned(row, now, watches) for row in rows)

    def _watches(self, known: Availability | None, now: float) -> Sequence[Watch]:
        """What was watched since an agent's row was learned, the newest last; also when that is over."""
        wanted = select(WATCH).order_by(WATCH.c.since.desc())
        newest = self._db.execute(wanted.limit(1)).mappings().first()
        if newest is None:
            return ()
        last = Watch(**newest)
        last = Watch(since=last.since, until=now if now - last.until <= LAPSE_S else last.until)
        since = now if known is None else known.learned_to
        if since >= last.since:
            return (last,)
        earlier = wanted.where(WATCH.c.since < last.since, WATCH.c.until > since)
        return (*(Watch(**row) for row in reversed(self._db.execute(earlier).mappings().all())), last)

    def _put(self, rows: Sequence[Availability], *, is_new: bool = False) -> None:
        values = [
            {
                "agent": row.agent,
                "online": row.online,
                "told_at": row.told_at,
                "learned_to": row.learned_to,
                "first_seen": row.first_seen,
                "last_seen": row.last_seen,
                "away_s": row.away_s,
                "bins": _BINS.pack(*row.online_s, *row.seen_s, *row.absences),
            }
            for row in rows
        ]
        if is_new:
            self._db.execute(insert(AVAILABILITY), values)
        elif values:
            self._db.execute(_UPDATE, [{**one, "of_agent": one["agent"]} for one in values])


def pages(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Few enough for one statement."""
    return (names[place : place + _PAGE] for place in range(0, len(names), _PAGE))


def _availability(row: RowMapping) -> Availability:
    values = dict(row)
    numbers = _BINS.unpack(values.pop("bins"))
    return Availability(
        **values, online_s=numbers[:HOURS], seen_s=numbers[HOURS : 2 * HOURS], absences=numbers[2 * HOURS :]
    )
