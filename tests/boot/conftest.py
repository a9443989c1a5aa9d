"""Real boots are long: what they came to is printed as a table, and kept as JSON lines in the file OTARIA_BOOT_RESULTS."""

import json
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.boot.results import FAILED, NOT_RUN, row, table

BOOT = "boot"
NOT_CHOSEN = pytest.StashKey[list[dict[str, object]]]()
"""Rows of the real boots that this run leaves out."""


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Note which real boots were not chosen."""
    for item in items:
        if "yard" in getattr(item, "fixturenames", ()):
            left_out = item.config.stash.setdefault(NOT_CHOSEN, [])
            left_out.append(row(_loader(item), _case(item), NOT_RUN, 0.0))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands over which real boots it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[BOOT] = session.config.stash.get(NOT_CHOSEN, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker has left out the same."""
    node.config.stash[NOT_CHOSEN] = getattr(node, "workeroutput", {}).get(BOOT, [])


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
    why = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
    return row(_loader(item), _case(item), report.outcome, report.duration, why)


def _loader(item: pytest.Item) -> str:
    return str(getattr(item, "callspec").id)  # noqa: B009 - not every item has one


def _case(item: pytest.Item) -> str:
    doc = getattr(item, "function").__doc__ or item.name  # noqa: B009
    return str(doc.strip().rstrip("."))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, and keep its rows."""
    reports = [one for kind in ("passed", "failed", "error", "skipped") for one in terminalreporter.stats.get(kind, [])]
    rows = [value for one in reports for name, value in one.user_properties if name == BOOT]
    if rows:
        terminalreporter.write_line(table(rows))
    given = os.environ.get("OTARIA_BOOT_RESULTS")
    if given:
        left_out = terminalreporter.config.stash.get(NOT_CHOSEN, [])
        Path(given).write_text("".join(json.dumps(one) + "\n" for one in (*rows, *left_out)))
