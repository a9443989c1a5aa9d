"""The trail's chains over REST: how they stand, the whole of it to verify elsewhere, and the removal of what is old."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Protocol

import msgspec
from aiohttp import web
from msgspec import Meta, Struct
from securesystemslib.signer import Signer

from server.audit.export import export
from server.audit.keeper import Removal, Standing
from server.audit.strand import Fault
from server.http.access import Caller, Need
from server.http.bodies import read_json
from server.http.routes import Raw, Route, reply
from server.ports import Clock, Database, StoredCheckpoint

DAY_S = 86400


class Chains(Protocol):
    """Signs, shows and shortens the trail. Raises typed errors."""

    @property
    def signer(self) -> Signer: ...
    async def sign(self) -> StoredCheckpoint | None: ...
    async def standing(self) -> Standing: ...
    async def remove(self, before: float, *, by: str) -> Removal: ...


class HowOld(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /audit/removal`."""

    older_than_s: Annotated[int, Meta(ge=DAY_S, le=100 * 366 * DAY_S)]


class TrailState(Struct, frozen=True, kw_only=True):
    """How the trail stands: the newest checkpoint, what came `since`, what is `gone` by rule, what didn't fit since this server
    leads, and the public key of checkpoints."""

    checkpoint: int | None
    signed_at: float | None
    hash: str | None
    records: int
    since: int
    gone: int
    faults: list[Fault]
    keyid: str
    key: dict[str, Any]


class SignedNow(Struct, frozen=True, kw_only=True):
    """The newest checkpoint as DSSE; null while nothing was recorded."""

    checkpoint: dict[str, Any] | None


class AuditRoutes:
    """Handlers about the chains."""

    def __init__(self, *, database: Database, chains: Chains, clock: Clock) -> None:
        self._database, self._chains, self._clock = database, chains, clock

    def routes(self) -> Sequence[Route]:
        return (
            Route(method="GET", path="/audit/state", need=Need.READ, action=self.state, answer=TrailState),
            Route(method="GET", path="/audit/checkpoint", need=Need.READ, action=self.checkpoint, answer=SignedNow),
            Route(
                method="GET",
                path="/audit/export",
                need=Need.READ,
                action=self.export,
                answer=Raw(media="application/x-ndjson", text="The trail as lines of JSON, streamed."),
            ),
            Route(
                method="POST",
                path="/audit/removal",
                need=Need.ADMINISTER,
                action=self.remove,
                body=HowOld,
                answer=Removal,
            ),
        )

    async def state(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The newest checkpoint, what came since, what didn't fit, and the public key of checkpoints."""
        key, standing = self._chains.signer.public_key, await self._chains.standing()
        shown = {**vars(standing), "faults": list(standing.faults)}
        return reply(TrailState(**shown, keyid=key.keyid, key=key.to_dict()))

    async def checkpoint(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The newest checkpoint, signed now if there is anything new: `{"checkpoint": DSSE or null}`."""
        stored = await self._chains.sign()
        envelope = None if stored is None else msgspec.json.decode(stored.envelope, type=dict[str, Any])
        return reply(SignedNow(checkpoint=envelope))

    async def export(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """All of it as lines of JSON, behind a checkpoint that is signed now and covers it."""
        await self._chains.sign()
        headers = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        pieces: AsyncIterator[bytes] = export(self._database, now=self._clock.now())
        async with aclosing(pieces):  # type: ignore[type-var]  # it is a generator
            await response.prepare(request)
            async for piece in pieces:
                await response.write(piece)
        await response.write_eof()
        return response

    async def remove(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Remove what is older than so many seconds and covered by a checkpoint; the next checkpoint says what is gone."""
        wanted = await read_json(request, HowOld)
        return reply(await self._chains.remove(self._clock.now() - wanted.older_than_s, by=caller.name))
