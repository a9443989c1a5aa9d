"""A pytest plugin that runs the tests on a planner with one constraint taken out: `-p tests.server.planner.disabled`, told by the
variable `DISABLED` (a name of `CONSTRAINTS`).

The module is compiled from its source with a few words replaced, before anything imports it; nothing on disk changes.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

from tests.server.planner.constraints import CONSTRAINTS, Constraint

VARIABLE = "DISABLED"


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


def _install() -> None:
    constraint = CONSTRAINTS[os.environ[VARIABLE]]
    if constraint.module in sys.modules:
        raise RuntimeError(f"{constraint.module} is imported already, so nothing would be taken out of it.")
    sys.meta_path.insert(0, Finder(constraint))


_install()
