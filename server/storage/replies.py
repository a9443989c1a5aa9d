"""Answers by idempotency key."""

from sqlalchemy import Connection, delete, insert, select

from server.ports.replies import KeptReply
from server.storage.tables import REPLY


class SqlReplies:
    """`server.ports.Replies` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def get(self, reply_id: str) -> KeptReply | None:
        """What is kept under this id, expired or not."""
        row = self._db.execute(select(REPLY).where(REPLY.c.id == reply_id)).mappings().first()
        return None if row is None else KeptReply(**row)

    def put(self, reply: KeptReply) -> None:
        """Keep it in the place of what was kept under its id."""
        self.remove(reply.id)
        self._db.execute(insert(REPLY).values(**vars(reply)))

    def remove(self, reply_id: str) -> None:
        """Forget one."""
        self._db.execute(delete(REPLY).where(REPLY.c.id == reply_id))

    def forget(self, now: float, limit: int) -> int:
        """Forget what has expired; returns how many."""
        old = select(REPLY.c.id).where(REPLY.c.expires_at <= now).order_by(REPLY.c.expires_at).limit(limit)
        ids = list(self._db.execute(old).scalars())
        if ids:
            self._db.execute(delete(REPLY).where(REPLY.c.id.in_(ids)))
        return len(ids)
