"""A process of simulated devices: does what comes through its pipe, and says how it is once a second.

Commands are tuples: `("enrol",)`, `("start",)`, `("cut", members)`, `("freeze", members, seconds)`, `("pace", members, factor)`,
`("wipe", members)`, `("gather",)`, `("truth",)` and `("stop",)`. `enrol`, `truth` and `stop` are answered by a tuple that begins
with their name.
"""

import logging
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
from simulator.depot import Blob as FileBlob
from simulator.depot import facts_of
from simulator.fakes import MemoryEffects
from simulator.virtual.defects import Defects
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
        self._made: list[tuple[Identity, MemoryEffects, Path]] = []
        self._is_over = False

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
            jobs = [pool.submit(self._enrol_one, place) for place in range(len(self._plan.members))]
            for done, job in enumerate(jobs, start=1):
                self._made.append(job.result())
                if done % 50 == 0:
                    self._pipe.send(("enrolling", done))
        self._pipe.send(("enrol", [identity.target for identity, _, _ in self._made]))

    def _enrol_one(self, place: int) -> tuple[Identity, MemoryEffects, Path]:
        member, effects = self._plan.members[place], MemoryEffects()
        room = self._plan.directory / "enrolling" / f"{place:06}"
        identity = enrol(room, self._plan.claims[place], member.hardware, effects=effects)
        kept = {path.name: effects.read(path) or b"" for path in [room.absolute() / name for name in _KEPT]}
        pem = self._plan.directory / f"{place:06}.pem"
        pem.write_bytes(kept[TLS_CERTIFICATE_FILE] + kept[TLS_KEY_FILE])
        memory = MemoryEffects()
        memory.replace(Path(REPORT_KEY_FILE), kept[REPORT_KEY_FILE])
        for name in (ROOT_FILE, SERVICES_CA_FILE) if place == 0 else ():
            (self._plan.directory / name).write_bytes(kept[name])
        return identity, memory, pem

    def _do_start(self) -> None:
        plan = self._plan
        first, _, pem = self._made[0]
        ca = plan.directory / SERVICES_CA_FILE
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(pem)
        site = Site(DeviceHttp(first.https_url, context), (plan.directory / ROOT_FILE).read_bytes())
        image = FileBlob.of(plan.factory)
        site.keep(plan.factory.read_bytes())
        facts = facts_of(image)
        self._loop = loop = Loop(site, begins=plan.begins, hasten=plan.tempo.hasten, number=plan.number)
        common = Common(
            hub=loop,
            cable=partial(Line, watcher=loop, door=Door(ca)),
            site=site,
            keys=CatalogueKeys(site),
            tempo=plan.tempo,
            factory=Blob(sha256=image.sha256, length=image.length, version=facts.version, counter=facts.counter),
            product=plan.product,
            defects={release.version: Defects(release, plan.seed) for release in plan.releases},
            sizes={release.version: release.size_bytes for release in plan.releases},
        )
        for member, (identity, memory, own_pem) in zip(plan.members, self._made, strict=True):
            signer = report_signer(memory.read(Path(REPORT_KEY_FILE)) or b"")
            device = Device(common, member, identity, own_pem, signer, seed=plan.seed, begins=plan.begins)
            loop.devices[member.id] = device
        self._made.clear()
        loop.watch(self._pipe, EVENT_READ, lambda _: self._hear())
        for device in loop.devices.values():
            device.power_on()
        self._pulse_again()

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

    def _chosen(self, members: Sequence[str]) -> list[Device]:
        loop = self._loop
        return [] if loop is None else [loop.devices[name] for name in members if name in loop.devices]

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

    def _do_gather(self) -> None:
        for device in self._loop.devices.values() if self._loop is not None else ():
            device.gather()

    def _do_truth(self) -> None:
        loop = self._loop
        self._pipe.send(("truth", [] if loop is None else [one.truth() for one in loop.devices.values()]))

    def _do_stop(self) -> None:
        self._is_over = True
        if self._loop is not None:
            self._loop.close()
        self._pipe.send(("stop",))


_KEPT = (TLS_CERTIFICATE_FILE, TLS_KEY_FILE, REPORT_KEY_FILE, ROOT_FILE, SERVICES_CA_FILE)
