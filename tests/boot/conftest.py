"""Real boots are long: what they came to is printed as a table, and kept as JSON lines in the file OTARIA_BOOT_RESULTS."""

import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.boot.results import FAILED, row, table

BOOT = "boot"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note failures for the fixtures, and add to a real boot's report what its row in the table is."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    decides = report.when == "call" or (report.when == "setup" and not report.passed)
    if decides and "yard" in getattr(item, "fixturenames", ()):
        report.user_properties.append((BOOT, _row(item, report)))
    return report


def _row(item: pytest.Item, report: pytest.TestReport) -> dict[str, object]:
    doc = getattr(item, "function").__doc__ or item.name  # noqa: B009 - not every item has one
    loader = getattr(item, "callspec").id  # noqa: B009
    why = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
    return row(loader, doc.strip().rstrip("."), report.outcome, report.duration, why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, and keep its rows."""
    reports = [one for kind in ("passed", "failed", "error", "skipped") for one in terminalreporter.stats.get(kind, [])]
    rows = [value for one in reports for name, value in one.user_properties if name == BOOT]
    if rows:
        terminalreporter.write_line(table(rows))
    given = os.environ.get("OTARIA_BOOT_RESULTS")
    if given:
        Path(given).write_text("".join(json.dumps(one) + "\n" for one in rows))
