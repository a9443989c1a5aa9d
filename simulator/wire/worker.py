"""A process of simulated devices: does what comes through its pipe, and says how it is once a second.

Commands are tuples: `("enrol",)`, `("start",)`, `("cut", members)`, `("freeze", members, seconds)`, `("pace", members, factor)`,
`("wipe", members)`, `("join", member, claim)`, `("leave", members)`, `("copy", members)`, `("gather",)`, `("truth",)` and
`("stop",)`. `enrol`, `truth` and `stop` are answered by a tuple that begins with their name, `join` some time later by
`("joined", name, target, "")`, or with no target and why not.

What the devices share is fetched with the certificate of one of them, which is always one that the server serves.
"""

import logging
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from selectors import EVENT_READ
from typing import Any

from device_agent.enrol import enrol
from device_agent.identity import (
    REPORT_KEY_FILE,
    ROOT_FILE,
    SERVICES_CA_FILE,
    TLS_CERTIFICATE_FILE,
    TLS_KEY_FILE,
    Identity,
)
from device_agent.keys import report_signer
from device_agent.notary import CatalogueKeys
from device_agent.transport.http import DeviceHttp
from firmware.errors import UnavailableError
from simulator.depot import Blob as FileBlob
from simulator.depot import facts_of
from simulator.fakes import MemoryEffects
from simulator.virtual.defects import Defects
from simulator.virtual.world import Member
from simulator.wire.copies import turned_back
from simulator.wire.cuts import device_of
from simulator.wire.device import Device
from simulator.wire.hub import Loop, allow_files
from simulator.wire.line import Door, Line
from simulator.wire.parts import Blob
from simulator.wire.plan import Plan
from simulator.wire.ports import Common
from simulator.wire.site import Site

FILES = 40_000
ENROL_THREADS = 4
PULSE_S = 1.0
JOIN_AGAIN_S = 2.0


def work(plan: Plan, pipe: Connection) -> None:
    """Serve the pipe until it is told to stop, or its other end is gone."""
    logging.basicConfig(level=logging.ERROR, filename=plan.directory / "worker.log")
    allow_files(FILES)
    try:
        Worker(plan, pipe).run()
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


