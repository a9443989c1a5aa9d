"""What administrators do to webhooks; each act and its line on the trail are one transaction."""

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from msgspec.structs import replace

from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN
from server.errors import NotFoundError
from server.identity.secrets import new_id
from server.ports import Clock, Database, Delivery, DeliveryState, Purpose, Unit, Webhook, WebhookState
from server.webhooks.addresses import Addresses, host_of
from server.webhooks.delivery import line, new_delivery
from server.webhooks.events import TEST, check_patterns, id_of, line_of, type_of
from server.webhooks.signing import WebhookSecrets, shown

MOST_WEBHOOKS = 50
MOST_OVERLAP_S = 7 * 86400.0
"""As long as an old secret may sign beside a new one."""
_NAME = re.compile(ID_PATTERN)
T = TypeVar("T")


class WebhookDesk:
    """Adds, changes, tests and removes webhooks. Raises `NotFoundError` for names that aren't there."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        secrets: WebhookSecrets,
        addresses: Addresses,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """`wake` is told when there may be something to deliver."""
        self._database = database
        self._clock = clock
        self._secrets = secrets
        self._addresses = addresses
        self._wake = wake

    async def add(self, name: str, url: str, types: Sequence[str], *, by: str) -> tuple[Webhook, str]:
        """Keep a new one, which is told what happens from now on; with its secret, which is shown this once.

        Raises `RefusedError` (`bad-name`, `bad-url`, `private-address`, `unknown-type`, `webhook-exists`, `too-many-webhooks`).
        """
        if not _NAME.match(name):
            raise RefusedError("bad-name", "A webhook's name has lower-case letters, digits and '-', at most 63.")
        wanted, now = check_patterns(types), self._clock.now()
        url = self._addresses.check(url)
        salt = new_id("wh")

        def work(unit: Unit) -> Webhook:
            present = unit.webhooks.list()
            if any(one.name == name for one in present):
                raise RefusedError("webhook-exists", f"There is a webhook {name} already; change or remove it.")
            if len(present) >= MOST_WEBHOOKS:
                raise RefusedError("too-many-webhooks", f"There may be {MOST_WEBHOOKS} webhooks; remove one first.")
            text = f"{by} added webhook {name}: {host_of(url)} is told {_spoken(wanted)}."
            number = _say(unit, "webhook-added", text, name, by, now)
            hook = Webhook(name=name, url=url, types=wanted, salt=salt, after=number, made_at=now, by=by)
            unit.webhooks.add(hook)
            return hook

        secret = await asyncio.to_thread(self._secrets.secret, salt)
        return await self._database.write(work), shown(secret)

    async def list(self) -> Sequence[Webhook]:
        """All, by name."""
        return await self._database.read(lambda unit: unit.webhooks.list())

    async def show(self, name: str) -> tuple[Webhook, int]:
        """One, and how many deliveries of it wait."""
        return await self._database.read(lambda unit: (_hook(unit, name), unit.webhooks.waiting(name)))

    async def change(
        self, name: str, *, url: str | None = None, types: Sequence[str] | None = None, by: str
    ) -> Webhook:
        """Send elsewhere, or something else. Raises `RefusedError` as `add` does."""
        wanted = None if types is None else check_patterns(types)
        url = None if url is None else self._addresses.check(url)

        def work(unit: Unit) -> Webhook:
            before = _hook(unit, name)
            after = replace(
                before, url=before.url if url is None else url, types=before.types if wanted is None else wanted
            )
            if after == before:
                return before
            text = f"{by} changed webhook {name}: {host_of(after.url)} is told {_spoken(after.types)}."
            _say(unit, "webhook-changed", text, name, by, self._clock.now())
            unit.webhooks.change(before, url=after.url, types=after.types)
            return after

        return await self._write(work)

    async def renew(self, name: str, *, overlap_s: float = 0.0, by: str) -> tuple[Webhook, str]:
        """Give a webhook another secret, which is shown this once; the one before signs beside it for `overlap_s`, and any before
        that nothing any more. Raises `RefusedError` (`bad-overlap`)."""
        if not 0 <= overlap_s <= MOST_OVERLAP_S:
            text = f"The old secret may go on signing for up to {MOST_OVERLAP_S / 86400:.0f} days."
            raise RefusedError("bad-overlap", text)
        salt = new_id("wh")
        secret = await asyncio.to_thread(self._secrets.secret, salt)

        def work(unit: Unit) -> Webhook:
            before, now = _hook(unit, name), self._clock.now()
            until = now + overlap_s if overlap_s else None
            beside = f"; the one before signs until {_minute(until)}" if until else ""
            _say(unit, "webhook-secret-renewed", f"{by} renewed the secret of webhook {name}{beside}.", name, by, now)
            old = before.salt if until else None
            unit.webhooks.change(before, salt=salt, old_salt=old, old_secret_until=until)
            return _hook(unit, name)

        return await self._write(work), shown(secret)

    async def forget_old_secret(self, name: str, *, by: str) -> Webhook:
        """Let only the present secret sign from now on, whatever time the one before had left."""

        def work(unit: Unit) -> Webhook:
            before, now = _hook(unit, name), self._clock.now()
            if before.old_salt is None:
                return before
            text = f"{by} ended the old secret of webhook {name}."
            _say(unit, "webhook-secret-ended", text, name, by, now)
            unit.webhooks.change(before, old_salt=None, old_secret_until=None)
            return _hook(unit, name)

        return await self._write(work)

    async def pause(self, name: str, *, by: str, reason: str = "") -> Webhook:
        """Tell it nothing until it is resumed; what happens meanwhile is told then."""
        return await self._turn(name, WebhookState.PAUSED, by, reason, skip=False)

    async def resume(self, name: str, *, by: str, reason: str = "", skip: bool = False) -> Webhook:
        """Go on where it stopped; `skip`: from now on, leaving out what waits and what happened meanwhile."""
        return await self._turn(name, WebhookState.ON, by, reason, skip=skip)

    async def remove(self, name: str, *, by: str) -> None:
        """Forget one, with its deliveries."""

        def work(unit: Unit) -> None:
            if not unit.webhooks.remove(name):
                raise _unknown(name)
            _say(unit, "webhook-removed", f"{by} removed webhook {name}.", name, by, self._clock.now())

        await self._database.write(work)

    async def test(self, name: str, *, by: str) -> Delivery:
        """Send it one event of the type `otaria.webhook.test`, once, whatever its state."""

        def work(unit: Unit) -> Delivery:
            hook, now = _hook(unit, name), self._clock.now()
            number = _say(unit, "webhook-tested", f"{by} tests webhook {name}.", name, by, now)
            return _send(unit, hook, number, TEST, Purpose.TEST, now)

        return await self._write(work)

    async def replay(self, name: str, event: str, *, by: str) -> Delivery:
        """Send it an event again, under the same id, whatever its state and types. Raises `NotFoundError` for an event that the
        trail doesn't have (any more)."""

        def work(unit: Unit) -> Delivery:
            hook, now, number = _hook(unit, name), self._clock.now(), line_of(event)
            record = None if number is None else line(unit, number)
            kind = None if record is None else type_of(record)
            if record is None or kind is None or id_of(record) != event:
                raise NotFoundError(
                    f"There is no event {event}; `otaria webhook show {name}` lists those that were sent."
                )
            _say(unit, "webhook-replayed", f"{by} sends {event} to webhook {name} again.", name, by, now)
            return _send(unit, hook, record.id, kind, Purpose.REPLAY, now)

        return await self._write(work)

    async def deliveries(
        self, name: str, *, before: int | None = None, limit: int = 100, state: DeliveryState | None = None
    ) -> Sequence[Delivery]:
        """The newest, newest first."""

        def work(unit: Unit) -> Sequence[Delivery]:
            _hook(unit, name)
            return unit.webhooks.deliveries(name, before=before, limit=limit, state=state)

        return await self._database.read(work)

    async def _turn(self, name: str, state: WebhookState, by: str, reason: str, *, skip: bool) -> Webhook:
        def work(unit: Unit) -> Webhook:
            before, now = _hook(unit, name), self._clock.now()
            word = "paused" if state is WebhookState.PAUSED else "resumed"
            passed = ", leaving out what happened meanwhile" if skip else ""
            text = f"{by} {word} webhook {name}{passed}{f': {reason}' if reason else '.'}"
            number = _say(unit, f"webhook-{word}", text, name, by, now)
            if skip:
                unit.webhooks.drop_waiting(name)
                unit.webhooks.change(before, after=number)
            unit.webhooks.change(before, state=state, reason=reason, failures=0, failing_since=None, retry_at=None)
            return _hook(unit, name)

        return await self._write(work)

    async def _write(self, work: Callable[[Unit], T]) -> T:
        done = await self._database.write(work)
        self._wake()
        return done


def _send(unit: Unit, hook: Webhook, number: int, kind: str, purpose: Purpose, now: float) -> Delivery:
    record = line(unit, number)
    assert record is not None  # noqa: S101 - it was read or written in this transaction
    delivery = new_delivery(hook, record, kind, purpose, now)
    return replace(delivery, id=unit.webhooks.enqueue(delivery))


def _say(unit: Unit, kind: str, text: str, name: str, by: str, now: float) -> int:
    """A line for the trail; returns its number."""
    unit.audit.add(at=now, kind=kind, text=text[:1000], actor=by, data={"webhook": name})
    return unit.audit.latest(limit=1)[0].id


def _hook(unit: Unit, name: str) -> Webhook:
    hook = unit.webhooks.get(name)
    if hook is None:
        raise _unknown(name)
    return hook


def _minute(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"There is no webhook {name}; `otaria webhook list` shows those there are.")


def _spoken(types: Sequence[str]) -> str:
    return ", ".join(types) if types else "everything"
