"""Health metrics as targets tell them: by hour, few and bounded, inside a signed report.

An hour is a number: whole hours since 1970 UTC, of the target's trusted time. A gauge (free memory) is told by its mean in that
hour, a counter (restarts) by how much it rose.
"""

from typing import Annotated

from msgspec import Meta, Struct

from firmware.checks import Number
from firmware.protocol.words import Count

HOUR_S = 3600.0
MAX_METRICS = 16
"""Metrics that one target tells."""
MAX_HOURS = 48
"""Hours in one report."""
NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z"

MetricName = Annotated[str, Meta(pattern=NAME_PATTERN)]


class Told(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One metric in one hour, as a list of two: from how many samples it is, and the number."""

    samples: Annotated[int, Meta(ge=1, le=65535)]
    value: Number


class MetricHour(Struct, frozen=True, kw_only=True):
    """What one target measured in one hour, by metric."""

    hour: Annotated[int, Meta(ge=0, le=1 << 28)]
    values: Annotated[dict[MetricName, Told], Meta(min_length=1, max_length=MAX_METRICS)]


class Metrics(Struct, frozen=True, kw_only=True):
    """Hours that are over, the oldest first. `dropped`: how many older ones were let go untold since the last report of metrics,
    because too many waited."""

    hours: Annotated[list[MetricHour], Meta(min_length=1, max_length=MAX_HOURS)]
    dropped: Count = 0
