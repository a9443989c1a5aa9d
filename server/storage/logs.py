"""Requests for logs and their answers."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from firmware.protocol.order import Counter
from server.ports import LogAsk, LogState
from server.storage.tables import LOG_PART, LOG_REQUEST

_COLUMNS = tuple(column for column in LOG_REQUEST.c if column.name != "text")
_WAITING = select(LOG_REQUEST.c.agent).where(
    LOG_REQUEST.c.agent.in_(bindparam("agents", expanding=True)), LOG_REQUEST.c.state == str(LogState.WAITING)
)


class SqlLogs:
    """`server.ports.Logs` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._silent: set[str] = set()
        """Agents of whom it is known that nothing waits for them."""

    def expect(self, agents: Sequence[str]) -> None:
        """Fetch at once for which of these agents nothing waits."""
        waiting = set(self._db.execute(_WAITING, {"agents": list(agents)}).scalars()) if agents else set()
        self._silent.update(agent for agent in agents if agent not in waiting)

    def add(self, ask: LogAsk) -> None:
        """Store a new request."""
        self._silent.discard(ask.agent)
        values = {name: getattr(ask, name) for name in LogAsk.__dataclass_fields__ if name != "counter"} | _place(
            ask.counter
        )
        values |= {"what": list(ask.what), "state": str(ask.state), "text": ""}
        self._db.execute(insert(LOG_REQUEST).values(**values))

    def get(self, ask_id: str) -> LogAsk | None:
        """One request."""
        return next(iter(self._asks(LOG_REQUEST.c.id == ask_id)), None)

    def text(self, ask_id: str) -> str | None:
        """What came in answer, or None."""
        answered = (LOG_REQUEST.c.id == ask_id, LOG_REQUEST.c.state == str(LogState.ANSWERED))
        text: str | None = self._db.execute(select(LOG_REQUEST.c.text).where(*answered)).scalar()
        return text

    def of_target(self, target: str, limit: int, *, after: tuple[float, str] | None = None) -> Sequence[LogAsk]:
        """The target's requests, the newest first; `after`: (`asked_at`, `id`) of the one before."""
        query = select(*_COLUMNS).where(LOG_REQUEST.c.target == target)
        if after is not None:
            at, same = LOG_REQUEST.c.asked_at, LOG_REQUEST.c.id
            query = query.where((at < after[0]) | ((at == after[0]) & (same > after[1])))
        query = query.order_by(LOG_REQUEST.c.asked_at.desc(), LOG_REQUEST.c.id).limit(limit)
        return [_ask(dict(row)) for row in self._db.execute(query).mappings()]

    def of_campaign(self, campaign: str, after: str, limit: int) -> Sequence[LogAsk]:
        """The campaign's evidence, by id, after this one."""
        query = select(*_COLUMNS).where(LOG_REQUEST.c.campaign == campaign, LOG_REQUEST.c.id > after)
        return [_ask(dict(row)) for row in self._db.execute(query.order_by(LOG_REQUEST.c.id).limit(limit)).mappings()]

    def waiting(self, agent: str) -> Sequence[LogAsk]:
        """The agent's requests without an answer, the oldest first."""
        if agent in self._silent:
            return []
        return self._asks(LOG_REQUEST.c.agent == agent, LOG_REQUEST.c.state == str(LogState.WAITING))

    def highest(self, target: str) -> Counter | None:
        """The highest counter of any request that is known."""
        query = select(LOG_REQUEST.c.epoch, LOG_REQUEST.c.n).where(LOG_REQUEST.c.target == target)
        row = self._db.execute(query.order_by(LOG_REQUEST.c.epoch.desc(), LOG_REQUEST.c.n.desc()).limit(1)).first()
        return None if row is None else Counter(epoch=row.epoch, n=row.n)

    def sent_again(self, ask_id: str, counter: Counter, at: float) -> None:
        """It was signed anew; what came in parts before is forgotten."""
        values = _place(counter) | {"sent_at": at}
        self._db.execute(update(LOG_REQUEST).where(LOG_REQUEST.c.id == ask_id).values(**values))
        self._forget_parts(ask_id)

    def add_part(self, ask_id: str, index: int, data: bytes) -> Sequence[bytes]:
        """Store a part; all parts so far, by index. One that is there already stays."""
        mine = LOG_PART.c.request == ask_id
        if self._db.execute(select(LOG_PART.c.number).where(mine, LOG_PART.c.number == index)).first() is None:
            self._db.execute(insert(LOG_PART).values(request=ask_id, number=index, data=data))
        return list(self._db.execute(select(LOG_PART.c.data).where(mine).order_by(LOG_PART.c.number)).scalars())

    def close(self, ask_id: str, state: LogState, at: float, *, text: str, reason_kind: str, reason: str) -> None:
        """Make it one that waits no more; changes nothing when it did not wait. Its parts are forgotten."""
        waits = (LOG_REQUEST.c.id == ask_id, LOG_REQUEST.c.state == str(LogState.WAITING))
        values = {
            "state": str(state),
            "answered_at": at,
            "text": text,
            "size_bytes": len(text.encode()),
            "reason_kind": reason_kind,
            "reason": reason,
        }
        self._db.execute(update(LOG_REQUEST).where(*waits).values(**values))
        self._forget_parts(ask_id)

    def expire(self, now: float, limit: int) -> int:
        """Close those whose time is over; returns how many."""
        over = (LOG_REQUEST.c.state == str(LogState.WAITING), LOG_REQUEST.c.expires_at <= now)
        ids = list(self._db.execute(select(LOG_REQUEST.c.id).where(*over).limit(limit)).scalars())
        for ask_id in ids:
            why = "The target did not answer in time."
            self.close(ask_id, LogState.EXPIRED, now, text="", reason_kind="unreached", reason=why)
        return len(ids)

    def forget(self, before: float, keep: int, limit: int) -> int:
        """Forget those that people asked for before, and of each target's closed ones all but the latest `keep`; returns how
        many. Evidence stays."""
        rank = func.row_number().over(
            partition_by=LOG_REQUEST.c.target, order_by=(LOG_REQUEST.c.asked_at.desc(), LOG_REQUEST.c.id)
        )
        columns = (LOG_REQUEST.c.id, LOG_REQUEST.c.asked_at, LOG_REQUEST.c.state, rank.label("rank"))
        ranked = select(*columns).where(LOG_REQUEST.c.campaign.is_(None)).subquery()
        closed = ranked.c.state != str(LogState.WAITING)
        old = select(ranked.c.id).where(closed, (ranked.c.rank > keep) | (ranked.c.asked_at < before)).limit(limit)
        ids = list(self._db.execute(old).scalars())
        if ids:
            self._db.execute(delete(LOG_PART).where(LOG_PART.c.request.in_(ids)))
            self._db.execute(delete(LOG_REQUEST).where(LOG_REQUEST.c.id.in_(ids)))
        return len(ids)

    def _asks(self, *where: object) -> list[LogAsk]:
        query = select(*_COLUMNS).where(*where).order_by(LOG_REQUEST.c.asked_at, LOG_REQUEST.c.id)  # type: ignore[arg-type]
        return [_ask(dict(row)) for row in self._db.execute(query).mappings()]

    def _forget_parts(self, ask_id: str) -> None:
        self._db.execute(delete(LOG_PART).where(LOG_PART.c.request == ask_id))


def _place(counter: Counter) -> dict[str, int]:
    return {"epoch": counter.epoch, "n": counter.n}


def _ask(row: dict[str, object]) -> LogAsk:
    counter = Counter(epoch=row.pop("epoch"), n=row.pop("n"))  # type: ignore[arg-type]
    return LogAsk(**{**row, "counter": counter, "state": LogState(str(row["state"]))})  # type: ignore[arg-type]
