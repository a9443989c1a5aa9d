"""From files into a bucket, while artifacts are served: what lies on the old shelf is given from there until it is on the new
one, where all that comes goes at once."""

import heapq
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from server.errors import NotFoundError
from server.ports import Resting, Shelf
from server.shelves.files import FileShelf


class MovingShelf:
    """`tidy` moves: it takes as long as that does."""

    def __init__(self, old: FileShelf, new: Shelf) -> None:
        self._old, self._new = old, new

    def length(self, sha256: str) -> int | None:
        found = self._old.length(sha256)
        return self._new.length(sha256) if found is None else found

    def read(self, sha256: str, offset: int, size: int) -> bytes:
        try:
            return self._old.read(sha256, offset, size)
        except NotFoundError:
            return self._new.read(sha256, offset, size)

    def file(self, sha256: str) -> Path | None:
        return self._old.file(sha256) or self._new.file(sha256)

    def put(self, path: Path, sha256: str) -> None:
        self._new.put(path, sha256)

    def listed(self) -> Iterator[Resting]:
        both = heapq.merge(self._old.listed(), self._new.listed(), key=_name)
        return (next(same) for _, same in groupby(both, key=_name))

    def check(self) -> None:
        self._new.check()

    def reach(self) -> None:
        self._new.reach()

    def tidy(self, now: float) -> int:
        for one in self._old.listed():
            self._new.put(self._old.path(one.sha256), one.sha256)
        return self._new.tidy(now)

    def close(self) -> None:
        self._new.close()


def _name(one: Resting) -> str:
    return one.sha256
