"""Artifacts over HTTP, from the server or from a cache or store that is not: resumable, and redirects are not followed.

Nothing that comes from here is trusted; whoever asks checks lengths and hashes. That is why a cache may be plain HTTP and
anybody's. The agent's certificate goes to the server it enrolled with and to nobody else.
"""

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import urllib3

from device_agent.install.addresses import artifact_path, store_address
from device_agent.ports import AbsentError
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind

CHUNK_BYTES = 1 << 16
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
_ABSENT = (403, 404, 410)
"""Some stores answer 403 for a file that does not exist."""


@dataclass(frozen=True, kw_only=True)
class HttpPatience:
    """Seconds to wait for a connection, for the next bytes, and for all of a small file, however slowly it drips. An artifact
    may take as long as its link needs; who waits for it can stop at every byte that comes."""

    connect_s: float = 10.0
    read_s: float = 30.0
    small_s: float = 120.0


class HttpStore:
    """Files by their hash at a cache or store that is not the server. It is sent no certificate and no credentials."""

    def __init__(
        self, template: str, context: ssl.SSLContext | None = None, patience: HttpPatience | None = None
    ) -> None:
        """`template`: see `store_address`. `context`: TLS of an https store, without a certificate of our own. Raises
        `RefusedError` (`bad-config`)."""
        self._address = store_address(template)
        parts = urlsplit(self._address)
        patience = patience or HttpPatience()
        self._name = f"{parts.scheme}://{parts.netloc}"
        host, port = parts.hostname or "", parts.port
        self._pool: urllib3.HTTPConnectionPool
        if parts.scheme == "https":
            context = context or ssl.create_default_context()
            self._pool = urllib3.HTTPSConnectionPool(
                host, port, timeout=timeout_of(patience), maxsize=1, retries=False, ssl_context=context
            )
        else:
            self._pool = urllib3.HTTPConnectionPool(host, port, timeout=timeout_of(patience), maxsize=1, retries=False)

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        """Byte chunks of an artifact from `offset`; see `Fetch.open`."""
        return artifact(self._pool, artifact_path(self._address, file.sha256), file, offset, self._name)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()


def artifact(pool: urllib3.HTTPConnectionPool, path: str, file: FileRef, offset: int, who: str) -> Iterator[bytes]:
    """The body of an artifact from `offset`. A server that ignores the range is read from the front, and what is there already
    is dropped: slow, but it ends."""
    response = _get(pool, path, {"Range": f"bytes={offset}-"} if offset else {}, who)
    try:
        skip = _to_skip(response, file, offset, who)
        while chunk := response.read1(CHUNK_BYTES, decode_content=False):
            yield chunk[skip:]
            skip = max(0, skip - len(chunk))
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _unreachable(f"the download of {file.path} broke off: {error}") from error
    finally:
        response.close()


def _to_skip(response: urllib3.BaseHTTPResponse, file: FileRef, offset: int, who: str) -> int:
    """How many bytes of the body come before `offset`. Raises as `Fetch.open`."""
    if response.status == 200:
        return offset
    if response.status in _ABSENT:
        raise AbsentError(
            ReasonKind.UNREACHABLE, f"{who} answered {response.status} for {file.path}; it is tried again."
        )
    if response.status == 206 and offset:
        start, total = _range(response.headers.get("Content-Range", ""))
        if total not in (None, file.length):
            raise RefusedError(
                ReasonKind.ARTIFACT_CHANGED,
                f"{who} has {total} bytes as {file.path}, and {file.length} were signed; clear the cache.",
            )
        if start == offset:
            return 0
        raise _unreachable(f"{who} answered with another range of {file.path} than was asked for")
    raise _unreachable(f"{who} answered {response.status} for {file.path}")


def _range(text: str) -> tuple[int | None, int | None]:
    """First byte and total of a `Content-Range` (RFC 9110, 14.4); None for what it does not say."""
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _get(pool: urllib3.HTTPConnectionPool, path: str, headers: dict[str, str], who: str) -> urllib3.BaseHTTPResponse:
    wanted = {"Accept-Encoding": "identity", "User-Agent": "otaria-agent", **headers}
    try:
        return pool.urlopen("GET", path, headers=wanted, preload_content=False, redirect=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _unreachable(f"{who} is not reached: {error}") from error


def timeout_of(patience: HttpPatience) -> urllib3.Timeout:
    """The patience with one connection."""
    return urllib3.Timeout(connect=patience.connect_s, read=patience.read_s)


def _unreachable(what: str) -> UnavailableError:
    return UnavailableError(ReasonKind.UNREACHABLE, f"{what[0].upper()}{what[1:]}; it is tried again later."[:1000])
