"""Progress bars on stderr for long work, when a person watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, cast

import click

LONG_BYTES = 8 << 20


class Watched:
    """A binary file whose reads are counted. For whoever only calls `read(size)`."""

    def __init__(self, file: IO[bytes], advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def read(self, size: int = -1) -> bytes:
        """As the file's."""
        data = self._file.read(size)
        self._advance(len(data))
        return data


class Gauge:
    """How far work on bytes has come, and may fall back. `show` is told each change in bytes."""

    def __init__(self, show: Callable[[int], None] = lambda _: None) -> None:
        self._show, self._done = show, 0

    def at(self, done: int) -> None:
        """So many bytes are done."""
        self._show(done - self._done)
        self._done = done

    def over(self, file: IO[bytes]) -> IO[bytes]:
        """The file, whose reads count."""
        return cast("IO[bytes]", Watched(file, lambda read: self.at(self._done + read)))


@contextmanager
def gauge(length: int, label: str) -> Iterator[Gauge]:
    """A gauge with a bar of `length` bytes; without a bar when short or when nobody watches."""
    if length < LONG_BYTES or not sys.stderr.isatty():
        yield Gauge()
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, show_pos=False) as bar:
        yield Gauge(bar.update)


@contextmanager
def watched(file: IO[bytes], length: int, label: str) -> Iterator[IO[bytes]]:
    """The file with a bar of `length` bytes beside its reads; without a bar when short or when nobody watches."""
    with gauge(length, label) as shown:
        yield shown.over(file)
