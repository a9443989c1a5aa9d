"""Many simulated devices in one process: real agent cores and links, over the fake ports of `simulator.fakes`.

One thread drives all runtimes; links call in from theirs, jobs run on a few more. A reboot throws the runtime away and makes
a new one from the device's durable bytes, as a real reboot does.
"""

import logging
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from device_agent.catalogue import DeviceCatalogue
from device_agent.core.values import Content
from device_agent.enrol import enrol
from device_agent.health.runner import HealthRunner
from device_agent.identity import REPORT_KEY_FILE, ROOT_FILE, Identity
from device_agent.keys import report_signer
from device_agent.metrics.desk import MetricDesk
from device_agent.metrics.settings import MetricSettings
from device_agent.notary import KeyNotary
from device_agent.ports import Incoming, Link, MonotonicClock, Slot, SlotSets
from device_agent.runtime import Connected, Input, Runtime, Settings, presence_messages
from device_agent.transport.http import DeviceHttp
from device_agent.transport.mqtt import Broker, MqttLink, Will
from device_agent.transport.tls import client_context
from device_agent.trusted_time import BUILD_TIME
from device_agent.work import Job, Ports
from firmware.contents import ROOT_SET
from simulator.depot import Blob, Depot, facts_of
from simulator.fakes import MemoryBoot, MemoryEffects, SharedInstaller, SharedSlots
from simulator.vitals import Defect, Vitals, keep_book

log = logging.getLogger(__name__)
TICK_S = 0.25
JOB_THREADS = 8
ENROL_THREADS = 4
ROOM = Path("/simulated")
"""Where a device's files are, in its own memory."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What the simulated devices are like. `bytes_per_s` of a device's link; seconds that a reboot takes, from and to.
    `measured`: what they measure of themselves (None: nothing), and did for `measured_before_h` hours before they were enrolled;
    `defects`: releases that it shows."""

    hardware: str
    factory: Blob
    settings: Settings
    bytes_per_s: float = 20e6
    boot_s: tuple[float, float] = (0.3, 1.0)
    reconnect_min_s: float = 0.5
    reconnect_max_s: float = 5.0
    clock: MonotonicClock = field(default_factory=lambda: Clock())
    measured: MetricSettings | None = None
    measured_before_h: int = 0
    defects: Sequence[Defect] = ()


class Clock:
    """Monotonic seconds of this process."""

    def seconds(self) -> float:
        return time.monotonic()


