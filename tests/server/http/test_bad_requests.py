"""Wrong, huge and hostile requests: a typed problem, the right status, and nothing changed."""

import asyncio
import hashlib
import io
import json
from collections.abc import Callable

import pytest
from yarl import URL

from server.http.revisions import MAX_CAMPAIGN_FILE_BYTES
from server.http.routes import API
from tests.people_side import CAMPAIGN, PeopleSide

DEEP = '{"labels":' + "[" * 5000 + "]" * 5000 + "}"


async def _problem(answer: object, status: int, kind: str | None = None) -> str:
    assert answer.status == status, await answer.text()
    assert answer.content_type == "application/problem+json"
    body = await answer.json()
    assert body["status"] == status
    assert kind in (None, body["type"])
    assert "Traceback" not in json.dumps(body)
    assert len(body["detail"]) > 10
    return body["detail"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/fleet/gw-99", 404),
        ("/fleet/GW_1", 400),
        ("/fleet/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 400),
        ("/fleet/a%00b", 400),
        ("/fleet/gw-99/explain", 404),
        ("/fleet?limit=0", 400),
        ("/fleet?limit=1001", 400),
        ("/fleet?limit=-1", 400),
        ("/fleet?limit=1e3", 400),
        ("/fleet?limit=" + "9" * 400, 400),
        ("/fleet?limit=%D9%A3", 400),
        ("/fleet?cursor=" + "a" * 300, 400),
        ("/fleet?query=%00", 400),
        ("/campaigns/none", 404),
        ("/campaigns/none/assignments", 404),
        ("/campaigns/spring/assignments?state=flying", 400),
        ("/campaigns/spring/assignments?cohort=-1", 400),
        ("/releases/gateway/none", 404),
        ("/releases/gateway/..%2f..", 400),
        ("/audit?after=abc", 400),
        ("/audit?limit=999999", 400),
    ],
)
async def test_bad_reads(people: PeopleSide, path: str, status: int) -> None:
    url = URL(f"{people.url}{API}{path}", encoded=True)
    await _problem(await people.client.session.get(url, headers=people.headers()), status)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/claim-tokens", "not json"),
        ("/claim-tokens", "[]"),
        ("/claim-tokens", '{"uses": 0}'),
        ("/claim-tokens", '{"uses": 1e99}'),
        ("/claim-tokens", '{"uses": "3"}'),
        ("/claim-tokens", '{"uses": 1, "uses": 100000}'),
        ("/claim-tokens", '{"expires_s": 1}'),
        ("/claim-tokens", '{"labels": {"Site!": "x"}}'),
        ("/claim-tokens", '{"labels": {"site": 3}}'),
        ("/claim-tokens", '{"admin": true}'),
        ("/claim-tokens", '{"uses": NaN}'),
        ("/claim-tokens", "\ud800".encode("utf-8", "surrogatepass")),
        ("/claim-tokens", DEEP),
        ("/releases", '{"product": "gateway"}'),
        ("/releases", '{"product": "../x", "version": "1", "manifest": "", "metadata": ""}'),
        ("/releases", '{"product": "x", "version": "1", "manifest": "***", "metadata": ""}'),
        ("/campaigns/spring/pause", '{"reason": 3}'),
        ("/campaigns/spring/pause", json.dumps({"reason": "x" * 501})),
        ("/campaigns", b"\xff\xfe"),
    ],
)
async def test_bad_bodies_are_malformed_and_change_nothing(people: PeopleSide, path: str, body: str | bytes) -> None:
    before = people.changes.version
    await _problem(await people.client.post(API + path, data=body, headers=people.headers()), 400, "malformed")
    assert people.changes.version == before
    assert people.publisher.published == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a list",
        "name: [",
        CAMPAIGN + "surprise: 1\n",
        CAMPAIGN.replace("spring", "../spring"),
        CAMPAIGN.replace("1.1.0", "7.7.7"),
        CAMPAIGN + "selection: {labels: {site: nowhere}}\n",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "x: " + "[" * 3000,
        "!!python/object/apply:os.system ['true']",
    ],
)
async def test_bad_campaign_files_are_refused_in_words(people: PeopleSide, text: str) -> None:
    answer = await people.client.post(f"{API}/campaigns", data=text.encode(), headers=people.headers())
    await _problem(answer, 422)
    assert await people.database.read(lambda unit: list(unit.campaigns.list())) == []


