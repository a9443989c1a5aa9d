"""Checks elsewhere that are asked until they answer."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from server.planner.surroundings import Inquiry
from server.ports import OpenInquiry
from server.storage.tables import INQUIRY

_SHOWN = tuple(INQUIRY.c[name] for name in Inquiry.__struct_fields__)
_OF = select(*_SHOWN).where(
    INQUIRY.c.key.in_(bindparam("keys", expanding=True)), INQUIRY.c.name.in_(bindparam("names", expanding=True))
)
_WAITS = INQUIRY.c.state == "waiting"


class SqlInquiries:
    """`server.ports.Inquiries` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def open(self, inquiry: OpenInquiry) -> bool:
        """Keep one that is to be asked, unless one about the same waits; whether it is new."""
        which = (INQUIRY.c.name == inquiry.name, INQUIRY.c.key == inquiry.key)
        if self._db.execute(select(INQUIRY.c.name).where(*which, _WAITS)).first() is not None:
            return False
        self._db.execute(delete(INQUIRY).where(*which))
        values = {name: getattr(inquiry, name) for name in OpenInquiry.__struct_fields__}
        self._db.execute(insert(INQUIRY).values(**values, state="waiting"))
        return True

    def due(self, now: float, limit: int) -> Sequence[OpenInquiry]:
        """Some that are to be asked now, the longest due first."""
        columns = [INQUIRY.c[name] for name in OpenInquiry.__struct_fields__]
        query = select(*columns).where(_WAITS, INQUIRY.c.next_at <= now).order_by(INQUIRY.c.next_at).limit(limit)
        return [OpenInquiry(**row) for row in self._db.execute(query).mappings()]

    def next_at(self) -> float | None:
        """When the next is to be asked."""
        return self._db.execute(select(func.min(INQUIRY.c.next_at)).where(_WAITS)).scalar()

    def put_off(self, inquiry: OpenInquiry, next_at: float, reason: str) -> bool:
        """It wasn't answered: ask again then. Whether it was still as it is given."""
        values = {"attempts": inquiry.attempts + 1, "next_at": next_at, "reason": reason}
        return self._change(inquiry, values)

    def answered(self, inquiry: OpenInquiry) -> bool:
        """It is asked no more. Whether it was still as it is given."""
        return self._change(inquiry, {"state": "answered", "reason": ""})

    def drop(self, inquiry: OpenInquiry) -> None:
        """Nobody wants to know any more."""
        self._db.execute(delete(INQUIRY).where(INQUIRY.c.name == inquiry.name, INQUIRY.c.key == inquiry.key))

    def forget(self, before: float, limit: int) -> int:
        """Forget answered ones from before; returns how many."""
        old = select(INQUIRY.c.name, INQUIRY.c.key).where(~_WAITS, INQUIRY.c.asked_at < before).limit(limit)
        rows = self._db.execute(old).all()
        for name, key in rows:
            self._db.execute(delete(INQUIRY).where(INQUIRY.c.name == name, INQUIRY.c.key == key))
        return len(rows)

    def _change(self, inquiry: OpenInquiry, values: dict[str, object]) -> bool:
        which = (
            INQUIRY.c.name == inquiry.name,
            INQUIRY.c.key == inquiry.key,
            INQUIRY.c.asked_at == inquiry.asked_at,
            INQUIRY.c.attempts == inquiry.attempts,
        )
        return self._db.execute(update(INQUIRY).where(*which, _WAITS).values(**values)).rowcount == 1


def about(db: Connection, keys: Sequence[str], names: Sequence[str]) -> tuple[Inquiry, ...]:
    """What became of these checks about any of these keys."""
    rows = db.execute(_OF, {"keys": list(keys), "names": list(names)}).mappings()
    return tuple(Inquiry(**row) for row in rows)
