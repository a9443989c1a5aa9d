"""The CAs, and by which way the fleet comes, over REST."""

from collections.abc import Sequence
from typing import Protocol

from aiohttp import web
from msgspec import Struct

from server.errors import NotFoundError
from server.http.access import Caller, Need
from server.http.bodies import has_body, read_json
from server.http.routes import Route, reply
from server.identity.authorities_service import CaStep, CasView, Kind
from server.ports import Database


class Authorities(Protocol):
    """Shows and changes the CAs. Raises typed errors."""

    async def show(self) -> CasView: ...
    async def step(self, kind: Kind, step: CaStep, *, by: str, force: bool) -> CasView: ...


class HowStep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /authorities/{kind}/{step}`: whether to go on although targets depend on what it ends."""

    force: bool = False


class Endpoints(Struct, frozen=True, kw_only=True):
    """Number of targets by the server address they said they use; `unknown`: of those that said none."""

    endpoints: dict[str, int]
    unknown: int


class CaRoutes:
    """Handlers about the CAs, for administrators, and about endpoints, for everybody."""

    def __init__(self, *, database: Database, authorities: Authorities) -> None:
        self._database, self._authorities = database, authorities

    def routes(self) -> Sequence[Route]:
        return (
            Route(method="GET", path="/authorities", need=Need.READ, action=self.show, answer=CasView),
            Route(
                method="POST",
                path="/authorities/{kind}/{step}",
                need=Need.ADMINISTER,
                action=self.step,
                body=HowStep,
                may_be_left_out=True,
                answer=CasView,
            ),
            Route(method="GET", path="/endpoints", need=Need.READ, action=self.endpoints, answer=Endpoints),
        )

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Every CA with its standing, its certificate, and how many targets depend on it."""
        return reply(await self._authorities.show())

    async def step(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """`rotate`, `switch` or `retire` the `fleet` or the `services` CA; answers with the CAs as they are then."""
        try:
            kind, step = Kind(request.match_info["kind"]), CaStep(request.match_info["step"])
        except ValueError as error:
            raise NotFoundError(
                "There is a fleet and a services CA, and the steps rotate, switch and retire."
            ) from error
        how = await read_json(request, HowStep) if has_body(request) else HowStep()
        return reply(await self._authorities.step(kind, step, by=caller.name, force=how.force))

    async def endpoints(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Number of targets by the server address they said they use."""
        found = dict(await self._database.read(lambda unit: unit.fleet.endpoints()))
        return reply(Endpoints(unknown=found.pop("", 0), endpoints=found))
