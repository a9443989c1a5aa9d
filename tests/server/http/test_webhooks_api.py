"""Webhooks over REST and as typed, with a receiver that is there."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from server.cli import run
from server.http.routes import API
from server.ports import Role
from tests.people_side import PeopleSide


class Hall(list):
    """Where events arrive; `status` is what they are answered."""

    status = 200
    url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.append(await request.json())
        return web.Response(status=self.status, text="thank you")


@pytest.fixture
async def hall() -> AsyncIterator[Hall]:
    hall, app = Hall(), web.Application()
    app.router.add_post("/in", hall.take)
    async with TestServer(app) as server:
        hall.url = str(server.make_url("/in"))
        yield hall


async def ask(people: PeopleSide, method: str, path: str, body: object = None) -> tuple[int, dict]:
    async with people.client.request(method, f"{API}{path}", json=body, headers=people.headers()) as answer:
        return answer.status, json.loads(await answer.read())


async def test_a_webhook_from_its_secret_to_its_end(people: PeopleSide, hall: Hall) -> None:
    status, made = await ask(people, "POST", "/webhooks", {"name": "pager", "url": hall.url, "types": ["otaria.key.*"]})
    assert (status, made["secret"][:6], made["state"]) == (201, "whsec_", "on")
    status, shown = await ask(people, "GET", "/webhooks/pager")
    assert (status, shown["waiting"], "secret" in shown, "salt" in shown) == (200, 0, False, False)
    await ask(people, "POST", "/people", {"name": "bob", "role": "viewer"})
    while await people.deliveries.settle("pager"):
        continue
    (event,) = hall
    assert (event["type"], event["data"]["actor"]) == ("otaria.key.access-given", "the admin")
    status, sent = await ask(people, "POST", "/webhooks/pager/replay", {"event": event["id"]})
    assert (status, sent["state"]) == (202, "waiting")
    status, listed = await ask(people, "GET", "/webhooks/pager/deliveries?limit=1")
    assert [(row["id"], row["purpose"]) for row in listed["deliveries"]] == [(sent["id"], "replay")]
    status, older = await ask(people, "GET", f"/webhooks/pager/deliveries?limit=1&cursor={listed['next']}")
    assert [(row["event"], row["code"], row["said"]) for row in older["deliveries"]] == [
        (event["id"], 200, "thank you")
    ]
    status, paused = await ask(people, "PATCH", "/webhooks/pager", {"state": "paused", "reason": "it moves"})
    assert (paused["state"], paused["reason"]) == ("paused", "it moves")
    status, changed = await ask(
        people, "PATCH", "/webhooks/pager", {"state": "on", "types": [], "new_secret": True, "url": hall.url + "?b"}
    )
    assert (changed["state"], changed["types"], changed["url"]) == ("on", [], hall.url + "?b")
    assert (changed["secret"] != made["secret"], changed["old_secret_until"]) == (True, None)
    status, beside = await ask(people, "PATCH", "/webhooks/pager", {"new_secret": True, "overlap_s": 3600})
    assert beside["old_secret_until"] == people.clock.at + 3600
    status, listed = await ask(people, "GET", "/webhooks")
    (row,) = listed["webhooks"]
    assert (row["old_secret_until"], "old_salt" in row, "secret" in row) == (beside["old_secret_until"], False, False)
    status, ended = await ask(people, "PATCH", "/webhooks/pager", {"forget_old_secret": True})
    assert (status, ended["secret"], ended["old_secret_until"]) == (200, None, None)
    assert (await ask(people, "PATCH", "/webhooks/pager", {"new_secret": True, "overlap_s": 604801}))[0] == 400
    assert (await ask(people, "DELETE", "/webhooks/pager"))[1] == {"removed": "pager"}
    assert (await ask(people, "GET", "/webhooks"))[1] == {"webhooks": [], "next": None}


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/webhooks", {"name": "x", "url": "http://10.0.0.1/"}, (422, "private-address")),
        (
            "POST",
            "/webhooks",
            {"name": "x", "url": "https://h.example.org", "types": ["otaria.x"]},
            (422, "unknown-type"),
        ),
        ("POST", "/webhooks", {"name": "x", "url": "https://h.example.org", "type": "otaria.*"}, (400, "malformed")),
        ("POST", "/webhooks", {"name": "x", "url": "https://h.example.org/" + "y" * 600}, (400, "malformed")),
        ("PATCH", "/webhooks/nobody", {"state": "on"}, (404, "not-found")),
        ("PATCH", "/webhooks/nobody", {"state": "off"}, (400, "malformed")),
        ("DELETE", "/webhooks/nobody", None, (404, "not-found")),
        ("GET", "/webhooks/nobody/deliveries", None, (404, "not-found")),
        ("GET", "/webhooks/nobody/deliveries?state=x", None, (400, "malformed")),
        ("POST", "/webhooks/nobody/test", None, (404, "not-found")),
        ("POST", "/webhooks/nobody/replay", {"event": "evt-1-0123456789abcdef"}, (404, "not-found")),
        ("GET", "/webhooks/No%20Body", None, (400, "malformed")),
    ],
)
async def test_what_is_wrong_is_refused(
    people: PeopleSide, method: str, path: str, body: object, expected: tuple[int, str]
) -> None:
    status, answer = await ask(people, method, path, body)
    assert (status, answer["type"]) == expected


async def test_a_webhook_as_typed(
    people: PeopleSide, hall: Hall, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    await asyncio.to_thread(token.write_text, people.secret[Role.ADMIN])
    running = asyncio.create_task(people.deliveries.run())

    async def otaria(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        access = ("--server", people.url, "--token-file", str(token))
        code = await asyncio.to_thread(run, ["webhook", *words, *access])
        said = capsys.readouterr()
        return code, said.out, said.err

    try:
        code, out, _ = await otaria("add", "pager", hall.url, "--type", "otaria.key.*")
        assert (code, out[:6]) == (0, "whsec_")
        code, out, _ = await otaria("test", "pager")
        assert (code, "pager answered 200" in out) == (0, True)
        hall.status = 500
        code, out, error = await otaria("test", "pager", "--json")
        assert (code, json.loads(out)["code"], json.loads(error)["error"]) == (1, 500, "not-delivered")
        event = hall[0]["id"]
        code, _, error = await otaria("replay", "pager", event)
        assert (code, "There is no event" in error) == (1, True), "a test is no event"
        code, out, _ = await otaria("show", "pager", "--failed", "--json")
        assert [row["code"] for row in json.loads(out)["deliveries"]] == [500]
        code, out, _ = await otaria("show", "pager")
        assert (code, event in out, "200" in out, "thank" in out) == (0, True, True, True)
        assert (await otaria("pause", "pager"))[0] == 0
        assert "paused" in (await otaria("list"))[1]
        assert (await otaria("resume", "pager", "--skip"))[1] == "pager is on.\n"
        assert (await otaria("change", "pager", "--type", "x", "--all-types"))[0] == 2
        assert (await otaria("change", "pager", "--new-secret"))[1].startswith("whsec_")
        assert (await otaria("change", "pager", "--overlap", "24h"))[0] == 2
        assert (await otaria("change", "pager", "--new-secret", "--overlap", "24h"))[1].startswith("whsec_")
        assert json.loads((await otaria("show", "pager", "--json"))[1])["old_secret_until"] is not None
        assert (await otaria("change", "pager", "--forget-old-secret"))[1] == "pager was changed.\n"
        assert json.loads((await otaria("show", "pager", "--json"))[1])["old_secret_until"] is None
        assert (await otaria("change", "pager", "--all-types"))[1] == "pager was changed.\n"
        assert json.loads((await otaria("list", "--json"))[1])["webhooks"][0]["types"] == []
        assert (await otaria("remove", "pager"))[0] == 0
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
