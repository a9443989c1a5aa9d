"""Runs tests on a planner with one constraint taken out, then with another: `python -m tests.server.planner.disabled NAME…`, with
names of `CONSTRAINTS`. Prints each name with pytest's exit code and its last line.

The module is compiled from its source with a few words replaced, before anything imports it; nothing on disk changes. Each
constraint has a process of its own, forked from one that has everything imported but the planner.
"""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

import hypothesis as hypothesis  # imported once, before the processes part
import pytest

from tests.server.planner.constraints import CONSTRAINTS, HERE, TOP, Constraint

OPTIONS = (
    *("-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
BROKEN = 99
"""The exit code of a process in which no test ran."""


class Mutated(SourceLoader):
    """Loads one module without the constraint; caches no bytecode."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint

    def get_filename(self, fullname: str) -> str:
        return str(self._constraint.path)

    def get_data(self, path: str | bytes | Path) -> bytes:
        return self._constraint.mutated().encode()


class Finder(MetaPathFinder):
    """Finds the mutated module before the real one is looked for."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._constraint.module:
            return None
        return spec_from_loader(fullname, Mutated(self._constraint))


def run(name: str) -> int:
    """Pytest's exit code, in this process, which is worth nothing afterwards."""
    constraint = CONSTRAINTS[name]
    if constraint.module in sys.modules:
        raise RuntimeError(f"{constraint.module} is imported already, so nothing would be taken out of it.")
    sys.meta_path.insert(0, Finder(constraint))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = int(pytest.main([*OPTIONS, str(TOP / HERE / constraint.caught_by)]))
    last = (said.getvalue().strip().splitlines() or [""])[-1]
    print(name, code, last, flush=True)
    return code


def main(names: Sequence[str]) -> None:
    for name in names:
        child = os.fork()
        if not child:
            try:
                code = run(name)
            except BaseException:  # noqa: BLE001 (whatever it is, this process must not go on as its parent)
                traceback.print_exc()
                code = BROKEN
            os._exit(code)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
