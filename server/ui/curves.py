"""Courses over time drawn: how far a campaign has come beside what was forecast, and which versions the fleet ran.

Everything is laid on a field of 100 by 100, left to right and bottom to top. What was counted goes in steps: it was so until it
changed. What was forecast goes straight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.campaigns.chronicle import REST
from server.ports import Point
from server.ui.pictures import MAX_VERSIONS
from server.ui.wording import clock_time, plural

SIZE = 100.0
Spot = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ProgressPicture:
    """Verified targets over time: `reality` and `area` below it; `likely` and `latest`, what was forecast at the start (empty:
    nothing was). `now`: where now is. All are SVG paths."""

    reality: str
    area: str
    likely: str
    latest: str
    now: float
    begins: str
    ends: str
    top: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Band:
    """One version's share over time."""

    tone: str
    label: str
    path: str


@dataclass(frozen=True, kw_only=True)
class AdoptionPicture:
    """The versions of a fleet over time, one band upon the other."""

    bands: tuple[Band, ...]
    begins: str
    ends: str
    sentence: str


def progress_picture(points: Sequence[Point], foretold: Sequence[Point], now: float) -> ProgressPicture | None:
    """A campaign's progress; None before there is any."""
    if not points or (points[-1].at <= points[0].at and not foretold):
        return None
    top = max(1.0, *(point.values["targets"] for point in points), *(point.values["verified"] for point in foretold))
    is_over = points[-1].values["verified"] >= points[-1].values["targets"]
    end = points[-1].at if is_over else now
    times = [points[0].at, end, *(point.at for point in foretold), *(point.values["p90"] for point in foretold)]
    begins, ends = min(times), max(*times, min(times) + 1)

    def place(at: float, value: float) -> Spot:
        return SIZE * (at - begins) / (ends - begins), SIZE - SIZE * value / top

    steps = _steps([place(point.at, point.values["verified"]) for point in points], place(end, 0)[0])
    likely = [place(point.at, point.values["verified"]) for point in foretold]
    latest = [place(point.values["p90"], point.values["verified"]) for point in foretold]
    return ProgressPicture(
        reality=_path(steps),
        area=f"{_path(steps)} V{SIZE:g} H{steps[0][0]:g} Z",
        likely=_path(likely),
        latest=_path(latest),
        now=round(place(min(now, ends), 0)[0], 2),
        begins=clock_time(begins),
        ends=clock_time(ends),
        top=plural(round(top), "target"),
        sentence=_beside(points[-1], foretold, end),
    )


def adoption_picture(points: Sequence[Point], tones: Mapping[str, str], now: float) -> AdoptionPicture | None:
    """The fleet's versions over time; `tones`: of those that it runs now, as its bar has them. None before it changed."""
    if len(points) < 2:
        return None
    begins, ends = points[0].at, max(now, points[-1].at + 1)
    names = [*tones, *sorted({name for point in points for name in point.values} - set(tones), reverse=True)]
    toned = {name: tones.get(name) or _next_tone(name, place) for place, name in enumerate(names)}
    edges = [SIZE * (point.at - begins) / (ends - begins) for point in points]
    totals = [sum(point.values.values()) or 1.0 for point in points]
    floors, bands = [0.0] * len(points), []
    for name in names:
        ceilings = [
            floor + SIZE * point.values.get(name, 0.0) / total
            for floor, point, total in zip(floors, points, totals, strict=True)
        ]
        upper = _steps([(x, SIZE - y) for x, y in zip(edges, ceilings, strict=True)], SIZE)
        lower = _steps([(x, SIZE - y) for x, y in zip(edges, floors, strict=True)], SIZE)
        if ceilings != floors:
            path = f"{_path(upper)} {_path(lower[::-1]).replace('M', 'L', 1)} Z"
            bands.append(Band(tone=toned[name], label=name, path=path))
        floors = ceilings
    return AdoptionPicture(
        bands=tuple(bands), begins=clock_time(begins), ends=clock_time(ends), sentence=_adopted(points)
    )


def _next_tone(name: str, place: int) -> str:
    """The tone of a version that nobody runs any more: one that none of the others has, while there are any."""
    return f"v-{place}" if place < MAX_VERSIONS and name != REST else "v-rest"


def expected(foretold: Sequence[Point], at: float) -> float | None:
    """How many targets the forecast has verified at a time, as likely as not; None without one."""
    if len(foretold) < 2:
        return None
    first, last = foretold[0], foretold[-1]
    part = min(1.0, max(0.0, (at - first.at) / (last.at - first.at)))
    return first.values["verified"] + part * (last.values["verified"] - first.values["verified"])


def _beside(last: Point, foretold: Sequence[Point], at: float) -> str:
    verified, wanted = round(last.values["verified"]), expected(foretold, at)
    text = f"{verified:,} of {plural(round(last.values['targets']), 'target')} verified"
    if wanted is None:
        return f"{text}."
    return f"{text}, where about {round(wanted):,} were forecast when it began."


def _adopted(points: Sequence[Point]) -> str:
    first, last = points[0].values, points[-1].values
    name = max(last, key=lambda one: (last[one], one), default="")
    share = round(100 * last.get(name, 0) / (sum(last.values()) or 1))
    before = round(100 * first.get(name, 0) / (sum(first.values()) or 1))
    return f"{share} % run {name}, {before} % did on {clock_time(points[0].at)} UTC."


def _steps(spots: Sequence[Spot], end: float) -> list[Spot]:
    out = [spots[0]]
    for (x, y), (_, before) in zip(spots[1:], spots, strict=False):
        out += [(x, before), (x, y)]
    return [*out, (end, out[-1][1])]


def _path(spots: Sequence[Spot]) -> str:
    return "" if not spots else "M" + " L".join(f"{round(x, 2):g} {round(y, 2):g}" for x, y in spots)
