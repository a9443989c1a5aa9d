"""The agent with one step left out or out of order, for each of the steps that its durability is made of; and the scenarios in
which the suite must notice.

Most leave out one call below `effects.py`, told by the function that makes it. The others change the order of steps: they are
the shipped code, written down again with two lines exchanged.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from msgspec.structs import replace

from device_agent import reports, work
from device_agent.boot import ledger as rules
from device_agent.boot.cells import FIRST, LAST, MAX_NUMBER, Copies, numbered
from device_agent.boot.control import FileBoot
from device_agent.boot.ledger import Ledger, to_variables
from device_agent.boot.scripted import ScriptedBoot
from device_agent.boot.systemd_boot import SystemdBoot
from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core.machine import step
from device_agent.effects import PRIVATE_MODE, TEMPORARY_SUFFIX, FileEffects
from device_agent.install.target import SlotImage, storage_faults
from device_agent.journal import Record
from device_agent.kept import Kept
from device_agent.ports import Slot
from device_agent.runtime import Runtime
from tests.crash.disk import System

DEPTH = 14
"""How many callers are looked through."""

Look = tuple[tuple[str, str], ...]
"""Scenario and boot loader, in the order in which they are tried."""
FULL: Look = (("full", "simulated"),)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """`where`: the function. `step`: what is missing there; `call`: the kind of that system call. `caught_by`: the rule that
    notices."""

    where: str
    step: str
    apply: Callable[[], AbstractContextManager[Any]]
    look: Look
    caught_by: str
    call: str = ""


FOR_SPEED = {"SlotImage.write", "SlotImage.sync"}
"""Functions that flush so that less is lost to a cut, and would be no less safe without."""


def without(kinds: str, *functions: str, path: str = "") -> Callable[[], AbstractContextManager[Any]]:
    """Leave out the calls of these kinds (`|` between them) that one of the functions makes, on paths that end so."""

    def skips(kind: str, on: str) -> bool:
        return kind in kinds.split("|") and on.endswith(path) and _called_by(functions)

    return lambda: mock.patch.object(System, "skips", staticmethod(skips))


def instead(cls: type, name: str, function: Any) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mock.patch.object(cls, name, function)


def _called_by(functions: tuple[str, ...]) -> bool:
    frame = sys._getframe(2)
    for _ in range(DEPTH):
        if frame.f_code.co_qualname in functions:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


# Steps of the journal


def _acts_first(self: Runtime, event: ev.Event) -> None:
    before, now = self.standing, self._now()
    after, commands = step(before, event, now, self._time.seconds(now), self._settings.tuning)
    tells = [command for command in commands if isinstance(command, do.Tell)]
    box = self._record.outbox
    for tell in tells:
        box = reports.enqueue(box, tell, after, self._kept.facts())
    old, self._kept.record = self._record, replace(self._record, standing=after, outbox=box)
    self._post.send(box, now, self._ports.chance.jitter())
    for command in commands:
        if not isinstance(command, do.Tell) and not self._carry_out(command):
            return
    new, self._kept.record = self._record, old
    self._kept.store(new)


_STORE = Kept.store


def _forgets_reports(self: Kept, record: Record) -> None:
    before = self.record
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    _STORE(self, Record(**{**fields, "outbox": before.outbox}))
    self.record = record


# Steps of a slot


def _no_blank(self: SlotImage) -> None:
    return


def _seals_at_once(self: SlotImage) -> None:
    with storage_faults("flush", self._slot):
        if self.first_block:
            self._slots.write(self._slot, 0, self.first_block)
        self._slots.sync(self._slot)


def _leaves_the_seal(self: SlotImage) -> None:
    with storage_faults("flush", self._slot):
        self._slots.sync(self._slot)
        if self.first_block:
            self._slots.write(self._slot, 0, self.first_block)


def _writes_first_block_first(self: SlotImage, index: int, window: bytes) -> None:
    with storage_faults("write", self._slot):
        if index == 0:
            self.first_block = window[: self._first_length()]
        self._slots.write(self._slot, index << 20, window)


def _tells_nobody(ports: object, slot: object, manifest: object) -> None:
    return


# Steps of a small file


def _replaces(*, before: bool = False, after: bool = False) -> Callable[[FileEffects, Path, bytes], None]:
    """`FileEffects.replace` that flushes the file before its rename, or after it."""

    def replace_file(self: FileEffects, path: Path, data: bytes) -> None:
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        descriptor = self._calls.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_MODE)
        self._write_all(descriptor, data)
        if before:
            self._calls.fsync(descriptor)
        self._calls.rename(temporary, path)
        if after:
            self._calls.fsync(descriptor)
        self._calls.close(descriptor)
        self._fsync_directory(path.parent)

    return replace_file


# Steps of the boot loaders' stores


def _saves(*, together: bool = False, newest_first: bool = False) -> Callable[[Copies, Ledger], None]:
    """`Copies.save` with another order of its steps."""

    def save(self: Copies, ledger: Ledger) -> None:
        numbers = {cell: (numbered(self._read(cell)) or (-1,))[0] for cell in self._copies}
        text = str(max(*numbers.values(), 0) % MAX_NUMBER + 1)
        block = self._codec.encode({FIRST: text, **to_variables(ledger), LAST: text})
        cells = sorted(self._copies, key=lambda cell: numbers[cell], reverse=newest_first)
        for cell in cells:
            self._effects.write_at(cell.path, cell.offset, block)
            if not together:
                self._effects.fsync(cell.path)
        for cell in cells if together else ():
            self._effects.fsync(cell.path)
        for slot in sorted(self._marked() ^ ledger.whole):
            self._mark(slot, complete=slot in ledger.whole)

    return save


_MARK = Copies._mark


def _takes_no_mark(self: Copies, slot: Slot, *, complete: bool) -> None:
    if complete:
        _MARK(self, slot, complete=True)


def _does_not_mend(self: ScriptedBoot, slot: Slot) -> None:
    self.prove()
    self._change(lambda one, this: rules.retire(one, slot, running=this.slot))


_WRITE_ENTRY = SystemdBoot._write


def _removes_before_it_writes(self: SystemdBoot, entry: Any) -> None:
    for one in self._look().all:
        if one.slot is entry.slot:
            self._effects.unlink(self._folder / one.name)
    _WRITE_ENTRY(self, entry)


def _never_waits(self: FileBoot, is_done: object, kind: str, what: str) -> None:
    return


@contextlib.contextmanager
def _tool_that_does_not_flush() -> Iterator[None]:
    """`fw_setenv` of another version; then the agent's own flush is all there is."""

    def skips(kind: str, on: str) -> bool:
        return kind == "fsync" and (_called_by(("_write",)) or _called_by(("FwEnv.save",)))

    with mock.patch.object(System, "skips", staticmethod(skips)):
        yield