class Chance:
    """Randomness of one device; the jitter is seeded, nonces never are."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - jitter, not secrets

    def nonce(self) -> str:
        return secrets.token_urlsafe(18)

    def jitter(self) -> float:
        return self._random.random()


class LateLink:
    """A `Link` that is put in place after the runtime that publishes on it was made."""

    def __init__(self) -> None:
        self.inner: Link | None = None

    def start(self, on_message: Callable[[Incoming], None], on_connected: Callable[[bool], None]) -> None:
        if self.inner is not None:
            self.inner.start(on_message, on_connected)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        return self.inner is not None and self.inner.publish(topic, payload, qos=qos, retain=retain)

    def stop(self) -> None:
        if self.inner is not None:
            self.inner.stop()


class Device:
    """One simulated device. All methods but the callbacks of its link run on the swarm's thread."""

    def __init__(self, directory: Path, identity: Identity, world: World, depot: Depot, seed: int) -> None:
        self.identity, self._world = identity, world
        self._directory = directory
        self._context = client_context(directory, self._trusted_time)
        self._signer = report_signer((directory / REPORT_KEY_FILE).read_bytes())
        self._effects = MemoryEffects()
        self._chance = Chance(seed)
        self._http = DeviceHttp(identity.https_url, self._context)
        self._slots = SharedSlots(world.factory)
        self._installer = SharedInstaller(self._slots, depot, self._http, bytes_per_s=world.bytes_per_s)
        clock = world.clock.seconds
        self.boot = MemoryBoot(self._slots, depot, clock)
        self.boots = 0
        self.runtime: Runtime | None = None
        self.starts_at: float | None = clock()
        self._link = LateLink()
        self._vitals = Vitals(seed, world.defects, self._runs, clock)
        if world.measured_before_h:
            keep_book(self._effects, ROOM, self._vitals.measured_before(world.measured_before_h, time.time()))

    def start(self, put: Callable[[int, Input], None]) -> None:
        """Boot: a new runtime on the old bytes, and a new link. `put(boot number, input)` is called from other threads."""
        self.boot.power_on()
        self._vitals.booted()
        self.boots += 1
        self.starts_at = None
        number, session = self.boots, secrets.token_urlsafe(18)
        self._link = LateLink()
        self.runtime = Runtime(
            identity=self.identity,
            ports=self._ports(),
            directory=ROOM,
            settings=self._world.settings,
            identify_slot=self._identify,
            session=session,
        )
        topic, _, will = presence_messages(self.identity.agent, session)
        world, identity = self._world, self.identity
        self._link.inner = MqttLink(
            Broker(
                host=identity.mqtt_host,
                port=identity.mqtt_port,
                reconnect_min_s=world.reconnect_min_s,
                reconnect_max_s=world.reconnect_max_s,
            ),
            identity.agent,
            Will(topic=topic, payload=will),
            tls=self._context,
        )
        self.runtime.start()
        self._link.start(lambda message: put(number, message), lambda online: put(number, Connected(online=online)))

    def power_cut(self, now: float) -> Link:
        """Lose everything that is not durable; boots again after a while. The old link is returned, to be stopped elsewhere."""
        if self.runtime is not None:
            self.runtime.stop()
        self.runtime = None
        self.starts_at = now + self._boot_s()
        return self._link

    def next_wake(self) -> float | None:
        """Monotonic seconds at which something is due here."""
        if self.runtime is None:
            return self.starts_at
        times = (self.runtime.next_wake(), self.boot.deadline_at)
        return min((at for at in times if at is not None), default=None)

    def _ports(self) -> Ports:
        root = (self._directory / ROOT_FILE).read_bytes()
        catalogue = DeviceCatalogue(
            self._effects,
            ROOM / "catalogue",
            root=root,
            fetch_metadata=self._http.metadata,
            fetch_target=self._http.target,
            trusted_time=BUILD_TIME,
        )
        return Ports(
            effects=self._effects,
            slots={ROOT_SET: self._slots},
            boot=self.boot,
            catalogue=catalogue,
            notary=KeyNotary(catalogue, self._signer),
            installer=self._installer,
            health=HealthRunner(),
            link=self._link,
            clock=self._world.clock,
            chance=self._chance,
            metrics=self._metric_desk(),
        )

    def _metric_desk(self) -> MetricDesk | None:
        wanted = self._world.measured
        return MetricDesk(self._effects, ROOM, wanted, meter=self._vitals) if wanted is not None else None

    def _runs(self) -> str:
        blob = self._slots.holds(self.boot.status().slot)
        return facts_of(blob).version if blob is not None else ""

    def _identify(self, sets: SlotSets, slot: Slot) -> Content | None:
        blob = self._slots.holds(slot)
        if blob is None:
            return None
        facts = facts_of(blob)
        return Content(
            product=facts.product,
            version=facts.version,
            counter=facts.counter,
            sha256=blob.sha256,
            length=blob.length,
            good=True,
        )

    def _trusted_time(self) -> float:
        runtime = self.runtime  # a job may ask while the swarm cuts the power
        return float(BUILD_TIME) if runtime is None else runtime.trusted_time()

    def _boot_s(self) -> float:
        least, most = self._world.boot_s
        return least + (most - least) * self._chance.jitter()


class _Crash(NamedTuple):
    """A job ended with an error that it should not have."""

    error: Exception


