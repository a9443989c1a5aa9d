"""Sums up how much the crash suite covered, over all workers."""

import logging
import os
from collections.abc import Iterator

import pytest

from tests.crash.explore import Count

DEEP = os.environ.get("CRASH") == "deep"


class Tally:
    """What one test covered; goes with its report to whoever prints the summary."""

    def __init__(self, record: object) -> None:
        self._record = record

    def __call__(self, scenario: str, loader: str, count: Count) -> None:
        self._record("crash", f"{scenario}|{loader}|{count.points}|{count.runs}")  # type: ignore[operator]


@pytest.fixture
def tally(record_property: object) -> Tally:
    return Tally(record_property)


@pytest.fixture(autouse=True)
def quiet_agent() -> Iterator[None]:
    """The agent warns of every delta that a cut has damaged."""
    log = logging.getLogger("device_agent")
    before, log.level = log.level, logging.CRITICAL
    yield
    log.level = before


def pytest_terminal_summary(terminalreporter: object) -> None:
    """One line for each scenario and boot loader."""
    rows: dict[tuple[str, str], Count] = {}
    for report in terminalreporter.stats.get("passed", []):  # type: ignore[attr-defined]
        for name, value in getattr(report, "user_properties", []):
            if name == "crash" and report.when == "call":
                scenario, loader, points, runs = value.split("|")
                count = rows.setdefault((scenario, loader), Count())
                count += Count(int(points), int(runs))
    if not rows:
        return
    write = terminalreporter.write_line  # type: ignore[attr-defined]
    write("")
    for (scenario, loader), count in sorted(rows.items()):
        write(f"crash: {scenario:28} {loader:20} {count.points:9,} points {count.runs:9,} histories")
    points, runs = sum(count.points for count in rows.values()), sum(count.runs for count in rows.values())
    write(f"crash: {points:,} points where the power may go, {runs:,} different histories gone on with")
