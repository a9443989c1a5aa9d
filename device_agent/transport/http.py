"""Artifacts and catalogue files over HTTPS with the agent's certificate: bounded, with timeouts, resumable.

Nothing that comes from here is trusted; whoever asks checks lengths, hashes and signatures.
"""

import ssl
import time
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import urllib3

from device_agent.problems import problem_of
from device_agent.transport.store_http import CHUNK_BYTES, HttpPatience, artifact, timeout_of
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind


class DeviceHttp:
    """The server's device listener: a source of artifacts, and the catalogue's files. May be used by several threads.
    Raises `RefusedError` (`malformed`) for an address that is none."""

    def __init__(
        self,
        https_url: str,
        context: ssl.SSLContext,
        patience: HttpPatience | None = None,
    ) -> None:
        patience = patience or HttpPatience()
        parts = urlsplit(https_url)
        try:
            host, port = parts.hostname or "", parts.port or 443
        except ValueError as error:
            raise RefusedError("malformed", f"{https_url} has no valid port; enrol again.") from error
        self._patience = patience
        self._pool = urllib3.HTTPSConnectionPool(
            host,
            port,
            timeout=timeout_of(patience),
            maxsize=2,
            retries=False,
            ssl_context=context,
        )
        if context.verify_mode is ssl.CERT_NONE:
            self._pool.ConnectionCls = _Unverified

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        """Byte chunks of an artifact from `offset`; see `Fetch.open`."""
        return artifact(self._pool, f"/v1/artifacts/sha256/{file.sha256}", file, offset, "the server")

    def metadata(self, name: str, max_bytes: int) -> bytes | None:
        """A metadata file of the catalogue by its URL-quoted name, at most `max_bytes` + 1 bytes; None: there is none."""
        return self._small(f"/v1/catalogue/metadata/{name}", max_bytes)

    def target(self, address: str, max_bytes: int) -> bytes | None:
        """A file of the catalogue under its consistent-snapshot address, bounded like `metadata`."""
        return self._small(f"/v1/catalogue/targets/{quote(address)}", max_bytes)

    def get(self, path: str, max_bytes: int) -> bytes:
        """A small answer; raises `UnavailableError` (`unreachable`) for any but a good one."""
        data = self._small(path, max_bytes)
        if data is None:
            raise _unreachable(f"the server has nothing at {path}")
        return data

    def post(self, path: str, body: bytes, max_bytes: int) -> bytes:
        """Send JSON; the small answer, or what the server says against it as the typed error."""
        response = self._ask("POST", path, {"Content-Type": "application/json"}, body)
        try:
            data = _bounded(response, max_bytes + 1, time.monotonic() + self._patience.small_s)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unreachable(f"the answer of {path} could not be read: {error}") from error
        finally:
            response.close()
        if response.status != 200:
            raise problem_of(response.status, data)
        return data

    def is_served(self, path: str) -> bool:
        """Whether the server serves this to us, or would if it had it; raises `UnavailableError` (`unreachable`)."""
        response = self._get(path, {})
        response.close()
        return response.status in (200, 404)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()

    def _small(self, path: str, max_bytes: int) -> bytes | None:
        response = self._get(path, {})
        try:
            if response.status == 404:
                return None
            if response.status != 200:
                raise _unreachable(f"the server answered {response.status} for {path}")
            return _bounded(response, max_bytes + 1, time.monotonic() + self._patience.small_s)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unreachable(f"{path} could not be read: {error}") from error
        finally:
            response.close()

    def _get(self, path: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        return self._ask("GET", path, headers)

    def _ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        wanted = {"Accept-Encoding": "identity", "User-Agent": "otaria-agent", **headers}
        try:
            return self._pool.urlopen(method, path, body=body, headers=wanted, preload_content=False, redirect=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unreachable(f"the server is not reached: {error}") from error


class _Unverified(urllib3.connection.HTTPSConnection):
    """A connection to anybody, on purpose: urllib3 would warn of each."""

    def connect(self) -> None:
        super().connect()
        self.is_verified = True


def _bounded(response: urllib3.BaseHTTPResponse, limit: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    left = limit
    while left > 0 and (part := response.read1(min(left, CHUNK_BYTES), decode_content=False)):
        parts.append(part)
        left -= len(part)
        if time.monotonic() > deadline:
            raise TimeoutError("it came too slowly")
    return b"".join(parts)


def _unreachable(what: str) -> UnavailableError:
    return UnavailableError(ReasonKind.UNREACHABLE, f"{what[0].upper()}{what[1:]}; it is tried again later."[:1000])
