"""The benchmarks run and say what they promise, whatever it is."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import BENCHMARKS, DOCUMENT, RESULTS
from bench.fleet_play import CAMPAIGN, IN_FLIGHT, Play
from bench.measure import in_process
from bench.table import BEGIN, END
from server.planner.words import AssignmentState, CampaignState

TOP = Path(__file__).parents[2]


def run(*arguments: str | Path, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False, timeout=timeout_s)


def test_a_quick_partial_run_says_its_figures_and_leaves_the_published_ones_alone(tmp_path: Path) -> None:
    before = [path.read_bytes() if path.exists() else None for path in (RESULTS, DOCUMENT)]
    done = run("--quick", "--only", "envelope", "--json", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "results.json").read_text())
    assert set(found) == {"python", "cpus", "quick", "results", "points", "skipped"}
    assert found["quick"] is True
    (result,) = found["results"]
    assert set(result) >= {"name", "value", "unit", "peer", "peer_value", "ratio", "rounds", "better"}
    assert result["name"] == "envelope.open"
    assert result["ratio"] == pytest.approx(result["value"] / result["peer_value"])
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"], "scratch files are left behind"
    assert not any(secret in done.stdout for secret in (socket.gethostname(), str(tmp_path), str(TOP)))
    assert before == [path.read_bytes() if path.exists() else None for path in (RESULTS, DOCUMENT)]


def test_the_table_is_printed_for_people(tmp_path: Path) -> None:
    done = run("--quick", "--only", "envelope", "--out", tmp_path)
    assert done.stdout.startswith("| figure | ours |"), done.stderr


def test_an_unknown_benchmark_is_wrong_use(tmp_path: Path) -> None:
    done = run("--only", "nothing", "--out", tmp_path)
    assert done.returncode == 2
    assert all(name in done.stderr for name in BENCHMARKS)


def test_the_document_has_its_markers() -> None:
    text = DOCUMENT.read_text()
    assert text.count(BEGIN) == text.count(END) == 1


def test_the_fleet_that_is_played_really_finishes_its_campaign() -> None:
    play = Play(2 * IN_FLIGHT)
    play.run(1_000_000)
    row = play.store.campaign(CAMPAIGN)
    assert row is not None
    assert row.state is CampaignState.COMPLETED
    states = [play.store.assignment(CAMPAIGN, f"d-{number:07}") for number in range(2 * IN_FLIGHT)]
    assert {state.state for state in states if state} == {AssignmentState.VERIFIED}
    assert {"Candidate", "Ordered", "Reported", "Asked", "AssignmentDue", "CampaignDue"} <= set(play.rows)


def test_the_opening_of_a_campaign_is_measured_against_what_a_million_targets_may_take(tmp_path: Path) -> None:
    done = run("--quick", "--only", "opening", "--json", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = {one["name"].split(".")[1]: one for one in json.loads(done.stdout)["results"]}
    assert set(found) == {"seconds", "peak"}
    targets = int(found["seconds"]["name"].split(".")[2])
    assert found["seconds"]["peer_value"] == pytest.approx(60 * targets / 1_000_000)
    assert found["seconds"]["value"] > 0
    assert found["peak"]["value"] > 40, "an interpreter with what it imports takes more than that"


def test_a_process_that_fails_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match="no-such-way"):
        in_process("bench.delta_work", "no-such-way", "a", "b", "c")


def test_an_installation_is_measured_against_both_peers_or_says_what_is_missing(tmp_path: Path) -> None:
    done = run("--quick", "--only", "install", "--json", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if found["skipped"]:
        assert {one["name"] for one in found["skipped"]} == {"install.written", "install.read_back"}
        assert all(one["reason"] for one in found["skipped"])
        return
    figures = {(one["name"], one["peer"]) for one in found["results"]}
    assert len(figures) == 4
    assert {peer for _, peer in figures} == {"rauc install", "swupdate -i"}


@pytest.mark.deep
def test_the_memory_of_an_installation_is_that_of_all_the_agents_processes(tmp_path: Path) -> None:
    done = run("--quick", "--only", "install-memory", "--json", "--out", tmp_path, timeout_s=600)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert len(results) == 3
    assert all(one["value"] > 30 for one in results), "two interpreters with what they import are more than that"


@pytest.mark.deep
def test_devices_really_connect(tmp_path: Path) -> None:
    done = run("--quick", "--only", "connect", "--json", "--out", tmp_path, timeout_s=600)
    assert done.returncode == 0, done.stderr
    found = {one["name"].split(".")[1]: one for one in json.loads(done.stdout)["results"]}
    assert found["seconds"]["value"] > 1, "so many handshakes take longer"
    assert found["memory"]["value"] > 10, "a TLS connection and an agent are more than that"


@pytest.mark.deep
def test_appliances_are_really_upgraded(tmp_path: Path) -> None:
    """The benchmark itself fails unless each box runs the new image and the slow one is the slowest."""
    done = run("--quick", "--only", "appliances", "--json", "--out", tmp_path, timeout_s=600)
    assert done.returncode == 0, done.stderr
    found = {(one["name"].split(".")[1], one["peer"][:5]): one for one in json.loads(done.stdout)["results"]}
    assert set(found) == {("seconds", "bare "), ("memory", "limit"), ("memory", "bare "), ("others", "witho")}
    assert found["memory", "limit"]["peer_value"] == 1024
    assert all(one["value"] > 0 for one in found.values())
