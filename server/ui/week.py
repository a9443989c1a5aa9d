"""When a target is usually there, by hour of the week: a heat map of what its presence taught."""

from dataclasses import dataclass

from server.planner.availability import HOURS, Availability, hour_of

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
LEVELS = 5
LEAST_S = 600.0
"""An hour of which less was watched is left empty: it would show chance."""


@dataclass(frozen=True, kw_only=True)
class Hour:
    """One hour: its place, how often the target is there (0, never, to `LEVELS`, always; None: not known), and that in words."""

    x: int
    y: int
    level: int | None
    title: str
    is_now: bool


@dataclass(frozen=True, kw_only=True)
class WeekPicture:
    """The map, and what it says: the best hours in words; `watched_h`: the hours that it rests on."""

    hours: tuple[Hour, ...]
    sentence: str
    watched_h: float


def week_picture(known: Availability, now: float) -> WeekPicture | None:
    """The week of a target whose agent is known; None before anything was watched."""
    shares = [
        online / seen if seen >= LEAST_S else None for online, seen in zip(known.online_s, known.seen_s, strict=True)
    ]
    if all(share is None for share in shares):
        return None
    current = hour_of(now)
    hours = tuple(_hour(place, share, is_now=place == current) for place, share in enumerate(shares))
    return WeekPicture(hours=hours, sentence=_sentence(shares), watched_h=known.watched_s / 3600)


def _hour(place: int, share: float | None, *, is_now: bool) -> Hour:
    day, hour = divmod(place, 24)
    said = "not watched yet" if share is None else f"there {round(100 * share)} % of the time"
    title = f"{DAYS[day]} {hour:02}:00 UTC: {said}{' (now)' if is_now else ''}"
    return Hour(x=hour, y=day, level=None if share is None else round(LEVELS * share), title=title, is_now=is_now)


def _sentence(shares: list[float | None]) -> str:
    known = [(share, place) for place, share in enumerate(shares) if share is not None]
    mean = sum(share for share, _ in known) / len(known)
    text = f"There {round(100 * mean)} % of the hours that were watched"
    if mean in (0.0, 1.0) or len(known) < HOURS // 2:
        return f"{text}."
    most, place = max(known, key=lambda one: (one[0], -one[1]))
    day, hour = divmod(place, 24)
    return f"{text}; most often {DAYS[day]} from {hour:02}:00 UTC ({round(100 * most)} %)."
