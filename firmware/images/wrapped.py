"""gzip, xz and zstd around an image: at most `INNER_BYTES` are unpacked, from at most `OUTER_BYTES`, whatever the file claims."""

import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import cast

import zstandard

from firmware.images.disk import Look
from firmware.images.facts import ImageFacts
from firmware.images.source import Source

INNER_BYTES = 2 << 20
OUTER_BYTES = 4 << 20
MEMORY_BYTES = 136 << 20
"""What a decoder may reserve: enough for `xz -9` and `zstd --long`. It touches as much of it as it unpacks."""

_BLOCK_BYTES = 64 << 10
Chunks = Iterator[bytes]


def recognise(source: Source, look: Look) -> ImageFacts | None:
    """A compressed image and what is in it. Needs a beginning that really unpacks."""
    head = source.read(0, 6)
    unpack = next(((name, reader) for name, magic, reader in _WRAPPERS if head.startswith(magic)), None)
    if unpack is None:
        return None
    name, reader = unpack
    try:
        inner, ended = _head(reader(_chunks(source)))
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError):
        return None
    if not inner:
        return None
    source.budget.take(len(inner))
    content = look(
        Source(
            raw=lambda offset, size: inner[offset : offset + size],
            size_bytes=len(inner) if ended else None,
            budget=source.budget,
        )
    )
    details = {"unpacked_bytes": str(len(inner)) if ended else f"more than {len(inner) - 1}"}
    return ImageFacts(
        kind=name,
        size_bytes=source.size_bytes,
        version=content.version,
        compression=name,
        details=details,
        content=content,
    )


def _head(unpacked: Chunks) -> tuple[bytes, bool]:
    """The first bytes, and whether they are all."""
    out = bytearray()
    for chunk in unpacked:
        out += chunk
        if len(out) >= INNER_BYTES:
            return bytes(out[:INNER_BYTES]), False
    return bytes(out), True


def _chunks(source: Source) -> Chunks:
    for at in range(0, OUTER_BYTES, _BLOCK_BYTES):
        chunk = source.read(at, _BLOCK_BYTES)
        if not chunk:
            return
        yield chunk


def _gunzip(chunks: Chunks) -> Chunks:
    decoder = zlib.decompressobj(wbits=31)
    for chunk in chunks:
        while chunk and not decoder.eof:
            yield decoder.decompress(chunk, _BLOCK_BYTES)
            chunk = decoder.unconsumed_tail
        if decoder.eof:
            return


def _unxz(chunks: Chunks) -> Chunks:
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MEMORY_BYTES)
    for chunk in chunks:
        yield decoder.decompress(chunk, _BLOCK_BYTES)
        while not decoder.needs_input and not decoder.eof:
            yield decoder.decompress(b"", _BLOCK_BYTES)
        if decoder.eof:
            return


def _unzstd(chunks: Chunks) -> Chunks:
    decoder = zstandard.ZstdDecompressor(max_window_size=MEMORY_BYTES)
    with decoder.stream_reader(cast("bytes", _Pipe(chunks))) as reader:
        while chunk := reader.read(_BLOCK_BYTES):
            yield chunk


class _Pipe:
    """What zstandard reads from: a file's `read` over chunks, which may give less than was asked."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks

    def read(self, _size: int) -> bytes:
        return next(self._chunks, b"")


_WRAPPERS: tuple[tuple[str, bytes, Callable[[Chunks], Chunks]], ...] = (
    ("gzip", b"\x1f\x8b\x08", _gunzip),
    ("xz", b"\xfd7zXZ\x00", _unxz),
    ("zstd", b"\x28\xb5\x2f\xfd", _unzstd),
)
