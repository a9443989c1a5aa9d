"""`[metrics]` of `agent.toml`: what this target measures of itself, and how often it says so."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from firmware.checks import AbsolutePath, HealthCheck, Unit, address_of
from firmware.errors import RefusedError
from firmware.protocol.metrics import MAX_METRICS, MetricName

KIND = "bad-metric"
CORE_FILES = "/var/lib/systemd/coredump"
LEAST_EVERY_S, MOST_REPORT_S = 10.0, 21600.0


class Rule(StrEnum):
    """What a reading is. `gauge`: a level. The others count up: `anew` begins at 0 with every boot; `kept` outlives boots and
    falls only when somebody tidies up; `counter` may do either, so what it did over a boot isn't known."""

    GAUGE = "gauge"
    ANEW = "anew"
    KEPT = "kept"
    COUNTER = "counter"


class Measured(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One metric, under the name by which strategies know it. By `metric`: bytes of memory that can be had (`memory-free`), free
    bytes of the file system at `path` (`disk-free`), the first number in the output of `argv` (`output`) or in the file `path`,
    after `key` there (`file`), restarts of `units` by systemd (`restarts`), core files in the folder `path` that are new
    (`crashes`), boots of the device (`boots`), seconds until `url` answers 200 or `address` (host:port) takes a connection
    (`latency`; who doesn't counts as `timeout_s`). `counter`: the number of `output` or `file` counts up, and what it rose by is
    told. `{port}` in `url`, `address` and `argv` is the slot program's port."""

    name: MetricName
    metric: Literal["memory-free", "disk-free", "output", "file", "restarts", "crashes", "boots", "latency"]
    argv: Annotated[list[Annotated[str, Meta(max_length=512)]], Meta(max_length=32)] = []
    path: AbsolutePath | None = None
    key: Annotated[str, Meta(max_length=128)] | None = None
    units: Annotated[list[Unit], Meta(max_length=32)] = []
    url: Annotated[str, Meta(max_length=512)] | None = None
    address: Annotated[str, Meta(max_length=300)] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    counter: bool = False

    @property
    def rule(self) -> Rule:
        """What its readings are."""
        counted = Rule.COUNTER if self.counter else Rule.GAUGE
        return {"restarts": Rule.ANEW, "crashes": Rule.KEPT, "boots": Rule.KEPT}.get(self.metric, counted)


class MetricSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`measured`: what is read every `every_s` seconds, more or less by up to a quarter at random; nothing unless it is named.
    The hours that are over are told about every `report_s` seconds."""

    measured: Annotated[list[Measured], Meta(max_length=MAX_METRICS)] = []
    every_s: Annotated[float, Meta(ge=LEAST_EVERY_S, le=3600)] = 600.0
    report_s: Annotated[float, Meta(ge=60, le=MOST_REPORT_S)] = 14400.0


def require_measurable(measured: Sequence[Measured]) -> None:
    """Raise `RefusedError` (`bad-metric`) for a metric without what it is read from, or a name that is there twice."""
    names = [one.name for one in measured]
    for one in measured:
        lacking = _lacks(one)
        if lacking is not None:
            raise RefusedError(KIND, f"The metric {one.name} ({one.metric}) needs {lacking}.")
        if names.count(one.name) > 1:
            raise RefusedError(KIND, f"There are two metrics called {one.name}; give each a name of its own.")


def check_of(one: Measured, program_port: int | None) -> HealthCheck:
    """The health check that reads the same number."""

    def put(text: str) -> str:
        return text.replace("{port}", str(program_port or 0))

    return HealthCheck(
        kind="metric",
        metric=one.metric,
        argv=[put(part) for part in one.argv],
        path=one.path,
        key=one.key,
        units=one.units,
        url=put(one.url) if one.url else None,
        address=put(one.address) if one.address else None,
        timeout_s=one.timeout_s,
    )


def _lacks(one: Measured) -> str | None:
    if one.counter and one.metric not in ("output", "file"):
        return "no `counter`: only the number of `output` or `file` may be one"
    if one.metric == "latency":
        if (one.url is None) == (one.address is None):
            return "a `url` or an `address`, and not both"
        no_place = one.address is not None and address_of(check_of(one, 1)) is None
        return "an `address` of host:port" if no_place else None
    needs = {"output": (one.argv, "an `argv`"), "file": (one.path, "a `path`"), "disk-free": (one.path, "a `path`")}
    has, what = {**needs, "restarts": (one.units, "`units`")}.get(one.metric, (True, ""))
    return None if has else what
