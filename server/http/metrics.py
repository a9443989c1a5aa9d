"""What Prometheus scrapes, with a viewer's token."""

from collections.abc import Callable, Sequence

from aiohttp import web

from server.http.access import Caller, Need
from server.http.routes import Raw, Route


class MetricsRoutes:
    """`text` writes down the instruments in Prometheus' text format, `media`, without reading storage."""

    def __init__(self, text: Callable[[], bytes], media: str) -> None:
        self._text, self._media = text, media

    def routes(self) -> Sequence[Route]:
        raw = Raw(media=self._media.partition(";")[0], text="Metrics in Prometheus' text format.")
        return (Route(method="GET", path="/metrics", need=Need.READ, action=self.metrics, answer=raw),)

    async def metrics(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The server's own metrics, for Prometheus: counters since this server leads, gauges a few seconds old."""
        return web.Response(body=self._text(), headers={"Content-Type": self._media})
