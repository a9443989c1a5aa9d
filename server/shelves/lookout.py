"""Looks now and then whether the artifact store is reached, so that whoever asks whether the server is ready neither waits for
the store nor burdens it.

Rules
- One question at most is under way. One without an answer for `limit_s` counts as unanswered; it goes on, and no other is put
  before it has ended.
- What is told names neither address nor bucket: who asks shows no token. The log says more, once for each change.
- A store that is busy is reached.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from server.errors import StoreError

EVERY_S = 10.0
LIMIT_S = 5.0
_REACHED = ""
_WHY = {
    "store-busy": _REACHED,
    "store-unreachable": "which is not reached",
    "store-denied": "which refuses the server's keys",
    "store-credentials-missing": "for which the server has no keys",
    "store-bucket-missing": "whose bucket is gone",
}
_log = logging.getLogger(__name__)


class Lookout:
    """Keep `run` running. `reach` blocks, and raises `StoreError` or `OSError` when the store is not reached."""

    def __init__(self, reach: Callable[[], None], *, every_s: float = EVERY_S, limit_s: float = LIMIT_S) -> None:
        self._reach, self._every_s, self._limit_s = reach, every_s, limit_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lookout")
        self._asked: asyncio.Future[None] | None = None
        self._why = "which has not been asked yet"

    @property
    def is_reached(self) -> bool:
        """Whether the store was reached when it was asked last."""
        return self._why == _REACHED

    @property
    def missing(self) -> str:
        """What is waited for while it is not reached, and why, in words."""
        return f"the artifact store, {self._why}" if self._why else ""

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(self._every_s)
        finally:
            if self._asked is not None:
                self._asked.cancel()
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def look(self) -> None:
        """Ask once, or wait for what was asked before, for `limit_s` at most."""
        asked = self._asked or asyncio.get_running_loop().run_in_executor(self._pool, self._reach)
        self._asked = asked
        done, _ = await asyncio.wait({asked}, timeout=self._limit_s)
        if not done:
            self._say(f"which has not answered for {self._limit_s:g} s", None)
            return
        self._asked = None
        try:
            asked.result()
        except StoreError as error:
            self._say(_WHY.get(error.kind, "which refuses what it is asked"), error)
        except OSError as error:
            self._say(f"whose directory can't be used: {error.strerror or type(error).__name__}", error)
        else:
            self._say(_REACHED, None)

    def _say(self, why: str, error: Exception | None) -> None:
        if why != self._why and why:
            _log.warning("the artifact store is not reached: %s", error or why)
        elif why != self._why:
            _log.info("the artifact store is reached")
        self._why = why
