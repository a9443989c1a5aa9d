"""The chronicle: which versions the fleet ran, and how far each campaign had come, over time; and what was forecast at its start.

Rules
- A course has at most `MOST_POINTS`, whatever its length: the longer it is, the farther apart they are. Its newest point is what
  was found last.
- What hasn't changed is not written, so a quiet fleet rings no bell.
- A campaign's first forecast is kept as it was made, so that it can be held against what came of it.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from firmware.errors import OtariaError, UnavailableError
from server.campaigns.forecasting import Forecaster
from server.planner.forecast import Forecast
from server.ports import Clock, Database, Point, Standing, Unit

EVERY_S = 15.0
VERSIONS_EVERY_S = 60.0
MOST_POINTS = 240
MOST_VERSIONS = 7
REST = "other"
VERSIONS = "versions"
_log = logging.getLogger(__name__)


def campaign_course(campaign: str) -> str:
    """The name of a campaign's course: `targets`, `verified`, `failed`."""
    return f"campaign:{campaign}"


def forecast_course(campaign: str) -> str:
    """The name of the course that was forecast: at each `at` (as likely as not) so many are `verified`; `p90`: by then in nine of
    ten runs."""
    return f"forecast:{campaign}"


class Chronicle:
    """Keep `run` running."""

    def __init__(self, database: Database, clock: Clock, forecaster: Forecaster) -> None:
        self._database = database
        self._clock = clock
        self._forecaster = forecaster
        self._looked_at = 0.0
        self._versions_at = 0.0

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except UnavailableError as error:
                _log.error("nothing could be noted: %s", error)
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Note how everything stands now. Raises `UnavailableError`."""
        now = self._clock.now()
        since, self._looked_at = self._looked_at, now
        is_time = now - self._versions_at >= VERSIONS_EVERY_S
        standings = await self._database.read(lambda unit: unit.courses.under_way(since))
        changed = await self._database.read(lambda unit: _changed(unit, standings, now, with_versions=is_time))
        if is_time:
            self._versions_at = now
            for standing in standings:
                if forecast := await self._first_forecast(standing):
                    changed[forecast_course(standing.campaign)] = foretold(standing, forecast)
        if changed:
            await self._database.write(lambda unit: _put(unit, changed))

    async def _first_forecast(self, standing: Standing) -> Forecast | None:
        """None when there is one already, or none can be made."""
        name = forecast_course(standing.campaign)
        if await self._database.read(lambda unit: unit.courses.get(name)):
            return None
        try:
            return await self._forecaster.forecast(standing.campaign)
        except OtariaError:
            return None


def grown(points: Sequence[Point], at: float, values: dict[str, float]) -> list[Point]:
    """The course with what is so at `at`; the same one when that is no news."""
    known = list(points)
    if known and known[-1].values == values:
        return known
    spacing = (at - known[0].at) / MOST_POINTS if known else 0.0
    if len(known) > 2 and known[-1].at - known[-2].at < spacing:
        known.pop()
    known.append(Point(at=at, values=values))
    return known if len(known) <= MOST_POINTS else _thinned(known)


def foretold(standing: Standing, forecast: Forecast) -> list[Point]:
    """The course that a forecast means: its targets verify evenly until the last that comes, as likely as not by `done.p50`."""
    come = standing.verified + forecast.targets - forecast.never
    return [
        Point(at=forecast.at, values={"verified": float(standing.verified), "p90": forecast.at}),
        Point(at=max(forecast.done.p50, forecast.at + 1), values={"verified": come, "p90": forecast.done.p90}),
    ]


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Half of them at most, evenly over time, the first and the last among them."""
    gap = 2 * (points[-1].at - points[0].at) / MOST_POINTS
    kept = [points[0]]
    for point in points[1:-1]:
        if point.at - kept[-1].at >= gap:
            kept.append(point)
    return [*kept, points[-1]]


def _changed(unit: Unit, standings: Sequence[Standing], now: float, *, with_versions: bool) -> dict[str, list[Point]]:
    """The courses that have news."""
    news: dict[str, dict[str, float]] = {
        campaign_course(one.campaign): {"targets": one.targets, "verified": one.verified, "failed": one.failed}
        for one in standings
    }
    if with_versions and (versions := most_common(unit.fleet.versions())):
        news[VERSIONS] = versions
    courses = {name: unit.courses.get(name) for name in news}
    longer = {name: grown(courses[name], now, values) for name, values in news.items()}
    return {name: points for name, points in longer.items() if points != courses[name]}


def _put(unit: Unit, courses: Mapping[str, Sequence[Point]]) -> None:
    for name, points in courses.items():
        unit.courses.put(name, points)


def most_common(versions: Mapping[str, int]) -> dict[str, float]:
    """Targets by version, the rare ones together."""
    ordered = sorted(versions.items(), key=lambda item: (-item[1], item[0]))
    found: dict[str, float] = dict(ordered[:MOST_VERSIONS])
    if rest := sum(number for _, number in ordered[MOST_VERSIONS:]):
        found[REST] = rest
    return found
