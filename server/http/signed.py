"""Signed envelopes of targets over REST: the evidence behind what a target's page tells."""

from collections.abc import Sequence

from aiohttp import web
from msgspec import Struct
from securesystemslib.signer import Key

from server.campaigns.signed import Evidence, evidence, keyid_of
from server.errors import NotFoundError
from server.http.access import Caller, Need
from server.http.bodies import path_id, read_query
from server.http.paging import Paged, after, last_key, paged_reply, place
from server.http.routes import Route, reply
from server.ports import Database, EnvelopeKind, SignedEnvelope, Unit


class WhichEnvelopes(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of the list."""

    kind: EnvelopeKind | None = None


class EnvelopeShown(Struct, frozen=True, kw_only=True):
    """An envelope in a list. `hash`: sha256 (hex) of its payload; `keyid`: of who signed it, as it says itself."""

    id: int
    kind: EnvelopeKind
    at: float
    hash: str
    campaign: str | None
    keyid: str


class EnvelopePage(Struct, frozen=True, kw_only=True):
    """A page of a target's envelopes, the newest first."""

    signed: list[EnvelopeShown]
    next: str | None


class SignedRoutes:
    """Handlers about envelopes. `director`: the public key that orders and permits are signed by now."""

    def __init__(self, *, database: Database, director: Key) -> None:
        self._database, self._director = database, director

    def routes(self) -> Sequence[Route]:
        one, need = "/fleet/{target}/signed", Need.READ
        return (
            Route(method="GET", path=one, need=need, action=self.list, query=WhichEnvelopes, answer=EnvelopePage),
            Route(method="GET", path=f"{one}/{{envelope}}", need=need, action=self.show, answer=Evidence),
        )

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The signed orders, permits and reports of a target, the newest first."""
        which, name = read_query(request, WhichEnvelopes), path_id(request, "target")
        key = place(request, which, int)
        before = None if key is None else int(key[0])
        found = await self._database.read(lambda unit: _of_target(unit, name, before, which))
        following = after(request, last_key(found, which.limit, lambda one: (one.id,)))
        return paged_reply(request, EnvelopePage(signed=[_shown(one) for one in found], next=following))

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """One of them, whole, with whether its signature holds and which record of the trail tells of it."""
        name, number = path_id(request, "target"), envelope_id(request)
        return reply(await self._database.read(lambda unit: evidence(unit, name, number, self._director)))


def envelope_id(request: web.Request) -> int:
    """The number in the address; raises `NotFoundError` for what is none."""
    text = request.match_info["envelope"]
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise NotFoundError("An envelope is named by its number.")
    return int(text)


def _of_target(unit: Unit, name: str, before: int | None, which: WhichEnvelopes) -> Sequence[SignedEnvelope]:
    if unit.fleet.target(name) is None:
        raise NotFoundError(f"There is no target {name}; `otaria fleet list` shows those there are.")
    return unit.envelopes.of_target(name, before=before, limit=which.limit, kind=which.kind)


def _shown(one: SignedEnvelope) -> EnvelopeShown:
    return EnvelopeShown(id=one.id, kind=one.kind, at=one.at, hash=one.hash, campaign=one.campaign, keyid=keyid_of(one))
