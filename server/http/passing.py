"""Artifacts that rest elsewhere, passed through to whoever downloads: one range, in windows, with conditions by entity tag.

What is sent never changes under its address, so its hash is its entity tag. A download holds one window and no connection to the
store; how many there may be is bounded, for all and for each device.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import ETag, hdrs, web
from multidict import CIMultiDict

from firmware.errors import OtariaError
from server.artifacts import ArtifactStore
from server.errors import NotFoundError, StoreError

WINDOW_BYTES = 1 << 20
PER_DEVICE = 4
log = logging.getLogger(__name__)


class Passing:
    """At most `most` downloads at once, each with `WINDOW_BYTES` in memory."""

    def __init__(self, artifacts: ArtifactStore, *, most: int) -> None:
        self._artifacts, self._most = artifacts, most
        self._whose: Counter[str] = Counter()

    async def answer(
        self, request: web.Request, sha256: str, headers: CIMultiDict[str], *, whose: str
    ) -> web.StreamResponse:
        """Answer a GET or HEAD. Raises `NotFoundError` and `StoreError` as long as nothing was sent; later the connection is cut,
        so that nobody takes what is there for the whole."""
        length = await self._artifacts.length(sha256)
        if length is None:
            raise NotFoundError(f"There is no artifact with the sha256 {sha256}.")
        response = web.StreamResponse(headers=headers)
        response.headers[hdrs.ACCEPT_RANGES] = "bytes"
        response.etag = sha256
        if _is_listed(request.if_match, sha256) is False:
            response.set_status(412)
        elif _is_listed(request.if_none_match, sha256):
            response.set_status(304)
        else:
            return await self._send(request, response, sha256, length, whose)
        response.content_length = 0 if response.status == 412 else None
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, sha256: str, length: int, whose: str
    ) -> web.StreamResponse:
        is_part = _wants_part(request, sha256)
        try:
            start, end = _range(request.http_range, length) if is_part else (0, length)
        except ValueError:
            response.set_status(416)
            response.headers[hdrs.CONTENT_RANGE] = f"bytes */{length}"
            response.content_length = 0
            return response
        if is_part:
            response.set_status(206)
            response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{length}"
        response.content_length = end - start
        if request.method == hdrs.METH_HEAD:
            return response
        with self._place(whose):
            first = await self._window(sha256, start, end)
            await response.prepare(request)
            try:
                await self._pour(response, sha256, start, end, first)
            except OtariaError as error:
                log.warning("a download broke off: %s", error, extra={"kind": error.kind, "agent": whose})
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _pour(self, response: web.StreamResponse, sha256: str, start: int, end: int, first: bytes) -> None:
        window = first
        while True:
            await response.write(window)
            start += len(window)
            if start == end:
                break
            window = await self._window(sha256, start, end)
        await response.write_eof()

    async def _window(self, sha256: str, start: int, end: int) -> bytes:
        """The next bytes; all of them, or an error."""
        size = min(WINDOW_BYTES, end - start)
        data = await self._artifacts.read(sha256, start, size)
        if len(data) != size:
            raise StoreError("store-refused", f"The artifact {sha256} became shorter while it was sent.")
        return data

    @contextmanager
    def _place(self, whose: str) -> Iterator[None]:
        if self._whose.total() >= self._most or self._whose[whose] >= PER_DEVICE:
            raise StoreError("too-many-downloads", "Too many artifacts are being sent; ask again in a moment.")
        self._whose[whose] += 1
        try:
            yield
        finally:
            self._whose[whose] -= 1
            if not self._whose[whose]:
                del self._whose[whose]


def _is_listed(tags: tuple[ETag, ...] | None, sha256: str) -> bool | None:
    """Whether a condition names this artifact; None: there is no such condition."""
    if tags is None:
        return None
    return any(tag.value in ("*", sha256) for tag in tags)


def _wants_part(request: web.Request, sha256: str) -> bool:
    """Whether a range is asked for, of these bytes (RFC 9110, 13.1.5)."""
    return hdrs.RANGE in request.headers and request.headers.get(hdrs.IF_RANGE, f'"{sha256}"') == f'"{sha256}"'


def _range(wanted: slice, length: int) -> tuple[int, int]:
    """First byte and the one after the last that are asked for. Raises `ValueError` for what can't be had."""
    start = wanted.start if wanted.start >= 0 else max(0, length + wanted.start)
    end = length if wanted.stop is None else min(wanted.stop, length)
    if start >= end:
        raise ValueError("an empty range")
    return start, end
