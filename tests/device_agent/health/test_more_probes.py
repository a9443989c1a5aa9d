"""The probes beside http and command, against real sockets, files and programs."""

import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agent.health.command_probe import Systemd
from device_agent.health.metric_probe import number_in
from device_agent.health.reach import Reach
from device_agent.health.runner import HealthRunner, Pace
from device_agent.ports import HealthResult
from firmware.checks import HealthCheck

QUICK = Pace(between_tries_s=0.01, between_connects_s=0.01)


def run(*checks: HealthCheck, port: int | None = None, **parts: Any) -> HealthResult:
    return HealthRunner(pace=QUICK, **parts).run(checks, program_port=port, stop=lambda: False)


def metric(name: str, **fields: Any) -> HealthCheck:
    return HealthCheck(kind="metric", metric=name, tries=1, **fields)


# tcp


def test_tcp_passes_when_something_listens_and_fails_when_nothing_does() -> None:
    check = HealthCheck(kind="tcp", address="127.0.0.1:{port}", timeout_s=0.3, tries=1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert run(check, port=port).healthy
    began = time.monotonic()
    assert "nothing listens there" in run(check, port=port).text
    assert 0.3 <= time.monotonic() - began < 5


def test_tcp_waits_for_a_program_that_takes_a_moment() -> None:
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        timer = threading.Timer(0.3, late.listen)
        timer.start()
        check = HealthCheck(kind="tcp", address=f"127.0.0.1:{late.getsockname()[1]}", timeout_s=10, tries=1)
        assert run(check).healthy
        timer.join()


@pytest.mark.parametrize(
    "address", ["", "nowhere", "127.0.0.1:", ":80", "h:0", "h:65536", "h:8 0", "h:٣", "h:" + "9" * 30]
)
def test_security_only_host_and_port_are_an_address(address: str) -> None:
    assert "not host:port" in run(HealthCheck(kind="tcp", address=address, tries=1, timeout_s=0.1)).text


def test_tcp_needs_the_program_for_its_port() -> None:
    assert "no program runs" in run(HealthCheck(kind="tcp", address="127.0.0.1:{port}")).text


# systemd


@pytest.fixture
def systemctl(tmp_path: Path) -> Systemd:
    """A systemctl that knows three units, and answers as the real one does."""
    program = tmp_path / "systemctl"
    program.write_text(
        "#!/bin/sh\n"
        'for unit in "$@"; do :; done\n'
        'case "$1 $unit" in\n'
        '  "is-active good.service") echo active;;\n'
        '  "is-active bad.service") echo failed; exit 3;;\n'
        '  "is-active slow.service") sleep 600;;\n'
        '  "is-active odd.service") echo reloading; exit 0;;\n'
        '  "show good.service") echo 2;;\n'
        '  "show bad.service") echo 5;;\n'
        "  *) echo inactive; exit 4;;\n"
        "esac\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Systemd([str(program)], runs=tmp_path)


def units(*names: str, **fields: Any) -> HealthCheck:
    return HealthCheck(kind="systemd", units=list(names), tries=1, **fields)


def test_every_unit_must_be_active(systemctl: Systemd) -> None:
    assert run(units("good.service"), systemd=systemctl).healthy
    text = run(units("good.service", "bad.service"), systemd=systemctl).text
    assert "unit bad.service is failed" in text
    assert "unit other.service is inactive" in run(units("other.service"), systemd=systemctl).text
    assert "unit odd.service is reloading" in run(units("odd.service"), systemd=systemctl).text


def test_systemd_that_does_not_answer_is_not_waited_for(systemctl: Systemd) -> None:
    began = time.monotonic()
    text = run(units("slow.service", timeout_s=0.3), systemd=systemctl).text
    assert "systemd did not answer about slow.service in time" in text
    assert time.monotonic() - began < 5


def test_device_without_systemd_says_so(tmp_path: Path) -> None:
    without = Systemd(runs=tmp_path / "none")
    assert "systemd does not run on this device" in run(units("good.service"), systemd=without).text
    text = run(metric("restarts", units=["good.service"], most=3), systemd=without).text
    assert "systemd does not run on this device" in text


def test_restarts_of_all_units_are_added(systemctl: Systemd) -> None:
    assert run(metric("restarts", units=["good.service"], most=2), systemd=systemctl).healthy
    both = metric("restarts", units=["good.service", "bad.service"], most=6)
    assert "it is 7, above 6" in run(both, systemd=systemctl).text
    assert "does not tell" in run(metric("restarts", units=["x.service"], most=6), systemd=systemctl).text


# server


def test_server_check_wants_a_connection_and_an_answer() -> None:
    reach = Reach()
    check = HealthCheck(kind="server", timeout_s=0.05, tries=1)
    assert "no connection to the broker" in run(check, reach=reach).text
    reach.connected = True
    assert "has not answered since the agent started" in run(check, reach=reach).text
    reach.heard = True
    assert run(check, reach=reach).healthy
    reach.connected = False
    assert not run(check, reach=reach).healthy


def test_server_check_waits_for_the_answer_within_its_timeout() -> None:
    reach = Reach()
    reach.connected = True

    def answer() -> None:
        reach.heard = True

    timer = threading.Timer(0.2, answer)
    timer.start()
    assert run(HealthCheck(kind="server", timeout_s=10, tries=1), reach=reach).healthy
    timer.join()


def test_without_an_agent_nobody_knows_the_server() -> None:
    assert "only the running agent" in run(HealthCheck(kind="server", timeout_s=0.05, tries=1)).text


# metric


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("42", None, 42.0),
        ("temperature -3.5 C", None, -3.5),
        ("1e3", None, 1000.0),
        ("MemTotal: 5 kB\nMemAvailable:   123 kB\n", "MemAvailable", 123.0),
        ("MemAvailableX: 5\nMemAvailable=7", "MemAvailable", 7.0),
        ("  load 0.25 1", "load", 0.25),
        ("load\n5", "load", None),
        ("nothing here", None, None),
        ("a: 1", "b", None),
        ("", "", None),
    ],
)
def test_numbers_are_found(text: str, key: str | None, value: float | None) -> None:
    assert number_in(text, key) == value


