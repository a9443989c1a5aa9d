"""A `Shelf` whose requests are timed and whose errors are counted."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from server.errors import StoreError
from server.observe.meters import Meters
from server.ports import Resting, Shelf


class MeasuredShelf:
    """Hands everything to `inner`."""

    def __init__(self, inner: Shelf, meters: Meters, *, counted: Callable[[], float] = time.monotonic) -> None:
        self._inner, self._meters, self._counted = inner, meters, counted

    def length(self, sha256: str) -> int | None:
        with self._measured("length"):
            return self._inner.length(sha256)

    def read(self, sha256: str, offset: int, size: int) -> bytes:
        with self._measured("read"):
            return self._inner.read(sha256, offset, size)

    def file(self, sha256: str) -> Path | None:
        return self._inner.file(sha256)

    def put(self, path: Path, sha256: str) -> None:
        with self._measured("put"):
            self._inner.put(path, sha256)

    def listed(self) -> Iterator[Resting]:
        return self._inner.listed()

    def check(self) -> None:
        self._inner.check()

    def reach(self) -> None:
        with self._measured("reach"):
            self._inner.reach()

    def tidy(self, now: float) -> int:
        with self._measured("tidy"):
            return self._inner.tidy(now)

    def close(self) -> None:
        self._inner.close()

    @contextmanager
    def _measured(self, operation: str) -> Iterator[None]:
        began = self._counted()
        try:
            yield
        except StoreError as error:
            self._meters.artifact_errors.labels(error.kind).inc()
            raise
        finally:
            self._meters.artifact_seconds.labels(operation).observe(self._counted() - began)
