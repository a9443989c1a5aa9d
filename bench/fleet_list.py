"""A fleet of a million targets is listed, filtered and watched: how long a page takes, and what its metrics cost, on SQLite and
on PostgreSQL."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measure import in_process
from bench.plan import Plan
from bench.result import Outcome, Skipped, against_limit

TARGETS = 1_000_000
LIMIT_MS = 200.0
"""For 95 of 100 pages."""
LOOKS = {
    "quick": (50.0, "a hundredth of 5 s"),
    "fleet": (600.0, "a hundredth of a minute"),
    "scrape": (50.0, "50 ms"),
}
"""What the server looks at for its metrics every 5 s and every minute, and what a scrape takes."""
PROGRAMS = Path("/usr/lib/postgresql/15/bin")
USER = "postgres"
START_S = 30.0


def fleet_list(plan: Plan) -> list[Outcome]:
    """Milliseconds of a page that 95 of 100 stay below, against what they may take."""
    targets = plan.size(TARGETS)
    found = in_process("bench.fleet_list_work", f"sqlite:///{plan.scratch / 'list.db'}", str(targets))
    outcomes = _outcomes("sqlite", targets, found)
    if not (PROGRAMS / "postgres").exists():
        reason = "PostgreSQL 15 is not installed: apt-get install postgresql-15"
        return [*outcomes, Skipped(name=f"list.p95.postgresql.{targets}", reason=reason)]
    with _postgresql() as url:
        return [*outcomes, *_outcomes("postgresql", targets, in_process("bench.fleet_list_work", url, str(targets)))]


def _outcomes(database: str, targets: int, found: dict[str, Any]) -> list[Outcome]:
    figures = (("p50", found["p50_ms"]), ("p95", found["p95_ms"]), ("slowest", found["slowest_ms"]))
    whose = f"{LIMIT_MS:g} ms for the p95"
    pages = [
        against_limit(f"list.{name}.{database}.{targets}", "ms", [value], LIMIT_MS, whose) for name, value in figures
    ]
    looks = [
        against_limit(f"metrics.{name}.{database}.{targets}", "ms", [found[f"{name}_ms"]], limit_ms, whose)
        for name, (limit_ms, whose) in LOOKS.items()
    ]
    return [*pages, *looks]


@contextmanager
def _postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL with its usual settings, on a socket of its own; it does not run as root."""
    directory = Path(tempfile.mkdtemp(prefix="otaria-bench-"))
    process = None
    try:
        if os.getuid() == 0:
            shutil.chown(directory, USER, USER)
        data = directory / "data"
        made = ["initdb", "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"]
        subprocess.run(_unprivileged(made), check=True, stdout=subprocess.DEVNULL, cwd=directory)
        run = ["postgres", "-D", str(data), "-k", str(directory), "-h", ""]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(_unprivileged(run), stdout=log, stderr=log, cwd=directory)
        _wait(directory)
        yield f"postgresql://{USER}@/postgres?host={directory}"
    finally:
        if process is not None:
            process.terminate()
            process.wait(timeout=START_S)
        shutil.rmtree(directory, ignore_errors=True)


def _unprivileged(command: list[str]) -> list[str]:
    other = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *other, "--pdeathsig=QUIT", str(PROGRAMS / command[0]), *command[1:]]


def _wait(directory: Path) -> None:
    ready = [str(PROGRAMS / "pg_isready"), "-q", "-h", str(directory), "-U", USER]
    end = time.monotonic() + START_S
    while subprocess.run(ready, check=False).returncode:
        if time.monotonic() > end:
            raise RuntimeError(f"PostgreSQL does not start: {(directory / 'log').read_text()[-1000:]}")
        time.sleep(0.1)
