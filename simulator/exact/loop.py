"""An event loop whose time is a timeline's: server parts that are tasks of their own, and sleep, go on within an exact run.

Rules
- What is due at a time is on the timeline, as all else is. What would go to other threads is done at once, on this one.
- `rest` lets every task go as far as it can at this time.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any

from simulator.exact.timeline import Timeline


class TimelineLoop(asyncio.SelectorEventLoop):
    """`has_woken`: what somebody slept for is over, since `rest` was called."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline
        self._calls = 0
        self.has_woken = False

    def time(self) -> float:
        return self._timeline.now()

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        self._calls += 1
        return super().call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)

        def wake() -> None:
            if not timer.cancelled():
                self.has_woken = True
                self.call_soon(callback, *args, context=context)

        self._timeline.later(when, wake)
        return timer

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 (raised where it is awaited)
            done.set_exception(error)
        return done

    async def rest(self) -> None:
        """Returns when every other task waits for something that takes time."""
        self.has_woken = False
        while True:
            before = self._calls
            await asyncio.sleep(0)
            if self._calls == before + 1:  # our own
                return
