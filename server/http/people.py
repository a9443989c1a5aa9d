"""The people's listener: the REST API under `/api/v1` and whatever pages are mounted beside it."""

from collections.abc import Callable, Sequence

from aiohttp import web

from server.http.access import Caller, Need, Tokens, bearer
from server.http.bodies import BODY_LIMITS, BodyLimits
from server.http.callers import Proxies, named_by
from server.http.limits import network_of
from server.http.problems import Handler, Render, catching, problem
from server.http.routes import API, Door, Raw, Route, mount
from server.http.streams import Streams
from server.http.uploads import say_version

Ready = Callable[[], Sequence[str]]
"""What is not ready yet, in words; empty when the server does all of its work."""
UNLIMITED = ("/healthz", "/readyz")
PLAIN = (API + "/", "/healthz", "/readyz")


class SystemRoutes:
    """Liveness, readiness and the stream of changes."""

    def __init__(self, *, streams: Streams, tokens: Tokens, ready: Ready) -> None:
        self._streams = streams
        self._tokens = tokens
        self._ready = ready

    def routes(self) -> Sequence[Route]:
        stream = Raw(media="text/event-stream", text="Events named `changed`; a comment every 15 s without one.")
        return (Route(method="GET", path="/events", need=Need.READ, action=self.events, answer=stream),)

    async def events(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Server-sent events: something was stored; ask again for what you show. Ends when the token does. How many may follow,
        with one token and in all, is limited. Who comes again with the newest `Last-Event-ID` missed and hears nothing."""
        return await self._streams.follow(request, caller, lambda: bearer(request, self._tokens))

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        """The process answers."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """The process does all of its work; 503 with the reasons while it does not."""
        missing = self._ready()
        said = {"ready": not missing, "role": "leader", "waiting_for": list(missing)}
        return web.json_response(said, status=503 if missing else 200)


def people_app(
    *,
    door: Door,
    system: SystemRoutes,
    routes: Sequence[Route],
    page_error: Callable[[web.Request], Render],
    proxies: Proxies,
    bodies: BodyLimits,
) -> web.Application:
    """The app of the people's listener; errors outside the API are pages made by `page_error`. `proxies`: who is believed about
    who asks; `bodies`: what may be sent."""

    def render(request: web.Request) -> Render:
        return problem if request.path.startswith(PLAIN) else page_error(request)

    @web.middleware
    async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in UNLIMITED:
            door.limits.addresses.take(network_of(request.remote))
        return await handler(request)

    app = web.Application(middlewares=[named_by(proxies), catching(render), limited], client_max_size=bodies.json_bytes)
    app[BODY_LIMITS] = bodies
    app.on_response_prepare.extend((_harden, say_version))
    app.router.add_get("/healthz", system.healthz)
    app.router.add_get("/readyz", system.readyz)
    mount(app, routes, door)
    return app


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "otaria"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
