"""Health checks, and how long they are watched: what a release declares in its manifest, and a device in its settings.

A check that this version doesn't know is refused as `not-understood`, never passed over: who signed it meant it to hold.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.words import Kind, ReasonKind, Seconds

MAX_CHECKS = 32
KINDS = ("http", "command", "tcp", "systemd", "server", "metric")
METRICS = ("output", "file", "memory-free", "disk-free", "restarts")
UNIT_PATTERN = r"^[A-Za-z0-9_:.@\\][A-Za-z0-9_:.@\\-]{0,254}\Z"

Number = Annotated[float, Meta(ge=-1e18, le=1e18)]
Unit = Annotated[str, Meta(pattern=UNIT_PATTERN)]
AbsolutePath = Annotated[str, Meta(max_length=512, pattern=r"^/[^\x00]*\Z")]
Other = dict[str, Any]


class HealthCheck(Struct, frozen=True, kw_only=True):
    """One check. `http`: GET `url` answers 200. `command`: `argv` exits 0. `tcp`: something listens at `address` (host:port).
    `systemd`: every one of `units` is active. `server`: the agent's own connection is up, and the server answered over it since
    the agent started. `metric`: a number is not below `least` and not above `most`: the first in the output of `argv`
    (`output`), the first in the file `path` or after `key` there (`file`), bytes of memory that can be had (`memory-free`), free
    bytes of the file system at `path` (`disk-free`), restarts of `units` by systemd (`restarts`).

    `{port}` in `url`, `argv` and `address` is the slot program's port. Each try has `timeout_s`; it passes if any of `tries`
    does, with `pause_s` between them. `heartbeat`: also looked at after the commit; left out, every kind but `server` is.
    """

    kind: Kind
    url: Annotated[str, Meta(max_length=512)] | None = None
    argv: Annotated[list[Annotated[str, Meta(max_length=512)]], Meta(max_length=32)] = []
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 5.0
    tries: Annotated[int, Meta(ge=1, le=100)] = 3
    pause_s: Annotated[float, Meta(ge=0, le=600)] | None = None
    address: Annotated[str, Meta(max_length=300)] | None = None
    units: Annotated[list[Unit], Meta(max_length=32)] = []
    metric: Kind | None = None
    path: AbsolutePath | None = None
    key: Annotated[str, Meta(max_length=128)] | None = None
    least: Number | None = None
    most: Number | None = None
    heartbeat: bool | None = None
    other: Other = {}

    @property
    def beats(self) -> bool:
        """Whether it is looked at after the commit. A server that can't be reached is no fault of what runs here."""
        return self.kind != "server" if self.heartbeat is None else self.heartbeat


class Watch(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long a release is watched. In the trial its checks are repeated every `every_s` for `soak_s`, and all rounds but
    `may_fail` must hold before it is committed. Afterwards they are repeated every `heartbeat_s` (0: never); `failures` in a row
    are a regression, which is reported, and with `rollback` answered by a switch to the previous slot if that is intact.
    """

    soak_s: Seconds = 0
    every_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    may_fail: Annotated[int, Meta(ge=0, le=1000)] = 0
    heartbeat_s: Seconds = 0
    failures: Annotated[int, Meta(ge=1, le=100)] = 3
    on_regression: Literal["report", "rollback"] = "report"
    other: Other = {}


def require_understood(checks: Iterable[HealthCheck]) -> None:
    """Raise `RefusedError` for a check of an unknown kind (`not-understood`) or without what its kind needs (`malformed`)."""
    for number, check in enumerate(checks, start=1):
        if check.kind not in KINDS or (check.metric is not None and check.metric not in METRICS):
            what = f"metric '{check.metric}'" if check.kind in KINDS else f"kind '{check.kind}'"
            text = f"Health check {number} is of the {what}, which this version does not know; update it first."
            raise RefusedError(ReasonKind.NOT_UNDERSTOOD, text)
        lacking = _lacks(check)
        if lacking is not None:
            raise RefusedError(ReasonKind.MALFORMED, f"Health check {number} ({check.kind}) needs {lacking}.")


def address_of(check: HealthCheck) -> tuple[str, int] | None:
    """Host and port of a `tcp` check whose `{port}` was filled in; IPv6 in brackets. None when it is neither."""
    host, _, port = (check.address or "").rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        return None
    return host, int(port)


def _lacks(check: HealthCheck) -> str | None:
    needs: dict[str, tuple[object, str]] = {
        "http": (check.url, "a `url`"),
        "command": (check.argv, "an `argv`"),
        "tcp": (check.address, "an `address`"),
        "systemd": (check.units, "`units`"),
        "metric": (check.metric, "a `metric`"),
        "output": (check.argv, "an `argv`"),
        "file": (check.path, "a `path`"),
        "disk-free": (check.path, "a `path`"),
        "restarts": (check.units, "`units`"),
    }
    for name in (check.kind, check.metric if check.kind == "metric" else None):
        has, what = needs.get(name or "", (True, ""))
        if not has:
            return what
    if check.kind == "metric" and check.least is None and check.most is None:
        return "a bound, `least` or `most`"
    return None
