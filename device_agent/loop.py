"""The real process around a `Runtime`: one thread that waits for what happens, and a short-lived thread per job.

A defect in a job, like a journal that can't be written, ends the process with its error; whoever restarts it finds the
journal as it was.
"""

import queue
import threading
from collections.abc import Callable

from device_agent.local.desk import Desk
from device_agent.local.door import LocalAsk
from device_agent.local.requests import refusal
from device_agent.ports import Incoming, Link, MonotonicClock
from device_agent.runtime import Connected, Input, Runtime
from device_agent.watchdog import Manager, Watchdog
from device_agent.work import Job
from firmware.errors import UnavailableError

MAX_WAIT_S = 3600.0
JOIN_S = 5.0
MAX_WAITING = 256


class AgentLoop:
    """Runs one agent until `stop` is called or an error ends it."""

    def __init__(
        self,
        runtime: Runtime,
        link: Link,
        clock: MonotonicClock,
        *,
        watchdog: Watchdog | None = None,
        desk: Desk | None = None,
        on_online: Callable[[bool], None] = lambda _online: None,
    ) -> None:
        """`desk` answers what `ask` takes; without one nobody may ask. `on_online` is told, on the link's thread, when the broker
        is reached or lost."""
        self._runtime, self._link, self._clock, self._on_online = runtime, link, clock, on_online
        self._watchdog, self._desk = watchdog or Watchdog(Manager({}, 0)), desk
        self._happened: queue.SimpleQueue[Input | LocalAsk | BaseException | None] = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._thread: int | None = None

    def run(self) -> None:
        """Start, then serve until stopped. Raises what ended it."""
        self._thread = threading.get_ident()
        self._runtime.start()
        self._link.start(self._take, self._connected)
        self._watchdog.ready()
        try:
            while self._turn():
                pass
        finally:
            self._watchdog.stop()
            self._runtime.stop()
            self._link.stop()
            for thread in tuple(self._threads):
                thread.join(JOIN_S)

    def stop(self) -> None:
        """End `run` soon; may be called from a signal handler or another thread."""
        self._happened.put(None)

    @property
    def is_busy(self) -> bool:
        """Whether a job's thread has not ended, though `run` may have."""
        return any(thread.is_alive() for thread in tuple(self._threads))

    def ask(self, ask: LocalAsk) -> None:
        """A request of somebody at the device; from any thread."""
        if self._happened.qsize() < MAX_WAITING:
            self._happened.put(ask)
        else:
            ask.reply(refusal(UnavailableError("busy", "The agent has much to do; ask again in a moment.")))

    def alive(self) -> None:
        """Whoever calls waits for somebody who has a time limit. If it is the loop, that is no hang; a job's waiting says nothing
        about the loop, and feeds nobody."""
        if threading.get_ident() == self._thread:
            self._watchdog.turn(self._runtime.leave(), self._clock.seconds())

    def _connected(self, online: bool) -> None:
        self._on_online(online)
        self._happened.put(Connected(online=online))

    def take(self, happened: Input) -> None:
        """Something happened that is no message; may be called from another thread."""
        self._happened.put(happened)

    def fail(self, error: BaseException) -> None:
        """End `run` with an error of somebody it can't do without; may be called from another thread."""
        self._happened.put(error)

    def _take(self, message: Incoming) -> None:
        """A flood is cut: whatever is lost here comes again by the sender's timer."""
        if self._happened.qsize() < MAX_WAITING:
            self._happened.put(message)

    def _turn(self) -> bool:
        self._start_jobs()
        self._watchdog.turn(self._runtime.leave(), self._clock.seconds())
        happened = self._next()
        if happened is None:
            return False
        if isinstance(happened, BaseException):
            raise happened
        if isinstance(happened, LocalAsk):
            if self._desk is not None:
                self._desk.take(happened)
        elif not isinstance(happened, _Waited):
            self._runtime.handle(happened)
        self._runtime.due()
        return True

    def _next(self) -> "Input | LocalAsk | BaseException | _Waited | None":
        wake = self._runtime.next_wake()
        longest_s = self._watchdog.every_s or MAX_WAIT_S
        wait_s = longest_s if wake is None else min(max(0.0, wake - self._clock.seconds()), longest_s)
        try:
            return self._happened.get(timeout=wait_s)
        except queue.Empty:
            return _Waited()

    def _start_jobs(self) -> None:
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        for job in self._runtime.take_jobs():
            thread = threading.Thread(target=self._work(job), name=job.lane.value, daemon=True)
            self._threads.add(thread)
            thread.start()

    def _work(self, job: Job) -> Callable[[], None]:
        def work() -> None:
            try:
                self._happened.put(job.run())
            except BaseException as error:
                self._happened.put(error)
                raise

        return work


class _Waited:
    """Nothing happened until the next wake."""
