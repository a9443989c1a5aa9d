"""Cuts a stream into windows: no more than one of them is ever in memory, and no byte beyond the promised length is kept."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager

from device_agent.ports import Fetch
from firmware.encryption.chunked import Decryption
from firmware.encryption.layout import encrypted_offset
from firmware.errors import RefusedError, UnavailableError
from firmware.manifest import WINDOW_BYTES
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind

Stop = Callable[[], bool]
Windows = Generator[bytes, None, None]


def windows_of(chunks: Iterable[bytes], length: int, stop: Stop) -> Windows:
    """Yield `length` bytes in windows of `WINDOW_BYTES`, each as soon as it is there; the last may be shorter and comes only
    after the stream has ended.

    Raises `RefusedError` (`artifact-too-long` at the first chunk that goes beyond, `artifact-truncated`) and `UnavailableError`
    (`interrupted`) when `stop()` turns true, which is asked at every chunk.
    """
    window, left = bytearray(), length
    for chunk in chunks:
        raise_if_stopped(stop)
        if len(chunk) > left:
            raise RefusedError(
                ReasonKind.ARTIFACT_TOO_LONG, f"The artifact goes on after its {length} bytes; publish it again."
            )
        left -= len(chunk)
        view = memoryview(chunk)
        while view:
            room = WINDOW_BYTES - len(window)
            window += view[:room]
            view = view[room:]
            if len(window) == WINDOW_BYTES and (left or view):
                yield bytes(window)
                window.clear()
    if left:
        raise RefusedError(
            ReasonKind.ARTIFACT_TRUNCATED, f"The artifact ends {left} bytes early; publish it again or clear the cache."
        )
    if window:
        yield bytes(window)


def windows_from(source: Fetch, file: FileRef, offset: int, stop: Stop) -> Windows:
    """The file's bytes from `offset` to its end, in windows; the stream is closed when the caller leaves early."""
    with _opened(source, file, offset) as chunks:
        yield from windows_of(chunks, file.length - offset, stop)


def decrypted_from(
    source: Fetch, file: FileRef, decryption: Decryption, offset: int, length: int, stop: Stop
) -> Windows:
    """As `windows_from`, of an encrypted file with `length` plain bytes, from the plain `offset` on; nothing before is fetched.

    Raises `RefusedError` (`cannot-decrypt`) as well: what is given out is authentic.
    """
    with _opened(source, file, encrypted_offset(offset)) as chunks:
        plain = decryption.decrypt(_until(stop, chunks), offset=offset)
        yield from windows_of(plain, length - offset, stop)


@contextmanager
def _opened(source: Fetch, file: FileRef, offset: int) -> Iterator[Iterator[bytes]]:
    chunks = source.open(file, offset=offset)
    try:
        yield chunks
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _until(stop: Stop, chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        raise_if_stopped(stop)
        yield chunk


def raise_if_stopped(stop: Stop) -> None:
    """Raise `UnavailableError` (`interrupted`) when `stop()` is true."""
    if stop():
        raise UnavailableError(ReasonKind.INTERRUPTED, "The installation was interrupted; it goes on where it stopped.")
