"""Drives the devices of one process: one thread that waits for sockets, timers and finished jobs, and never for anything else.

Jobs that may wait for the network (the catalogue's, and those that fetch an image) run on a few threads of their own; all others
run at once.
"""

import heapq
import logging
import os
import queue
import resource
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from device_agent.work import Job, JobDone, Lane
from simulator.wire.device import Device
from simulator.wire.line import Endpoint
from simulator.wire.plan import Moment, Pulse
from simulator.wire.site import Site
from simulator.wire.waiting import PowerLostError, Waiting

log = logging.getLogger(__name__)
THREADS = 3
WAITING = 64
"""Jobs at a time that wait for the broker, beside those on `THREADS`."""
MOST_DIALLING = 96
"""Connections that are being made at a time: more of them only wait for each other."""
MOST_WAIT_S = 0.5
MOST_TIMERS = 200
"""Timers between two looks at the sockets, so that neither starves."""
PAGE = os.sysconf("SC_PAGE_SIZE")


class Wheel:
    """What is to be called when."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()

    def put(self, at: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (at, next(self._count), what))

    def next_at(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> tuple[float, Callable[[], None]] | None:
        """What is due, with its time."""
        if not self._heap or self._heap[0][0] > now:
            return None
        at, _, what = heapq.heappop(self._heap)
        return at, what


class Loop:
    """`simulator.wire.ports.Hub`. `begins`: when the world begins, on its own clock; it runs `hasten` times as fast as ours."""

    def __init__(self, site: Site, *, begins: float, hasten: float, number: int = 0) -> None:
        self.devices: dict[str, Device] = {}
        self._site, self._begins, self._hasten, self._number = site, begins, hasten, number
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._wheel = Wheel()
        self._to_dial: deque[Device] = deque()
        self._dialling: set[Device] = set()
        self._jobs = ThreadPoolExecutor(THREADS, thread_name_prefix="job")
        self._waiters = ThreadPoolExecutor(WAITING, thread_name_prefix="waits")
        self._done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell_out, self._bell_in = socket.socketpair()
        self._bell_out.setblocking(False)
        self._bell_in.setblocking(False)
        self.watch(self._bell_out, selectors.EVENT_READ, lambda _: self._ring())
        self._moments: list[Moment] = []
        self._troubles: list[str] = []
        self._started = time.monotonic()
        self._lag_s = self._idle_s = 0.0
        self._pulsed_at = self._started
        self._cpu_s = time.process_time()
        self.is_over = False

    # Devices' side

    def now(self) -> float:
        return time.monotonic()

    def world_now(self) -> float:
        return self._begins + (time.monotonic() - self._started) * self._hasten

    def wall_s(self, world_s: float) -> float:
        return world_s / self._hasten

    def later(self, at: float, what: Callable[[], None]) -> None:
        self._wheel.put(at, what)

    def watch(self, link: Endpoint, events: int, ready: Callable[[int], None]) -> None:
        number = link.fileno()
        if number in self._watched:
            self._selector.modify(number, events)
        else:
            self._selector.register(number, events)
        self._watched[number] = ready

    def forget(self, link: Endpoint) -> None:
        number = link.fileno()
        if self._watched.pop(number, None) is not None:
            self._selector.unregister(number)

    def connect(self, device: Device) -> None:
        self._to_dial.append(device)

    def tell(self, moment: Moment) -> None:
        self._moments.append(moment)

    def run(self, device: Device, number: int, job: Job) -> None:
        asked_at = time.monotonic()
        if device.member.is_mqtt_only:
            self._waiters.submit(self._run_aside, lambda: self._work(device, number, job, asked_at))
        elif job.lane in (Lane.CATALOGUE, Lane.SLOT):
            self.aside(lambda: self._work(device, number, job, asked_at))
        else:
            self._answer(device, number, job, job.run())

    def aside(self, work: Callable[[], Callable[[], None]]) -> None:
        """Let this, which may wait for the network, run on another thread; what it returns is called on ours then."""
        self._jobs.submit(self._run_aside, work)

    def _run_aside(self, work: Callable[[], Callable[[], None]]) -> None:
        self.call(work())

    def waiting(self) -> Waiting:
        return Waiting()

    def call(self, what: Callable[[], None]) -> None:
        self._done.put(what)
        try:
            self._bell_in.send(b"!")
        except (BlockingIOError, OSError):
            return  # it rings already, or nobody listens any more

    def _work(self, device: Device, number: int, job: Job, asked_at: float) -> Callable[[], None]:
        self._site.asked(asked_at)
        try:
            done = job.run()
        except PowerLostError:
            return lambda: None
        except Exception as error:  # noqa: BLE001 (told to the hub, which restarts the device)
            trouble = error
            return lambda: self._trouble(device, trouble)
        return lambda: self._answer(device, number, job, done)

    def _ring(self) -> None:
        try:
            self._bell_out.recv(65536)
        except BlockingIOError:
            return
        while not self._done.empty():
            self._guarded(self._done.get())

    def _answer(self, device: Device, number: int, job: Job, done: JobDone) -> None:
        """Hand it back: later, and never within the call that asked for the job."""
        after_s = device.staged_after_s(job)
        self.later(time.monotonic() + after_s, lambda: device.finished(number, done))

    # Driving

    def once(self) -> None:
        """One turn: dial, wait, hear, and do what is due."""
        self._dial()
        before = time.monotonic()
        next_at = self._wheel.next_at()
        wait_s = MOST_WAIT_S if next_at is None else min(max(0.0, next_at - before), MOST_WAIT_S)
        ready = self._selector.select(wait_s if not self._to_dial else min(wait_s, 0.02))
        self._idle_s += time.monotonic() - before
        for key, events in ready:
            call = self._watched.get(key.fd)
            if call is not None:
                self._guarded(call, events)
        self._due()

    def _due(self) -> None:
        for _ in range(MOST_TIMERS):
            now = time.monotonic()
            found = self._wheel.take(now)
            if found is None:
                return
            self._lag_s = max(self._lag_s, now - found[0])
            self._guarded(found[1])

    def _guarded(self, call: Callable[..., None], *given: int) -> None:
        """A defect of the agent is that device's trouble, which is told; the others go on."""
        try:
            call(*given)
        except Exception as error:
            log.exception("a simulated device broke")
            self._troubles.append(f"{type(error).__name__}: {error}")

    def _trouble(self, device: Device, error: Exception) -> None:
        log.error("a job of a simulated device broke", exc_info=error)
        self._troubles.append(f"{device.member.id}: {type(error).__name__}: {error}")
        device.power_cut()

    def _dial(self) -> None:
        if self._to_dial:
            self._dialling = {device for device in self._dialling if device.is_dialling}
        while self._to_dial and len(self._dialling) < MOST_DIALLING:
            device = self._to_dial.popleft()
            if device.dial():
                self._dialling.add(device)

    # Looking

    def pulse(self) -> Pulse:
        """How it is, since the last time."""
        now, moments, troubles = time.monotonic(), tuple(self._moments), tuple(self._troubles)
        self._moments.clear()
        self._troubles.clear()
        passed = max(now - self._pulsed_at, 1e-6)
        found = Pulse(
            at=now,
            number=self._number,
            devices=len(self.devices),
            connected=sum(one.is_connected for one in self.devices.values()),
            lag_s=self._lag_s,
            busy=1 - min(self._idle_s / passed, 1.0),
            cpu=(time.process_time() - self._cpu_s) / passed,
            rss_bytes=rss_bytes(),
            files=files(),
            fetched_bytes=self._site.fetched_bytes + self._site.block_bytes,
            states=dict(Counter(one.word for one in self.devices.values())),
            moments=moments,
            troubles=troubles,
        )
        self._lag_s = self._idle_s = 0.0
        self._pulsed_at, self._cpu_s = now, time.process_time()
        return found

    def close(self) -> None:
        for device in self.devices.values():
            device.power_cut(again=False)
        for pool in (self._jobs, self._waiters):
            pool.shutdown(wait=False, cancel_futures=True)
        self.forget(self._bell_out)
        self._bell_out.close()
        self._bell_in.close()


def rss_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def files(pid: int | str = "self") -> int:
    """Open file descriptors of a process; 0 when it is gone."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0


def allow_files(wanted: int) -> None:
    """Let this process, and what it starts, have so many sockets, as far as the system lets it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, most) if most > 0 else wanted, most))
