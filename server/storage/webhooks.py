"""Addresses that are told what happens, and the deliveries that wait for them."""

import builtins
from collections.abc import Sequence
from typing import Any

from msgspec import structs
from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from server.ports import Delivery, DeliveryState, Purpose, Webhook, WebhookState
from server.storage.tables import WEBHOOK, WEBHOOK_DELIVERY

_D = WEBHOOK_DELIVERY.c
_WAITS = _D.state == DeliveryState.WAITING.value
_FIELDS = tuple(field.name for field in structs.fields(Delivery))


class SqlWebhooks:
    """`server.ports.Webhooks` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def add(self, hook: Webhook) -> None:
        """Keep a new one."""
        self._db.execute(insert(WEBHOOK).values(**_values(hook)))

    def get(self, name: str) -> Webhook | None:
        """One by its name."""
        row = self._db.execute(select(WEBHOOK).where(WEBHOOK.c.name == name)).mappings().first()
        return None if row is None else _hook(row)

    def list(self) -> Sequence[Webhook]:
        """All, by name."""
        return [_hook(row) for row in self._db.execute(select(WEBHOOK).order_by(WEBHOOK.c.name)).mappings()]

    def change(self, hook: Webhook, **values: Any) -> bool:
        """Set these columns of one that has not been removed; whether it is there."""
        same = (WEBHOOK.c.name == hook.name, WEBHOOK.c.salt == hook.salt)
        return self._db.execute(update(WEBHOOK).where(*same).values(**_plain(values))).rowcount == 1

    def advance(self, hook: Webhook, to: int) -> bool:
        """Note that it was given the trail up to this line; whether nobody else has meanwhile."""
        same = (WEBHOOK.c.name == hook.name, WEBHOOK.c.salt == hook.salt, WEBHOOK.c.after == hook.after)
        return self._db.execute(update(WEBHOOK).where(*same).values(after=to)).rowcount == 1

    def remove(self, name: str) -> bool:
        """Forget one with its deliveries; whether it was there."""
        self._db.execute(delete(WEBHOOK_DELIVERY).where(_D.webhook == name))
        return self._db.execute(delete(WEBHOOK).where(WEBHOOK.c.name == name)).rowcount == 1

    def enqueue(self, delivery: Delivery) -> int:
        """Keep a new one under the next id, which is returned; `delivery.id` counts for nothing."""
        values = _values(delivery)
        del values["id"]
        key = self._db.execute(insert(WEBHOOK_DELIVERY).values(**values)).inserted_primary_key
        assert key is not None  # noqa: S101 - one row was inserted
        return int(key[0])

    def drop_waiting(self, name: str) -> int:
        """Forget deliveries of one that wait; returns how many."""
        return self._db.execute(delete(WEBHOOK_DELIVERY).where(_D.webhook == name, _WAITS)).rowcount

    def waiting(self, name: str) -> int:
        """How many deliveries of one wait."""
        query = select(func.count()).select_from(WEBHOOK_DELIVERY).where(_D.webhook == name, _WAITS)
        return int(self._db.execute(query).scalar_one())

    def due(self, name: str, now: float, limit: int, *, asked: bool) -> Sequence[Delivery]:
        """Some that are to be tried now, the longest due first; `asked`: only those that a person asked for."""
        query = select(WEBHOOK_DELIVERY).where(_D.webhook == name, _WAITS, _D.next_at <= now)
        if asked:
            query = query.where(_D.purpose != Purpose.EVENT.value)
        rows = self._db.execute(query.order_by(_D.next_at, _D.id).limit(limit)).mappings()
        return [_delivery(row) for row in rows]

    def settle(self, delivery: Delivery) -> bool:
        """Store what came of an attempt (one more than stored); whether it still waited for just that."""
        changed = {
            name: getattr(delivery, name) for name in ("state", "attempts", "next_at", "done_at", "code", "said")
        }
        same = (_D.id == delivery.id, _D.attempts == delivery.attempts - 1, _WAITS)
        return self._db.execute(update(WEBHOOK_DELIVERY).where(*same).values(**_plain(changed))).rowcount == 1

    def deliveries(
        self, name: str, *, before: int | None = None, limit: int = 100, state: DeliveryState | None = None
    ) -> Sequence[Delivery]:
        """The newest, newest first; with an id below `before`."""
        query = select(WEBHOOK_DELIVERY).where(_D.webhook == name)
        if before is not None:
            query = query.where(_D.id < before)
        if state is not None:
            query = query.where(_D.state == state.value)
        return [_delivery(row) for row in self._db.execute(query.order_by(_D.id.desc()).limit(limit)).mappings()]

    def forget(self, before: float, limit: int) -> int:
        """Forget some that were done before then; returns how many."""
        old = select(_D.id).where(_D.done_at < before).order_by(_D.done_at).limit(limit)
        ids = self._db.execute(old).scalars().all()
        self._db.execute(delete(WEBHOOK_DELIVERY).where(_D.id.in_(ids)))
        return len(ids)


def _values(value: Webhook | Delivery) -> dict[str, Any]:
    return _plain(structs.asdict(value))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Words as text, several as a list."""
    plain = {key: builtins.list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    words = (WebhookState, DeliveryState, Purpose)
    return {key: value.value if isinstance(value, words) else value for key, value in plain.items()}


def _hook(row: RowMapping) -> Webhook:
    return Webhook(**{**row, "types": tuple(row["types"]), "state": WebhookState(row["state"])})


def _delivery(row: RowMapping) -> Delivery:
    words = {"state": DeliveryState(row["state"]), "purpose": Purpose(row["purpose"])}
    return Delivery(**{**{name: row[name] for name in _FIELDS}, **words})
