"""The scenarios that come with Otaria, and those in files of one's own."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from firmware.errors import RefusedError
from simulator.virtual.world import World
from simulator.virtual.world_file import MAX_BYTES, parse_world

LIBRARY = "scenarios"
SUFFIX = ".yaml"
ON_THE_WIRE = {
    "hostile-broker": "what a hostile broker does is stopped by signatures, and virtual time has none",
    "key-rotation-mid-campaign": "it is about keys and the catalogue, and virtual time has neither",
}
"""Scenarios that only a run with real messages could show, and why."""


def names() -> Sequence[str]:
    """The names of the library, in order."""
    folder = files("simulator") / LIBRARY
    return sorted(one.name.removesuffix(SUFFIX) for one in folder.iterdir() if one.name.endswith(SUFFIX))


def load(name: str) -> World:
    """A scenario of the library by its name, or one in a file. Raises `RefusedError` (`bad-scenario`, `no-such-scenario`)."""
    if name in names():
        text = (files("simulator") / LIBRARY / f"{name}{SUFFIX}").read_text()
        return parse_world(text, f"{name}{SUFFIX}")
    if name in ON_THE_WIRE:
        raise RefusedError("not-in-virtual-time", f"{name} can't be run in virtual time: {ON_THE_WIRE[name]}.")
    path = Path(name)
    if not path.is_file():
        raise RefusedError(
            "no-such-scenario", f"There is no scenario {name} and no such file; known are {', '.join(names())}."
        )
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        return parse_world(data.decode(), name)
    except UnicodeDecodeError as error:
        raise RefusedError("bad-scenario", f"{name} is no text.") from error
