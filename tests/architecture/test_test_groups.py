"""Tests that share a laboratory run on one worker: otherwise every worker builds it anew, and the suite takes far longer."""

import subprocess
import sys
from pathlib import Path

GROUPED = """
import pytest

@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in "ab"])
def laboratory(request, worker_id):
    with open("built", "a") as file:
        print(request.param, worker_id, file=file)

@pytest.mark.parametrize("number", range(8))
def test_in_it(laboratory, number):
    pass
"""


def test_a_group_stays_on_one_worker(tmp_path: Path) -> None:
    (tmp_path / "test_grouped.py").write_text(GROUPED)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup", "."]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    built = (tmp_path / "built").read_text().split()
    assert sorted(built[::2]) == ["a", "b"], built
