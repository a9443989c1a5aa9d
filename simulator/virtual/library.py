"""The scenarios that come with Otaria, and those in files of one's own.

Some are about what a server and a broker have (`World.deeds`); these run exactly or on the wire, not from chances.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from firmware.errors import RefusedError
from simulator.virtual.world import World
from simulator.virtual.world_file import MAX_BYTES, parse_world

LIBRARY, ON_THE_WIRE = "scenarios", "wire"
SUFFIX = ".yaml"


def names(*, wire: bool = False) -> Sequence[str]:
    """The names of the library, in order: those that run in any way, or with `wire` those that need a server and a broker."""
    folder = files("simulator") / LIBRARY
    chosen = folder / ON_THE_WIRE if wire else folder
    return sorted(one.name.removesuffix(SUFFIX) for one in chosen.iterdir() if one.name.endswith(SUFFIX))


def load(name: str, *, deeds: bool = False) -> World:
    """A scenario of the library by its name, or one in a file. Raises `RefusedError` (`bad-scenario`, `no-such-scenario`), and
    `not-in-virtual-time` for one with deeds unless it is for who can do these: the wire, or an exact run."""
    world = _load(name)
    if world.deeds and not deeds:
        raise RefusedError(
            "not-in-virtual-time",
            f"{name} is about what is done to a server and a broker, and devices that answer from chances have none: run it "
            "with --exact or --wire.",
        )
    return world


def _load(name: str) -> World:
    folder = files("simulator") / LIBRARY
    for is_wire, where in ((False, folder), (True, folder / ON_THE_WIRE)):
        if name in names(wire=is_wire):
            return parse_world((where / f"{name}{SUFFIX}").read_text(), f"{name}{SUFFIX}")
    path = Path(name)
    if not path.is_file():
        known = ", ".join((*names(), *names(wire=True)))
        raise RefusedError("no-such-scenario", f"There is no scenario {name} and no such file; known are {known}.")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        return parse_world(data.decode(), name)
    except UnicodeDecodeError as error:
        raise RefusedError("bad-scenario", f"{name} is no text.") from error
