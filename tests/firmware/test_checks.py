"""Health checks in a manifest: what is not understood is refused, what is not used is not written."""

import json
from typing import Any

import pytest

from firmware.checks import KINDS, METRICS, HealthCheck, Watch, address_of, require_understood
from firmware.errors import RefusedError
from firmware.manifest import Image, Manifest, encode_manifest, parse_manifest

WHOLE: dict[str, dict[str, Any]] = {
    "http": {"url": "http://127.0.0.1/"},
    "command": {"argv": ["true"]},
    "tcp": {"address": "127.0.0.1:80"},
    "systemd": {"units": ["app.service"]},
    "server": {},
    "metric": {"metric": "memory-free", "least": 1},
}
METRIC: dict[str, dict[str, Any]] = {
    "output": {"argv": ["echo", "1"]},
    "file": {"path": "/proc/loadavg"},
    "memory-free": {},
    "disk-free": {"path": "/"},
    "restarts": {"units": ["app.service"]},
}


def manifest(*checks: dict[str, Any], **fields: Any) -> bytes:
    image = Image(path="releases/p/1/image", length=1, sha256="0" * 64, windows=["0" * 64])
    value = json.loads(encode_manifest(Manifest(product="p", version="1", counter=1, hardware=["h"], images=[image])))
    return json.dumps(value | {"health": list(checks)} | fields).encode()


def refused(*checks: dict[str, Any], **fields: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        parse_manifest(manifest(*checks, **fields))
    return caught.value


def test_the_tables_here_are_whole() -> None:
    assert set(WHOLE) == set(KINDS)
    assert set(METRIC) == set(METRICS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_taken_with_what_it_needs_and_refused_without(kind: str) -> None:
    check = {"kind": kind, **WHOLE[kind]}
    parsed = parse_manifest(manifest(check)).health[0]
    assert parsed.kind == kind
    if WHOLE[kind]:
        error = refused({"kind": kind})
        assert error.kind == "malformed"
        assert f"Health check 1 ({kind}) needs" in error.text


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_is_taken_with_what_it_needs_and_refused_without(name: str) -> None:
    check = {"kind": "metric", "metric": name, "most": 1.5, **METRIC[name]}
    assert parse_manifest(manifest(check)).health[0].most == 1.5
    assert "a bound" in refused({**check, "most": None}).text
    for field in METRIC[name]:
        assert "needs" in refused({key: value for key, value in check.items() if key != field}).text


@pytest.mark.parametrize("check", [{"kind": "dance"}, {"kind": "metric", "metric": "mood", "least": 1}])
def test_security_unknown_checks_are_refused_as_not_understood(check: dict[str, Any]) -> None:
    error = refused({"kind": "server"}, check)
    assert error.kind == "not-understood"
    assert "Health check 2" in error.text


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "systemd", "units": ["--host=evil"]},
        {"kind": "systemd", "units": ["a b"]},
        {"kind": "systemd", "units": ["a\n"]},
        {"kind": "metric", "metric": "file", "path": "relative", "least": 1},
        {"kind": "metric", "metric": "file", "path": "/a\x00b", "least": 1},
        {"kind": "server", "timeout_s": 0},
        {"kind": "server", "tries": 0},
        {"kind": "server", "pause_s": 601},
        {"kind": "Server"},
    ],
)
def test_out_of_bounds_is_refused(fields: dict[str, Any]) -> None:
    assert refused(fields).kind == "malformed"


@pytest.mark.parametrize(
    "watch",
    [
        {"soak_s": -1},
        {"every_s": 0},
        {"may_fail": -1},
        {"failures": 0},
        {"on_regression": "pray"},
        {"heartbeat_s": 0.5},
    ],
)
def test_watch_out_of_bounds_is_refused(watch: dict[str, Any]) -> None:
    assert refused(watch=watch).kind == "malformed"


def test_watch_is_read_and_written_as_it_came() -> None:
    watch = {"soak_s": 60, "on_regression": "rollback", "x-later": 1}
    parsed = parse_manifest(manifest(watch=watch))
    assert parsed.watch == Watch(soak_s=60, on_regression="rollback", other={"x-later": 1})
    assert json.loads(encode_manifest(parsed))["watch"] == watch


def test_checks_of_earlier_releases_are_written_as_they_were() -> None:
    before = {"kind": "http", "url": "http://h/", "argv": [], "timeout_s": 5.0, "tries": 3}
    written = json.loads(encode_manifest(parse_manifest(manifest(before))))
    assert written["health"] == [before]
    assert "watch" not in written


def test_false_and_zero_are_set() -> None:
    check = {"kind": "metric", "metric": "memory-free", "least": 0.0, "heartbeat": False}
    written = json.loads(encode_manifest(parse_manifest(manifest(check))))["health"][0]
    assert (written["least"], written["heartbeat"]) == (0.0, False)


def test_only_the_server_is_left_out_of_heartbeats_unless_told() -> None:
    assert not HealthCheck(kind="server").beats
    assert HealthCheck(kind="server", heartbeat=True).beats
    assert HealthCheck(kind="http").beats
    assert not HealthCheck(kind="http", heartbeat=False).beats


def test_nothing_wrong_with_nothing() -> None:
    require_understood([])


@pytest.mark.parametrize(
    ("address", "parts"),
    [("h:1", ("h", 1)), ("[::1]:65535", ("::1", 65535)), ("::1:80", ("::1", 80)), ("h:1234567", None), ("h", None)],
)
def test_addresses(address: str, parts: tuple[str, int] | None) -> None:
    assert address_of(HealthCheck(kind="tcp", address=address)) == parts
