"""A job of an exact run that waits for the broker while the world's time goes on.

Rules
- It has a thread of its own, but either it runs or the rest of the run does, never both: each hands over, and waits until it is
  handed back. So what happens is the same again, and nothing needs to be locked.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from device_agent.work import JobDone
from simulator.wire.waiting import PowerLostError, Waiting

if TYPE_CHECKING:
    from simulator.exact.timeline import Timeline


class Strand(threading.Thread):
    """Runs `work`, and hands what comes of it to `answer`, on the thread of whoever let it go on."""

    def __init__(self, work: Callable[[], JobDone], answer: Callable[[JobDone], None]) -> None:
        super().__init__(name="job", daemon=True)
        self._work, self._answer = work, answer
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._done: JobDone | None = None
        self._is_paused = False
        self.pauses = 0

    def begin(self) -> None:
        """Run it until it waits for something, or is done. Raises what it does."""
        self.start()
        self._take_back()

    def resume(self, pause: int) -> None:
        """Let it go on from this pause of its, unless it did."""
        if self._is_paused and pause == self.pauses:
            self._is_paused = False
            self._go.release()
            self._take_back()

    def pause(self) -> None:
        """Wait to be resumed; called by what it runs, which counted the pause."""
        self._is_paused = True
        self._back.release()
        self._go.acquire()

    def run(self) -> None:
        """See `threading.Thread.run`."""
        self._go_through()
        self._back.release()

    def _go_through(self) -> None:
        try:
            self._done = self._work()
        except PowerLostError:
            return
        except BaseException as error:  # noqa: BLE001 (raised where the run goes on)
            self._error = error

    def _take_back(self) -> None:
        self._back.acquire()
        if self._error is not None:
            raise self._error
        if self._done is not None:
            self._answer(self._done)


class Turns(Waiting):
    """What strands wait by: until they are told, or their time is over by the world's clock."""

    def __init__(self, timeline: "Timeline") -> None:
        super().__init__()
        self._timeline = timeline
        self._paused: list[tuple[Strand, int]] = []

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        return None

    def wait(self, timeout: float | None = None) -> bool:
        strand = threading.current_thread()
        if self.is_over or not isinstance(strand, Strand):
            raise PowerLostError
        strand.pauses += 1
        pause = strand.pauses
        self._paused.append((strand, pause))
        if timeout is not None:
            self._timeline.later(self._timeline.now() + timeout, lambda: strand.resume(pause))
        strand.pause()
        if self.is_over:
            raise PowerLostError
        return True

    def notify_all(self) -> None:
        paused, self._paused = self._paused, []
        for strand, pause in paused:
            self._timeline.later(self._timeline.now(), lambda strand=strand, pause=pause: strand.resume(pause))  # type: ignore[misc]

    def end(self) -> None:
        """At once: nobody hands over to them any more."""
        self.is_over = True
        paused, self._paused = self._paused, []
        for strand, pause in paused:
            strand.resume(pause)