MUTANTS = (
    Mutant(
        where="FileEffects.replace",
        step="the new file is not flushed before it is renamed",
        call="fsync",
        apply=instead(FileEffects, "replace", _replaces(after=True)),
        look=FULL,
        caught_by="old-or-new",
    ),
    Mutant(
        where="FileEffects.replace",
        step="the new file is not flushed after it is renamed, as FAT needs",
        call="fsync",
        apply=instead(FileEffects, "replace", _replaces(before=True)),
        look=(("full", "systemd-boot"),),
        caught_by="state-lost",
    ),
    Mutant(
        where="FileEffects.replace",
        step="no rename: the old file is written over",
        call="rename",
        apply=lambda: mock.patch.object(System, "writes_over", True),
        look=FULL,
        caught_by="old-or-new",
    ),
    Mutant(
        where="FileEffects.replace",
        step="the folder is not flushed",
        call="fsync folder",
        apply=without("fsync folder", "FileEffects.replace"),
        look=FULL,
        caught_by="old-or-new",
    ),
    Mutant(
        where="FileEffects.append",
        step="the file is not flushed",
        call="fsync",
        apply=without("fsync", "FileEffects.append"),
        look=(("delta", "grub"),),
        caught_by="nothing-twice",
    ),
    Mutant(
        where="FileEffects.append",
        step="a new file's folder is not flushed",
        call="fsync folder",
        apply=without("fsync folder", "FileEffects.append"),
        look=(("delta", "grub"),),
        caught_by="nothing-twice",
    ),
    Mutant(
        where="FileEffects.unlink",
        step="the folder is not flushed",
        call="fsync folder",
        apply=without("fsync folder", "FileEffects.unlink"),
        look=(("over the previous", "systemd-boot"),),
        caught_by="unverified-slot",
    ),
    Mutant(
        where="FileEffects.settle",
        step="the file system is not frozen",
        call="freeze",
        apply=without("freeze", "FileEffects.settle"),
        look=(("first environment", "grub"),),
        caught_by="unbootable",
    ),
    Mutant(
        where="FileEffects.fsync",
        step="left out, for slots in files",
        call="fsync",
        apply=without("fsync", "FileSlots.sync"),
        look=FULL,
        caught_by="half-slot",
    ),
    Mutant(
        where="FileMedium.flush",
        step="left out, for slots on devices",
        call="fsync",
        apply=without("fsync", "FileMedium.flush"),
        look=(("full", "grub"),),
        caught_by="half-slot",
    ),
    Mutant(
        where="Runtime._apply",
        step="commands are carried out before the journal is written",
        apply=instead(Runtime, "_apply", _acts_first),
        look=FULL,
        caught_by="no-two-contents",
    ),
    Mutant(
        where="Kept.store",
        step="the outbox is not in the record",
        apply=instead(Kept, "store", _forgets_reports),
        look=FULL,
        caught_by="no-two-contents",
    ),
    Mutant(
        where="SlotImage.open",
        step="the old first block is left while the rest is written",
        apply=instead(SlotImage, "open", _no_blank),
        look=(("over the previous", "grub"),),
        caught_by="half-slot",
    ),
    Mutant(
        where="SlotImage.open",
        step="the blank first block is not flushed",
        apply=without("fsync", "SlotImage.open"),
        look=(("over the previous", "grub"),),
        caught_by="half-slot",
    ),
    Mutant(
        where="SlotImage.write",
        step="the first block is written with the others",
        apply=instead(SlotImage, "write", _writes_first_block_first),
        look=(("full", "grub"),),
        caught_by="half-slot",
    ),
    Mutant(
        where="SlotImage.seal",
        step="the first block is written before the others are flushed",
        apply=instead(SlotImage, "seal", _seals_at_once),
        look=(("full", "grub"),),
        caught_by="half-slot",
    ),
    Mutant(
        where="SlotImage.seal",
        step="the first block is not flushed",
        apply=instead(SlotImage, "seal", _leaves_the_seal),
        look=(("full", "grub"), ("full", "simulated")),
        caught_by="unverified-slot",
    ),
    Mutant(
        where="work._retire",
        step="the boot loader is not told that a slot is overwritten",
        apply=lambda: mock.patch.object(work, "_retire", _tells_nobody),
        look=(("over the previous", "u-boot-environment"),),
        caught_by="unverified-slot",
    ),
    Mutant(
        where="FileBoot.retire",
        step="it does not wait until the boot loader has heard",
        apply=instead(FileBoot, "_wait_until", _never_waits),
        look=(("over the previous", "simulated"),),
        caught_by="unverified-slot",
    ),
    Mutant(
        where="Copies._write",
        step="a copy is not flushed",
        apply=without("fsync", "Copies._write"),
        look=(("over the previous", "grub"),),
        caught_by="state-lost",
    ),
    Mutant(
        where="Copies.save",
        step="both copies are written, then both are flushed",
        apply=instead(Copies, "save", _saves(together=True)),
        look=(("full", "u-boot-copies"),),
        caught_by="state-lost",
    ),
    Mutant(
        where="Copies.save",
        step="the newer copy is written first, after one of them was damaged",
        apply=instead(Copies, "save", _saves(newest_first=True)),
        look=(("full, EIO", "u-boot-copies"),),
        caught_by="state-lost",
    ),
    Mutant(
        where="Copies.save",
        step="no mark is ever taken away",
        apply=instead(Copies, "_mark", _takes_no_mark),
        look=(("over the previous", "u-boot-copies"),),
        caught_by="marks",
    ),
    Mutant(
        where="ScriptedBoot.retire",
        step="the mark that a boot script left is not taken away",
        apply=instead(ScriptedBoot, "retire", _does_not_mend),
        look=(("after a lost trial", "grub"),),
        caught_by="marks",
    ),
    Mutant(
        where="FwEnv.save",
        step="neither the tool nor the agent flushes",
        apply=_tool_that_does_not_flush,
        look=(("over the previous", "u-boot-environment"),),
        caught_by="unverified-slot",
    ),
    Mutant(
        where="SystemdBoot._write",
        step="the older entry is removed before the newer is there",
        apply=instead(SystemdBoot, "_write", _removes_before_it_writes),
        look=(("full", "systemd-boot"), ("crash loop", "systemd-boot")),
        caught_by="converges",
    ),
)
