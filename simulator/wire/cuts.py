"""Devices whose power goes at chosen operations: thin ports around the simulated ones, below the real agent.

Rules
- `PowerCut` is what the agent sees of it: it comes out of the port's call, and nothing in the agent may catch it. From then on
  every such port of that boot is dead; the device loses power, and boots again as after any power cut.
- A job that takes its time ends, as far as it came, when that time has passed; the power goes then. An image that is half written
  is no image. It is loaded anew after the boot: slots here hold whole images, where a real one goes on from what is written.
- A report that was signed and did not become durable was never said: its number is given to another one.
- Devices without such cuts are none of these, and pay nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from device_agent.journal import Journal
from device_agent.ports import BootStatus, Incoming, Slot
from device_agent.runtime import Input
from device_agent.work import Job, JobDone, Lane, Ports
from firmware.manifest import Manifest
from firmware.protocol.order import Order
from firmware.protocol.topics import Leaf
from simulator.fakes import MemoryBoot, MemoryEffects
from simulator.virtual.cuts import (
    AFTER,
    BEFORE,
    COMMIT,
    GIVE_UP,
    JOURNAL_WRITE,
    RESTART,
    RETIRE_SLOT,
    SET_TRIAL,
    SLOT_WRITE,
    TRIAL_BOOT,
    WITHIN,
    Cut,
    Fuse,
    tally,
)
from simulator.virtual.world import Member, World
from simulator.wire.by_blocks import BlockInstaller
from simulator.wire.device import Device
from simulator.wire.parts import ROOM, Installer, Slots
from simulator.wire.plan import Moment

CUT = "cut"
"""The kind of moment at which the power went at an operation, which its state names."""


class PowerCut(BaseException):
    """The power is off. Not an `Exception`: nothing in the agent may catch it. `at`: the operation."""

    def __init__(self, at: str) -> None:
        super().__init__(at)
        self.at = at


class Supply:
    """The power of one boot; it goes as the device's fuse says."""

    __slots__ = ("_fuse", "_gone_at")

    def __init__(self, fuse: Fuse) -> None:
        self._fuse, self._gone_at = fuse, ""

    @contextmanager
    def through(self, at: str) -> Iterator[None]:
        """Do an operation, unless the power goes before it, or has gone. Raises `PowerCut`."""
        self._go(self._gone_at or (at if self._fuse.due(at, BEFORE) else ""))
        yield
        self._go(at if self._fuse.due(at, AFTER) else "")

    def slow(self, at: str) -> Cut | None:
        """The cut that is to come at an operation that takes its time."""
        self._go(self._gone_at)
        return self._fuse.due(at)

    def _go(self, at: str) -> None:
        if at:
            self._gone_at = at
            raise PowerCut(at)


class CutEffects(MemoryEffects):
    """`Effects` over the files that the device keeps. The journal is all that its agent writes."""

    def __init__(self, kept: MemoryEffects, supply: Supply) -> None:
        super().__init__()
        self._files, self._supply = kept._files, supply

    def replace(self, path: Path, data: bytes) -> None:
        with self._supply.through(JOURNAL_WRITE):
            super().replace(path, data)


class CutBoot:
    """`BootControl` over the device's boot loader."""

    def __init__(self, boot: MemoryBoot, supply: Supply) -> None:
        self._boot, self._supply = boot, supply

    def status(self) -> BootStatus:
        return self._boot.status()

    def try_slot(self, slot: Slot, trial_id: str, *, deadline_s: float) -> None:
        with self._supply.through(SET_TRIAL):
            self._boot.try_slot(slot, trial_id, deadline_s=deadline_s)

    def commit(self, trial_id: str) -> None:
        with self._supply.through(COMMIT):
            self._boot.commit(trial_id)

    def committed(self, trial_id: str) -> bool:
        return self._boot.committed(trial_id)

    def give_up(self, trial_id: str) -> None:
        with self._supply.through(GIVE_UP):
            self._boot.give_up(trial_id)

    def retire(self, slot: Slot) -> None:
        with self._supply.through(RETIRE_SLOT):
            self._boot.retire(slot)

    def stayed_up(self) -> None:
        self._boot.stayed_up()

    def shut_down(self) -> None:
        self._boot.shut_down()

    def reboot(self) -> None:
        with self._supply.through(RESTART):
            self._boot.reboot()


