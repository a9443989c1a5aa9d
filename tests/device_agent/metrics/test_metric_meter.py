"""What is measured, and what settings may ask for."""

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from device_agent.config import CONFIG_FILE, load_config
from device_agent.health.probe import Deadline, Seen
from device_agent.metrics.meter import Meter
from device_agent.metrics.settings import Measured, Rule
from firmware.errors import RefusedError


class Units:
    """`Systemd`, in so far as it counts restarts."""

    def restarts(self, units: Sequence[str], deadline: Deadline) -> int | Seen:
        return 3 if units == ["a.service"] else Seen(passed=False, text="unknown")


def read(*measured: Measured, port: int | None = None) -> dict[str, float]:
    return Meter(measured, Units()).read(port, lambda: False)  # type: ignore[arg-type]


def test_each_metric_is_read_from_its_place_and_what_can_not_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "core.1").touch()
    (tmp_path / "core.2").touch()
    (tmp_path / "number").write_text("errors: 41\n")
    folder = str(tmp_path)
    found = read(
        Measured(name="free", metric="memory-free"),
        Measured(name="disk", metric="disk-free", path=folder),
        Measured(name="crashes", metric="crashes", path=folder),
        Measured(name="none-yet", metric="crashes", path=f"{folder}/none"),
        Measured(name="no-folder", metric="crashes", path=f"{folder}/number"),
        Measured(name="restarts", metric="restarts", units=["a.service"]),
        Measured(name="unknown", metric="restarts", units=["b.service"]),
        Measured(name="errors", metric="file", path=f"{folder}/number", key="errors", counter=True),
        Measured(name="lost", metric="file", path=f"{folder}/lost"),
        Measured(name="printed", metric="output", argv=["echo", "it is 7.5"]),
        Measured(name="huge", metric="output", argv=["echo", "1e50"]),
        Measured(name="no-number", metric="output", argv=["echo", "nan inf"]),
        Measured(name="boots", metric="boots"),
    )
    assert found["free"] > 0
    assert found["disk"] > 0
    del found["free"], found["disk"]
    assert found == {"crashes": 3.0, "none-yet": 0.0, "restarts": 3.0, "errors": 41.0, "printed": 7.5}


def test_latency_is_that_of_the_connection_and_the_whole_time_where_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = read(Measured(name="tcp", metric="latency", address="127.0.0.1:{port}", timeout_s=5.0), port=port)
    assert 0 < found["tcp"] < 5.0
    silent = read(
        Measured(name="tcp", metric="latency", address=f"127.0.0.1:{port}", timeout_s=2.0),
        Measured(name="http", metric="latency", url=f"http://127.0.0.1:{port}/", timeout_s=3.0),
    )
    assert silent == {"tcp": 2.0, "http": 3.0}


def test_an_agent_that_ends_stops_measuring() -> None:
    assert Meter([Measured(name="free", metric="memory-free")]).read(None, lambda: True) == {}


def load(tmp_path: Path, text: str) -> object:
    (tmp_path / CONFIG_FILE).write_text(text)
    return load_config(tmp_path).metrics


def test_settings_name_what_is_measured(tmp_path: Path) -> None:
    text = (
        '[metrics]\nevery_s = 60\n[[metrics.measured]]\nname = "restarts"\nmetric = "restarts"\nunits = ["a.service"]\n'
    )
    metrics = load(tmp_path, text)
    (one,) = metrics.measured  # type: ignore[attr-defined]
    assert (one.name, one.rule, metrics.every_s, metrics.report_s) == ("restarts", Rule.ANEW, 60.0, 14400.0)  # type: ignore[attr-defined]
    assert load(tmp_path, "").measured == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('name = "a"\nmetric = "restarts"', "needs `units`"),
        ('name = "a"\nmetric = "file"', "needs a `path`"),
        ('name = "a"\nmetric = "disk-free"', "needs a `path`"),
        ('name = "a"\nmetric = "output"', "needs an `argv`"),
        ('name = "a"\nmetric = "latency"', "a `url` or an `address`"),
        ('name = "a"\nmetric = "latency"\nurl = "http://x/"\naddress = "x:1"', "not both"),
        ('name = "a"\nmetric = "latency"\naddress = "nowhere"', "host:port"),
        ('name = "a"\nmetric = "memory-free"\ncounter = true', "no `counter`"),
        ('name = "a"\nmetric = "weight"', "metric"),
        ('name = "a b"\nmetric = "boots"', "name"),
        ('name = "a"\nmetric = "boots"\nleast = 1', "least"),
        ('name = "a"\nmetric = "boots"\n[[metrics.measured]]\nname = "a"\nmetric = "crashes"', "a name of its own"),
    ],
)
def test_what_can_not_be_measured_is_refused_at_the_start(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why) as caught:
        load(tmp_path, f"[[metrics.measured]]\n{line}\n")
    assert caught.value.kind == "bad-config"
