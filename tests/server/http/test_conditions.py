"""ETags, idempotency keys and limits, as every route has them."""

import asyncio
import uuid
from collections.abc import Callable

import pytest
from aiohttp import ClientResponse
from sqlalchemy import text

from firmware.errors import UnavailableError
from server.campaigns.housekeeping import Housekeeping
from server.http.limits import MAX_KEPT, Buckets, TooManyError, network_of
from server.http.routes import API
from server.planner.events import Commanded
from server.planner.words import Verb
from server.ports import Role, Unit, WebhookState
from tests.people_side import CAMPAIGN, PeopleSide


async def _post(people: PeopleSide, path: str, body: object, **headers: str) -> ClientResponse:
    send = {"data": body} if isinstance(body, str) else {"json": body}
    return await people.client.post(API + path, headers={**people.headers(), **headers}, **send)


async def _get(people: PeopleSide, path: str, **headers: str) -> ClientResponse:
    return await people.client.get(API + path, headers={**people.headers(), **headers})


async def test_what_the_client_has_is_not_sent_again(people: PeopleSide) -> None:
    for path in ("/fleet/gw-1", "/fleet?limit=2", "/releases", "/openapi.json"):
        first = await _get(people, path)
        tag = first.headers["ETag"]
        assert tag.startswith('"'), "a strong one"
        for given in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            again = await _get(people, path, **{"If-None-Match": given})
            assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", tag)
            assert again.headers.get("Link") == first.headers.get("Link")
        assert (await _get(people, path, **{"If-None-Match": '"other"'})).status == 200
    await _post(people, "/fleet/gw-1/quarantine", {})
    assert (await _get(people, "/fleet/gw-1")).headers["ETag"] != (await _get(people, "/fleet/gw-2")).headers["ETag"]


async def test_a_write_counts_only_if_nothing_changed_since_the_look(people: PeopleSide) -> None:
    await _post(people, "/campaigns", CAMPAIGN)
    seen = (await _get(people, "/campaigns/spring")).headers["ETag"]
    assert (await _post(people, "/campaigns/spring/start", {}, **{"If-Match": seen})).status == 200
    late = await _post(people, "/campaigns/spring/abort", {}, **{"If-Match": seen})
    assert (late.status, (await late.json())["type"]) == (412, "changed-meanwhile")
    assert (await (await _get(people, "/campaigns/spring")).json())["state"] == "running"
    assert (await _post(people, "/campaigns/spring/abort", {}, **{"If-Match": "*"})).status == 200


async def test_a_write_between_the_look_and_the_act_is_noticed_in_the_transaction(people: PeopleSide) -> None:
    """The ETag still fits when it is compared; what was written after that must not be lost."""
    await _post(people, "/campaigns", CAMPAIGN)
    await _post(people, "/campaigns/spring/start", {})
    seen = (await _get(people, "/campaigns/spring")).headers["ETag"]
    command = people.desk.command

    async def after_somebody_else(campaign: str, verb: Verb, *, by: str, reason: str) -> object:
        def pause(unit: Unit) -> None:
            people.engine._turn(unit).command(_paused(campaign, people.clock.now()))

        await asyncio.create_task(people.database._inner.write(pause))
        return await command(campaign, verb, by=by, reason=reason)

    people.desk.command = after_somebody_else  # type: ignore[method-assign]
    late = await _post(people, "/campaigns/spring/abort", {}, **{"If-Match": seen})
    assert late.status == 412
    assert (await (await _get(people, "/campaigns/spring")).json())["state"] == "paused"


def _paused(campaign: str, at: float) -> object:
    return Commanded(campaign=campaign, verb=Verb.PAUSE, by="else", reason="", at=at)


