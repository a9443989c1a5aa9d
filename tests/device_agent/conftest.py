"""Gives the agent's tests the catalogue lab of the firmware tests."""

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parents[1] / "firmware" / "catalogue" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("catalogue_lab_of_the_agent", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
_LAB = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_LAB)

lab = _LAB.lab