@pytest.mark.parametrize(
    ("bounds", "healthy"),
    [
        ({"least": 7.0}, True),
        ({"least": 7.1}, False),
        ({"most": 7.0}, True),
        ({"most": 6.9}, False),
        ({"least": 6.0, "most": 8.0}, True),
    ],
)
def test_file_metric_is_compared_with_both_bounds(tmp_path: Path, bounds: dict[str, float], healthy: bool) -> None:
    file = tmp_path / "state"
    file.write_text("errors 3\nload 7\n")
    result = run(metric("file", path=str(file), key="load", **bounds))
    assert result.healthy is healthy
    if not healthy:
        assert "it is 7, " in result.text


def test_file_that_is_missing_or_holds_no_number_fails_and_says_so(tmp_path: Path) -> None:
    assert "can't be read (No such file" in run(metric("file", path=str(tmp_path / "no"), least=1)).text
    (tmp_path / "text").write_text("none")
    assert "holds no number" in run(metric("file", path=str(tmp_path / "text"), least=1)).text
    assert "no number after 'x'" in run(metric("file", path=str(tmp_path / "text"), key="x", least=1)).text


def test_security_pipe_for_a_file_neither_blocks_nor_passes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    assert not run(metric("file", path=str(tmp_path / "pipe"), least=0)).healthy
    assert time.monotonic() - began < 5


def test_output_metric_reads_the_number_a_command_prints() -> None:
    assert run(metric("output", argv=["sh", "-c", "echo queue 17"], most=17)).healthy
    assert "it is 18, above 17" in run(metric("output", argv=["echo", "18"], most=17)).text
    assert "it printed no number: 'none'" in run(metric("output", argv=["echo", "none"], most=17)).text
    assert "it exited with 3: '1'" in run(metric("output", argv=["sh", "-c", "echo 1; exit 3"], most=17)).text
    assert "did not end in time" in run(metric("output", argv=["sleep", "60"], most=1, timeout_s=0.2)).text
    by_key = metric("output", argv=["printf", "a 1\\nb 2\\n"], key="b", least=2, most=2)
    assert run(by_key).healthy


@pytest.mark.parametrize(("name", "fields"), [("memory-free", {}), ("disk-free", {"path": "/"})])
def test_memory_and_disk_are_measured_in_bytes(name: str, fields: dict[str, Any]) -> None:
    assert run(metric(name, least=float(1 << 20), **fields)).healthy
    assert "below 1e+18" in run(metric(name, least=1e18, **fields)).text


def test_disk_metric_of_a_path_that_is_not_there_fails() -> None:
    assert "can't be looked at" in run(metric("disk-free", path="/no/such/path", least=1)).text


# All of them


def test_pause_of_the_check_is_kept_between_tries() -> None:
    began = time.monotonic()
    run(HealthCheck(kind="command", argv=["false"], tries=3, pause_s=0.25))
    assert 0.5 <= time.monotonic() - began < 5


def test_security_kind_that_slipped_through_does_not_pass() -> None:
    assert "not known here" in run(HealthCheck(kind="dance", tries=1)).text
    assert "not known here" in run(metric("dance", least=0)).text


@pytest.mark.parametrize(
    ("check", "title"),
    [
        (HealthCheck(kind="tcp", address="h:x"), "connect to h:x"),
        (units("a.service", "b.service"), "systemd units a.service b.service"),
        (HealthCheck(kind="server", timeout_s=0.01), "reaches the server"),
        (metric("file", path="/no", key="load", least=1), "metric file /no load"),
    ],
)
def test_failure_names_the_check(check: HealthCheck, title: str, tmp_path: Path) -> None:
    text = run(check, systemd=Systemd(runs=tmp_path / "none")).text
    assert text.startswith(f"Check 1 of 1 ({title}) failed: ")


def test_a_stop_ends_each_kind_early(systemctl: Systemd) -> None:
    stopped: Callable[[], bool] = lambda: time.monotonic() - began > 0.2  # noqa: E731
    for check in (
        units("slow.service", timeout_s=60),
        HealthCheck(kind="server", timeout_s=60),
        metric("output", argv=["sleep", "60"], least=0, timeout_s=60),
    ):
        began = time.monotonic()
        runner = HealthRunner(pace=QUICK, reach=Reach(), systemd=systemctl)
        assert not runner.run([check], program_port=None, stop=stopped).healthy
        assert time.monotonic() - began < 5