async def test_a_webhook_that_changes_between_the_look_and_the_act_is_left_alone(people: PeopleSide) -> None:
    await _post(people, "/webhooks", {"name": "ops", "url": "https://hooks.example.org/"})
    seen = (await _get(people, "/webhooks/ops")).headers["ETag"]
    shows = 0

    async def show(name: str) -> object:
        """The look for the ETag, then the handler's own; between that and the write somebody else pauses it."""
        nonlocal shows
        found, shows = await desk_show(name), shows + 1
        if shows == 2:
            paused = {"state": WebhookState.PAUSED, "reason": "else"}
            await asyncio.create_task(
                people.database._inner.write(lambda unit: unit.webhooks.change(found[0], **paused))
            )
        return found

    desk = people.webhooks
    desk_show, desk.show = desk.show, show  # type: ignore[method-assign]
    headers = {**people.headers(), "If-Match": seen}
    late = await people.client.patch(f"{API}/webhooks/ops", json={"url": "https://else.example.org/"}, headers=headers)
    assert (late.status, (await late.json())["type"]) == (412, "changed-meanwhile")
    after = await (await _get(people, "/webhooks/ops")).json()
    assert (after["url"], after["state"]) == ("https://hooks.example.org/", "paused")


async def test_a_place_without_an_etag_of_its_own_takes_no_if_match(people: PeopleSide) -> None:
    answer = await _post(people, "/claim-tokens", {}, **{"If-Match": "*"})
    assert answer.status == 412


async def test_the_same_key_does_the_same_once(people: PeopleSide) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first = await _post(people, "/claim-tokens", {"uses": 2}, **key)
    again = await _post(people, "/claim-tokens", {"uses": 2}, **key)
    assert (again.status, await again.read()) == (201, await first.read())
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
    listed = await (await _get(people, "/claim-tokens")).json()
    assert len(listed["claim_tokens"]) == 1
    other = await _post(people, "/claim-tokens", {"uses": 3}, **key)
    assert (other.status, (await other.json())["type"]) == (422, "idempotency-key-reused")
    people.clock.at += 24 * 3600 + 1
    await Housekeeping(people.database, people.clock).tidy()
    assert (await _post(people, "/claim-tokens", {"uses": 3}, **key)).status == 201


async def test_a_key_is_whoevers_sent_it_and_for_its_address(people: PeopleSide) -> None:
    key = {"Idempotency-Key": "k" * 16}
    assert (await _post(people, "/fleet/gw-1/quarantine", {}, **key)).status == 200
    assert (await _post(people, "/fleet/gw-2/quarantine", {}, **key)).status == 200
    headers = {**people.headers(Role.OPERATOR), **key}
    answer = await people.client.post(f"{API}/fleet/gw-1/quarantine", headers=headers, json={})
    assert "Idempotency-Replayed" not in answer.headers
    assert (await _post(people, "/claim-tokens", {}, **{"Idempotency-Key": "short"})).status == 400


async def test_what_was_refused_may_be_tried_again_with_the_same_key(people: PeopleSide) -> None:
    await _post(people, "/campaigns", CAMPAIGN)
    key = {"Idempotency-Key": "k" * 20}
    assert (await _post(people, "/campaigns/spring/resume", {}, **key)).status == 422
    await _post(people, "/campaigns/spring/start", {})
    await _post(people, "/campaigns/spring/pause", {})
    assert (await _post(people, "/campaigns/spring/resume", {}, **key)).status == 200


async def test_what_broke_off_is_not_done_again_by_a_guess(people: PeopleSide) -> None:
    async def broken(*_: object, **__: object) -> object:
        raise RuntimeError("after the write, before the answer")

    make = people.publisher.make_deltas
    people.publisher.make_deltas = broken  # type: ignore[method-assign]
    key, path = {"Idempotency-Key": "k" * 20}, "/releases/gateway/1.1.0/deltas"
    assert (await _post(people, path, {}, **key)).status == 500
    people.publisher.make_deltas = make  # type: ignore[method-assign]
    again = await _post(people, path, {}, **key)
    assert again.status == 409
    assert "look what became of it" in (await again.json())["detail"]


