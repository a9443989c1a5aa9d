"""Clients that take their time: nobody holds a connection or a file open by saying nothing."""

import asyncio
import hashlib

import pytest

from server.config_limits import LimitSettings
from server.ports import Role
from tests.people_side import PeopleSide

DATA = b"abcdefghij"


async def answer_to(people: PeopleSide, method: str, path: str) -> int:
    """The status of a request whose body stops half way, as soon as the server has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", people.client.port)
    token = people.secret[Role.ADMIN]
    head = f"{method} /api/v1{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(DATA)}\r\n\r\n"
    writer.write(head.encode() + DATA[:3])
    async with asyncio.timeout(10):
        line = await reader.readline()
    writer.close()
    return int(line.split()[1])


@pytest.mark.parametrize("people", [LimitSettings(body_s=0.2)], indirect=True)
@pytest.mark.parametrize("path", ["/campaigns", "/claim-tokens", "/releases"])
async def test_a_body_that_never_ends_is_given_up(people: PeopleSide, path: str) -> None:
    assert await answer_to(people, "POST", path) == 408


@pytest.mark.parametrize("people", [LimitSettings(pause_s=0.2)], indirect=True)
async def test_an_upload_that_stops_is_given_up_and_leaves_nothing(people: PeopleSide) -> None:
    sha256 = hashlib.sha256(DATA).hexdigest()
    assert await answer_to(people, "PUT", f"/artifacts/sha256/{sha256}") == 408
    assert people.artifacts.find(sha256) is None
    assert list(people.artifacts.incoming.iterdir()) == []
