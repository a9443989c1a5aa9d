"""Artifacts passed through from elsewhere: conditions, bounds, and what a device gets when the store breaks."""

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from server.artifacts import ArtifactStore
from server.errors import NotFoundError, StoreError
from server.http.passing import PER_DEVICE, WINDOW_BYTES, Passing
from server.http.problems import catching, problem
from server.ports import Resting

DATA = bytes(range(256)) * 12_000
SHA256 = hashlib.sha256(DATA).hexdigest()
EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass
class PaperShelf:
    """Implements the shelf's port in memory. `broken_from`: at this offset it breaks; `short_from`: from there it gives a byte
    too few; `gate`: reads wait for it."""

    objects: dict[str, bytes] = field(default_factory=lambda: {SHA256: DATA, EMPTY: b""})
    broken_from: int = 1 << 60
    error: StoreError = field(default_factory=lambda: StoreError("store-unreachable", "The store is gone."))
    short_from: int = 1 << 60
    gate: threading.Event = field(default_factory=threading.Event)
    reads: list[tuple[int, int]] = field(default_factory=list)

    def length(self, sha256: str) -> int | None:
        if self.broken_from < 0:
            raise self.error
        found = self.objects.get(sha256)
        return None if found is None else len(found)

    def read(self, sha256: str, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        self.gate.wait(10)
        if offset >= self.broken_from:
            raise self.error
        if sha256 not in self.objects:
            raise NotFoundError("It is gone.")
        return self.objects[sha256][offset : offset + size - (offset >= self.short_from)]

    def file(self, sha256: str) -> Path | None:
        return None

    def put(self, path: Path, sha256: str) -> None:
        self.objects[sha256] = path.read_bytes()
        path.unlink()

    def listed(self) -> Iterator[Resting]:
        return iter([])

    def check(self) -> None: ...

    def tidy(self, now: float) -> int:
        return 0

    def close(self) -> None:
        self.gate.set()


@dataclass(kw_only=True)
class Desk:
    """A listener that passes through what a shelf has; who asks says it in a header."""

    url: str
    shelf: PaperShelf
    session: aiohttp.ClientSession

    def get(self, sha256: str = SHA256, method: str = "GET", whose: str = "a", **headers: str):
        return self.session.request(method, f"{self.url}/{sha256}", headers={"X-Agent": whose, **headers})


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    shelf = PaperShelf()
    shelf.gate.set()
    store = ArtifactStore(tmp_path, shelf, threads=8)
    passing = Passing(store, most=6)

    async def handle(request: web.Request) -> web.StreamResponse:
        headers = CIMultiDict({"Cache-Control": "immutable"})
        return await passing.answer(request, request.match_info["hash"], headers, whose=request.headers["X-Agent"])

    app = web.Application(middlewares=[catching(lambda _: problem)])
    app.router.add_get("/{hash}", handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        yield Desk(url=f"http://127.0.0.1:{site.port}", shelf=shelf, session=session)
    store.close()
    await runner.cleanup()


RANGES = {
    "bytes=0-": (0, len(DATA)),
    "bytes=1-1": (1, 2),
    f"bytes={WINDOW_BYTES - 1}-{WINDOW_BYTES}": (WINDOW_BYTES - 1, WINDOW_BYTES + 1),
    f"bytes={len(DATA) - 1}-": (len(DATA) - 1, len(DATA)),
    f"bytes=5-{10**20}": (5, len(DATA)),
    "bytes=-7": (len(DATA) - 7, len(DATA)),
    f"bytes=-{10**20}": (0, len(DATA)),
}


@pytest.mark.parametrize(("wanted", "expected"), RANGES.items(), ids=RANGES)
async def test_a_range_is_those_bytes_and_no_others(desk: Desk, wanted: str, expected: tuple[int, int]) -> None:
    start, end = expected
    async with desk.get(Range=wanted) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
        assert await answer.read() == DATA[start:end]
    assert desk.shelf.reads[0][0] == start
    assert max(size for _, size in desk.shelf.reads) <= WINDOW_BYTES
    assert sum(size for _, size in desk.shelf.reads) == end - start


async def test_what_cannot_be_had_says_how_long_it_is(desk: Desk) -> None:
    async with desk.get(Range=f"bytes={len(DATA)}-") as answer:
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")
        assert await answer.read() == b""


async def test_an_empty_artifact_has_no_bytes(desk: Desk) -> None:
    async with desk.get(EMPTY) as answer:
        assert (answer.status, answer.headers["Content-Length"], await answer.read()) == (200, "0", b"")
    async with desk.get(EMPTY, Range="bytes=0-") as answer:
        assert answer.status == 416


async def test_a_head_costs_no_bytes(desk: Desk) -> None:
    async with desk.get(method="HEAD") as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(DATA)))
    assert desk.shelf.reads == []


