"""The installer over a real board's files, and a source that lies, stalls and dies."""

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from device_agent.boot.files import encode_status
from device_agent.boot.layout import Board
from device_agent.effects import FileEffects
from device_agent.install.filling import RESERVE_BYTES
from device_agent.install.stream import CHECKPOINT_NAME, PATCH_NAME, StreamInstaller
from device_agent.ports import BootOutcome, BootStatus, Slot
from device_agent.slots.files import FileSlots, board_slots, create_board
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.manifest import WINDOW_BYTES
from firmware.protocol.order import DeltaRef, FileRef, Order, OrderedImage

CAPACITY = 4 << 20


class FaultyEffects(FileEffects):
    """Raises what `fault(verb, path)` returns; counts the verbs."""

    def __init__(self, fault: Callable[[str, Path], OSError | None] = lambda verb, path: None) -> None:
        self.fault = fault
        self.verbs: list[tuple[str, str]] = []

    def _note(self, verb: str, path: Path) -> None:
        self.verbs.append((verb, path.name))
        if (error := self.fault(verb, path)) is not None:
            raise error

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        self._note("write_at", path)
        super().write_at(path, offset, data)

    def fsync(self, path: Path) -> None:
        self._note("fsync", path)
        super().fsync(path)

    def append(self, path: Path, data: bytes) -> None:
        self._note("append", path)
        super().append(path, data)

    def replace(self, path: Path, data: bytes) -> None:
        self._note("replace", path)
        super().replace(path, data)


class Rig:
    """A board that runs the old image from slot A, and an installer on it."""

    def __init__(self, stage: Any, capacity: int = CAPACITY) -> None:
        self.stage = stage
        image = stage.folder / "factory.img"
        image.write_bytes(stage.old)
        self.board: Board = create_board(stage.folder / "board", image, capacity, "sim-1")
        self.effects = FaultyEffects()
        status = BootStatus(boot_id="b", slot=Slot.A, outcome=BootOutcome.NORMAL)
        self.effects.replace(self.board.status, encode_status(status))
        self.slots = board_slots(self.effects, self.board.directory)
        self.progress: list[tuple[int, int]] = []
        self.stop_after: int | None = None
        self.free_bytes: int | None = None

    @property
    def installer(self) -> StreamInstaller:
        """A new one every time: nothing is kept in memory."""
        return StreamInstaller(
            effects=self.effects,
            slots=self.slots,
            source=self.stage.shelf,
            directory=self.board.agent,
            free_bytes=None if self.free_bytes is None else lambda: self.free_bytes or 0,
        )

    def run(self, delta: DeltaRef | None = None, order: Order | None = None) -> None:
        def on_progress(done: int, total: int) -> None:
            self.progress.append((done, total))

        def stop() -> bool:
            return self.stop_after is not None and bool(self.progress) and self.progress[-1][0] >= self.stop_after

        self.installer.stage(
            order or self.stage.order(delta), self.stage.manifest, active=Slot.A, on_progress=on_progress, stop=stop
        )

    def refused(self, delta: DeltaRef | None = None) -> OtariaError:
        with pytest.raises(OtariaError) as caught:
            self.run(delta)
        assert self.slot(Slot.A)[: len(self.stage.old)] == self.stage.old
        return caught.value

    def slot(self, slot: Slot) -> bytes:
        return self.board.slot(slot).read_bytes()

    def is_staged(self) -> bool:
        return self.slot(Slot.B)[: len(self.stage.new)] == self.stage.new

    def is_blank(self) -> bool:
        return self.slot(Slot.B)[:512] == bytes(512)


@pytest.fixture
def rig(stage: Any) -> Rig:
    return Rig(stage)


def test_a_full_image_arrives_whole_and_leaves_nothing_behind(rig: Rig) -> None:
    rig.run()
    assert rig.is_staged()
    assert rig.slot(Slot.A)[: len(rig.stage.old)] == rig.stage.old
    assert rig.installer.verify(Slot.B, rig.stage.manifest)
    assert not rig.installer.verify(Slot.A, rig.stage.manifest)
    assert rig.progress[0] == (0, len(rig.stage.new))
    assert rig.progress[-1] == (len(rig.stage.new), len(rig.stage.new))
    assert not list(rig.board.agent.iterdir())


