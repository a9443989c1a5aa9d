"""`python -m bench`: run the benchmarks, print the table, and keep the figures of a complete run.

A complete run writes `bench/results.json` and the table in `docs/benchmarks.md`. A partial or quick one writes its
figures to `bench/out/results.json` only, because figures of different runs don't belong in one table.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.agent import agent
from bench.appliances import appliances
from bench.catalogue import catalogue
from bench.connect import connecting
from bench.delta import delta
from bench.envelope import envelope
from bench.fan_out import fan_out
from bench.fleet_list import fleet_list
from bench.ingest import ingest
from bench.install import install
from bench.install_memory import install_memory
from bench.opening import opening
from bench.plan import Plan
from bench.planner import planner
from bench.rehearsal import rehearsal
from bench.result import Outcome, Point, Result, Skipped
from bench.table import between_markers, table
from bench.virtual import virtual
from firmware.atomic import atomic_output
from firmware.errors import OtariaError

BENCHMARKS: dict[str, Callable[[Plan], list[Outcome]]] = {
    "delta": delta,
    "planner": planner,
    "opening": opening,
    "fleet-list": fleet_list,
    "ingest": ingest,
    "fan-out": fan_out,
    "connect": connecting,
    "envelope": envelope,
    "agent": agent,
    "install-memory": install_memory,
    "install": install,
    "catalogue": catalogue,
    "virtual": virtual,
    "rehearsal": rehearsal,
    "appliances": appliances,
}
_TOP = Path(__file__).parent.parent
RESULTS = _TOP / "bench" / "results.json"
DOCUMENT = _TOP / "docs" / "benchmarks.md"


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; an exit code."""
    options = _parser().parse_args(arguments)
    names = list(dict.fromkeys(options.only)) or list(BENCHMARKS)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    outcomes, failed = _run(names, out, cache=options.cache, quick=options.quick)
    found = report(outcomes, quick=options.quick)
    complete = names == list(BENCHMARKS) and not options.quick and not failed
    _write(RESULTS if complete else out / "results.json", json.dumps(found, indent=2) + "\n")
    if complete:
        _write(DOCUMENT, between_markers(DOCUMENT.read_text(), _headed(found, outcomes)))
    print(json.dumps(found) if options.json else table(outcomes))
    return 1 if failed else 0


def report(outcomes: Sequence[Outcome], *, quick: bool) -> dict[str, Any]:
    """What is written for machines: all figures, what was skipped, and no more about this computer than matters."""
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "quick": quick,
        "results": [asdict(one) for one in outcomes if isinstance(one, Result)],
        "points": [asdict(one) for one in outcomes if isinstance(one, Point)],
        "skipped": [asdict(one) for one in outcomes if isinstance(one, Skipped)],
    }


def _run(names: Sequence[str], out: Path, *, cache: Path, quick: bool) -> tuple[list[Outcome], bool]:
    """All outcomes, and whether a benchmark failed; the others are run all the same."""
    outcomes: list[Outcome] = []
    failed = False
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=f"{name}-") as scratch:
            try:
                outcomes += BENCHMARKS[name](Plan(scratch=Path(scratch), cache=cache, quick=quick))
            except (OtariaError, RuntimeError, OSError, subprocess.SubprocessError) as error:
                print(f"{name} failed: {error}", file=sys.stderr)
                failed = True
    return outcomes, failed


def _headed(found: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    return f"Python {found['python']} on {found['cpus']} processors.\n\n{table(outcomes)}"


def _write(path: Path, text: str) -> None:
    with atomic_output(path) as file:
        file.write(text.encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks, each beside a peer or a limit in the same run."
    )
    cache = Path(os.environ.get("OTARIA_CACHE") or Path.home() / ".cache" / "otaria")
    parser.add_argument(
        "--only", action="append", default=[], choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--quick", action="store_true", help="one small round of each: does everything still run?")
    parser.add_argument(
        "--json", action="store_true", help="print the figures as one JSON object in place of the table"
    )
    parser.add_argument("--cache", type=Path, default=cache, help="where downloaded packages are kept")
    parser.add_argument(
        "--out", type=Path, default=_TOP / "bench" / "out", help="for scratch files and a partial run's results"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
