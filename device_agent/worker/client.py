"""The resident side: starts the worker when something is to be done, asks it, and lets it go when nothing was for a while.

A worker may die at any moment, and is killed when it is silent for too long. What was asked of it is asked of one more; then
it is an `UnavailableError`, like a network that is not there. Nothing is kept in a worker that it could not find again on
disk. There is one worker at a time, started for one caller while the others wait: nobody can make us start more.
"""

import contextlib
import logging
import os
import queue
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from device_agent.transport.ways import Way
from device_agent.worker.wire import (
    UP,
    Answered,
    Asked,
    Block,
    Call,
    Down,
    Facts,
    Failed,
    Halt,
    Told,
    Unfit,
    Up,
    Wanted,
    decode,
    encode,
    read_frame,
)
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
SIGNERS = ("azure", "boto3", "google.cloud", "hvac", "keylet", "pkcs11")
T = TypeVar("T")
TRIES = 2
STOP_EVERY_S = 0.25
WAIT_EVERY_S = 2.0
END_S = 5.0
SEND_S = 30.0
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


class Spawned(NamedTuple):
    """A worker process and our end of its socket."""

    process: subprocess.Popen[bytes]
    connection: socket.socket


Spawn = Callable[[], Spawned]


@dataclass(frozen=True, kw_only=True)
class Ears:
    """Who hears what a worker says unasked, on a thread of its own."""

    facts: Callable[[Facts], None]
    want: Callable[[bytes], object]


class _GoneError(Exception):
    """The worker ended before it answered. `unfit`: why it could not start."""

    def __init__(self, unfit: Unfit | None = None) -> None:
        super().__init__()
        self.unfit = unfit


