"""Who follows the events: how many may, for how long, what they are told again, and that nobody is held up by the slow."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server.config_limits import LimitSettings
from server.http.access import Caller
from server.http.changes import Changes
from server.http.routes import API
from server.http.streams import Streams
from server.ports import Role
from tests.people_side import PeopleSide, add_device

FEW = LimitSettings(streams=3, streams_per_caller=2)


@asynccontextmanager
async def following(
    people: PeopleSide, role: Role = Role.ADMIN, **headers: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    async with people.client.get(f"{API}/events", headers={**people.headers(role), **headers}) as stream:
        yield stream


async def event(stream: aiohttp.ClientResponse) -> str:
    return (await asyncio.wait_for(stream.content.readuntil(b"\n\n"), 10)).decode()


def _id(text: str) -> str:
    return next(line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: "))


@pytest.mark.parametrize("people", [FEW], indirect=True)
async def test_a_caller_has_so_many_streams_and_all_together_so_many(people: PeopleSide) -> None:
    async with following(people) as one, following(people) as two:
        assert (one.status, two.status) == (200, 200)
        async with following(people) as third:
            assert (third.status, (await third.json())["type"]) == (503, "too-many-followers")
        async with following(people, Role.VIEWER) as other:
            assert other.status == 200
            async with following(people, Role.OPERATOR) as fourth:
                assert fourth.status == 503
    async with asyncio.timeout(10):
        while people.streams.open:
            people.changes.ring()
            await asyncio.sleep(0.02)
    async with following(people) as again:
        assert again.status == 200


async def test_a_token_that_is_taken_away_ends_its_streams_and_no_others(people: PeopleSide) -> None:
    async with following(people, Role.VIEWER) as viewer, following(people) as admin:
        await event(viewer)
        await event(admin)
        answer = await people.client.delete(f"{API}/people", json={"name": "the viewer"}, headers=people.headers())
        assert answer.status == 200
        assert await asyncio.wait_for(viewer.content.read(), 10) == b""
        assert (await event(admin)).startswith("event: changed")


async def test_the_end_of_a_session_ends_what_its_pages_follow(people: PeopleSide) -> None:
    await people.sign_in()
    async with people.client.get("/live") as stream:
        await event(stream)
        people.clock.at += 13 * 3600  # the session is over
        people.changes.ring()
        assert await asyncio.wait_for(stream.content.read(), 10) == b""


async def test_who_comes_again_is_told_only_what_was_missed(people: PeopleSide) -> None:
    async with following(people) as stream:
        first = await event(stream)
        assert "retry: 3000\n" in first
    async with following(people, **{"Last-Event-ID": _id(first)}) as again:
        assert await event(again) == "retry: 3000\n\n"
        await people.database.write(lambda unit: add_device(unit, "gw-8", {}))
        second = await event(again)
        assert _id(second) != _id(first)
    async with following(people, **{"Last-Event-ID": _id(first)}) as late:
        assert _id(await event(late)) == _id(second)
    async with following(people, **{"Last-Event-ID": "0123abcd-" + _id(second).rpartition("-")[2]}) as elsewhere:
        assert (await event(elsewhere)).startswith("event: changed"), "the count of another run of the server"


async def test_who_takes_nothing_is_dropped_and_holds_up_nobody() -> None:
    streams, caller = Streams(changes=Changes(), quiet_s=0, stuck_s=0.3), Caller(name="a", role=Role.VIEWER)
    app = web.Application()

    async def follow(request: web.Request) -> web.StreamResponse:
        return await streams.follow(request, caller, _fine)

    app.router.add_get("/events", follow)
    async with TestClient(TestServer(app)) as client, client.get("/events") as reader:
        stuck = await _who_takes_nothing(client.port)
        ringing = asyncio.create_task(_ring(streams))
        async with asyncio.timeout(60):
            while streams.open.total() > 1 or not streams.changes.version:
                assert (await event(reader)).startswith("event: changed")
        ringing.cancel()
        assert streams.open.total() == 1, "the one who reads"
        assert (await event(reader)).startswith("event: changed")
        stuck.close()
        streams.changes.close()


async def _who_takes_nothing(port: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least there is
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await loop.sock_recv(client, 1)
    return client


async def _ring(streams: Streams) -> None:
    while True:
        streams.changes.ring()
        await asyncio.sleep(0)


async def _fine() -> None:
    """It may still follow."""