def test_a_delta_arrives_as_the_same_image_and_fetches_less(rig: Rig) -> None:
    delta = rig.stage.delta()
    rig.run(delta)
    assert rig.is_staged()
    assert rig.stage.shelf.opened == [("deltas/a-b.otd", 0)]
    assert rig.stage.shelf.given == delta.file.length < len(rig.stage.new) // 4
    assert not list(rig.board.agent.iterdir())


def test_staging_again_fetches_nothing(rig: Rig) -> None:
    rig.run()
    rig.stage.shelf.given = 0
    rig.run()
    assert (rig.stage.shelf.given, rig.is_staged()) == (0, True)


@pytest.mark.parametrize("chunk", [1, 511, WINDOW_BYTES - 1, WINDOW_BYTES, 3 * WINDOW_BYTES])
def test_chunks_of_any_size_make_the_same_slot(rig: Rig, chunk: int) -> None:
    rig.stage.shelf.chunk = chunk
    if chunk < 100:  # byte by byte only at the end, or it takes long
        rig.stage.shelf.chunk = 50_000
        rig.stop_after = 2 * WINDOW_BYTES
        rig.refused()
        rig.stage.shelf.chunk, rig.stop_after = chunk, None
    rig.run()
    assert rig.is_staged()


# A hostile or broken source


def test_security_a_changed_window_is_not_written(rig: Rig) -> None:
    rig.stage.shelf.faults[rig.stage.file.sha256] = [f"changed {WINDOW_BYTES + 7}"]
    assert rig.refused().kind == "artifact-changed"
    assert rig.slot(Slot.B)[512:WINDOW_BYTES] == rig.stage.new[512:WINDOW_BYTES]
    assert rig.slot(Slot.B)[WINDOW_BYTES:] == bytes(CAPACITY - WINDOW_BYTES)
    assert rig.is_blank()


def test_security_a_truncated_artifact_is_noticed(rig: Rig) -> None:
    rig.stage.shelf.faults[rig.stage.file.sha256] = [f"truncated {len(rig.stage.new) - 1}"]
    assert rig.refused().kind == "artifact-truncated"
    assert rig.is_blank()


def test_security_one_byte_too_many_is_noticed(rig: Rig) -> None:
    rig.stage.shelf.faults[rig.stage.file.sha256] = ["long 1"]
    assert rig.refused().kind == "artifact-too-long"
    assert rig.is_blank()


def test_security_endless_data_is_not_read_to_its_end(rig: Rig) -> None:
    rig.stage.shelf.faults[rig.stage.file.sha256] = ["endless"]
    assert rig.refused().kind == "artifact-too-long"
    assert rig.stage.shelf.given <= len(rig.stage.new) + rig.stage.shelf.chunk


def test_security_an_image_that_is_not_the_manifests_is_refused(rig: Rig) -> None:
    other = rig.stage.shelf.put(b"something else", "releases/demo/2.0/image.img")
    order = rig.stage.order()
    wrong = replace(order, images=[OrderedImage(file=other)])
    with pytest.raises(RefusedError) as caught:
        rig.run(order=wrong)
    assert caught.value.kind == "catalogue-mismatch"
    assert not rig.stage.shelf.opened


def test_an_image_that_does_not_fit_is_refused_before_anything_is_written(stage: Any) -> None:
    rig = Rig(stage, capacity=len(stage.new) - 1)
    assert rig.refused().kind == "slot-too-small"
    assert rig.slot(Slot.B) == bytes(len(stage.new) - 1)
    assert not stage.shelf.opened


def test_the_active_slot_is_never_written(rig: Rig) -> None:
    with pytest.raises(RefusedError) as caught:
        rig.installer.stage(
            rig.stage.order(), rig.stage.manifest, active=Slot.B, on_progress=lambda *_: None, stop=lambda: False
        )
    assert caught.value.kind == "slot-active"
    assert rig.slot(Slot.A)[: len(rig.stage.old)] == rig.stage.old


