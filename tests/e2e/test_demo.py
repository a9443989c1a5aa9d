"""The main job, as `make demo` tells it: run whole, and judged by its last line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import skip_without


def run_demo(*arguments: str) -> dict[str, object]:
    """Run the demo as the Makefile does; the JSON object of its last line."""
    cache = os.environ.get("OTARIA_CACHE", str(Path.home() / ".cache" / "otaria"))
    done = subprocess.run(
        [sys.executable, "-m", "simulator.demo", "--cache", cache, "--exit", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    summary: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return summary


def check(summary: dict[str, object], devices: int, boards: int) -> None:
    """Everyone verified on 2; the canary's first failure stopped 3: who had tried it fell back, who had not was called back."""
    assert summary["devices"] == devices
    assert summary["verified"] == devices
    fell_back, called_back = summary["fell_back"], summary["cancelled"]
    assert isinstance(fell_back, int)
    assert isinstance(called_back, int)
    assert fell_back >= 1
    assert fell_back + called_back == boards
    assert summary["failed"] == summary["unreached"] == 0
    campaigns = summary["campaigns"]
    assert isinstance(campaigns, list)
    assert [campaign["state"] for campaign in campaigns] == ["completed", "aborted"]
    assert "canary" in campaigns[1]["reason"]


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_demo_on_mosquitto() -> None:
    skip_without("mosquitto")
    check(run_demo("--broker", "mosquitto"), 50, 3)


@pytest.mark.deep  # the fault tests run whole updates on both brokers
@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_demo_on_the_embedded_broker() -> None:
    check(run_demo("--broker", "embedded", "--devices", "12", "--boards", "1"), 12, 1)