class CutInstaller:
    """`Installer` whose writing ends where the power goes."""

    def __init__(self, installer: Installer | BlockInstaller, slots: Slots, supply: Supply) -> None:
        self._installer, self._slots, self._supply = installer, slots, supply

    def stage(
        self,
        order: Order,
        manifest: Manifest,
        *,
        active: Slot,
        on_progress: Callable[[int, int], None],
        stop: Callable[[], bool],
        envelope: bytes = b"",
    ) -> dict[str, object]:
        cut = self._supply.slow(SLOT_WRITE)
        if cut is not None and cut.when == BEFORE:
            raise PowerCut(SLOT_WRITE)
        facts = self._installer.stage(
            order, manifest, active=active, on_progress=on_progress, stop=stop, envelope=envelope
        )
        if cut is None:
            return facts
        if cut.when == WITHIN:
            self._slots.spoil(active.other)
        self._installer.break_off(cut.done)
        raise PowerCut(SLOT_WRITE)

    def verify(self, slot: Slot, manifest: Manifest) -> bool:
        return self._installer.verify(slot, manifest)


class CutDevice(Device):
    """A device with cuts at operations of its agent, from its first order on."""

    __slots__ = ("_fuse",)

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._fuse = Fuse(self.member.cuts)

    def power_on(self) -> None:
        is_off = not (self._power or self.is_bricked or self._is_unplugged)
        if is_off and self._boot.will_try and self._fuse.due(TRIAL_BOOT, BEFORE):
            self._lose(PowerCut(TRIAL_BOOT))
        else:
            super().power_on()

    def wake(self) -> None:
        self._guarded(super().wake)

    def finished(self, number: int, done: JobDone) -> None:
        self._guarded(lambda: super(CutDevice, self).finished(number, done))

    def handle(self, happened: Input) -> None:
        if isinstance(happened, Incoming) and happened.leaf == Leaf.ORDER:
            self._fuse.is_live = True
        self._guarded(lambda: super(CutDevice, self).handle(happened))

    def _come_up(self) -> None:
        if self._power and self._boot.is_trial and self._fuse.due(TRIAL_BOOT, AFTER):
            self._lose(PowerCut(TRIAL_BOOT))
        else:
            self._guarded(super()._come_up)

    def _new_ports(self) -> Ports:
        supply = Supply(self._fuse)
        return replace(
            super()._new_ports(),
            effects=CutEffects(self._effects, supply),
            boot=CutBoot(self._boot, supply),
            installer=CutInstaller(self._installer, self._slots, supply),
        )

    def _run(self, job: Job) -> None:
        super()._run(job if job.lane is not Lane.SLOT else Job(lane=job.lane, run=lambda: _broken_off(job)))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except PowerCut as cut:
            self._lose(cut)

    def _lose(self, cut: PowerCut) -> None:
        self._fuse.blow(cut.at)
        self._hub.tell(Moment(at=self._hub.now(), member=self.member.id, kind=CUT, order=self._order, state=cut.at))
        self.power_cut()
        record = Journal(self._effects, ROOM).load()
        if record is not None and record.outbox.journal == self._notary.journal:
            self._notary.unsay(record.outbox.next_seq)


def device_of(member: Member) -> type[Device]:
    """What a member is, as far as its power goes."""
    return CutDevice if member.cuts else Device


def cuts_of(world: World, moments: Iterable[Moment]) -> dict[str, int]:
    """How often the power went at each operation at which the world lets it go."""
    return tally((cut for lot in world.lots for cut in lot.cuts), (one.state for one in moments if one.kind == CUT))


def _broken_off(job: Job) -> JobDone:
    """Run a job that takes its time: when that has passed, the power goes."""
    try:
        return job.run()
    except PowerCut as cut:
        at = cut.at

    def go() -> None:
        raise PowerCut(at)

    return JobDone(lane=job.lane, then=go)
