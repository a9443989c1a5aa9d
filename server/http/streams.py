"""Server-sent events to whoever follows: `changed`, when something was stored.

Each follower has its own loop and at most one event waiting, so who reads slowly holds up nobody; who takes nothing for
`STUCK_S` is dropped. Whoever follows is asked for again (the token, the session) before each event: what was taken away ends its
streams. The id of an event is this server's run and the count of its writes: who comes again with the newest is told nothing."""

import asyncio
import contextlib
import json
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from firmware.errors import OtariaError, UnavailableError
from server.http.access import Caller
from server.http.changes import Changes

HEARTBEAT_S = 15.0
QUIET_S = 0.4
"""At least this long between two events of one stream; what rings meanwhile is one event."""
STUCK_S = 30.0
RETRY_MS = 3000
LAST_ID = "Last-Event-ID"
Still = Callable[[], Awaitable[object]]
"""Raises `DeniedError` once a follower may follow no longer."""


@dataclass(kw_only=True)
class Streams:
    """The followers of a server: how many there may be, altogether and for each caller."""

    changes: Changes
    most: int = 200
    most_per_caller: int = 20
    heartbeat_s: float = HEARTBEAT_S
    quiet_s: float = QUIET_S
    stuck_s: float = STUCK_S
    open: Counter[str] = field(default_factory=Counter)
    _run: str = field(default_factory=lambda: secrets.token_hex(4))

    async def follow(self, request: web.Request, caller: Caller, still: Still) -> web.StreamResponse:
        """Answer with events until the client leaves, `still` raises, or the server stops. Raises `UnavailableError`
        (`too-many-followers`)."""
        if self.open.total() >= self.most or self.open[caller.name] >= self.most_per_caller:
            text = (
                f"{self.most_per_caller} may follow with one token and {self.most} in all; ask again without following."
            )
            raise UnavailableError("too-many-followers", text)
        self.open[caller.name] += 1
        try:
            return await self._stream(request, still)
        finally:
            self.open[caller.name] -= 1
            self.open += Counter()  # forgets who has none

    async def _stream(self, request: web.Request, still: Still) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        try:
            with contextlib.suppress(
                ConnectionResetError, OtariaError
            ):  # who leaves, or may stay no longer, is no news
                await self._events(request, response, still)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _events(self, request: web.Request, response: web.StreamResponse, still: Still) -> None:
        changes, seen = self.changes, self.changes.version
        known = request.headers.get(LAST_ID) == self._id(seen)
        await self._write(response, ("" if known else self._event(seen).rstrip() + "\n") + f"retry: {RETRY_MS}\n\n")
        while not changes.closed:
            version = await changes.after(seen, self.heartbeat_s)
            await still()
            await self._write(response, self._event(version) if version > seen else ": here\n\n")
            seen = version
            await asyncio.sleep(0 if changes.closed else self.quiet_s)

    async def _write(self, response: web.StreamResponse, text: str) -> None:
        async with asyncio.timeout(self.stuck_s):
            await response.write(text.encode())

    def _event(self, version: int) -> str:
        return f"event: changed\nid: {self._id(version)}\ndata: {json.dumps({'version': version})}\n\n"

    def _id(self, version: int) -> str:
        return f"{self._run}-{version}"


STREAMS = web.AppKey("streams", Streams)
"""Where the people's app keeps them."""
