"""Events on their way: out of the trail into deliveries, and from there to their addresses until they are taken.

Rules
- The trail is the outbox: a line is written in the transaction of what it tells of. Each webhook remembers up to which line it
  was given its events, and takes more only while few wait, so that an address that is gone for long holds up nothing and
  fills nothing: its events stay where they are.
- An event is sent at least once. It leaves its delivery only with an answer of status 2xx, or when it was refused
  `MOST_ATTEMPTS` times while others were taken; then it can be sent again by its id.
- Each webhook has a task of its own. While one fails it gets one attempt at a time, after twice as long each time up to
  `MOST_WAIT_S`, shortened by a share that differs. One that took nothing for `OFF_AFTER_S`, or says 410, is switched off.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from firmware.errors import OtariaError
from server.ports import AuditRecord, Clock, Database, Delivery, DeliveryState, Purpose, Unit, Webhook, WebhookState
from server.webhooks.addresses import host_of
from server.webhooks.events import CONTENT_TYPE, TESTS, TYPES, Event, event_of, id_of, matches, type_of
from server.webhooks.post import Outcome
from server.webhooks.signing import WebhookSecrets, headers

LOOK_EVERY_S = 1.0
PAGE = 500
"""Lines of the trail that are looked at in one go."""
MOST_WAITING = 500
AT_ONCE = 8
FIRST_WAIT_S, MOST_WAIT_S = 5.0, 3600.0
MOST_ATTEMPTS = 12
OFF_AFTER_S = 3 * 86400.0
KEEP_S = 14 * 86400.0
FORGET_PAGE = 500
GONE = 410
_log = logging.getLogger(__name__)


class Posts(Protocol):
    """Sends one request; never raises for what an address does."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome: ...


class Deliveries:
    """Keep `run` running."""

    def __init__(self, *, database: Database, clock: Clock, secrets: WebhookSecrets, posts: Posts, source: str) -> None:
        """`source`: who events say they are from."""
        self._database = database
        self._clock = clock
        self._secrets = secrets
        self._posts = posts
        self._source = source
        self._looked: dict[str, int] = {}
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        rounds: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                self._woken.clear()
                for name in [name for name, task in rounds.items() if task.done()]:
                    rounds.pop(name).result()
                for name in await self._names():
                    if name not in rounds:
                        rounds[name] = asyncio.create_task(self._round(name), name=f"webhook {name}")
                await self._pause()
        finally:
            for task in rounds.values():
                task.cancel()
            await asyncio.gather(*rounds.values(), return_exceptions=True)

    async def settle(self, name: str) -> int:
        """Give one webhook what happened, and try once what is due of it; returns how much of both there was."""
        now = self._clock.now()
        hook, lines, due = await self._database.read(lambda unit: self._look(unit, name, now))
        if hook is None:
            return 0
        wanted = [line for line in lines if _wants(hook, line)]
        if lines:
            await self._take_up(hook, lines[-1].id, wanted, now)
        if due:
            outcomes = await asyncio.gather(*(self._attempt(hook, delivery, line) for delivery, line in due))
            found = [(delivery, outcome) for (delivery, _), outcome in zip(due, outcomes, strict=True)]
            await self._database.write(lambda unit: _store(unit, hook, found, self._clock.now()))
        return len(due) + len(wanted) + (len(lines) if len(lines) == PAGE else 0)

    async def _names(self) -> Sequence[str]:
        try:
            return await self._database.read(lambda unit: [hook.name for hook in unit.webhooks.list()])
        except OtariaError as error:
            _log.error("webhooks wait: %s", error, extra={"kind": error.kind})
            return ()

    async def _round(self, name: str) -> None:
        try:
            while await self.settle(name):
                continue
        except OtariaError as error:
            _log.error("webhook %s waits: %s", name, error, extra={"kind": error.kind})

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._woken.wait(), LOOK_EVERY_S)
        except TimeoutError:
            return

    def _look(
        self, unit: Unit, name: str, now: float
    ) -> tuple[Webhook | None, Sequence[AuditRecord], list[tuple[Delivery, AuditRecord | None]]]:
        """A webhook, what happened since it was last given something, and what is to be tried now with its line."""
        hook = unit.webhooks.get(name)
        if hook is None:
            self._looked.pop(name, None)
            return None, (), []
        lines: Sequence[AuditRecord] = ()
        if hook.state is WebhookState.ON and unit.webhooks.waiting(name) < MOST_WAITING:
            lines = unit.audit.page(after=max(hook.after, self._looked.get(name, 0)), limit=PAGE)
        rests = hook.retry_at is not None and hook.retry_at > now
        only_asked = hook.state is not WebhookState.ON or rests
        due = unit.webhooks.due(name, now, 1 if hook.failures else AT_ONCE, asked=only_asked)
        return hook, lines, [(delivery, line(unit, delivery.line)) for delivery in due]

    async def _take_up(self, hook: Webhook, to: int, wanted: Sequence[AuditRecord], now: float) -> None:
        """Make deliveries of these lines. That others were looked at is only written down once they are many."""
        if wanted or to - hook.after >= PAGE:
            await self._database.write(lambda unit: _enqueue(unit, hook, to, wanted, now))
        self._looked[hook.name] = to

    async def _attempt(self, hook: Webhook, delivery: Delivery, line: AuditRecord | None) -> Outcome | None:
        """Try once; None for what can't be told any more, since the trail has no such line."""
        event = self._event(delivery, line)
        if event is None:
            return None
        now = self._clock.now()
        secrets = await asyncio.to_thread(lambda: [self._secrets.secret(salt) for salt in hook.salts(now)])
        signed = headers(secrets, event=event.id, at=int(now), body=event.body)
        more = {"Content-Type": CONTENT_TYPE, "User-Agent": "Otaria"}
        return await self._posts.post(hook.url, event.body, {**signed, **more})

    def _event(self, delivery: Delivery, line: AuditRecord | None) -> Event | None:
        if line is None or id_of(line) != delivery.event or line.kind not in {**TYPES, **TESTS}:
            return None
        return event_of(line, self._source)