CONDITIONS = {
    "If-None-Match": [
        (f'"{SHA256}"', 304),
        ("*", 304),
        (f'W/"{SHA256}"', 304),
        (f'"x", "{SHA256}"', 304),
        ('"x"', 200),
    ],
    "If-Match": [(f'"{SHA256}"', 200), ("*", 200), ('"x"', 412)],
}


@pytest.mark.parametrize(
    ("name", "value", "status"), [(name, *case) for name, cases in CONDITIONS.items() for case in cases]
)
async def test_the_hash_is_the_entity_tag(desk: Desk, name: str, value: str, status: int) -> None:
    async with desk.get(**{name: value}) as answer:
        assert answer.status == status
        assert answer.headers["ETag"] == f'"{SHA256}"'
        assert answer.headers["Cache-Control"] == "immutable"
        assert await answer.read() == (DATA if status == 200 else b"")
    assert bool(desk.shelf.reads) == (status == 200)


@pytest.mark.parametrize(("tag", "status"), [(f'"{SHA256}"', 206), ('"other"', 200), (f'W/"{SHA256}"', 200)])
async def test_a_range_of_something_else_is_not_what_is_sent(desk: Desk, tag: str, status: int) -> None:
    async with desk.get(**{"If-Range": tag, "Range": "bytes=10-19"}) as answer:
        assert answer.status == status
        assert await answer.read() == (DATA[10:20] if status == 206 else DATA)


async def test_a_store_that_is_gone_is_told_with_when_to_ask_again(desk: Desk) -> None:
    for broken_from in (-1, 0):
        desk.shelf.broken_from = broken_from
        async with desk.get() as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
            assert answer.content_type == "application/problem+json"
            assert (await answer.json(content_type=None))["type"] == "store-unreachable"


@pytest.mark.parametrize("how", ["broken", "short"])
async def test_a_store_that_breaks_midway_cuts_the_download(
    desk: Desk, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody may take what came for the whole, nor an error's text for the rest."""
    if how == "broken":
        desk.shelf.broken_from = WINDOW_BYTES
    else:
        desk.shelf.short_from = WINDOW_BYTES
    received = bytearray()

    async def receive(answer: aiohttp.ClientResponse) -> None:
        async for piece in answer.content.iter_any():
            received.extend(piece)

    async with desk.get() as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(DATA)))
        with pytest.raises(aiohttp.ClientPayloadError):
            await receive(answer)
    assert DATA.startswith(received)
    assert len(received) < len(DATA)
    assert [record.kind for record in caplog.records if record.levelno >= logging.WARNING] == [
        "store-unreachable" if how == "broken" else "store-refused"
    ]


async def test_how_many_are_sent_at_once_is_bounded_for_each_and_for_all(desk: Desk) -> None:
    desk.shelf.gate.clear()
    running = [asyncio.ensure_future(_status(desk, "a")) for _ in range(PER_DEVICE)]
    await _reading(desk, PER_DEVICE)
    assert await _status(desk, "a") == 503
    running += [asyncio.ensure_future(_status(desk, "b")) for _ in range(2)]
    await _reading(desk, PER_DEVICE + 2)
    assert await _status(desk, "c") == 503
    desk.shelf.gate.set()
    assert await asyncio.gather(*running) == [200] * 6
    assert await _status(desk, "a") == 200


async def _reading(desk: Desk, number: int) -> None:
    """Return when so many reads have begun."""
    while len(desk.shelf.reads) < number:  # noqa: ASYNC110 - they begin on threads
        await asyncio.sleep(0.01)


async def _status(desk: Desk, whose: str) -> int:
    async with desk.get(whose=whose) as answer:
        body = await answer.read()
        assert answer.status != 200 or body == DATA
        return answer.status