# Resume


def test_a_dead_line_resumes_with_the_missing_windows_only(rig: Rig) -> None:
    rig.stage.shelf.faults[rig.stage.file.sha256] = [f"dead {WINDOW_BYTES + 300_000}"]
    error = rig.refused()
    assert (error.kind, isinstance(error, UnavailableError)) == ("unreachable", True)
    rig.stage.shelf.given = 0
    rig.run()
    assert rig.stage.shelf.opened[-1][1] == WINDOW_BYTES
    assert rig.stage.shelf.given == len(rig.stage.new) - WINDOW_BYTES
    assert rig.is_staged()


def test_stopping_is_quick_and_flushed_and_resumes(rig: Rig) -> None:
    rig.stop_after = 2 * WINDOW_BYTES
    error = rig.refused()
    assert (error.kind, isinstance(error, UnavailableError)) == ("interrupted", True)
    assert rig.stage.shelf.given <= 2 * WINDOW_BYTES + 2 * rig.stage.shelf.chunk
    assert rig.effects.verbs[-1] == ("fsync", "slot-b.img")
    rig.stop_after = None
    rig.run()
    assert rig.stage.shelf.opened[-1][1] == 2 * WINDOW_BYTES
    assert rig.is_staged()


def test_what_the_slot_holds_is_hashed_again_and_not_believed(rig: Rig) -> None:
    rig.stop_after = 2 * WINDOW_BYTES
    rig.refused()
    rig.stop_after = None
    rig.effects.write_at(rig.board.slot(Slot.B), WINDOW_BYTES + 5, b"\0\1\2")
    rig.run()
    assert rig.stage.shelf.opened[-1][1] == WINDOW_BYTES
    assert rig.is_staged()


@pytest.mark.parametrize("junk", [b"", b"{}", b"\0" * 100, b'{"image":"x"}', b"[" * 9000])
def test_a_damaged_checkpoint_costs_time_but_nothing_else(rig: Rig, junk: bytes) -> None:
    rig.stop_after = WINDOW_BYTES
    rig.refused()
    rig.stop_after = None
    (rig.board.agent / CHECKPOINT_NAME).write_bytes(junk)
    rig.run()
    assert rig.is_staged()


def test_a_half_fetched_delta_is_gone_on_with(rig: Rig) -> None:
    delta = rig.stage.delta()
    rig.stage.shelf.chunk = 10_000
    part = rig.board.agent / PATCH_NAME
    rig.stage.shelf.faults[delta.file.sha256] = ["dead 40000"]
    assert rig.refused(delta).kind == "unreachable"
    part.write_bytes(rig.stage.shelf.files[delta.file.sha256][:12_345])
    rig.run(delta)
    assert rig.stage.shelf.opened[-1] == ("deltas/a-b.otd", 12_345)
    assert rig.is_staged()


def test_a_delta_stopped_while_it_is_applied_goes_on(rig: Rig) -> None:
    delta = rig.stage.delta()
    rig.stop_after = WINDOW_BYTES
    assert rig.refused(delta).kind == "interrupted"
    rig.stop_after = None
    rig.stage.shelf.opened.clear()
    rig.run(delta)
    assert (rig.stage.shelf.opened, rig.is_staged()) == ([], True)


# Deltas that fail


@pytest.mark.parametrize("spare", [-1, 0])
def test_delta_that_would_leave_the_journal_no_room_is_not_fetched(rig: Rig, spare: int) -> None:
    """An agent that cannot write its journal cannot start, so it could never clean up either."""
    delta = rig.stage.delta()
    part = rig.board.agent / PATCH_NAME
    rig.stage.shelf.chunk = 10_000
    rig.stage.shelf.faults[delta.file.sha256] = ["dead 40000"]
    assert rig.refused(delta).kind == "unreachable"
    have = part.stat().st_size if part.exists() else 0
    rig.stage.shelf.opened.clear()
    rig.free_bytes = delta.file.length - have + RESERVE_BYTES + spare
    rig.run(delta)
    wanted = ("deltas/a-b.otd", have) if spare == 0 else (rig.stage.file.path, 0)
    assert rig.stage.shelf.opened == [wanted]
    assert rig.is_staged()
    assert not part.exists()


