"""What Prometheus scrapes, with a viewer's token."""

from collections.abc import Callable, Sequence

from aiohttp import web

from server.http.access import Caller, Need
from server.http.routes import Raw, Route
from server.observe.meters import MEDIA


class MetricsRoutes:
    """`text` writes down the instruments in Prometheus' text format, without reading storage."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        self._text = text

    def routes(self) -> Sequence[Route]:
        raw = Raw(media="text/plain", text="Metrics in Prometheus' text format.")
        return (Route(method="GET", path="/metrics", need=Need.READ, action=self.metrics, answer=raw),)

    async def metrics(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The server's own metrics, for Prometheus: counters since this server leads, gauges a few seconds old."""
        return web.Response(body=self._text(), headers={"Content-Type": MEDIA})
