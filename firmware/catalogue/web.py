"""Fetches catalogue files over HTTP for `client`: bounded in bytes and in time, no redirects, no transparent decompression.

The server is not trusted, so nothing here decides about content; a device brings its own pool with its certificate.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind

CHUNK_BYTES = 65536
SILENCE_S = 20.0
METADATA_S = 120.0
SLOWEST_BYTES_PER_S = 1024
"""A target that comes more slowly than this on the whole, after `METADATA_S` for the beginning, is given up."""
_ABSENT = (403, 404)
"""Some stores answer 403 for a file that does not exist."""


class WebFetch:
    """Fetches files below `base_url` (else `RefusedError`, `bad-url`). `total_s`: seconds that one metadata file may take, and
    the beginning of a target, against slow retrieval."""

    def __init__(self, base_url: str, pool: urllib3.PoolManager | None = None, *, total_s: float = METADATA_S) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RefusedError(
                "bad-url", f"{base_url!r} is no server's address; it looks like https://server:8443/path."
            )
        self._base = base_url if base_url.endswith("/") else f"{base_url}/"
        self._pool = pool or urllib3.PoolManager()
        self._total_s = total_s

    def __call__(self, name: str, max_bytes: int) -> bytes | None:
        """The file's bytes, cut at `max_bytes + 1`; None for 404 or 403. Raises `UnavailableError` (`unreachable`)."""
        with self._get(name) as response:
            if response.status in _ABSENT:
                return None
            self._require_ok(name, response)
            return b"".join(self._chunks(name, response, max_bytes, self._total_s))

    def download(self, name: str, length: int, into: IO[bytes]) -> None:
        """Stream a target of `length` bytes into a file, no more slowly than `SLOWEST_BYTES_PER_S`. Raises `UnavailableError`
        (`unreachable`) and `RefusedError` (`artifact-too-long`); a body that is too short is the caller's to notice."""
        with self._get(name) as response:
            self._require_ok(name, response)
            written = 0
            for chunk in self._chunks(name, response, length, self._total_s + length / SLOWEST_BYTES_PER_S):
                written += len(chunk)
                if written > length:
                    raise RefusedError(
                        ReasonKind.ARTIFACT_TOO_LONG, f"{name} is longer than the {length} bytes signed."
                    )
                into.write(chunk)

    @contextmanager
    def _get(self, name: str) -> Iterator[urllib3.BaseHTTPResponse]:
        timeout = urllib3.Timeout(connect=SILENCE_S, read=SILENCE_S)
        headers = {"Accept-Encoding": "identity"}
        with _wrapped(name):
            response = self._pool.request(
                "GET",
                self._base + name,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=timeout,
                headers=headers,
            )
        try:
            yield response
        finally:
            # A body that was read to its end has given its connection back already; any other may have no end.
            response.close()

    def _require_ok(self, name: str, response: urllib3.BaseHTTPResponse) -> None:
        if response.status != 200:
            raise _unreachable(name, f"the server answered {response.status}")

    def _chunks(self, name: str, response: urllib3.BaseHTTPResponse, max_bytes: int, total_s: float) -> Iterator[bytes]:
        """The body, up to one byte more than allowed."""
        deadline = time.monotonic() + total_s
        left = max_bytes + 1
        while left > 0:
            with _wrapped(name):
                chunk = response.read1(min(CHUNK_BYTES, left), decode_content=False)
            if not chunk:
                return
            left -= len(chunk)
            yield chunk
            if time.monotonic() > deadline:
                raise _unreachable(name, f"it took more than {total_s:g} s")


@contextmanager
def _wrapped(name: str) -> Iterator[None]:
    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        raise _unreachable(name, str(error)[:200]) from error


def _unreachable(name: str, cause: str) -> UnavailableError:
    return UnavailableError(ReasonKind.UNREACHABLE, f"{name} cannot be fetched now: {cause}. Try again later.")
