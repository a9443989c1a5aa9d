"""HTTPS by whichever way answers: a `Source` of artifacts, the catalogue's files, and renewal.

Small files are asked for by one way after another, beginning with the one that answered last. When nobody there proves to be
our server, or none takes our certificate, the catalogue's top-level roles are still fetched, from whoever answers and without
showing anything: they are verified by their own signatures, and they tell a sleeper whom to trust and where to go.
"""

import ssl
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from device_agent.transport.http import DeviceHttp
from device_agent.transport.tls import blind_context
from device_agent.transport.ways import Way, Ways
from firmware.errors import UnavailableError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.order import FileRef
from firmware.protocol.renew import (
    CHALLENGE_PATH,
    MAX_RESPONSE_BYTES,
    RENEW_PATH,
    Challenge,
    RenewRequest,
    RenewResponse,
)

T = TypeVar("T")
LINES_KEPT = 12
TOP_ROLES = ("root", "timestamp", "snapshot", "targets")
_PROBE = "timestamp.json"


class WayHttp:
    """What `DeviceHttp` is for one address, for all the ways of an agent. May be used by several threads."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._blind, self._lock = blind_context(), threading.Lock()
        self._lines: dict[tuple[Way, ssl.SSLContext], DeviceHttp] = {}
        self._answered: tuple[Way, Way] | None = None

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        """Byte chunks of an artifact, by the way that answered last; see `DeviceHttp.open`."""
        return self._line(self._order()[0], self._ways.context).open(file, offset=offset)

    def metadata(self, name: str, max_bytes: int) -> bytes | None:
        """A metadata file of the catalogue; see `DeviceHttp.metadata`."""
        try:
            return self._first(lambda line: line.metadata(name, max_bytes), self._ways.context)
        except UnavailableError:
            if name.removesuffix(".json").rpartition(".")[2] not in TOP_ROLES:
                raise
            return self._first(lambda line: line.metadata(name, max_bytes), self._blind)

    def target(self, address: str, max_bytes: int) -> bytes | None:
        """A file of the catalogue; see `DeviceHttp.target`."""
        return self._first(lambda line: line.target(address, max_bytes), self._ways.context)

    def challenge(self) -> Challenge:
        """A challenge for a renewal. Raises `UnavailableError` (`unreachable`), `RefusedError` (`malformed`)."""
        data = self._first(lambda line: line.get(CHALLENGE_PATH, MAX_RESPONSE_BYTES), self._ways.bare_context)
        return convert(parse_json(data or b"", max_bytes=MAX_RESPONSE_BYTES), Challenge)

    def renew(self, request: RenewRequest) -> RenewResponse:
        """Send a renewal to whoever gave the challenge. Raises as `challenge`, or the server's own kind."""
        line = self._line(self._order()[0], self._ways.bare_context)
        data = line.post(RENEW_PATH, canonical(request), MAX_RESPONSE_BYTES)
        return convert(parse_json(data, max_bytes=MAX_RESPONSE_BYTES), RenewResponse)

    def is_taken(self, context: ssl.SSLContext) -> bool:
        """Whether the server serves whoever shows the certificate of this context. It often closes on one it does not take
        without a word, so what tells is whether it answers us without one. Raises `UnavailableError` when it does not."""
        line = DeviceHttp(self._order()[0].https_url, context)
        try:
            return line.is_served(f"/v1/catalogue/metadata/{_PROBE}")
        except UnavailableError:
            self.challenge()
            return False
        finally:
            line.close()

    def answers(self, way: Way) -> bool:
        """Whether our server answers there."""
        try:
            self._line(way, self._ways.bare_context).get(CHALLENGE_PATH, MAX_RESPONSE_BYTES)
        except UnavailableError:
            return False
        return True

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for line in self._lines.values():
                line.close()
            self._lines.clear()

    def _first(self, ask: Callable[[DeviceHttp], T], context: ssl.SSLContext) -> T:
        """The answer of the first way that has one."""
        last: UnavailableError | None = None
        for way in self._order():
            try:
                answer = ask(self._line(way, context))
            except UnavailableError as error:
                last = last or error
            else:
                self._answered = (self._ways.current, way)
                return answer
        raise last or UnavailableError("unreachable", "There is no way to the server; enrol again.")

    def _order(self) -> list[Way]:
        """The way to try first, and then the others. One that answered counts until another way is tried for the broker."""
        current = self._ways.current
        first = self._answered[1] if self._answered is not None and self._answered[0] == current else current
        return list(dict.fromkeys([way for way in (first, current, *self._ways.order) if way in self._ways.order]))

    def _line(self, way: Way, context: ssl.SSLContext) -> DeviceHttp:
        with self._lock:
            known = self._lines.get((way, context))
            if known is None:
                known = self._lines[way, context] = DeviceHttp(way.https_url, context)
                for old in list(self._lines)[:-LINES_KEPT]:
                    self._lines.pop(old).close()
            return known
