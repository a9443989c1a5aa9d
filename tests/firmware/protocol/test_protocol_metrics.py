"""Metrics in a report: few, bounded, finite numbers, or none."""

import json

import pytest

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.metrics import MAX_HOURS, MAX_METRICS, MetricHour, Metrics, Told


def read(data: bytes | str) -> Metrics:
    """As the server reads it."""
    raw = data if isinstance(data, bytes) else data.encode()
    return convert(parse_json(raw, max_bytes=1 << 20), Metrics)


def hour(value: str = "1.5", *, samples: str = "6", name: str = "memory-free", number: str = "500000") -> str:
    return f'{{"hours": [{{"hour": {number}, "values": {{"{name}": [{samples}, {value}]}}}}]}}'


def test_what_is_told_is_read_as_it_was_meant() -> None:
    told = Metrics(hours=[MetricHour(hour=500_000, values={"a": Told(6, 1.5), "b": Told(1, -2.0)})], dropped=3)
    assert read(canonical(told)) == told
    assert read(hour("3")).hours[0].values["memory-free"] == Told(6, 3.0)


@pytest.mark.parametrize(
    "text",
    [
        hour("NaN"),
        hour("Infinity"),
        hour("1e999"),
        hour("1e300"),
        hour("-1e19"),
        hour('"1"'),
        hour("null"),
        hour("true"),
        hour(samples="0"),
        hour(samples="-1"),
        hour(samples="70000"),
        hour(samples="1.5"),
        hour("1, 2"),
        hour(name=""),
        hour(name="a" * 65),
        hour(name="a b"),
        hour(name="a\\u0000"),
        hour(number="-1"),
        hour(number="1e30"),
        hour(number="99999999999"),
        '{"hours": []}',
        '{"hours": [{"hour": 1, "values": {}}]}',
        '{"hours": [{"hour": 1, "values": {"a": [1, 1]}}], "dropped": -1}',
    ],
)
def test_what_is_no_number_of_an_hour_is_refused(text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read(text)
    assert caught.value.kind == "malformed"


@pytest.mark.parametrize(("names", "hours"), [(MAX_METRICS + 1, 1), (10_000, 1), (1, MAX_HOURS + 1)])
def test_too_many_names_or_hours_are_refused(names: int, hours: int) -> None:
    values = {f"m{number}": [1, 1.0] for number in range(names)}
    with pytest.raises(RefusedError) as caught:
        read(json.dumps({"hours": [{"hour": number, "values": values} for number in range(hours)]}))
    assert caught.value.kind == "malformed"


def test_as_many_as_there_may_be_are_read() -> None:
    values = {f"m{number}": Told(1, 1e18) for number in range(MAX_METRICS)}
    told = Metrics(hours=[MetricHour(hour=number, values=values) for number in range(MAX_HOURS)])
    assert read(canonical(told)) == told