async def test_what_a_database_that_went_away_could_not_keep_is_done_again_only_if_nothing_was(
    people: PeopleSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes with the third transaction of a request: the first is the key, the second does what is asked."""
    write, made = people.database.write, 0

    async def gone(work: Callable[[Unit], object]) -> object:
        nonlocal made
        made += 1
        if made >= 3:
            raise UnavailableError("storage-fault", "The connection is gone.")
        return await write(work)

    await _post(people, "/campaigns", CAMPAIGN)
    refused, done = ({"Idempotency-Key": letter * 20} for letter in "rd")
    monkeypatch.setattr(people.database, "write", gone)
    assert (await _post(people, "/campaigns/spring/resume", {}, **refused)).status == 422, "it is what it would be"
    made = 0
    assert (await _post(people, "/claim-tokens", {}, **done)).status == 503
    monkeypatch.setattr(people.database, "write", write)
    again = await _post(people, "/claim-tokens", {}, **done)
    assert (again.status, "look what became of it" in (await again.json())["detail"]) == (409, True)
    assert len((await (await _get(people, "/claim-tokens")).json())["claim_tokens"]) == 1
    await _post(people, "/campaigns/spring/start", {})
    await _post(people, "/campaigns/spring/pause", {})
    assert (await _post(people, "/campaigns/spring/resume", {}, **refused)).status == 200
    assert (await _post(people, "/campaigns/spring/resume", {}, **refused)).headers["Idempotency-Replayed"] == "true"


async def test_two_at_once_are_one(people: PeopleSide) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    answers = await asyncio.gather(*(_post(people, "/claim-tokens", {}, **key) for _ in range(5)))
    assert {answer.status for answer in answers} <= {201, 409}
    assert len((await (await _get(people, "/claim-tokens")).json())["claim_tokens"]) == 1


async def test_a_kept_answer_says_nothing_without_its_key(people: PeopleSide) -> None:
    key = str(uuid.uuid4())
    made = await (await _post(people, "/people", {"name": "bob", "role": "viewer"}, **{"Idempotency-Key": key})).json()

    def look(unit: Unit) -> list[bytes]:
        return [bytes(row.answer) for row in unit.replies._db.execute(text("SELECT answer FROM kept_reply"))]

    (kept,) = await people.database.read(look)
    assert made["token"].encode() not in kept
    assert b"bob" not in kept


async def test_who_asks_too_often_is_told_when_to_come_again(people: PeopleSide) -> None:
    people.limits.tokens.burst, people.limits.tokens.rate = 3, 0.1
    statuses = [(await _get(people, "/releases")).status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    refused = await _get(people, "/releases")
    assert (refused.content_type, (await refused.json())["type"]) == ("application/problem+json", "too-many-requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    other = await people.client.get(f"{API}/releases", headers=people.headers(Role.VIEWER))
    assert other.status == 200, "a limit is of one token"


async def test_whoever_guesses_tokens_is_stopped_by_address_but_health_is_told(people: PeopleSide) -> None:
    people.limits.addresses.burst, people.limits.addresses.rate = 60, 0.01
    bad = {"Authorization": "Bearer x"}
    statuses = [(await people.client.get(f"{API}/releases", headers=bad)).status for _ in range(6)]
    assert statuses == [401, 401, 401, 429, 429, 429]
    assert (await people.client.get("/login")).status == 429
    assert (await people.client.get("/healthz")).status == 200


@pytest.fixture
def at() -> list[float]:
    return [0.0]


def test_a_bucket_fills_up_and_no_further(at: list[float]) -> None:
    buckets = Buckets(rate=2, burst=4, now=lambda: at[0])
    for _ in range(4):
        buckets.take("a")
    with pytest.raises(TooManyError) as refused:
        buckets.take("a")
    assert refused.value.retry_after_s == 1
    at[0] = 0.5
    buckets.take("a")
    at[0] = 1000
    for _ in range(4):
        buckets.take("a")
    with pytest.raises(TooManyError):
        buckets.take("a")
    buckets.take("b")


def test_the_memory_of_buckets_is_bounded(at: list[float]) -> None:
    buckets = Buckets(rate=1, burst=1, now=lambda: at[0])
    for number in range(MAX_KEPT + 50):
        buckets.take(str(number))
    assert len(buckets._kept) == MAX_KEPT


def test_an_ipv6_network_is_one_address() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") != network_of("2001:db8:0:1::1")
    assert network_of("10.0.0.1") != network_of("10.0.0.2")
    assert network_of("::ffff:10.0.0.1") != network_of("::ffff:10.0.0.2")
    assert network_of(None) == ""
