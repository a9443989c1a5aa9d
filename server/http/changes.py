"""The bell that pages and followers wait for: it rings after every committed write, so nothing polls.

A ring carries no data; who hears it asks again for what they may see.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from firmware.errors import UnavailableError
from server.http.conditions import with_guard
from server.ports import Database, Unit

T = TypeVar("T")
HEARTBEAT_S = 15.0
QUIET_S = 0.4
"""At least this long between two events of one stream; what rings meanwhile is one event."""
MAX_STREAMS = 200


class Changes:
    """Counts the writes and wakes who waits for the next."""

    def __init__(self) -> None:
        self.version = 0
        self.closed = False
        self._rung = asyncio.Event()
        self.streams = 0

    def ring(self) -> None:
        """Something was committed. Call it on the event loop."""
        self.version += 1
        self._rung.set()
        self._rung = asyncio.Event()

    def close(self) -> None:
        """End every stream, so that the server can stop."""
        self.closed = True
        self.ring()

    async def after(self, version: int, timeout_s: float) -> int:
        """The current version once it is above `version`, or after `timeout_s` at the latest."""
        if self.version <= version and not self.closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rung.wait(), timeout_s)
        return self.version

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Answer with server-sent events (`changed`), until the client leaves or the server stops."""
        if self.streams >= MAX_STREAMS:
            raise UnavailableError(
                "too-many-followers", "Too many pages follow this server; ask again without following."
            )
        self.streams += 1
        try:
            return await self._stream(request)
        finally:
            self.streams -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):  # that a follower leaves is no news
            await self._follow(response)
        return response

    async def _follow(self, response: web.StreamResponse) -> None:
        seen = self.version
        await response.write(_event(seen))
        while not self.closed:
            version = await self.after(seen, HEARTBEAT_S)
            await response.write(_event(version) if version > seen else b": here\n\n")
            seen = version
            await asyncio.sleep(0 if self.closed else QUIET_S)


class RingingDatabase:
    """A `Database` that rings the bell after each committed write, and begins a write with what a request made it conditional
    on."""

    def __init__(self, inner: Database, changes: Changes) -> None:
        self._inner = inner
        self._changes = changes

    async def read(self, work: Callable[[Unit], T]) -> T:
        return await self._inner.read(work)

    async def write(self, work: Callable[[Unit], T]) -> T:
        outcome = await self._inner.write(with_guard(work))
        self._changes.ring()
        return outcome

    async def close(self) -> None:
        await self._inner.close()


def _event(version: int) -> bytes:
    return f"event: changed\nid: {version}\ndata: {json.dumps({'version': version})}\n\n".encode()
