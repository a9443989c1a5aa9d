"""Real boots are long: what they came to is printed as a table, and kept as JSON lines in the file OTARIA_BOOT_RESULTS."""

import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.boot.results import FAILED, row, table

ROWS = pytest.StashKey[list[dict[str, object]]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note failures for the fixtures, and keep what became of a real boot."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    decides = report.when == "call" or (report.when == "setup" and not report.passed)
    if decides and "yard" in getattr(item, "fixturenames", ()):
        _keep(item, report)
    return report


def _keep(item: pytest.Item, report: pytest.TestReport) -> None:
    doc = getattr(item, "function").__doc__ or item.name  # noqa: B009 - not every item has one
    why = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
    kept = row(getattr(item, "callspec").id, doc.strip().rstrip("."), report.outcome, report.duration, why)  # noqa: B009
    item.config.stash.setdefault(ROWS, []).append(kept)
    given = os.environ.get("OTARIA_BOOT_RESULTS")
    if given:
        with Path(given).open("a") as file:
            file.write(json.dumps(kept) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.write_line(table(rows))
