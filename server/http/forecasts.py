"""Forecasts of campaigns over REST."""

from collections.abc import Sequence
from typing import Protocol

from aiohttp import web

from server.http.access import Caller, Need
from server.http.bodies import path_id
from server.http.routes import Route, reply
from server.planner.forecast import Forecast


class Forecasts(Protocol):
    """Says when campaigns will be through. Raises typed errors."""

    async def forecast(self, campaign: str) -> Forecast: ...


class ForecastRoutes:
    """The handler."""

    def __init__(self, forecasts: Forecasts) -> None:
        self._forecasts = forecasts

    def routes(self) -> Sequence[Route]:
        return (
            Route(
                method="GET",
                path="/campaigns/{campaign}/forecast",
                need=Need.READ,
                action=self.forecast,
                answer=Forecast,
            ),
        )

    async def forecast(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """When the campaign will be through."""
        return reply(await self._forecasts.forecast(path_id(request, "campaign")))