def test_security_delta_larger_than_its_image_is_not_fetched(rig: Rig) -> None:
    """Who stole the key of the deltas could fill the disk with one."""
    delta = rig.stage.delta()
    huge = msgspec.structs.replace(delta, file=msgspec.structs.replace(delta.file, length=len(rig.stage.new)))
    rig.run(huge)
    assert rig.stage.shelf.opened == [(rig.stage.file.path, 0)]
    assert rig.is_staged()


def test_a_delta_from_another_image_falls_to_the_full_one(rig: Rig) -> None:
    delta = rig.stage.delta()
    rig.effects.write_at(rig.board.slot(Slot.A), 77, b"\0\1\2\3")
    rig.run(delta)
    assert rig.stage.shelf.opened == [(rig.stage.file.path, 0)]
    assert rig.is_staged()


@pytest.mark.parametrize("fault", ["changed 5000", "truncated 5000", "long 1", "endless"])
def test_security_a_bad_delta_is_tried_twice_then_the_full_image(rig: Rig, fault: str) -> None:
    delta = rig.stage.delta()
    rig.stage.shelf.faults[delta.file.sha256] = [fault] * 9
    rig.run(delta)
    assert rig.stage.shelf.opened == [("deltas/a-b.otd", 0)] * 2 + [(rig.stage.file.path, 0)]
    assert rig.is_staged()


def test_security_a_patch_nobody_vouched_for_is_not_decoded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    delta = rig.stage.delta()
    rig.stage.shelf.faults[delta.file.sha256] = ["changed 5000"] * 2

    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("the patch reached the decoder")

    monkeypatch.setattr("device_agent.install.filling.apply_delta", decoded)
    rig.run(delta)
    assert rig.is_staged()


def test_a_signed_delta_that_makes_another_image_falls_to_the_full_one(rig: Rig) -> None:
    good = rig.stage.delta()
    patch = bytearray(rig.stage.shelf.files[good.file.sha256])
    patch[-20] ^= 0xFF
    file = rig.stage.shelf.put(bytes(patch), "deltas/a-b.otd")
    rig.run(DeltaRef(file=file, source_sha256=good.source_sha256, source_length=good.source_length))
    assert rig.stage.shelf.opened[-1][0] == rig.stage.file.path
    assert rig.is_staged()


def test_delta_failures_are_counted_over_restarts(rig: Rig) -> None:
    delta = rig.stage.delta()
    rig.stage.shelf.faults[delta.file.sha256] = ["changed 5000", "dead 0"]
    assert rig.refused(delta).kind == "unreachable"
    rig.stage.shelf.faults[delta.file.sha256] = ["changed 5000"] * 9
    rig.stage.shelf.opened.clear()
    rig.run(delta)
    assert rig.stage.shelf.opened == [("deltas/a-b.otd", 0), (rig.stage.file.path, 0)]


# A failing medium


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("verb", ["write_at", "fsync", "replace"])
def test_a_failing_medium_is_a_storage_fault(rig: Rig, verb: str, code: int) -> None:
    def fault(what: str, path: Path) -> OSError | None:
        return OSError(code, "no") if what == verb else None

    rig.effects.fault = fault
    assert rig.refused().kind == "storage-fault"
    assert rig.is_blank()


def test_a_failed_fsync_is_not_tried_again(rig: Rig) -> None:
    rig.effects.fault = lambda verb, path: OSError(errno.EIO, "no") if verb == "fsync" else None
    rig.refused()
    assert [verb for verb, _ in rig.effects.verbs].count("fsync") == 1
    assert rig.effects.verbs[-1][0] == "fsync"


