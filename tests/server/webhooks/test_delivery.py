"""Deliveries: at least once, signed, retried, bounded, and each webhook for itself."""

import asyncio
import ipaddress
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from firmware.errors import RefusedError, UnavailableError
from server.errors import NotFoundError
from server.ports import Delivery, DeliveryState, Purpose, WebhookState
from server.storage.database import SqlDatabase
from server.webhooks import delivery as rules
from server.webhooks.addresses import Addresses
from server.webhooks.delivery import MOST_ATTEMPTS, MOST_WAITING, OFF_AFTER_S, Deliveries, wait_s
from server.webhooks.desk import MOST_OVERLAP_S, MOST_WEBHOOKS, WebhookDesk
from server.webhooks.post import Outcome, Poster
from server.webhooks.signing import KEY_FILE, WebhookSecrets
from tests.databases import database_url as database_url
from tests.databases import fresh_sqlite
from tests.databases import postgres as postgres
from tests.people_side import SetClock

HOWTO = Path(__file__).parents[3] / "docs" / "howto" / "webhooks.md"


def documented_check() -> Callable[[str, Mapping[str, str], bytes], bool]:
    """The receiver's check, as the docs have it."""
    (code,) = re.findall(r"```python\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names: dict = {}
    exec(code, names)  # noqa: S102 - our own docs
    return names["is_ours"]


@dataclass
class Receiver:
    """A system that keeps what it is sent and answers what it is told, by the type of an event."""

    url: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    retry_after: str = ""
    got: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    is_stuck: bool = False
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.got.append((dict(request.headers), body))
        self.came.set()
        if self.is_stuck:
            await asyncio.Event().wait()
        kind = json.loads(body)["type"]
        status = self.statuses.get(kind, self.statuses.get("*", 204))
        return web.Response(status=status, headers={"Retry-After": self.retry_after} if self.retry_after else {})

    def events(self) -> list[dict]:
        return [json.loads(body) for _, body in self.got]

    def texts(self) -> list[str]:
        return [event["data"]["text"] for event in self.events()]


@dataclass(kw_only=True)
class Bench:
    """A database with webhooks and one receiver."""

    database: SqlDatabase
    clock: SetClock
    desk: WebhookDesk
    deliveries: Deliveries
    receiver: Receiver
    secrets: WebhookSecrets
    poster: Poster

    async def add(self, name: str = "pager", url: str | None = None, *types: str) -> str:
        _, secret = await self.desk.add(name, url or self.receiver.url, types, by="ann")
        return secret

    async def say(self, *texts: str, kind: str = "gate-failed", **about: str) -> None:
        def work(unit) -> None:
            for text in texts:
                unit.audit.add(at=self.clock.now(), kind=kind, text=text, **about)

        await self.database.write(work)

    async def settle(self, name: str = "pager") -> None:
        while await self.deliveries.settle(name):
            continue

    async def rows(self, name: str = "pager") -> list[Delivery]:
        return list(reversed(await self.desk.deliveries(name)))

    def again(self) -> Deliveries:
        """As after a restart of the server."""
        return Deliveries(
            database=self.database, clock=self.clock, secrets=self.secrets, posts=self.poster, source="/test"
        )


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with made(fresh_sqlite(tmp_path / "otaria.db"), tmp_path) as bench:
        yield bench


class made:  # noqa: N801 - reads as what it gives
    """A bench on a database."""

    def __init__(self, url: str, directory: Path, timeout_s: float = 5.0) -> None:
        self._url, self._directory, self._timeout_s = url, directory, timeout_s

    async def __aenter__(self) -> Bench:
        receiver, clock, app = Receiver(), SetClock(), web.Application()
        app.router.add_post("/take", receiver.take)
        self._server = TestServer(app)
        await self._server.start_server()
        receiver.url = str(self._server.make_url("/take"))
        database, secrets = SqlDatabase.open(self._url), WebhookSecrets(self._directory)
        addresses = Addresses([ipaddress.ip_network("127.0.0.0/8")])
        poster = await Poster(addresses, timeout_s=self._timeout_s).__aenter__()
        deliveries = Deliveries(database=database, clock=clock, secrets=secrets, posts=poster, source="/test")
        desk = WebhookDesk(database=database, clock=clock, secrets=secrets, addresses=addresses, wake=deliveries.wake)
        self._bench = Bench(
            database=database,
            clock=clock,
            desk=desk,
            deliveries=deliveries,
            receiver=receiver,
            secrets=secrets,
            poster=poster,
        )
        return self._bench

    async def __aexit__(self, *_: object) -> None:
        await self._bench.poster.__aexit__(None, None, None)
        await self._server.close()
        await self._bench.database.close()


async def test_what_happens_is_told_once_signed_and_in_order(database_url: str, tmp_path: Path) -> None:
    async with made(database_url, tmp_path) as bench:
        await bench.say("before anybody listened")
        secret = await bench.add()
        await bench.say("one", "two", campaign="spring", change_id="chg-1")
        await bench.say("told to nobody", kind="delta-made")
        await bench.settle()
        await bench.settle()
        assert sorted(bench.receiver.texts()) == ["one", "two"]
        check = documented_check()
        for headers, body in bench.receiver.got:
            assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
            assert headers["webhook-id"] == json.loads(body)["id"]
            fresh = {**headers, "webhook-timestamp": headers["webhook-timestamp"]}
            assert not check(secret, fresh, body), "its time is of another year"
        assert [(row.state, row.code, row.attempts) for row in await bench.rows()] == [("delivered", 204, 1)] * 2
        hook, waiting = await bench.desk.show("pager")
        assert (hook.failures, hook.delivered_at, waiting) == (0, bench.clock.at, 0)


async def test_the_documented_check_knows_us_and_nobody_else(bench: Bench) -> None:
    bench.clock.at = time.time()
    secret = await bench.add()
    await bench.add("other")
    await bench.say("one")
    await bench.settle()
    ((headers, body),) = bench.receiver.got
    check = documented_check()
    assert check(secret, headers, body)
    assert not check(secret, headers, body.replace(b"one", b"two"))
    assert not check(secret, {**headers, "webhook-id": "evt-1-0000000000000000"}, body)
    assert not check(secret, {**headers, "webhook-timestamp": str(int(time.time()) + 1)}, body)
    assert not check((await bench.desk.renew("pager", by="ann"))[1], headers, body)
    await bench.settle("other")
    assert not check(secret, *bench.receiver.got[1])


async def test_the_old_secret_signs_beside_the_new_one_until_its_time_is_up(bench: Bench) -> None:
    check, sent = signed_now(bench)
    first = await bench.add()
    hook, second = await bench.desk.renew("pager", overlap_s=60, by="ann")
    assert hook.old_secret_until == bench.clock.at + 60
    headers, body = await sent("one")
    assert len(headers["webhook-signature"].split()) == 2
    assert [check(secret, headers, body) for secret in (first, second)] == [True, True]
    bench.clock.at += 59
    assert check(first, *await sent("two"))
    bench.clock.at += 1
    headers, body = await sent("three")
    assert [check(secret, headers, body) for secret in (first, second)] == [False, True]
    assert len(headers["webhook-signature"].split()) == 1


async def test_only_one_old_secret_signs_and_can_be_ended_before_its_time(bench: Bench) -> None:
    check, sent = signed_now(bench)
    secrets = [await bench.add()]
    secrets += [(await bench.desk.renew("pager", overlap_s=60, by="ann"))[1] for _ in range(2)]
    headers, body = await sent("one")
    assert [check(secret, headers, body) for secret in secrets] == [False, True, True]
    assert (await bench.desk.forget_old_secret("pager", by="bob")).old_secret_until is None
    headers, body = await sent("two")
    assert [check(secret, headers, body) for secret in secrets] == [False, False, True]
    await bench.desk.renew("pager", overlap_s=60, by="ann")
    _, last = await bench.desk.renew("pager", by="ann")
    headers, body = await sent("three")
    assert (check(last, headers, body), len(headers["webhook-signature"].split())) == (True, 1)
    await bench.desk.forget_old_secret("pager", by="bob")
    said = await bench.database.read(lambda unit: [line.text for line in unit.audit.page() if "secret" in line.text])
    assert said[0].startswith("ann renewed the secret of webhook pager; the one before signs until 2")
    assert [text for text in said if "ended" in text] == ["bob ended the old secret of webhook pager."]


@pytest.mark.parametrize("overlap_s", [-1.0, MOST_OVERLAP_S + 1])
async def test_an_old_secret_does_not_sign_for_ever(bench: Bench, overlap_s: float) -> None:
    await bench.add()
    before, _ = await bench.desk.show("pager")
    with pytest.raises(RefusedError) as refused:
        await bench.desk.renew("pager", overlap_s=overlap_s, by="ann")
    assert refused.value.kind == "bad-overlap"
    assert (await bench.desk.show("pager"))[0] == before


def signed_now(bench: Bench) -> tuple[Callable[[str, Mapping[str, str], bytes], bool], Callable]:
    """The documented check on the bench's clock, and what makes an event and returns it as it was sent."""
    bench.clock.at = time.time()
    check = documented_check()

    async def sent(text: str) -> tuple[Mapping[str, str], bytes]:
        await bench.say(text)
        await bench.settle()
        return bench.receiver.got[-1]

    return check, sent


async def test_a_webhook_is_told_only_the_types_it_wants(bench: Bench) -> None:
    await bench.add("pager", None, "otaria.approval.*", "otaria.gate.passed")
    for kind in ("gate-failed", "approval-overdue", "cohort-passed", "verified"):
        await bench.say(kind, kind=kind)
    await bench.settle()
    assert sorted(bench.receiver.texts()) == ["approval-overdue", "cohort-passed"]
    await bench.desk.change("pager", types=["otaria.target.*"], by="ann")
    await bench.say("two", kind="verified", target="gw-1")
    await bench.settle()
    assert bench.receiver.texts()[2:] == ["two"]
    assert bench.receiver.events()[2]["subject"] == "targets/gw-1"


async def test_a_refusal_is_tried_again_under_the_same_id_and_later_each_time(bench: Bench) -> None:
    await bench.add()
    bench.receiver.statuses["*"] = 500
    await bench.say("one")
    waits = []
    for _ in range(4):
        await bench.settle()
        row = (await bench.rows())[0]
        waits.append(row.next_at - bench.clock.at)
        await bench.settle()
        assert len(bench.receiver.got) == len(waits), "nothing is sent before its time"
        bench.clock.at = max(row.next_at, (await bench.desk.show("pager"))[0].retry_at or 0)
    for count, waited in enumerate(waits):
        assert 5.0 * 2**count / 2 <= waited <= 5.0 * 2**count
    bench.receiver.statuses["*"] = 200
    await bench.settle()
    assert len({headers["webhook-id"] for headers, _ in bench.receiver.got}) == 1
    assert len({body for _, body in bench.receiver.got}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in bench.receiver.got}) == 5
    assert [(row.state, row.attempts, row.code) for row in await bench.rows()] == [("delivered", 5, 200)]