def line(unit: Unit, number: int) -> AuditRecord | None:
    """One line of the trail."""
    found = unit.audit.page(after=number - 1, limit=1)
    return found[0] if found and found[0].id == number else None


def wait_s(attempts: int, seed: str) -> float:
    """How long after so many failed attempts there is another one; `seed` makes it differ."""
    longest = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 16))
    digest = hashlib.sha256(f"{seed} {attempts}".encode()).digest()
    return longest * (1 - int.from_bytes(digest[:4], "big") / 2**33)


def new_delivery(hook: Webhook, record: AuditRecord, kind: str, purpose: Purpose, now: float) -> Delivery:
    """One that is due at once."""
    return Delivery(
        id=0,
        webhook=hook.name,
        event=id_of(record),
        line=record.id,
        type=kind,
        purpose=purpose,
        made_at=now,
        next_at=now,
    )


def _wants(hook: Webhook, record: AuditRecord) -> bool:
    kind = type_of(record)
    return kind is not None and matches(hook.types, kind)


def _enqueue(unit: Unit, hook: Webhook, to: int, wanted: Sequence[AuditRecord], now: float) -> None:
    if not unit.webhooks.advance(hook, to):
        return
    for record in wanted:
        unit.webhooks.enqueue(new_delivery(hook, record, type_of(record) or "", Purpose.EVENT, now))


def _store(unit: Unit, hook: Webhook, found: Sequence[tuple[Delivery, Outcome | None]], now: float) -> None:
    """Keep what came of attempts, and what that says of the webhook."""
    current = unit.webhooks.get(hook.name)
    if current is None or current.salt != hook.salt:
        return
    for delivery, outcome in found:
        unit.webhooks.settle(_after(current, delivery, outcome, now))
    outcomes = [outcome for _, outcome in found if outcome is not None]
    refusals = [outcome for outcome in outcomes if not outcome.is_good]
    if len(refusals) < len(outcomes):
        unit.webhooks.change(current, failures=0, failing_since=None, retry_at=None, delivered_at=now)
    if any(outcome.code == GONE for outcome in refusals) or (outcomes and len(refusals) == len(outcomes)):
        _failed(unit, current, refusals, now)
    unit.webhooks.forget(now - KEEP_S, FORGET_PAGE)


def _after(hook: Webhook, delivery: Delivery, outcome: Outcome | None, now: float) -> Delivery:
    tried = replace(delivery, attempts=delivery.attempts + 1)
    if outcome is None:
        return replace(tried, state=DeliveryState.GIVEN_UP, done_at=now, said="the trail has no such line any more")
    tried = replace(tried, code=outcome.code, said=outcome.said)
    if outcome.is_good:
        return replace(tried, state=DeliveryState.DELIVERED, done_at=now)
    takes_others = hook.delivered_at is not None and hook.delivered_at >= delivery.made_at
    if delivery.purpose is Purpose.TEST or (tried.attempts >= MOST_ATTEMPTS and takes_others):
        return replace(tried, state=DeliveryState.GIVEN_UP, done_at=now)
    return replace(tried, next_at=now + wait_s(tried.attempts, delivery.event))


def _failed(unit: Unit, hook: Webhook, refusals: Sequence[Outcome], now: float) -> None:
    """Nothing was taken of what was sent at once, or it says that it is gone."""
    failures, since = hook.failures + 1, now if hook.failing_since is None else hook.failing_since
    asked_s = min(max(outcome.retry_s or 0.0 for outcome in refusals), MOST_WAIT_S)
    retry_at = now + max(asked_s, wait_s(failures, hook.name))
    unit.webhooks.change(hook, failures=failures, failing_since=since, retry_at=retry_at)
    is_gone = any(outcome.code == GONE for outcome in refusals)
    if hook.state is not WebhookState.ON or not (is_gone or now - since >= OFF_AFTER_S):
        return
    why = "says that it is gone for good (410)" if is_gone else f"took nothing for {OFF_AFTER_S / 86400:g} days"
    last = refusals[-1]
    answer = f"status {last.code}" if last.code is not None else last.said
    text = f"Webhook {hook.name}: {host_of(hook.url)} {why}; it is switched off. The last answer: {answer}."
    unit.webhooks.change(hook, state=WebhookState.OFF, reason=text[:500])
    unit.audit.add(at=now, kind="webhook-off", text=text[:1000], actor="webhooks", data={"webhook": hook.name})
