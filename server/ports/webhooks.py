"""Addresses that are told what happens, and what became of each telling."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct


class WebhookState(StrEnum):
    """`paused` by a person, `off` by itself after long failing; what happens meanwhile is told after it is resumed."""

    ON = "on"
    PAUSED = "paused"
    OFF = "off"


class Webhook(Struct, frozen=True, kw_only=True):
    """An address that is told events of these `types` (patterns; none: every type). `after`: the id of the last line of the trail
    that it was given. `salt`: what its secret is made of, beside the server's key. `failures`: attempts since one was good; it is
    left alone until `retry_at`. `old_salt`: of the secret before, which signs beside it until `old_secret_until`."""

    name: str
    url: str
    types: tuple[str, ...] = ()
    state: WebhookState = WebhookState.ON
    reason: str = ""
    salt: str
    after: int
    made_at: float
    by: str
    failures: int = 0
    failing_since: float | None = None
    retry_at: float | None = None
    delivered_at: float | None = None
    old_salt: str | None = None
    old_secret_until: float | None = None

    def salts(self, now: float) -> tuple[str, ...]:
        """What signs, the present one first."""
        if self.old_salt is None or self.old_secret_until is None or self.old_secret_until <= now:
            return (self.salt,)
        return self.salt, self.old_salt


class DeliveryState(StrEnum):
    """What became of a delivery."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


class Purpose(StrEnum):
    """Why there is a delivery: it happened, or a person asked for it. A test is tried once."""

    EVENT = "event"
    TEST = "test"
    REPLAY = "replay"


class Delivery(Struct, frozen=True, kw_only=True):
    """One event for one address. `line`: the id of the line of the trail that it tells of. `code`: the status of the last answer;
    `said`: how that began, or why there was none."""

    id: int
    webhook: str
    event: str
    line: int
    type: str
    purpose: Purpose = Purpose.EVENT
    state: DeliveryState = DeliveryState.WAITING
    attempts: int = 0
    made_at: float
    next_at: float
    done_at: float | None = None
    code: int | None = None
    said: str = ""


class Webhooks(Protocol):
    def add(self, hook: Webhook) -> None: ...
    def get(self, name: str) -> Webhook | None: ...
    def list(self) -> Sequence[Webhook]:
        """All, by name."""
        ...

    def change(self, hook: Webhook, **values: Any) -> bool:
        """Set these columns of one that has not been removed; whether it is there."""
        ...

    def advance(self, hook: Webhook, to: int) -> bool:
        """Note that it was given the trail up to this line; whether nobody else has meanwhile."""
        ...

    def remove(self, name: str) -> bool:
        """Forget one with its deliveries; whether it was there."""
        ...

    def enqueue(self, delivery: Delivery) -> int:
        """Keep a new one under the next id, which is returned; `delivery.id` counts for nothing."""
        ...

    def drop_waiting(self, name: str) -> int:
        """Forget deliveries of one that wait; returns how many."""
        ...

    def waiting(self, name: str) -> int:
        """How many deliveries of one wait."""
        ...

    def due(self, name: str, now: float, limit: int, *, asked: bool) -> Sequence[Delivery]:
        """Some that are to be tried now, the longest due first; `asked`: only those that a person asked for."""
        ...

    def settle(self, delivery: Delivery) -> bool:
        """Store what came of an attempt (one more than stored); whether it still waited for just that."""
        ...

    def deliveries(
        self, name: str, *, before: int | None = None, limit: int = 100, state: DeliveryState | None = None
    ) -> Sequence[Delivery]:
        """The newest, newest first; with an id below `before`."""
        ...

    def forget(self, before: float, limit: int) -> int:
        """Forget some that were done before then; returns how many."""
        ...