def test_waits_differ_and_have_a_bound() -> None:
    assert len({wait_s(3, f"evt-{number}") for number in range(100)}) == 100
    assert max(wait_s(attempts, "x") for attempts in range(1, 200)) <= 3600.0


async def test_a_receiver_that_asks_for_patience_has_it_within_bounds(bench: Bench) -> None:
    await bench.add()
    bench.receiver.statuses["*"], bench.receiver.retry_after = 429, "120"
    await bench.say("one")
    await bench.settle()
    assert (await bench.desk.show("pager"))[0].retry_at == bench.clock.at + 120
    bench.receiver.retry_after = "999999999"
    bench.clock.at += 121
    await bench.settle()
    assert (await bench.desk.show("pager"))[0].retry_at == bench.clock.at + 3600


async def test_while_it_fails_it_gets_one_attempt_at_a_time_and_afterwards_everything(bench: Bench) -> None:
    await bench.add()
    bench.receiver.statuses["*"] = 503
    await bench.say(*(str(number) for number in range(30)))
    await bench.settle()
    first = len(bench.receiver.got)
    assert first <= rules.AT_ONCE
    for _ in range(5):
        bench.clock.at += 2000
        await bench.settle()
    assert len(bench.receiver.got) == first + 5
    bench.receiver.statuses["*"] = 200
    bench.clock.at += 4000
    await bench.settle()
    taken = bench.receiver.texts()[first + 5 :]
    assert sorted(taken, key=int) == [str(number) for number in range(30)]