class Worker:
    """See the module."""

    def __init__(self, plan: Plan, pipe: Connection) -> None:
        self._plan, self._pipe = plan, pipe
        self._loop: Loop | None = None
        self._made: list[tuple[Identity, MemoryEffects]] = []
        self._common: Common | None = None
        self._https_url = ""
        self._carrier = ""
        """With whose certificate the site fetches."""
        self._shut_out: set[str] = set()
        self._gathers = self._is_over = False

    def run(self) -> None:
        """Until the end."""
        while not self._is_over:
            loop = self._loop
            if loop is None:
                self._obey(self._pipe.recv())
                continue
            loop.once()

    def _obey(self, command: tuple[Any, ...]) -> None:
        name, *given = command
        getattr(self, f"_do_{name}")(*given)

    def _do_enrol(self) -> None:
        """Enrol all, over the real API, some at a time."""
        with ThreadPoolExecutor(ENROL_THREADS) as pool:
            each = zip(self._plan.members, self._plan.claims, strict=True)
            jobs = [pool.submit(self._enrol_one, member, claim, MemoryEffects()) for member, claim in each]
            for done, job in enumerate(jobs, start=1):
                self._made.append(job.result())
                if done % 50 == 0:
                    self._pipe.send(("enrolling", done))
        self._pipe.send(("enrol", [identity.target for identity, _ in self._made]))

    def _enrol_one(self, member: Member, claim: str, effects: MemoryEffects) -> tuple[Identity, MemoryEffects]:
        """Its identity, and its report key; the other keys are in files. With the same `effects` it goes on where it failed."""
        room = self._plan.directory / "enrolling" / member.id
        identity = enrol(room, claim, member.hardware, effects=effects)
        kept = {path.name: effects.read(path) or b"" for path in [room.absolute() / name for name in _KEPT]}
        self._pem(member.id).write_bytes(kept[TLS_CERTIFICATE_FILE] + kept[TLS_KEY_FILE])
        memory = MemoryEffects()
        memory.replace(Path(REPORT_KEY_FILE), kept[REPORT_KEY_FILE])
        for name in (ROOT_FILE, SERVICES_CA_FILE) if member is self._plan.members[0] else ():
            (self._plan.directory / name).write_bytes(kept[name])
        return identity, memory

    def _pem(self, name: str) -> Path:
        return self._plan.directory / f"{name}.pem"

    def _do_start(self) -> None:
        plan = self._plan
        self._https_url, self._carrier = self._made[0][0].https_url, plan.members[0].id
        site = Site(self._files_for(self._carrier), (plan.directory / ROOT_FILE).read_bytes())
        image = FileBlob.of(plan.factory)
        site.keep(plan.factory.read_bytes())
        facts = facts_of(image)
        self._loop = loop = Loop(site, begins=plan.begins, hasten=plan.tempo.hasten, number=plan.number)
        self._common = Common(
            hub=loop,
            cable=partial(Line, watcher=loop, door=Door(plan.directory / SERVICES_CA_FILE)),
            site=site,
            keys=CatalogueKeys(site),
            tempo=plan.tempo,
            factory=Blob(sha256=image.sha256, length=image.length, version=facts.version, counter=facts.counter),
            product=plan.product,
            defects={release.version: Defects(release, plan.seed) for release in plan.releases},
            sizes={release.version: release.size_bytes for release in plan.releases},
        )
        for member, (identity, memory) in zip(plan.members, self._made, strict=True):
            loop.devices[member.id] = self._make(self._common, member, identity, memory)
        self._made.clear()
        loop.watch(self._pipe, EVENT_READ, lambda _: self._hear())
        for device in loop.devices.values():
            device.power_on()
        self._pulse_again()

    def _make(self, common: Common, member: Member, identity: Identity, memory: MemoryEffects) -> Device:
        plan, signer = self._plan, report_signer(memory.read(Path(REPORT_KEY_FILE)) or b"")
        pem = self._pem(member.id)
        return device_of(member)(common, member, identity, pem, signer, seed=plan.seed, begins=plan.begins)

    def _files_for(self, name: str) -> DeviceHttp:
        context = ssl.create_default_context(cafile=self._plan.directory / SERVICES_CA_FILE)
        context.load_cert_chain(self._pem(name))
        return DeviceHttp(self._https_url, context)

    def _hear(self) -> None:
        try:
            while self._pipe.poll():
                self._obey(self._pipe.recv())
        except (EOFError, OSError):
            self._is_over = True

    def _pulse_again(self) -> None:
        loop = self._loop
        if loop is not None:
            self._pipe.send(("pulse", loop.pulse()))
            loop.later(time.monotonic() + PULSE_S, self._pulse_again)

    @property
    def _devices(self) -> dict[str, Device]:
        return self._loop.devices if self._loop is not None else {}

    def _chosen(self, members: Sequence[str]) -> list[Device]:
        return [self._devices[name] for name in members if name in self._devices]

    def _do_cut(self, members: Sequence[str]) -> None:
        for device in self._chosen(members):
            device.power_cut()

    def _do_freeze(self, members: Sequence[str], for_s: float) -> None:
        for device in self._chosen(members):
            device.freeze(for_s)

    def _do_pace(self, members: Sequence[str], factor: float) -> None:
        for device in self._chosen(members):
            device.keep_time(factor)

    def _do_wipe(self, members: Sequence[str]) -> None:
        for device in self._chosen(members):
            device.wipe()

    def _do_join(self, member: Member, claim: str) -> None:
        self._join(member, claim, MemoryEffects())

    def _join(self, member: Member, claim: str, effects: MemoryEffects) -> None:
        if self._loop is not None:
            self._loop.aside(lambda: self._joined(member, claim, effects))

    def _joined(self, member: Member, claim: str, effects: MemoryEffects) -> Callable[[], None]:
        """Enrol it, on a thread of its own; what is to be done then."""
        try:
            identity, memory = self._enrol_one(member, claim, effects)
        except UnavailableError:
            return lambda: self._join_later(member, claim, effects)
        except Exception as error:  # noqa: BLE001 (told to whoever let it join)
            why = f"{type(error).__name__}: {error}"
            return lambda: self._pipe.send(("joined", member.id, "", why))
        return lambda: self._come(member, identity, memory)

    def _join_later(self, member: Member, claim: str, effects: MemoryEffects) -> None:
        """The server is away; by its files the device goes on where it was."""
        if self._loop is not None:
            self._loop.later(time.monotonic() + JOIN_AGAIN_S, lambda: self._join(member, claim, effects))

    def _come(self, member: Member, identity: Identity, memory: MemoryEffects) -> None:
        if self._loop is None or self._common is None:
            return
        device = self._loop.devices[member.id] = self._make(self._common, member, identity, memory)
        self._see_site_served()
        if self._gathers:
            device.gather()
        device.power_on()
        self._pipe.send(("joined", member.id, identity.target, ""))

    def _do_leave(self, members: Sequence[str]) -> None:
        for device in self._chosen(members):
            device.unplug()
            self._shut_out.add(device.member.id)
            del self._devices[device.member.id]
        self._see_site_served()

    def _do_copy(self, members: Sequence[str]) -> None:
        plan = self._plan
        for device in self._chosen(members):
            other = replace(device.member, id=f"{device.member.id}-copy")
            copy = device.twin(other, turned_back(device.flash()), seed=plan.seed, begins=plan.begins)
            self._shut_out |= {device.member.id, other.id}
            self._devices[other.id] = copy
            copy.gather()
            copy.power_on()
        self._see_site_served()

    def _see_site_served(self) -> None:
        """Let the site fetch with another device's certificate, when its own is of one that the server serves no more."""
        other = next((name for name in self._devices if name not in self._shut_out), None)
        if self._common is not None and self._carrier in self._shut_out and other is not None:
            self._carrier = other
            self._common.site.fetch_by(self._files_for(other))

    def _do_gather(self) -> None:
        self._gathers = True
        for device in self._devices.values():
            device.gather()

    def _do_truth(self) -> None:
        self._pipe.send(("truth", [one.truth() for one in self._devices.values()]))

    def _do_stop(self) -> None:
        self._is_over = True
        if self._loop is not None:
            self._loop.close()
        self._pipe.send(("stop",))


_KEPT = (TLS_CERTIFICATE_FILE, TLS_KEY_FILE, REPORT_KEY_FILE, ROOT_FILE, SERVICES_CA_FILE)
