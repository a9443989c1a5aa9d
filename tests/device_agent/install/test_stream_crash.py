"""A power cut before, in and after every durable operation of an installation, with un-synced writes lost in several ways.

The medium is a model with a write cache; after a cut everything is rebuilt from the bytes that survived. At every cut: the
active slot is untouched, and the other one either does not start with a bootable first block or is whole. Afterwards the
installation always finishes. The last test takes the flushes away and expects the suite to notice.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agent.boot.files import encode_status
from device_agent.boot.layout import Board
from device_agent.boot.loader import LoaderState, encode_state
from device_agent.install.stream import StreamInstaller
from device_agent.ports import BootOutcome, BootStatus, Slot
from device_agent.slots.files import FileSlots
from firmware.contents import ROOT_SET

BOARD = Board(directory=Path("/board"))
CAPACITY = 3 << 20


class PowerCut(BaseException):
    """The machine is off."""


class Medium:
    """`Effects` with a write cache. `cut_at` counts durable operations from 1; `how` is before, torn or after."""

    def __init__(self, files: dict[Path, bytes], cut_at: int = 0, how: str = "before") -> None:
        self.durable = dict(files)
        self.cached = {path: bytearray(data) for path, data in files.items()}
        self.unsynced: list[tuple[Path, int, bytes]] = []
        self.operations = 0
        self._cut_at = cut_at
        self._how = how
        self._is_off = False

    def _operate(self, whole: Callable[[], None], torn: Callable[[], None] = lambda: None) -> None:
        self._check_power()
        self.operations += 1
        if self.operations != self._cut_at:
            whole()
            return
        self._is_off = True
        {"before": lambda: None, "torn": torn, "after": whole}[self._how]()
        raise PowerCut

    def _check_power(self) -> None:
        if self._is_off:
            raise PowerCut

    def survivors(self, keep: str) -> dict[Path, bytes]:
        """The medium's bytes after the cut; `keep` says which un-synced writes got there: none, all, last, even."""
        kept = {
            "none": [],
            "all": self.unsynced,
            "last": self.unsynced[-1:],
            "even": self.unsynced[::2],
        }[keep]
        files = {path: bytearray(data) for path, data in self.durable.items()}
        for path, offset, data in kept:
            files[path][offset : offset + len(data)] = data
        return {path: bytes(data) for path, data in files.items()}

    def replace(self, path: Path, data: bytes) -> None:
        def put() -> None:
            self.durable[path] = data
            self.cached[path] = bytearray(data)

        self._operate(put)

    def append(self, path: Path, data: bytes) -> None:
        def put(part: bytes) -> None:
            self.durable[path] = self.durable.get(path, b"") + part
            self.cached[path] = bytearray(self.durable[path])

        self._operate(lambda: put(data), lambda: put(data[: len(data) // 2]))

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        def put(part: bytes) -> None:
            self.cached[path][offset : offset + len(part)] = part
            self.unsynced.append((path, offset, part))

        self._operate(lambda: put(data), lambda: put(data[: len(data) // 2]))

    def fsync(self, path: Path) -> None:
        def flush() -> None:
            self.durable[path] = bytes(self.cached[path])
            self.unsynced = [write for write in self.unsynced if write[0] != path]

        self._operate(flush)

    def unlink(self, path: Path) -> None:
        def remove() -> None:
            self.durable.pop(path, None)
            self.cached.pop(path, None)

        self._operate(remove)

    def drop_cache(self, path: Path) -> None:
        self._check_power()

    def read(self, path: Path) -> bytes | None:
        self._check_power()
        return bytes(self.cached[path]) if path in self.cached else None

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        self._check_power()
        if path not in self.cached:
            raise FileNotFoundError(path)
        return bytes(memoryview(self.cached[path])[offset : offset + size])

    def size(self, path: Path) -> int | None:
        self._check_power()
        return len(self.cached[path]) if path in self.cached else None


class UnflushedSlots(FileSlots):
    """A mutation: slots whose sync does nothing."""

    def sync(self, slot: Slot) -> None:
        return


def fresh(stage: Any, before: bytes) -> dict[Path, bytes]:
    status = BootStatus(boot_id="b", slot=Slot.A, outcome=BootOutcome.NORMAL)
    return {
        BOARD.slot(Slot.A): stage.old.ljust(CAPACITY, b"\0"),
        BOARD.slot(Slot.B): before.ljust(CAPACITY, b"\0"),
        BOARD.status: encode_status(status),
        BOARD.loader_copies[0]: encode_state(LoaderState()),
    }


def install(stage: Any, medium: Medium, delta: Any, slots: type[FileSlots] = FileSlots) -> None:
    installer = StreamInstaller(
        effects=medium,
        slots={ROOT_SET: slots(medium, BOARD.directory)},
        source=stage.shelf,
        directory=BOARD.agent,
        keys=stage.keys,
    )
    installer.stage(stage.order(delta), stage.manifest, active=Slot.A, on_progress=lambda *_: None, stop=lambda: False)


def check(stage: Any, files: dict[Path, bytes], before: bytes) -> None:
    """What must hold whenever the power is off."""
    assert files[BOARD.slot(Slot.A)] == stage.old.ljust(CAPACITY, b"\0")
    slot = files[BOARD.slot(Slot.B)]
    if slot[:512] == stage.new[:512]:
        assert slot.startswith(stage.new)
    elif slot[:512] == before[:512]:
        assert slot.startswith(before)
    else:
        # A torn first block: the tar header's checksum covers it, so what is half new or half blank does not load.
        halves = {bytes(256), stage.new[:256], before[:256], stage.new[256:512], before[256:512]}
        assert slot[:256] in halves
        assert slot[256:512] in halves


def sweep(stage: Any, delta: Any, slots: type[FileSlots] = FileSlots) -> int:
    """Cut everywhere once; returns the number of operations of a clean run."""
    before = hashlib.shake_128(b"before").digest(2_500_000)
    clean = Medium(fresh(stage, before))
    install(stage, clean, delta, slots)
    check(stage, clean.survivors("none"), before)
    assert clean.survivors("none")[BOARD.slot(Slot.B)].startswith(stage.new)
    for cut_at in range(1, clean.operations + 1):
        for how in ("before", "torn", "after"):
            medium = Medium(fresh(stage, before), cut_at, how)
            with pytest.raises(PowerCut):
                install(stage, medium, delta, slots)
            for keep in ("none", "all", "last", "even"):
                check(stage, medium.survivors(keep), before)
            again = Medium(medium.survivors("even" if cut_at % 2 else "none"))
            install(stage, again, delta, slots)
            assert again.survivors("none")[BOARD.slot(Slot.B)].startswith(stage.new)
            assert not [path for path in again.durable if path.parent == BOARD.agent]
    return clean.operations


def test_the_full_image_survives_a_power_cut_anywhere(stage: Any) -> None:
    assert sweep(stage, None) >= 9


def test_a_delta_survives_a_power_cut_anywhere(stage: Any) -> None:
    assert sweep(stage, stage.delta()) >= 10


def test_an_encrypted_image_survives_a_power_cut_anywhere(stage: Any) -> None:
    stage.encrypt_for_device()
    assert sweep(stage, None) >= 9


@pytest.mark.deep
def test_an_encrypted_delta_survives_a_power_cut_anywhere(stage: Any) -> None:
    stage.encrypt_for_device()
    assert sweep(stage, stage.encrypted_delta()) >= 10


def test_the_sweep_notices_missing_flushes(stage: Any) -> None:
    with pytest.raises(AssertionError):
        sweep(stage, None, UnflushedSlots)
