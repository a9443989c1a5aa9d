"""Service level indicators over the HTTP API of Prometheus, and of what speaks it.

The answer is bounded in size and time, and must be one number: an indicator that is several series, or none, is no reading.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import parse_json
from server.observe.answers import Bounds, body_of

MAX_ANSWER_BYTES = 64 * 1024
TIMEOUT_S = 10.0
API = "/api/v1/query"


class _Series(Struct, frozen=True):
    value: Annotated[list[Any], Meta(min_length=2, max_length=2)]


class PrometheusSli:
    """`server.ports.SliPort`. `queries`: by name, the query whose value is the indicator."""

    def __init__(self, url: str, queries: Mapping[str, str], *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/") + API
        self._queries = queries
        self._limit_s = timeout_s

    async def read(self, name: str) -> float:
        """The indicator's value now.

        Raises `RefusedError` (`sli-unknown`, `sli-unusable`) or `UnavailableError` (`sli-unavailable`).
        """
        query = self._queries.get(name)
        if query is None:
            raise RefusedError("sli-unknown", f"No indicator {name} is configured; add it to [sli] queries.")
        return _value(name, await self._ask(name, query))

    async def _ask(self, name: str, query: str) -> bytes:
        bounds = Bounds(limit_s=self._limit_s, most_bytes=MAX_ANSWER_BYTES, kind="sli-unavailable")
        return await body_of("GET", self._url, bounds, f"{name} could not be read", params={"query": query})


def _value(name: str, body: bytes) -> float:
    """The one number in an answer; raises `RefusedError` (`sli-unusable`)."""
    try:
        data = parse_json(body, max_bytes=MAX_ANSWER_BYTES).get("data")
        result = data.get("result") if isinstance(data, dict) else None
        kind = data.get("resultType") if isinstance(data, dict) else None
        if kind == "vector":
            result = [one.value for one in msgspec.convert(result, Annotated[list[_Series], Meta(max_length=1)])]
            result = result[0] if result else None
        elif kind != "scalar":
            result = None
        sample = msgspec.convert(result, Annotated[list[Any], Meta(min_length=2, max_length=2)])[1]
        value = float(sample) if isinstance(sample, str) else math.nan
    except (RefusedError, msgspec.ValidationError, ValueError) as error:
        raise _unusable(name) from error
    if not math.isfinite(value):
        raise _unusable(name)
    return value


def _unusable(name: str) -> RefusedError:
    return RefusedError("sli-unusable", f"What was read for {name} is not one number; let its query give one series.")
