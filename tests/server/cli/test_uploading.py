"""Commands over a bad line: an upload goes on where it broke off, and what was sent twice is done once."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from firmware.errors import OtariaError
from server.cli.progress import Gauge
from server.cli.rest import Access, RestClient
from server.cli.uploading import PAUSES_S, upload
from server.http.routes import API
from server.ports import Role
from tests.people_side import PeopleSide

DATA = bytes(range(256)) * 2048
SHA256 = hashlib.sha256(DATA).hexdigest()


@dataclass
class BadLine:
    """A line to the listener that cuts connections: the next after so many bytes to or from the server, as listed; then none."""

    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    port: int = 0
    cut: int = 0

    @asynccontextmanager
    async def to(self, people: PeopleSide) -> AsyncIterator[RestClient]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", people.client.port)
            up = self.up.pop(0) if self.up else None
            down = self.down.pop(0) if self.down else None
            ways = [self._carry(reader, inner_writer, up), self._carry(inner_reader, writer, down)]
            tasks = [asyncio.create_task(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            for one in (writer, inner_writer):
                one.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        token = people.secret[Role.ADMIN]
        try:
            yield RestClient(Access(url=f"http://127.0.0.1:{self.port}", token=token))
        finally:
            server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None) -> None:
        while data := await reader.read(16_384 if left is None else min(16_384, left)):
            writer.write(data)
            await writer.drain()
            if left is not None:
                left -= len(data)
                if left <= 0:
                    self.cut += 1
                    return


WHOLE = 1 << 30


async def _uploaded(people: PeopleSide, line: BadLine) -> tuple[bool, list[int], list[float]]:
    shown, slept, at = [], list[float](), 0

    def show(change: int) -> None:
        nonlocal at
        at += change
        shown.append(at)

    async with line.to(people) as rest:
        new = await asyncio.to_thread(
            upload, rest, SHA256, io.BytesIO(DATA), len(DATA), Gauge(show), sleep=slept.append
        )
    return new, shown, slept


@pytest.mark.parametrize(
    ("line", "cuts"),
    [
        (BadLine(), 0),
        (BadLine(up=[WHOLE, WHOLE, 200_000]), 1),
        (BadLine(up=[WHOLE, WHOLE, 200_000, WHOLE, 150_000, 1, 100_000]), 4),
        (BadLine(down=[WHOLE, WHOLE, 20]), 1),  # all came, and the answer was lost
        (BadLine(down=[WHOLE, 20, WHOLE]), 1),  # begun, and the answer was lost
    ],
    ids=["good", "once", "often", "last-answer", "first-answer"],
)
async def test_an_upload_over_a_bad_line_is_whole(people: PeopleSide, line: BadLine, cuts: int) -> None:
    new, shown, _ = await _uploaded(people, line)
    assert (new, line.cut) == (True, cuts)
    assert people.artifacts.find(SHA256).read_bytes() == DATA
    assert shown[-1] == len(DATA)
    assert list(people.artifacts.on_their_way.iterdir()) == []


async def test_what_the_server_has_is_not_sent(people: PeopleSide) -> None:
    people.artifacts.add([DATA])
    assert (await _uploaded(people, BadLine()))[0] is False


async def test_a_line_that_stays_broken_is_given_up_in_words(people: PeopleSide) -> None:
    line = BadLine(up=[WHOLE, WHOLE, *[1] * 100])
    with pytest.raises(OtariaError) as broken:
        await _uploaded(people, line)
    assert broken.value.kind == "unreachable"
    assert line.cut >= len(PAUSES_S)
    assert people.artifacts.find(SHA256) is None


async def test_a_file_that_changed_meanwhile_is_refused_and_not_tried_again(people: PeopleSide) -> None:
    async with BadLine().to(people) as rest:
        with pytest.raises(OtariaError) as refused:
            await asyncio.to_thread(upload, rest, SHA256, io.BytesIO(DATA[:-1] + b"!"), len(DATA), Gauge())
    assert refused.value.kind == "artifact-changed"


@pytest.mark.parametrize("line", [BadLine(down=[20]), BadLine(up=[100]), BadLine(down=[20, 20])])
async def test_a_post_whose_connection_breaks_is_sent_again_and_done_once(
    people: PeopleSide, line: BadLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.cli.rest.PAUSES_S", (0.01, 0.2))
    async with line.to(people) as rest:
        made = await asyncio.to_thread(rest.post, "/claim-tokens", {"uses": 3})
    found = await (await people.client.get(f"{API}/claim-tokens", headers=people.headers())).json()
    assert [one["id"] for one in found["claim_tokens"]] == [made["id"]]


async def test_a_server_that_is_not_there_is_told_at_once(people: PeopleSide) -> None:
    rest = RestClient(Access(url="http://127.0.0.1:9", token="x"))
    with pytest.raises(OtariaError, match="does not answer"):
        await asyncio.to_thread(rest.post, "/claim-tokens", {})
