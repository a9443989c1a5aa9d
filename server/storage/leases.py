"""Leases: rows that one holder at a time may call its own, taken and kept by compare-and-set.

Writers follow each other, so what a transaction finds here holds until it has committed.
"""

from msgspec.structs import asdict, replace
from sqlalchemy import Connection, bindparam, insert, select, update

from server.errors import ConflictError, NotLeaderError
from server.ports import Lease
from server.storage.tables import LEASE

_OF = select(LEASE).where(LEASE.c.name == bindparam("of_name"))
_MINE = (
    LEASE.c.name == bindparam("of_name"),
    LEASE.c.holder == bindparam("of_holder"),
    LEASE.c.token == bindparam("of_token"),
    LEASE.c.is_free.is_(False),
)
_HOLD = select(LEASE.c.token).where(*_MINE)
_RENEW = update(LEASE).where(*_MINE).values(renewals=LEASE.c.renewals + 1)
_GIVE_BACK = update(LEASE).where(*_MINE).values(renewals=LEASE.c.renewals + 1, is_free=True)
_TAKE = update(LEASE).where(
    LEASE.c.name == bindparam("of_name"),
    LEASE.c.token == bindparam("seen_token"),
    LEASE.c.renewals == bindparam("seen_renewals"),
)


class SqlLeases:
    """`server.ports.Leases` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def get(self, name: str) -> Lease:
        """The lease as it stands; free and with token 0 when nobody ever had it."""
        row = self._db.execute(_OF, {"of_name": name}).mappings().first()
        return Lease(name=name) if row is None else Lease(**row)

    def take(self, seen: Lease, *, holder: str, address: str) -> Lease:
        """Make it this holder's, under the next token. Raises `ConflictError` when it is not as it was seen."""
        taken = replace(
            seen, holder=holder, address=address, token=seen.token + 1, renewals=seen.renewals + 1, is_free=False
        )
        if seen.token == 0 and self.get(seen.name) == seen:
            self._db.execute(insert(LEASE), asdict(taken))
            return taken
        place = {"of_name": seen.name, "seen_token": seen.token, "seen_renewals": seen.renewals}
        if self._db.execute(_TAKE, {**place, **asdict(taken)}).rowcount != 1:
            raise ConflictError(f"The lease {seen.name} was renewed or taken since it was looked at.")
        return taken

    def hold(self, mine: Lease) -> None:
        """Make sure, for this transaction, that it is still the holder's; raises `NotLeaderError` when it isn't."""
        if self._db.execute(_HOLD, _of(mine)).first() is None:
            raise self._lost(mine)

    def renew(self, mine: Lease) -> None:
        """Show that the holder lives; raises `NotLeaderError` when it isn't the holder's any more."""
        if self._db.execute(_RENEW, _of(mine)).rowcount != 1:
            raise self._lost(mine)

    def give_back(self, mine: Lease) -> None:
        """Let whoever wants it have it at once; changes nothing when it isn't the holder's any more."""
        self._db.execute(_GIVE_BACK, _of(mine))

    def _lost(self, mine: Lease) -> NotLeaderError:
        now = self.get(mine.name)
        return NotLeaderError(
            f"This server no longer leads: {now.address or 'another server'} has had the lease since token {now.token}, and "
            f"this one's was {mine.token}. Start it again, and it stands by."
        )


def _of(mine: Lease) -> dict[str, object]:
    return {"of_name": mine.name, "of_holder": mine.holder, "of_token": mine.token}
