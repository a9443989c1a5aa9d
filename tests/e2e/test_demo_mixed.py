"""`make demo-mixed` as the Makefile runs it, judged by its last line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import skip_without

pytestmark = pytest.mark.xdist_group("host-patches")
"""One worker for whatever keeps several package managers busy."""


def run_demo() -> dict[str, Any]:
    """The JSON object of the demo's last line."""
    cache = os.environ.get("OTARIA_CACHE", str(Path.home() / ".cache" / "otaria"))
    words = ["--cache", cache, "--broker", "mosquitto", "--exit", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "simulator.demo_mixed", *words],
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-9000:]
    summary: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return summary


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_servers_devices_and_routers_are_updated_together_and_no_pair_is_broken() -> None:
    skip_without("mosquitto")
    summary = run_demo()
    assert {name: summary[name] for name in ("devices", "verified", "fell_back", "failed", "unreached")} == {
        "devices": 21,
        "verified": 19,
        "fell_back": 2,
        "failed": 0,
        "unreached": 0,
    }
    assert {kind: (one["verified"], one["fell_back"]) for kind, one in summary["kinds"].items()} == {
        "host": (5, 1),
        "device": (6, 0),
        "appliance": (8, 1),
    }
    assert [campaign["state"] for campaign in summary["campaigns"]] == ["completed"] * 3
    assert (summary["pairs_broken"], summary["paths_broken"], summary["unseen"]) == (0, [], [])
    assert set(summary["pairs"].values()) == {1}, "each pair lost one of its two for a while, as was seen"
    assert summary["uplink_cuts"] == 3, "the edge routers alone cut their sites off"
    assert isinstance(summary["seconds"], float)