class Worker:
    """Calls to a worker process. May be used by several threads."""

    def __init__(
        self,
        spawn: Spawn,
        ears: Ears,
        *,
        trusted_time: Callable[[], float],
        way: Callable[[], Way],
        idle_s: float,
    ) -> None:
        """`idle_s`: how long a worker without anything to do is kept."""
        self._spawn, self._ears, self._idle_s = spawn, ears, idle_s
        self._trusted_time, self._way = trusted_time, way
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._stopping = False
        self._number = 0

    @property
    def is_alive(self) -> bool:
        """Whether there is a worker now."""
        session = self._session
        return session is not None and not session.is_gone

    def ask(
        self,
        call: Call,
        kind: type[T],
        *,
        limit_s: float,
        on_progress: Callable[[int, int], None] | None = None,
        stop: Callable[[], bool] | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> T:
        """The answer. A worker that says nothing about the call for `limit_s` is killed. `on_wait` is called now and then until
        it comes.

        Raises `UnavailableError` (`worker-ended`, or the call's own), and whatever else the call raises.
        """
        for _ in range(TRIES):
            session, number = self._begin()
            asked = Asked(number=number, call=call, trusted_time=self._trusted_time(), way=self._way())
            try:
                return session.ask(asked, kind, limit_s=limit_s, on_progress=on_progress, stop=stop, on_wait=on_wait)
            except _GoneError as gone:
                if gone.unfit is not None:
                    raise _typed(gone.unfit) from gone
        raise UnavailableError(
            ReasonKind.WORKER_ENDED, "The agent's worker process ended before it was done; it is tried again."
        )

    def give(self, block: bytes) -> None:
        """Hand a block to the worker that waits for it, if there is one."""
        session = self._session
        if session is not None and session.is_busy:
            session.send(Block(payload=block))

    def stop(self) -> None:
        """Start no more workers, and end the one there is."""
        with self._lock:
            self._stopping = True
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _begin(self) -> "tuple[_Session, int]":
        with self._lock:
            if self._stopping:
                raise UnavailableError(ReasonKind.INTERRUPTED, "The agent is stopping.")
            if self._session is None or not self._session.reserve():
                self._session = _Session(self._spawned(), self._ears, self._idle_s)
                self._session.reserve()
            self._number += 1
            return self._session, self._number

    def _spawned(self) -> Spawned:
        try:
            return self._spawn()
        except OSError as error:
            text = f"The agent's worker process could not be started: {error.strerror or error}; it is tried again."
            raise UnavailableError(ReasonKind.WORKER_ENDED, text) from error


class _Session:
    """One worker process from its start to its end."""

    def __init__(self, spawned: Spawned, ears: Ears, idle_s: float) -> None:
        self._process, self._connection = spawned
        self._ears, self._idle_s = ears, idle_s
        seconds = struct.pack("ll", int(SEND_S), 0)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._reserved = 0
        self._waiting: dict[int, queue.SimpleQueue[Answered | Failed | Told | None]] = {}
        self.is_gone = False
        self._unfit: Unfit | None = None
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    @property
    def is_busy(self) -> bool:
        return self._reserved > 0 and not self.is_gone

    def reserve(self) -> bool:
        """Make sure that it stays for one more call; False when it is about to end."""
        with self._lock:
            if self.is_gone:
                return False
            self._reserved += 1
            return True

    def ask(
        self,
        asked: Asked,
        kind: type[T],
        *,
        limit_s: float,
        on_progress: Callable[[int, int], None] | None,
        stop: Callable[[], bool] | None,
        on_wait: Callable[[], None] | None,
    ) -> T:
        """The answer to a reserved call. Raises `_GoneError`."""
        heard: queue.SimpleQueue[Answered | Failed | Told | None] = queue.SimpleQueue()
        with self._lock:
            self._waiting[asked.number] = heard
            if self.is_gone:
                heard.put(None)
        try:
            self.send(asked)
            said = self._hear(asked.number, heard, limit_s, on_progress, stop, on_wait)
        finally:
            with self._lock:
                del self._waiting[asked.number]
                self._reserved -= 1
        if isinstance(said, Failed):
            raise _error(said)
        return decode(said.value, kind)

    def send(self, frame: Down) -> None:
        """Hand a frame over; a worker that does not take it is as good as dead."""
        try:
            with self._sending:
                self._connection.sendall(encode(frame))
        except OSError:
            self._give_up()
            self.close()

    def _give_up(self) -> None:
        """Let nobody ask this one any more."""
        with self._lock:
            self.is_gone = True

    def close(self) -> None:
        """Tell the worker to end."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _hear(
        self,
        number: int,
        heard: "queue.SimpleQueue[Answered | Failed | Told | None]",
        limit_s: float,
        on_progress: Callable[[int, int], None] | None,
        stop: Callable[[], bool] | None,
        on_wait: Callable[[], None] | None,
    ) -> Answered | Failed:
        silent_s, halted = 0.0, False
        step_s = min(limit_s, STOP_EVERY_S if stop else WAIT_EVERY_S if on_wait else limit_s)
        while True:
            try:
                said = heard.get(timeout=step_s)
            except queue.Empty:
                silent_s += step_s
                if silent_s >= limit_s:
                    log.error("the worker is silent and is killed", extra={"seconds": limit_s})
                    self._give_up()
                    self._process.kill()
                    raise _GoneError from None
            else:
                silent_s = 0.0
                if said is None:
                    raise _GoneError(self._unfit)
                if not isinstance(said, Told):
                    return said
                if on_progress is not None and said.total:
                    on_progress(said.done, said.total)
            if on_wait is not None:
                on_wait()
            if stop is not None and not halted and stop():
                halted = True
                self.send(Halt(number=number))

    def _run(self) -> None:
        try:
            self._read()
        except (OSError, RefusedError) as error:
            log.warning("lost the worker", extra={"reason": str(error)})
        with self._lock:
            self.is_gone = True
            for heard in self._waiting.values():
                heard.put(None)
        self._end()

    def _read(self) -> None:
        while self._has_something():
            said = read_frame(self._connection, UP)
            if said is None:
                return
            self._take(said)

    def _has_something(self) -> bool:
        """Wait for a frame; False when nothing was asked for so long that the worker may go."""
        while not select.select([self._connection], [], [], self._idle_s)[0]:
            with self._lock:
                if not self._reserved:
                    self.is_gone = True
                    return False
        return True

    def _take(self, said: Up) -> None:
        if isinstance(said, Facts):
            self._ears.facts(said)
        elif isinstance(said, Unfit):
            self._unfit = said
        elif isinstance(said, Wanted):
            self._ears.want(said.payload)
        else:
            with self._lock:
                heard = self._waiting.get(said.number)
                if heard is not None:
                    heard.put(said)

    def _end(self) -> None:
        """The worker ends when its socket does; else it is killed."""
        self.close()
        self._connection.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _error(failed: Failed) -> Exception:
    if failed.error is not None:
        return OSError(failed.error, failed.text)
    return _typed(failed)


def _typed(said: Failed | Unfit) -> OtariaError:
    return (RefusedError if said.is_refused else UnavailableError)(said.kind, said.text)


def worker_command(directory: Path) -> list[str]:
    """The command of an agent's worker, less its socket's number. No token and no cloud signs anything here: their libraries,
    which securesystemslib imports wherever it finds them, would only take memory and time."""
    without = f"import sys; sys.modules.update(dict.fromkeys({SIGNERS!r}))"
    code = f"{without}\nfrom device_agent.worker.app import main; main(sys.argv[2:])"
    return [sys.executable, "-c", code, "device_agent.worker.app", str(directory)]


def start_process(argv: list[str]) -> Spawned:
    """Start a worker with one end of a socket pair, named by its number as the last argument."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = subprocess.Popen(
                [*argv, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
                env=_environment(),
            )
    except BaseException:
        ours.close()
        raise
    return Spawned(process, ours)


def _environment() -> dict[str, str]:
    """Ours, without what systemd tells the main process. One arena, because each thread's own would stay after it; and what is
    large goes back to the system when it is let go, because most of what a worker holds is windows."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_"))
    }
    return {**MALLOC, **kept}
