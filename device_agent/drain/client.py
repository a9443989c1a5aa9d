"""Single HTTP requests with a bearer token from a file: bounded in time and size, certificates checked, no redirects or proxies.

What is sent is never logged, nor part of an error.
"""

import http.client
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from device_agent.drain.port import failed
from firmware.errors import UnavailableError

MAX_TOKEN_BYTES = 16 << 10
CHUNK_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`retry_after_s`: how long it asks to be left alone."""

    status: int
    body: bytes
    retry_after_s: float = 0.0

    @property
    def said(self) -> str:
        """The status and the start of the body, for people."""
        text = " ".join(self.body[:300].decode(errors="replace").split())
        return f"it answered {self.status}" + (f": {text}" if text else "")


class Client:
    """`ca_file`, `token_file`: empty for the system's certificates, and no token. Both are read anew each time, since others
    renew them."""

    def __init__(self, *, ca_file: str, token_file: str, request_s: float, max_bytes: int = 1 << 20) -> None:
        self._ca_file, self._token_file = ca_file, token_file
        self._request_s, self._max_bytes = request_s, max_bytes

    def ask(self, method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request. Raises `UnavailableError` (`unreachable`) for what may pass, `RefusedError` (`drain-failed`) for a
        certificate or a token that is of no use."""
        sent = {"Connection": "close", **(headers or {}), **self._token()}
        host = url
        try:
            parts = urlsplit(url)
            host = parts.hostname or url
            connection = self._connection(parts.scheme, host, parts.port)
            with closing(connection):
                path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
                return self._exchange(connection, method, path, body, sent)
        except ssl.SSLCertVerificationError as error:
            raise failed(f"{host} shows a certificate that isn't trusted: {error.verify_message}.") from error
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                "unreachable", f"{host} can't be reached: {error or type(error).__name__}"[:400]
            ) from error
        except ValueError as error:
            raise failed(f"{url} is no address that can be asked: {error}.") from error

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        sent: Mapping[str, str],
    ) -> Answer:
        deadline = time.monotonic() + self._request_s
        connection.request(method, path, body, dict(sent))
        with connection.getresponse() as response:
            after = response.headers.get("Retry-After", "")
            wait_s = min(float(after), 300.0) if after.isascii() and after.isdigit() else 0.0
            return Answer(status=response.status, body=self._read(response, deadline), retry_after_s=wait_s)

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=self._request_s)
        try:
            context = ssl.create_default_context(cafile=self._ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise failed(f"The certificates in {self._ca_file} can't be read: {error}.") from error
        return http.client.HTTPSConnection(host, port, timeout=self._request_s, context=context)

    def _token(self) -> dict[str, str]:
        if not self._token_file:
            return {}
        try:
            with Path(self._token_file).open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES + 1).strip()
        except OSError as error:
            raise failed(f"The token in {self._token_file} can't be read: {error.strerror}.") from error
        if not token or len(token) > MAX_TOKEN_BYTES or not token.isascii() or len(token.split()) != 1:
            raise failed(f"{self._token_file} holds no token.")
        return {"Authorization": f"Bearer {token.decode()}"}

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        out = bytearray()
        while chunk := response.read1(CHUNK_BYTES):
            out += chunk
            if len(out) > self._max_bytes:
                raise http.client.HTTPException(f"the answer has more than {self._max_bytes} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError("the answer came too slowly")
        return bytes(out)
