"""Signed envelopes, as they were sent or came."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, RowMapping, delete, insert, select

from server.ports import EnvelopeKind, SignedEnvelope
from server.storage.desk import Desk
from server.storage.tables import SIGNED_ENVELOPE

_E = SIGNED_ENVELOPE.c
_NEW = insert(SIGNED_ENVELOPE)


class SqlEnvelopes:
    """`server.ports.Envelopes` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._desk = Desk.of(connection)

    def add(self, envelope: SignedEnvelope) -> None:
        """Keep one under the next id; its own counts for nothing."""
        values = {name: value for name, value in msgspec.structs.asdict(envelope).items() if name != "id"}
        self._desk.later(_NEW, {**values, "kind": str(envelope.kind)})

    def get(self, envelope_id: int) -> SignedEnvelope | None:
        """One by its id."""
        row = self._db.execute(select(SIGNED_ENVELOPE).where(_E.id == envelope_id)).mappings().first()
        return None if row is None else _envelope(row)

    def of_target(
        self, target: str, *, before: int | None = None, limit: int = 100, kind: EnvelopeKind | None = None
    ) -> Sequence[SignedEnvelope]:
        """The newest, newest first; with an id below `before`."""
        query = select(SIGNED_ENVELOPE).where(_E.target == target)
        if before is not None:
            query = query.where(_E.id < before)
        if kind is not None:
            query = query.where(_E.kind == str(kind))
        return [_envelope(row) for row in self._db.execute(query.order_by(_E.id.desc()).limit(limit)).mappings()]

    def forget(self, before: float, limit: int) -> int:
        """Forget those of the first `limit` that are older than this; returns how many."""
        first = select(_E.id).order_by(_E.id).limit(limit)
        return self._db.execute(
            delete(SIGNED_ENVELOPE).where(_E.id.in_(first.scalar_subquery()), _E.at < before)
        ).rowcount


def _envelope(row: RowMapping) -> SignedEnvelope:
    return SignedEnvelope(**{**row, "kind": EnvelopeKind(row["kind"])})
