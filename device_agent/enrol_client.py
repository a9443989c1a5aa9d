"""The two requests of enrolment over HTTPS: bounded in size and time, errors typed.

The first, for the CA, trusts nobody: what comes is only compared with a fingerprint. The second verifies the server with
that CA alone.
"""

import http.client
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from device_agent.problems import problem_of
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.enrol import (
    CA_PATH,
    ENROL_PATH,
    MAX_RESPONSE_BYTES,
    EnrolRequest,
    EnrolResponse,
)
from firmware.protocol.enrol_key import ENROL_KEY_PATH, KeyEnrolRequest
from firmware.protocol.renew import CHALLENGE_PATH, Challenge

MAX_CA_BYTES = 8192
CHUNK_BYTES = 16384
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h); the ssl module has no name for it."""


@dataclass(frozen=True, kw_only=True)
class _Answer:
    status: int
    body: bytes


class EnrolClient:
    """Speaks to one server. `timeout_s` bounds each request as a whole."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise RefusedError("claim-malformed", f"The address {url} to enrol at has no valid port.") from error
        if not host:
            raise RefusedError("claim-malformed", f"The address {url} to enrol at names no host.")
        self._host, self._port, self._timeout_s = host, port or 443, timeout_s

    def services_ca(self) -> bytes:
        """What the server says its CA is; unverified. Raises `UnavailableError` (`unreachable`), `RefusedError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return self._exchange(context, "GET", CA_PATH, None, MAX_CA_BYTES).body

    def enrol(self, request: EnrolRequest | KeyEnrolRequest, services_ca: bytes) -> EnrolResponse:
        """Send the request to a server that this CA vouches for.

        Raises `RefusedError` (`wrong-server`, `bad-answer`, or the server's kind) or `UnavailableError` (`unreachable`).
        """
        path = ENROL_PATH if isinstance(request, EnrolRequest) else ENROL_KEY_PATH
        answer = self._exchange(_verified(services_ca), "POST", path, canonical(request), MAX_RESPONSE_BYTES)
        try:
            return convert(parse_json(answer.body, max_bytes=MAX_RESPONSE_BYTES), EnrolResponse)
        except RefusedError as error:
            raise RefusedError("bad-answer", f"The server's answer is no enrolment: {error.text}") from error

    def challenge(self, services_ca: bytes) -> Challenge:
        """A challenge of a server that this CA vouches for; raises as `enrol`."""
        answer = self._exchange(_verified(services_ca), "GET", CHALLENGE_PATH, None, MAX_CA_BYTES)
        try:
            return convert(parse_json(answer.body, max_bytes=MAX_CA_BYTES), Challenge)
        except RefusedError as error:
            raise RefusedError("bad-answer", f"The server's answer is no challenge: {error.text}") from error

    def _exchange(self, context: ssl.SSLContext, method: str, path: str, body: bytes | None, limit: int) -> _Answer:
        deadline = time.monotonic() + self._timeout_s
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=context)
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, path, body=body, headers=headers)
            with connection.getresponse() as response:
                answer = _Answer(status=response.status, body=_read(response, limit, deadline))
        except ssl.SSLCertVerificationError as error:
            raise RefusedError(
                "wrong-server", f"{self._host} does not prove that it belongs to the pinned CA: {error.verify_message}."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                "unreachable",
                f"{self._host}:{self._port} cannot be reached ({error or type(error).__name__}); try again later.",
            ) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise problem_of(answer.status, answer.body)
        return answer


def _verified(services_ca: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=services_ca.decode())
    context.verify_flags |= NO_CHECK_TIME
    return context


def _read(response: http.client.HTTPResponse, limit: int, deadline: float) -> bytes:
    """The body, at most `limit` bytes and not beyond the deadline, however slowly it drips."""
    out = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        out += chunk
        if len(out) > limit:
            raise RefusedError("bad-answer", f"The server's answer has more than {limit} bytes; it is not Otaria's.")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer came too slowly")
    return bytes(out)
