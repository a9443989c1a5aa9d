"""Reads a patch's zstd frame (RFC 8878) block by block, so that no step makes more than one block's 128 KiB.

The decoder is given exactly one block at a time; how long each is stands before it. So a bomb costs what is asked of it, and
the end of the frame, early or late, is found to the byte.
"""

from collections.abc import Iterator

import zstandard

from firmware.delta.format import MAX_ARGUMENT_BYTES
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

MAX_BLOCK_BYTES = 128 << 10
"""What one block holds at most, compressed or not."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_DESCRIPTOR_AT = 4
_SINGLE_SEGMENT, _CHECKSUM, _DICTIONARY = 0x20, 0x04, 0x03
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_RLE = 1


class PatchInput:
    """The bytes of a patch that arrives in chunks, read in pieces of a wanted length."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises `RefusedError` (`artifact-truncated`)."""
        out = bytearray()
        while len(out) < size:
            if not self._has_more():
                raise RefusedError(ReasonKind.ARTIFACT_TRUNCATED, "The delta ends early; fetch it again.")
            part = self._chunk[: size - len(out)]
            out += part
            self._chunk = self._chunk[len(part) :]
        return bytes(out)

    def finish(self) -> None:
        """Check that nothing is left. Raises `RefusedError` (`artifact-too-long`)."""
        if self._has_more():
            raise RefusedError(ReasonKind.ARTIFACT_TOO_LONG, "Bytes follow the end of the delta; fetch it again.")

    def _has_more(self) -> bool:
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._chunk = memoryview(chunk)
        return True


class FrameReader:
    """What a frame holds, decoded no further than is asked for, and at most a block ahead."""

    def __init__(self, data: PatchInput, window_log: int) -> None:
        """`window_log`: a frame that wants a larger window is refused before anything is allocated."""
        self._input = data
        self._decoder = zstandard.ZstdDecompressor(max_window_size=1 << window_log).decompressobj()
        self._decoded = b""
        self._at = 0
        self._is_last = False
        self._is_begun = False

    def byte(self) -> int:
        """The next byte."""
        while self._at == len(self._decoded):
            self._step()
        self._at += 1
        return self._decoded[self._at - 1]

    def number(self) -> int:
        """The next LEB128 number."""
        value = 0
        for place in range(MAX_ARGUMENT_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value
        raise RefusedError(ReasonKind.MALFORMED, "The delta holds a number that does not end.")

    def take(self, size: int) -> bytes:
        """The next `size` bytes; the caller bounds them."""
        end = self._at + size
        if end <= len(self._decoded):
            piece = self._decoded[self._at : end]
            self._at = end
            return piece
        pieces = []
        while size:
            while self._at == len(self._decoded):
                self._step()
            piece = self._decoded[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def finish(self) -> None:
        """Check that the frame ends here and that nothing follows it."""
        while self._at == len(self._decoded) and not self._is_last:
            self._step()
        if self._at < len(self._decoded):
            raise RefusedError(ReasonKind.ARTIFACT_TOO_LONG, "Bytes follow the end of the delta; fetch it again.")
        self._input.finish()

    def _step(self) -> None:
        """Decode the next block, which may be empty."""
        if self._is_last:
            raise RefusedError(ReasonKind.ARTIFACT_TRUNCATED, "The delta's frame ends before its operations do.")
        if not self._is_begun:
            self._is_begun = True
            self._decode(self._header())
        head = self._input.read(3)
        value = int.from_bytes(head, "little")
        self._is_last, kind, size = bool(value & 1), value >> 1 & 3, value >> 3
        if size > MAX_BLOCK_BYTES:
            raise RefusedError(ReasonKind.MALFORMED, "The delta does not decode: a block is too long.")
        self._decoded, self._at = self._decode(head + self._input.read(1 if kind == _RLE else size)), 0

    def _header(self) -> bytes:
        """The frame's header."""
        head = self._input.read(_DESCRIPTOR_AT + 1)
        flags = head[_DESCRIPTOR_AT]
        if head[:_DESCRIPTOR_AT] != _MAGIC or flags & (_CHECKSUM | _DICTIONARY):
            raise RefusedError(ReasonKind.MALFORMED, "The delta does not decode: this is no frame of an otd1 delta.")
        is_single = bool(flags & _SINGLE_SEGMENT)
        size = _CONTENT_SIZE_BYTES[flags >> 6] or is_single
        return head + self._input.read(size + (not is_single))

    def _decode(self, data: bytes) -> bytes:
        try:
            return self._decoder.decompress(data)
        except zstandard.ZstdError as error:
            raise RefusedError(ReasonKind.MALFORMED, f"The delta does not decode: {error}.") from error
