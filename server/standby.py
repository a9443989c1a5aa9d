"""What a server answers while another leads: that it stands by, where to ask instead, and when to ask it again."""

from collections.abc import Callable

from aiohttp import web

from firmware.errors import RefusedError
from server.http.problems import problem
from server.identity.authority import Authorities
from server.identity.authority_files import fingerprint_of
from server.ports import Database

NOT_LEADER = "not-leader"


def standby_app(leader: Callable[[], str], retry_s: float) -> web.Application:
    """An app for either listener. `leader`: where the leader is reached (empty: unknown); `retry_s`: when to ask again."""

    def sentence() -> str:
        where = leader()
        who = f"{where} leads" if where else "another server leads"
        return f"This server stands by while {who}; ask there, or here again in {retry_s:.0f} s."

    async def healthz(request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.StreamResponse:
        body = {"ready": False, "role": "standby", "leader": leader(), "waiting_for": [f"the lease. {sentence()}"]}
        return web.json_response(body, status=503)

    async def metrics(request: web.Request) -> web.StreamResponse:
        """The one number that an alert on a missing leader needs; nothing here knows a token yet."""
        return web.Response(text="# TYPE otaria_leader gauge\notaria_leader 0\n")

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        response = problem(503, NOT_LEADER, sentence())
        response.headers["Retry-After"] = f"{retry_s:.0f}"
        return response

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/api/v1/metrics", metrics)
    app.router.add_route("*", "/{path:.*}", elsewhere)
    return app


async def refuse_strangers(database: Database, authorities: Authorities) -> None:
    """Refuse to stand by with certificate authorities that no agent of the fleet knows (`other-authorities`): once this server
    led, none could come."""
    issuers = {issuer for issuer in await database.read(lambda unit: unit.identities.issuers()) if issuer}
    known = {fingerprint_of(certificate) for certificate in authorities.issuers}
    if issuers and not issuers & known:
        raise RefusedError(
            "other-authorities",
            f"{authorities.directory} holds other authorities than those that certified the fleet's agents; replace it by the "
            "directory of the server that leads.",
        )