def test_no_room_for_a_delta_falls_to_the_full_image(rig: Rig) -> None:
    delta = rig.stage.delta()
    rig.effects.fault = lambda verb, path: OSError(errno.ENOSPC, "no") if verb == "append" else None
    rig.run(delta)
    assert rig.stage.shelf.opened[-1][0] == rig.stage.file.path
    assert rig.is_staged()


def test_a_medium_that_loses_a_write_is_noticed_on_read_back(rig: Rig) -> None:
    class Forgetful(FileSlots):
        def write(self, slot: Slot, offset: int, data: bytes) -> None:
            if offset != WINDOW_BYTES:
                super().write(slot, offset, data)

    rig.slots = {"root": Forgetful(rig.effects, rig.board.directory)}
    error = rig.refused()
    assert error.kind == "read-back-differs"
    assert str(WINDOW_BYTES) in error.text
    assert rig.is_blank()


def test_verify_sees_one_flipped_bit(rig: Rig) -> None:
    rig.run()
    at = len(rig.stage.new) - 1
    rig.effects.write_at(rig.board.slot(Slot.B), at, bytes([rig.stage.new[at] ^ 1]))
    assert not rig.installer.verify(Slot.B, rig.stage.manifest)


def test_memory_is_one_window_however_large_the_chunks_are(rig: Rig) -> None:
    sizes: list[int] = []

    class Measured(FileSlots):
        def write(self, slot: Slot, offset: int, data: bytes) -> None:
            sizes.append(len(data))
            super().write(slot, offset, data)

    rig.slots = {"root": Measured(rig.effects, rig.board.directory)}
    rig.run()
    assert max(sizes) <= WINDOW_BYTES


def test_the_file_named_by_the_order_is_what_is_asked_for(rig: Rig) -> None:
    asked: list[FileRef] = []
    shelf = rig.stage.shelf
    plain = shelf.open

    def spy(file: FileRef, *, offset: int) -> object:
        asked.append(file)
        return plain(file, offset=offset)

    shelf.open = spy
    rig.run()
    assert [file.sha256 for file in asked] == [hashlib.sha256(rig.stage.new).hexdigest()]


def test_a_failing_slot_is_not_blamed_on_the_delta(rig: Rig) -> None:
    delta = rig.stage.delta()
    failing = rig.board.slot(Slot.B)
    rig.effects.fault = lambda verb, path: OSError(errno.EIO, "no") if (verb, path) == ("write_at", failing) else None
    assert rig.refused(delta).kind == "storage-fault"
    assert rig.stage.shelf.opened == [("deltas/a-b.otd", 0)]


def test_a_source_slot_that_may_change_is_no_source(rig: Rig) -> None:
    class Mounted(FileSlots):
        def unsteady(self, slot: Slot) -> str | None:
            return "mounted at /" if slot is Slot.A else None

    rig.slots = {"root": Mounted(rig.effects, rig.board.directory)}
    rig.run(rig.stage.delta())
    assert rig.is_staged()
    assert {path for path, _ in rig.stage.shelf.opened} == {rig.stage.file.path}


def test_the_slots_are_let_go_of_however_staging_ends(rig: Rig) -> None:
    released: list[Slot] = []

    class Noted(FileSlots):
        def release(self, slot: Slot) -> None:
            released.append(slot)

    rig.slots = {"root": Noted(rig.effects, rig.board.directory)}
    rig.stage.shelf.faults[rig.stage.file.sha256] = ["dead 1500000"]
    assert rig.refused().kind == "unreachable"
    assert set(released) == {Slot.A, Slot.B}
    released.clear()
    rig.run()
    assert set(released) == {Slot.A, Slot.B}


def test_a_slot_that_is_refused_is_not_touched(rig: Rig) -> None:
    class Used(FileSlots):
        def claim(self, slot: Slot, length: int) -> None:
            raise RefusedError("slot-in-use", "Slot B is mounted.")

    rig.slots = {"root": Used(rig.effects, rig.board.directory)}
    before = rig.slot(Slot.B)
    assert rig.refused().kind == "slot-in-use"
    assert rig.slot(Slot.B) == before
    assert not rig.stage.shelf.opened
