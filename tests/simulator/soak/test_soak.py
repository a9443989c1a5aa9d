"""The soak itself, short: nothing that must hold is broken, and the report says what was done."""

import json
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from server.cli import run as otaria
from simulator import soak_cli
from simulator.lab import Lab
from simulator.soak.books import Ledger, Violation
from simulator.soak.conductor import Conductor
from simulator.soak.gauges import Gauges
from simulator.soak.run import Outcome
from simulator.soak_cli import soak
from simulator.wire.scene import Scene
from tests.brokers import skip_without


@pytest.mark.deep
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("devices", "chaos"), [(200, "low"), (60, "high")])
def test_minutes_of_chaos_break_nothing(devices: int, chaos: str, tmp_path: Path) -> None:
    skip_without("mosquitto")
    out = tmp_path / "out" / "soak"
    told = ["--devices", str(devices), "--hours", "0.045", "--chaos", chaos, "--seed", "11", "--report", str(out)]
    done = CliRunner().invoke(soak, [*told, "--json"], standalone_mode=False)
    assert done.exception is None
    found = json.loads(done.stdout)
    assert (found["violations"], found["first_violations"]) == (0, [])
    assert done.return_value == 0
    assert found["permits_followed"] > devices // 20
    done_to_it = {"server-killed", "broker-killed", "partition", "power-cut", "disk-full", "disk-slow"}
    assert {one["kind"] for one in found["strikes"]} >= done_to_it
    assert found["refused_on_a_full_disk"]
    page = out.with_name("soak.html").read_text()
    assert page.count("<svg") == 7
    assert "http" not in page.replace("http://www.w3.org", "")


class Broken:
    """A soak in whose place stands what one found that had broken something."""

    def __init__(self, directory: Path, *, devices: int, **told: Any) -> None:
        self._directory, self._devices = directory, devices

    def run(self) -> Outcome:
        ledger, lab = Ledger(), Lab(self._directory / "lab")
        ledger.add(Violation(kind="state", at_s=9.0, text="m-1 is not what it says.", trace=("8.0 s  m-1: up",)))
        scene = cast(Scene, lab)
        return Outcome(
            devices=self._devices,
            hours=0.01,
            chaos="low",
            seed=3,
            seconds=36.0,
            connected_s=1.0,
            kb_per_device=40.0,
            ledger=ledger,
            conductor=Conductor(scene, self._devices, 0.0, 36.0, threading.Lock()),
            gauges=Gauges(0.0),
            strikes=(),
            reports=1,
            trail_records=1,
            permits=1,
            followed=1,
            most_down={"site": 1, "campaign": 1, "fleet": 1},
            limits={"site": 1, "campaign": 2},
            replayed=0,
            refused=0,
            troubles=(),
        )


def test_a_violation_is_printed_with_its_trace_and_seed_and_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_cli, "Soak", Broken)
    out = tmp_path / "out" / "soak"
    done = CliRunner().invoke(soak, ["--devices", "5", "--report", str(out)], standalone_mode=False)
    assert (done.exception, done.return_value) == (None, 1)
    assert "VIOLATION after 9 s, state: m-1 is not what it says.\n    8.0 s  m-1: up\n" in done.stdout
    assert "otaria sim soak --devices 5 --hours 0.01 --chaos low --seed 3" in done.stdout
    assert "Nothing that must hold was broken" not in done.stdout
    assert json.loads(out.with_name("soak.json").read_text())["violations"] == 1
    assert "1 violations" in out.with_name("soak.html").read_text()


@pytest.mark.parametrize("where", [".", "kept/soak"])
def test_where_no_report_can_be_is_told_before_it_begins(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(soak_cli, "Soak", None)
    assert otaria(["sim", "soak", "--report", where]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    "told", [["--devices", "1"], ["--hours", "0"], ["--chaos", "wild"], ["--seed", "-1"], ["--nonsense"]]
)
def test_wrong_use_is_exit_code_2(told: list[str]) -> None:
    assert otaria(["sim", "soak", *told]) == 2


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    assert otaria(["sim", "soak", "--dir", str(tmp_path)]) == 1
    assert (tmp_path / "kept").exists()