async def test_one_that_is_gone_stalls_nobody(tmp_path: Path) -> None:
    """Through the part as it runs: the one that never answers is under way all the time."""
    stuck, app = Receiver(is_stuck=True), web.Application()
    app.router.add_post("/take", stuck.take)
    url = f"sqlite:///{tmp_path}/otaria.db"
    async with made(url, tmp_path, timeout_s=300.0) as bench, TestServer(app) as server:
        await bench.add("a-stuck", str(server.make_url("/take")))
        await bench.add("pager")
        running = asyncio.create_task(bench.deliveries.run())
        try:
            async with asyncio.timeout(30):
                await bench.say("one")
                bench.deliveries.wake()
                await asyncio.gather(bench.receiver.came.wait(), stuck.came.wait())
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_queue_is_bounded_and_the_rest_stays_on_the_trail(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MOST_WAITING", 4)
    monkeypatch.setattr(rules, "PAGE", 3)
    assert MOST_WAITING >= 100
    await bench.add()
    bench.receiver.statuses["*"] = 500
    texts = [f"{number:02}" for number in range(20)]
    await bench.say(*texts)
    for _ in range(10):
        await bench.settle()
    assert len(await bench.rows()) <= 4 + 3
    bench.receiver.statuses["*"], before = 200, len(bench.receiver.got)
    bench.clock.at += 4000
    await bench.settle()
    assert sorted(bench.receiver.texts()[before:]) == texts


async def test_an_event_that_is_refused_while_others_are_taken_is_given_up_and_replayed_by_its_id(bench: Bench) -> None:
    await bench.add()
    bench.receiver.statuses["otaria.gate.failed"] = 400
    await bench.say("poison")
    for number in range(MOST_ATTEMPTS):
        await bench.say(str(number), kind="cohort-passed")
        await bench.settle()
        bench.clock.at += 4000
    await bench.settle()
    rows = await bench.rows()
    assert (rows[0].state, rows[0].attempts, rows[0].code) == ("given_up", MOST_ATTEMPTS, 400)
    assert [row.state for row in rows[1:]] == ["delivered"] * MOST_ATTEMPTS
    assert (await bench.desk.show("pager"))[0].state is WebhookState.ON
    bench.receiver.statuses.clear()
    sent = await bench.desk.replay("pager", rows[0].event, by="ann")
    await bench.settle()
    assert bench.receiver.texts()[-1] == "poison"
    assert bench.receiver.events()[-1]["id"] == rows[0].event
    last = (await bench.rows())[-1]
    assert (last.id, last.purpose, last.state) == (sent.id, Purpose.REPLAY, DeliveryState.DELIVERED)
    for event in ("evt-1-0000000000000000", rows[0].event[:-1] + "x", "nonsense", "evt-999-0000000000000000"):
        with pytest.raises(NotFoundError):
            await bench.desk.replay("pager", event, by="ann")


async def test_nothing_is_given_up_while_nothing_is_taken_until_it_is_switched_off(bench: Bench) -> None:
    await bench.add()
    await bench.add("duty")
    await bench.settle("duty")
    bench.receiver.statuses["*"] = 500
    await bench.say("one")
    start = bench.clock.at
    while (await bench.desk.show("pager"))[0].state is WebhookState.ON:
        assert [row.state for row in await bench.rows()] in ([], ["waiting"])
        assert bench.clock.at - start < OFF_AFTER_S + 7 * 3600
        await bench.settle()
        bench.clock.at += 6 * 3600
    assert bench.clock.at - start >= OFF_AFTER_S
    (line,) = [one for one in await bench.database.read(lambda unit: unit.audit.latest()) if one.kind == "webhook-off"]
    assert "took nothing for 3 days" in line.text
    assert "status 500" in line.text
    assert "/take" not in line.text
    sent = len(bench.receiver.got)
    bench.receiver.statuses.clear()
    await bench.say("two")
    await bench.settle()
    assert len(bench.receiver.got) == sent
    await bench.settle("duty")
    assert "otaria.webhook.off" in [event["type"] for event in bench.receiver.events()[sent:]]
    sent = len(bench.receiver.got)
    await bench.desk.resume("pager", by="ann")
    bench.clock.at += 4000
    await bench.settle()
    assert {"one", "two"} <= set(bench.receiver.texts()[sent:])


async def test_one_that_says_it_is_gone_is_switched_off_at_once(bench: Bench) -> None:
    await bench.add()
    bench.receiver.statuses["*"] = 410
    await bench.say("one")
    await bench.settle()
    hook, _ = await bench.desk.show("pager")
    assert (hook.state, "410" in hook.reason) == (WebhookState.OFF, True)


async def test_a_paused_one_is_told_afterwards_unless_that_is_to_be_left_out(bench: Bench) -> None:
    await bench.add()
    for skip, wanted in ((False, ["one"]), (True, [])):
        bench.receiver.got.clear()
        await bench.desk.pause("pager", by="ann", reason="it moves")
        await bench.say("one")
        await bench.settle()
        assert bench.receiver.got == []
        await bench.desk.test("pager", by="ann")
        await bench.settle()
        assert [event["type"] for event in bench.receiver.events()] == ["otaria.webhook.test"]
        await bench.desk.resume("pager", by="ann", skip=skip)
        await bench.settle()
        assert bench.receiver.texts()[1:] == wanted


async def test_a_test_is_tried_once_and_says_what_was_answered(bench: Bench) -> None:
    await bench.add("pager", None, "otaria.gate.*")
    await bench.add("other")
    bench.receiver.statuses["*"] = 418
    sent = await bench.desk.test("pager", by="ann")
    await bench.settle()
    (row,) = await bench.rows()
    assert (row.id, row.state, row.code, row.purpose) == (sent.id, DeliveryState.GIVEN_UP, 418, Purpose.TEST)
    bench.clock.at += 4000
    await bench.settle()
    await bench.settle("other")
    assert len(bench.receiver.got) == 1, "a test concerns nobody else"


async def test_a_server_that_dies_after_sending_sends_again(bench: Bench) -> None:
    """What was sent is known only once it is stored; a receiver tells by the id."""

    class Dies:
        async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
            await bench.poster.post(url, body, headers)
            raise UnavailableError("died", "It died here.")

    await bench.add()
    await bench.say("one")
    dying = Deliveries(database=bench.database, clock=bench.clock, secrets=bench.secrets, posts=Dies(), source="/test")
    assert await dying.settle("pager") == 1, "it is queued"
    with pytest.raises(UnavailableError):
        await dying.settle("pager")
    await bench.again().settle("pager")
    assert bench.receiver.texts() == ["one", "one"]
    assert len({headers["webhook-id"] for headers, _ in bench.receiver.got}) == 1
    assert [row.attempts for row in await bench.rows()] == [1]


async def test_two_that_deliver_at_once_make_each_delivery_once(bench: Bench) -> None:
    """A leader that was replaced writes nothing, but one that is slow to stop may still look."""
    await bench.add()
    await bench.say(*(str(number) for number in range(5)))
    other = bench.again()
    await asyncio.gather(*(one.settle("pager") for one in (bench.deliveries, other, bench.again())))
    assert len(await bench.rows()) == 5


async def test_acts_are_on_the_trail_without_addresses_or_secrets(bench: Bench) -> None:
    secrets = [await bench.add("pager", bench.receiver.url, "otaria.gate.*")]
    await bench.desk.change("pager", url=bench.receiver.url + "?key=hidden", by="bob")
    await bench.desk.pause("pager", by="bob", reason="night")
    await bench.desk.resume("pager", by="bob", skip=True)
    secrets.append((await bench.desk.renew("pager", by="bob"))[1])
    await bench.desk.test("pager", by="bob")
    await bench.desk.remove("pager", by="bob")
    lines = await bench.database.read(lambda unit: unit.audit.page())
    kinds = [
        f"webhook-{word}" for word in ("added", "changed", "paused", "resumed", "secret-renewed", "tested", "removed")
    ]
    assert [line.kind for line in lines] == kinds
    assert {line.actor for line in lines[1:]} == {"bob"}
    text = " ".join(line.text for line in lines)
    assert "hidden" not in text
    assert "/take" not in text
    stored = await asyncio.to_thread(Path(bench.database._writer.url.database or "").read_bytes)
    for secret in secrets:
        assert secret.encode() not in stored
        assert secret.removeprefix("whsec_").encode() not in stored
    assert secrets[0] != secrets[1]


async def test_one_that_is_added_anew_has_another_secret_and_hears_nothing_old(bench: Bench) -> None:
    first = await bench.add()
    await bench.say("one")
    await bench.desk.remove("pager", by="ann")
    assert await bench.add() != first
    await bench.settle()
    assert bench.receiver.got == []


async def test_what_cannot_be_added_is_refused(bench: Bench) -> None:
    await bench.add()
    for name, url, types, kind in (
        ("pager", bench.receiver.url, (), "webhook-exists"),
        ("Pager", bench.receiver.url, (), "bad-name"),
        ("other", "http://10.0.0.1/x", (), "private-address"),
        ("other", "nonsense", (), "bad-url"),
        ("other", bench.receiver.url, ("otaria.nothing",), "unknown-type"),
    ):
        with pytest.raises(RefusedError) as refused:
            await bench.add(name, url, *types)
        assert refused.value.kind == kind
    for number in range(MOST_WEBHOOKS - 1):
        await bench.add(f"w{number}")
    with pytest.raises(RefusedError) as refused:
        await bench.add("one-more")
    assert refused.value.kind == "too-many-webhooks"
    for act in (bench.desk.show, bench.desk.deliveries):
        with pytest.raises(NotFoundError):
            await act("nobody")  # type: ignore[operator]


async def test_a_line_that_is_gone_costs_the_webhook_nothing(bench: Bench) -> None:
    await bench.add()
    bench.receiver.statuses["*"] = 500
    await bench.say("one")
    await bench.settle()
    lost = (await bench.rows())[0]
    await bench.database.write(
        lambda unit: unit.webhooks.enqueue(Delivery(**{**_fields(lost), "line": 999, "next_at": 0.0, "attempts": 0}))
    )
    bench.clock.at += 4000
    bench.receiver.statuses.clear()
    await bench.settle()
    rows = await bench.rows()
    assert [(row.state, row.code) for row in rows] == [("delivered", 204), ("given_up", 500)]
    assert (await bench.desk.show("pager"))[0].failures == 0


async def test_old_deliveries_are_forgotten(bench: Bench) -> None:
    await bench.add()
    await bench.say("one")
    await bench.settle()
    bench.clock.at += rules.KEEP_S + 1
    await bench.say("two")
    await bench.settle()
    assert len(await bench.rows()) == 1


def test_the_key_is_private_and_is_not_made_anew_over_a_broken_one(tmp_path: Path) -> None:
    secrets = WebhookSecrets(tmp_path)
    assert secrets.secret("a") != secrets.secret("b")
    assert secrets.secret("a") == WebhookSecrets(tmp_path).secret("a")
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(RefusedError) as refused:
        WebhookSecrets(tmp_path).secret("a")
    assert refused.value.kind == "webhook-key-unusable"


def _fields(delivery: Delivery) -> dict:
    return {name: getattr(delivery, name) for name in Delivery.__struct_fields__}
