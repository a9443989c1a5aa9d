"""Each constraint of the planner is taken out in turn, and the tests must notice."""

import os
import subprocess
import sys

import pytest

from tests.server.planner.constraints import CONSTRAINTS, HERE, TOP

NOTICED = 1
"""Pytest's exit code for tests that failed."""


def run(name: str) -> subprocess.CompletedProcess[str]:
    """The tests that must notice, on the planner without this constraint."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "tests.server.planner.disabled"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest", "-o", "addopts="]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [*command, str(HERE / CONSTRAINTS[name].caught_by)],
        cwd=TOP,
        env={**environment, "DISABLED": name},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_nobody_could_take_a_constraint_out_unseen(name: str) -> None:
    done = run(name)
    assert done.returncode == NOTICED, done.stdout + done.stderr
    assert "failed" in done.stdout
