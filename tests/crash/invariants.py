"""What must hold on the medium at every moment, whatever a power cut leaves of it, and at the end of every history.

Each rule has a name, which the table of mutants gives as what catches them.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from device_agent.boot.loader import STATE_LOST, Boot
from device_agent.core.states import Failed, FellBack, Refused, word_of
from device_agent.journal import Record, decode
from device_agent.ports import BootOutcome, Slot
from firmware.errors import RefusedError
from tests.crash.broken import BrokenRuleError, require
from tests.crash.disk import Medium
from tests.crash.loaders import LIMITS, Loader, futures
from tests.crash.storage import Files
from tests.crash.world import JOURNAL, World

FIRST_BLOCK = 512
MOST_TRIAL_BOOTS = LIMITS.tries + LIMITS.spare


@dataclass
class Rules:
    """The rules of one machine: what it started with, and which boots lie before that."""

    world: World
    before: Record | None = None
    _futures: dict[int, Sequence[Boot]] = field(default_factory=dict)

    def start(self, medium: Medium) -> None:
        """A machine starts with this medium."""
        self.before = record_in(medium.files)

    def check(self, medium: Medium) -> None:
        """Everything that must be true of a medium that a power cut leaves now."""
        self._check_slots(medium)
        self._check_journal(medium.files)
        for slot in self.world.loader.marked(medium):
            require("marks", self.is_whole(slot, medium), f"slot {slot.value} is marked as complete")
        for path, data in self.world.disk.appended.items():
            require("nothing-twice", medium.files.get(path, b"").startswith(data), f"{path} lost what was appended")
        self._check_futures(medium)

    def _check_slots(self, medium: Medium) -> None:
        if self.world.boots and not self.world.in_loader:
            slot = self.world.boots[-1].slot
            require("active-slot", self.is_whole(slot, medium), f"the running slot {slot.value} changed")
        for slot in Slot:
            data = self._bytes(slot, medium)
            first = {one.image[:FIRST_BLOCK] for one in self.world.depot.releases}
            looks_whole = data[:FIRST_BLOCK] in first
            require("half-slot", not looks_whole or self.is_whole(slot, medium), f"slot {slot.value} looks complete")

    def _check_journal(self, files: Files) -> None:
        found = files.get(JOURNAL)
        require(
            "old-or-new", found in self.world.disk.promised[JOURNAL], "the journal is neither the old one nor the new"
        )
        record = record_in(files)
        if record is not None and self.before is not None:
            require("counters", _never_fell(self.before, record), f"{self.before} was before {record}")

    def _check_futures(self, medium: Medium) -> None:
        own = frozenset((path, data) for path, data in medium.files.items() if self.world.loader.own(path))
        key = hash((own, medium.home_key))
        if key not in self._futures:
            self._futures[key] = _futures(self.world.loader, medium)
        boots = self._futures[key]
        require("state-lost", STATE_LOST not in {boot.cause for boot in boots}, "the boot loader's state is lost")
        for slot in {boot.slot for boot in boots}:
            require("unverified-slot", self.is_whole(slot, medium), f"slot {slot.value} would be booted")
        said = [(boot.slot.value, boot.outcome.value) for boot in boots]
        require("bounded-boots", boots[-1].outcome is not BootOutcome.TRIAL, f"a trial goes on for ever: {said}")

    def check_boots(self) -> None:
        """How often each trial was booted."""
        trials = [boot.trial_id for boot in self.world.boots if boot.outcome is BootOutcome.TRIAL]
        for trial_id in set(trials):
            require("bounded-boots", trials.count(trial_id) <= MOST_TRIAL_BOOTS, f"{trial_id} was tried too often")

    def check_end(self) -> None:
        """What was reported last is what there is."""
        world = self.world
        assert world.runtime is not None
        standing, last = world.runtime.standing, world.server.told[-1]
        state, running = standing.state, last.running
        require("truthful", running.version == world.running_version(), f"{running.version} is said to run")
        require("truthful", running.slot == world.boots[-1].slot.value, f"slot {running.slot} is said to run")
        told = next(one for one in reversed(world.server.told) if one.inventory is None)
        require("truthful", told.state == word_of(state), f"{told.state} was told, and it is {word_of(state)}")
        if isinstance(state, FellBack | Failed | Refused):
            require("truthful", told.reason == state.reason, f"{told.reason} was told, and it is {state.reason}")
        self.check_boots()

    def is_whole(self, slot: Slot, medium: Medium) -> bool:
        """Whether the slot holds exactly one of the releases, all of it, in every slot set."""
        return any(self.world.holds(slot, one, medium.files) for one in self.world.depot.releases)

    def _bytes(self, slot: Slot, medium: Medium) -> bytes:
        return medium.files[str(self.world.loader.slot_path(slot))]


def record_in(files: Files) -> Record | None:
    data = files.get(JOURNAL)
    return None if data is None else _decoded(data)


@functools.lru_cache(maxsize=512)
def _decoded(data: bytes) -> Record:
    try:
        return decode(data)
    except RefusedError as error:
        raise BrokenRuleError("old-or-new", f"the journal can't be read: {error.text}") from error


def _never_fell(before: Record, after: Record) -> bool:
    old, new = before.standing, after.standing
    seqs = before.outbox.journal != after.outbox.journal or after.outbox.next_seq >= before.outbox.next_seq
    highest = old.highest is None or (new.highest is not None and new.highest >= old.highest)
    floors = all(new.floors.get(product, 0) >= floor for product, floor in old.floors.items())
    same_journal = before.outbox.journal == after.outbox.journal
    return seqs and highest and floors and same_journal and after.trusted_time >= before.trusted_time


def _futures(loader: Loader, medium: Medium) -> Sequence[Boot]:
    try:
        return futures(loader, medium)
    except AssertionError as error:
        raise BrokenRuleError("unbootable", str(error)) from error
