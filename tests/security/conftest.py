"""Gives the security tests the catalogue lab of the firmware tests and the server core of the campaign tests."""

import importlib.util
from pathlib import Path
from typing import Any

from tests.tuf_repository import device as device
from tests.tuf_repository import repository as repository


def _fixtures_of(*folders: str) -> Any:
    file = Path(__file__).parents[1].joinpath(*folders, "conftest.py")
    spec = importlib.util.spec_from_file_location(f"{folders[-1]}_fixtures", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lab = _fixtures_of("firmware", "catalogue").lab
stage = _fixtures_of("server", "campaigns").stage
