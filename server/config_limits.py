"""The section [limits]: how often anybody may ask, how large a body may be, and how long the server waits for one."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from firmware.errors import RefusedError

KIND = "config"


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """Rates are requests per second, each with a burst on top. `json_bytes`: of a body in JSON, artifacts and releases apart.
    `body_s`: for a whole such body; `pause_s`: between two pieces of a long one; `idle_s`: until a connection's first request
    and each further one is there, headers and all. `streams`: who follows events, all together and of one person or script.
    `uploads`: artifacts on their way, `upload_bytes`: what they may become together, `upload_s`: how long one may rest before
    it is removed."""

    address_per_s: float = 200.0
    address_burst: int = 2000
    token_per_s: float = 100.0
    token_burst: int = 1000
    json_bytes: int = 1 << 20
    body_s: float = 60.0
    pause_s: float = 30.0
    idle_s: float = 30.0
    streams: int = 200
    streams_per_caller: int = 20
    uploads: int = 32
    upload_bytes: int = 64 << 30
    upload_s: float = 86400.0


BOUNDS: Mapping[str, tuple[float, float]] = {
    "address_per_s": (0.1, 1e6),
    "address_burst": (1, 1 << 30),
    "token_per_s": (0.1, 1e6),
    "token_burst": (1, 1 << 30),
    "json_bytes": (1 << 16, 64 << 20),
    "body_s": (0.1, 3600),
    "pause_s": (0.1, 3600),
    "idle_s": (0.1, 3600),
    "streams": (0, 100_000),
    "streams_per_caller": (0, 100_000),
    "uploads": (0, 10_000),
    "upload_bytes": (0, 1 << 50),
    "upload_s": (1, 30 * 86400),
}
DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(LimitSettings)}


def parse_limits(section: Mapping[str, Any]) -> LimitSettings:
    """The settings of [limits]; raises `RefusedError` (`config`) naming the one that is out of its bounds."""
    found: dict[str, Any] = {}
    for name, (least, most) in BOUNDS.items():
        kind, value = type(DEFAULTS[name]), section[name]
        fits = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        if not fits or not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            raise RefusedError(KIND, f"`limits.{name}` must be {what} from {least:g} to {most:g}.")
        found[name] = kind(value)
    return LimitSettings(**found)