class Swarm:
    """Drives devices until stopped."""

    def __init__(self, devices: list[Device], depot: Depot, clock: MonotonicClock | None = None) -> None:
        """`clock`: that of the devices' world."""
        self._devices = devices
        self._now = (clock or Clock()).seconds
        self._depot = depot
        self._happened: queue.SimpleQueue[tuple[Device, int, Input | _Crash] | None] = queue.SimpleQueue()
        self._jobs = ThreadPoolExecutor(JOB_THREADS, thread_name_prefix="job")
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve all devices; returns after `stop`."""
        try:
            while not self._stopping.is_set():
                for device in self._due():
                    self._tend(device)
                self._take(self._wait_s())
        finally:
            for device in self._devices:
                device.power_cut(self._now()).stop()
            self._jobs.shutdown(wait=True, cancel_futures=True)
            self._depot.close()

    def stop(self) -> None:
        """End `run` soon; callable from a signal handler."""
        self._stopping.set()
        self._happened.put(None)

    def _due(self) -> Iterator[Device]:
        now = self._now()
        for device in self._devices:
            at = device.next_wake()
            if at is not None and at <= now:
                yield device

    def _tend(self, device: Device) -> None:
        with self._crashing(device):
            if device.runtime is None:
                device.start(lambda number, happened: self._happened.put((device, number, happened)))
            else:
                device.runtime.due()
            self._after(device)

    def _take(self, wait_s: float) -> None:
        """Wait for one input, then take all that have come."""
        try:
            item = self._happened.get(timeout=wait_s)
        except queue.Empty:
            return
        while item is not None:
            device, number, happened = item
            if device.runtime is not None and number == device.boots:
                with self._crashing(device):
                    self._give(device, device.runtime, happened)
            if self._happened.empty():
                return
            item = self._happened.get()

    def _give(self, device: Device, runtime: Runtime, happened: Input | _Crash) -> None:
        if isinstance(happened, _Crash):
            raise happened.error
        runtime.handle(happened)
        runtime.due()
        self._after(device)

    @contextmanager
    def _crashing(self, device: Device) -> Iterator[None]:
        """An agent that breaks ends with its device's power, which comes back; the others go on."""
        try:
            yield
        except Exception:
            log.exception("the agent of %s crashed; its device restarts", device.identity.target)
            self._jobs.submit(device.power_cut(self._now()).stop)

    def _after(self, device: Device) -> None:
        """Run the jobs that a call left, and reboot a device that asked for it or whose trial is lost."""
        if device.runtime is None:
            return
        for job in device.runtime.take_jobs():
            self._jobs.submit(self._work, device, device.boots, job)
        if device.boot.reboot_asked or device.boot.trial_is_lost():
            self._jobs.submit(device.power_cut(self._now()).stop)

    def _work(self, device: Device, number: int, job: Job) -> None:
        try:
            answer: Input | _Crash = job.run()
        except Exception as error:  # noqa: BLE001 - told to the swarm, which restarts the device
            answer = _Crash(error)
        self._happened.put((device, number, answer))

    def _wait_s(self) -> float:
        now = self._now()
        nearest = min((at for device in self._devices if (at := device.next_wake()) is not None), default=now + TICK_S)
        return min(max(0.0, nearest - now), TICK_S)


def enrol_devices(
    directory: Path, claims: Sequence[str], world: World, depot: Depot, *, on_enrolled: Callable[[], None]
) -> list[Device]:
    """Enrol a device with each claim token over the real API; keys and certificates are kept below `directory`.

    Raises what `device_agent.enrol.enrol` raises.
    """

    def one(number: int) -> Device:
        room = directory / f"device-{number:05}"
        identity = enrol(room, claims[number], world.hardware)
        on_enrolled()
        return Device(room, identity, world, depot, seed=number)

    with ThreadPoolExecutor(ENROL_THREADS) as pool:
        return list(pool.map(one, range(len(claims))))
