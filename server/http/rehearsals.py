"""Rehearsals of campaigns over REST."""

from collections.abc import Sequence
from typing import Protocol

import msgspec
from aiohttp import web
from msgspec import Struct

from server.campaigns.reckoning import Hindsight, Reckoned
from server.campaigns.rehearsal import Casting, Rehearsal, Understudy
from server.http.access import Caller, Need
from server.http.bodies import path_id, path_version
from server.http.routes import Raw, Route, reply
from server.ports import RehearsalRecord, RehearsalState

LINES = 500
"""So many lines are written at once."""


class Rehearsals(Protocol):
    """Lets campaigns run in virtual time before they are started. Raises typed errors."""

    @property
    def done(self) -> int: ...
    async def show(self, campaign: str) -> RehearsalRecord: ...
    async def reality(self, record: RehearsalRecord) -> Sequence[Reckoned]: ...
    async def hindsight(self) -> Hindsight: ...
    async def cast(self, product: str, version: str) -> tuple[Casting, Sequence[Understudy]]: ...
    async def start(self, campaign: str, *, by: str) -> RehearsalRecord: ...
    async def cancel(self, campaign: str, *, by: str) -> RehearsalRecord: ...


class RehearsalShown(Struct, frozen=True, kw_only=True):
    """The newest rehearsal of a campaign. `revision`: of the campaign; `begins`: when it was taken to begin; `text`: why it
    ended without all of its result; `result`: of one under way, what is known so far; `runs_done`: while it is under
    way; `reality`: once the campaign has ended, what happened, beside what was foretold."""

    campaign: str
    revision: int
    state: RehearsalState
    by: str
    at: float
    begins: float
    text: str
    result: Rehearsal | None
    runs_done: int | None
    reality: tuple[Reckoned, ...] = ()


class RehearsalRoutes:
    """The handlers."""

    def __init__(self, rehearsals: Rehearsals) -> None:
        self._rehearsals = rehearsals

    def routes(self) -> Sequence[Route]:
        path = "/campaigns/{campaign}/rehearsals"
        return (
            Route(method="GET", path="/rehearsals", need=Need.READ, action=self.hindsight, answer=Hindsight),
            Route(
                method="GET",
                path="/releases/{product}/{version}/cast",
                need=Need.OPERATE,  # as to begin a rehearsal, which takes the server as long
                action=self.cast,
                answer=Raw(
                    media="application/x-ndjson", text="What was learned, and each target in a line of its own."
                ),
            ),
            Route(method="GET", path=path, need=Need.READ, action=self.show, answer=RehearsalShown),
            Route(
                method="POST",
                path=path,
                need=Need.OPERATE,
                action=self.start,
                answer=RehearsalShown,
                statuses=(202,),
            ),
            Route(method="DELETE", path=path, need=Need.OPERATE, action=self.cancel, answer=RehearsalShown),
        )

    async def hindsight(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """How often reality fell in the bands of former rehearsals."""
        return reply(await self._rehearsals.hindsight())

    async def cast(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """What a rehearsal elsewhere needs: the targets that a release is for, with what was learned of each."""
        head, fleet = await self._rehearsals.cast(path_id(request, "product"), path_version(request))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        await response.write(msgspec.json.encode(head) + b"\n")
        for begin in range(0, len(fleet), LINES):
            await response.write(_encoder.encode_lines(fleet[begin : begin + LINES]))
        await response.write_eof()
        return response

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The newest rehearsal of a campaign, with its result, which gets better while it is under way."""
        done = self._rehearsals.done  # before the record, which then has what so many runs gave
        record = await self._rehearsals.show(path_id(request, "campaign"))
        return reply(shown(record, done, await self._rehearsals.reality(record)))

    async def start(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Let a campaign that has not begun run many times over the fleet in virtual time; it goes on by itself."""
        return self._reply(await self._rehearsals.start(path_id(request, "campaign"), by=caller.name), status=202)

    async def cancel(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """End the rehearsal that is under way."""
        return self._reply(await self._rehearsals.cancel(path_id(request, "campaign"), by=caller.name))

    def _reply(self, record: RehearsalRecord, *, status: int = 200) -> web.Response:
        return reply(shown(record, self._rehearsals.done), status=status)


def shown(record: RehearsalRecord, done: int, reality: Sequence[Reckoned] = ()) -> RehearsalShown:
    """A rehearsal as the API shows it."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__ if name != "result"}
    result = msgspec.convert(record.result, Rehearsal) if record.result is not None else None
    runs_done = done if record.state is RehearsalState.RUNNING else None
    return RehearsalShown(**fields, result=result, runs_done=runs_done, reality=tuple(reality))


_encoder = msgspec.json.Encoder()
