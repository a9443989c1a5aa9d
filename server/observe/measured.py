"""A `Database` whose transactions are timed and whose errors are counted."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from firmware.errors import OtariaError
from server.observe.meters import Meters
from server.ports import Database, Unit

T = TypeVar("T")


class MeasuredDatabase:
    """Hands everything to `inner`."""

    def __init__(self, inner: Database, meters: Meters, *, counted: Callable[[], float] = time.monotonic) -> None:
        self._inner, self._meters, self._counted = inner, meters, counted

    async def read(self, work: Callable[[Unit], T]) -> T:
        with self._measured("read"):
            return await self._inner.read(work)

    async def write(self, work: Callable[[Unit], T]) -> T:
        with self._measured("write"):
            return await self._inner.write(work)

    async def close(self) -> None:
        await self._inner.close()

    @contextmanager
    def _measured(self, mode: str) -> Iterator[None]:
        began = self._counted()
        try:
            yield
        except OtariaError as error:
            if error.kind in ("storage-fault", "conflict", "not-leader"):
                self._meters.storage_errors.labels(error.kind).inc()
            raise
        finally:
            self._meters.transactions.labels(mode).observe(self._counted() - began)
