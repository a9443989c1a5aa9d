"""The soak itself, short: nothing that must hold is broken, and the report says what was done."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli import run as otaria
from simulator.soak_cli import soak
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


@pytest.mark.parametrize(
    "told", [["--devices", "1"], ["--hours", "0"], ["--chaos", "wild"], ["--seed", "-1"], ["--nonsense"]]
)
def test_wrong_use_is_exit_code_2(told: list[str]) -> None:
    assert otaria(["sim", "soak", *told]) == 2


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    assert otaria(["sim", "soak", "--dir", str(tmp_path)]) == 1
    assert (tmp_path / "kept").exists()
