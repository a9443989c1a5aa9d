"""A progress bar on stderr for long reads, when a person watches."""

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


@contextmanager
def watched(file: IO[bytes], length: int, label: str) -> Iterator[IO[bytes]]:
    """The file with a bar of `length` bytes beside its reads; without a bar when short or when nobody watches."""
    if length < LONG_BYTES or not sys.stderr.isatty():
        yield file
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield cast("IO[bytes]", Watched(file, bar.update))
