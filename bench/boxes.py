"""`python -m bench.boxes DIRECTORY FIRST COUNT SLOW_S`: emulated appliances in a process of their own, numbered from FIRST on, so
that what a site agent takes of memory is its own. SLOW_S: how long the first of them takes for each answer.

Prints a JSON list of `Known`, and for every line that it reads a `Tally`. The boxes lose power when there is nothing more to
read.
"""

import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from simulator.appliances.box import Box, Times, make_box
from simulator.appliances.hall import powered
from simulator.appliances.image import ImageFacts, make_image
from simulator.appliances.server import BoxServer

KINDS = ("sonic", "iosxe", "openwrt", "dual-image")
"""In turn, so that as many boxes one after the other are one of each."""
MODEL, OLD, NEW = "M-1", "17.09.04", "17.12.01"
TIMES = Times(boot_s=0.5)


class Known(Struct, frozen=True, kw_only=True):
    """What a site agent's settings say of a box."""

    name: str
    kind: str
    port: int
    host_key: str
    serial: str


class Tally(Struct, frozen=True, kw_only=True):
    """By box: how many commands it was given, and what it runs."""

    commands: dict[str, int]
    running: dict[str, str]


def main(arguments: list[str]) -> None:
    """As the module says."""
    directory, first, count = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    images = {kind: make_image(directory / kind, ImageFacts(kind=kind, version=OLD), length=4096) for kind in KINDS}
    boxes = [_box(directory, number, images) for number in range(first, first + count)]
    boxes[0].faults.slow_s = float(arguments[3])
    with powered(boxes) as servers:
        print(msgspec.json.encode([_known(server) for server in servers]).decode(), flush=True)
        for _ in sys.stdin:
            print(msgspec.json.encode(_tally(boxes)).decode(), flush=True)


def _box(directory: Path, number: int, images: dict[str, Path]) -> Box:
    kind = KINDS[number % len(KINDS)]
    serial = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
    home = directory / f"box-{number}"
    return make_box(home, kind, serial=serial, model=MODEL, image=images[kind], times=TIMES)


def _known(server: BoxServer) -> Known:
    flash = server.box.flash
    return Known(
        name=server.box.directory.name,
        kind=flash.kind,
        port=server.port,
        host_key=server.host_key,
        serial=flash.serial,
    )


def _tally(boxes: list[Box]) -> Tally:
    return Tally(
        commands={box.directory.name: len(box.faults.said) for box in boxes},
        running={box.directory.name: box.flash.running for box in boxes},
    )


if __name__ == "__main__":
    main(sys.argv[1:])
