"""The computers of the real boots, with a program in QEMU's place: when they restart, are off, and have their plug pulled."""

import os
from pathlib import Path

import pytest

from tests.boot.disk import Disk
from tests.boot.machine import Board, BootError, Machine

RUNS = """\
#!/bin/sh
echo run >>{runs}
[ "$(wc -l <{runs})" = 1 ] && {{ echo first; exit {code}; }}
echo "again $$"
echo "virtio_blk_handle_write vdev 0 req 0 sector 8 nsectors 2" >&2
exec sleep 60
"""


def machine(folder: Path, code: int) -> Machine:
    """One whose first run ends with this exit code, and whose later ones go on."""
    program = folder / "emulator"
    program.write_text(RUNS.format(runs=folder / "runs", code=code))
    program.chmod(0o755)
    board = Board(program=str(program), machine=())
    return Machine(board=board, disk=Disk(path=folder / "disk"), folder=folder, claim=folder / "claim")


def test_a_guest_that_restarts_gets_a_new_emulator(tmp_path: Path) -> None:
    one = machine(tmp_path, code=0)
    one.power_on()
    found = one.wait_for(r"again (\d+)\n", 20.0)
    assert one.powered
    one.power_cut()
    assert not one.powered
    with pytest.raises(ProcessLookupError):
        os.kill(int(found[1]), 0)
    assert (tmp_path / "runs").read_text().count("run") == 2


def test_an_emulator_that_fails_stays_off(tmp_path: Path) -> None:
    one = machine(tmp_path, code=3)
    one.power_on()
    with pytest.raises(BootError, match="it is off"):
        one.wait_for("again", 20.0)
    assert not one.powered
    one.power_cut()
    assert (tmp_path / "runs").read_text().count("run") == 1


def test_the_plug_is_pulled_at_a_write_to_the_disk(tmp_path: Path) -> None:
    one = machine(tmp_path, code=0)
    writes: list[tuple[int, int]] = []
    one.on_write = lambda offset, length: writes.append((offset, length)) is None
    one.power_on()
    one.wait_for_cut(20.0)
    assert not one.powered
    assert writes == [(8 * 512, 2 * 512)]
    assert one.on_write is None