async def test_what_is_too_large_is_refused_before_it_is_kept(people: PeopleSide) -> None:
    too_long = b"#" * (MAX_CAMPAIGN_FILE_BYTES + 1)
    await _problem(
        await people.client.post(f"{API}/campaigns", data=too_long, headers=people.headers()), 413, "too-large"
    )

    async def endless() -> object:
        for _ in range(64):
            yield b"#" * 65536

    answer = await people.client.post(f"{API}/campaigns", data=endless(), headers=people.headers())
    await _problem(answer, 413, "too-large")


async def test_methods_a_path_does_not_take(people: PeopleSide) -> None:
    answer = await people.client.delete(f"{API}/campaigns", headers=people.headers())
    await _problem(answer, 405, "method-not-allowed")
    assert "GET" in answer.headers["Allow"]


async def test_an_artifact_with_another_hash_is_refused_and_leaves_nothing(people: PeopleSide) -> None:
    wanted = hashlib.sha256(b"genuine").hexdigest()
    path = f"{API}/artifacts/sha256/{wanted}"
    answer = await people.client.put(path, data=b"counterfeit", headers=people.headers())
    await _problem(answer, 422, "artifact-changed")
    assert people.artifacts.find(wanted) is None
    assert list(people.artifacts.incoming.iterdir()) == []


async def test_an_artifact_over_the_bound_is_cut_off_also_when_it_does_not_say_its_length(people: PeopleSide) -> None:
    data = b"x" * ((1 << 20) + 1)

    async def unannounced() -> object:
        yield data

    path = f"{API}/artifacts/sha256/{hashlib.sha256(data).hexdigest()}"
    for body in (io.BytesIO(data), unannounced()):
        await _problem(await people.client.put(path, data=body, headers=people.headers()), 413, "too-large")
    assert list(people.artifacts.incoming.iterdir()) == []


@pytest.mark.parametrize("name", ["x", "A" * 64, "0" * 63, "0" * 65, "..%2f" + "0" * 59])
async def test_an_artifact_is_named_by_a_hash_and_nothing_else(people: PeopleSide, name: str) -> None:
    url = URL(f"{people.url}{API}/artifacts/sha256/{name}", encoded=True)
    await _problem(await people.client.session.put(url, data=b"x", headers=people.headers()), 400, "malformed")


async def test_an_upload_that_breaks_off_leaves_nothing(people: PeopleSide) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", people.client.port)
    head = f"PUT {API}/artifacts/sha256/{'0' * 64} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
    writer.write((head + f"Authorization: {people.headers()['Authorization']}\r\n\r\n").encode() + b"x" * 5000)
    await writer.drain()
    await _until(lambda: list(people.artifacts.incoming.iterdir()))
    writer.close()
    await writer.wait_closed()
    await _until(lambda: not list(people.artifacts.incoming.iterdir()))
    assert people.artifacts.find("0" * 64) is None


async def test_an_unexpected_error_tells_the_client_only_a_reference(
    people: PeopleSide, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> object:
        raise RuntimeError("the password is swordfish")

    people.publisher.make_deltas = broken
    answer = await people.client.post(f"{API}/releases/gateway/1.1.0/deltas", headers=people.headers())
    detail = await _problem(answer, 500, "internal")
    assert "swordfish" not in detail
    reference = detail.rpartition(" ")[2].rstrip(".")
    assert any(getattr(record, "reference", "") == reference for record in caplog.records)


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (the directory has no event to wait for)
            await asyncio.sleep(0.01)
