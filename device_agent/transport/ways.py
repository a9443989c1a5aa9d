"""By which way the agent reaches its server, and whom it takes for its server there.

The catalogue's endpoints come first, in their order; the address from enrolment is always the last. A way that does not
answer a few times in a row makes room for the next, in a circle: so a wrong address, however well it was signed, costs a
device some minutes and no more. `Upkeep` looks from time to time whether the first one answers by now.

Which CAs are trusted is no such question: the catalogue's, or before it names any, the one that enrolment pinned.
"""

import hashlib
import logging
import re
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device_agent.identity import SERVICES_CA_FILE, Identity
from device_agent.transport import tls
from device_agent.transport.tls import TrustedClock
from firmware.errors import OtariaError
from firmware.protocol.endpoints import Endpoints

log = logging.getLogger(__name__)
TRIES = 3
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A server: the base of its devices' listener, and its broker."""

    https_url: str
    mqtt_host: str
    mqtt_port: int


class Ways:
    """The ways of one agent. May be used by several threads."""

    def __init__(self, directory: Path, identity: Identity, trusted_time: TrustedClock, *, tries: int = TRIES) -> None:
        """Raises as `client_context`."""
        self._directory, self._trusted_time, self._tries = directory, trusted_time, tries
        self._home = Way(https_url=identity.https_url, mqtt_host=identity.mqtt_host, mqtt_port=identity.mqtt_port)
        self._lock = threading.Lock()
        self._endpoints: Endpoints | None = None
        self._order: tuple[Way, ...] = (self._home,)
        self._current, self._failures = self._home, 0
        self.reload()

    @property
    def order(self) -> Sequence[Way]:
        """All ways, the one to be preferred first."""
        return self._order

    @property
    def current(self) -> Way:
        """The way to try now."""
        return self._current

    @property
    def preferred(self) -> Way:
        return self._order[0]

    @property
    def pins(self) -> str | None:
        """The CAs that the catalogue names, as PEM; None: those from enrolment count."""
        return None if self._endpoints is None else "".join(_line(pem) for pem in self._endpoints.services_ca)

    @property
    def services_cas(self) -> tuple[str, ...]:
        """sha256 (hex) of the DER of every CA that is trusted now."""
        return self._services_cas

    def take(self, endpoints: Endpoints | None) -> bool:
        """Take over what the catalogue says now; whether the way to try changed with it, or whom to trust there.

        Raises `RefusedError` (`bad-key`) for CAs that are none, and keeps to what was before then.
        """
        with self._lock:
            before = self._endpoints
            if endpoints == before:
                return False
            self._endpoints = endpoints
            try:
                self._load()
            except OtariaError:
                self._endpoints = before
                raise
            told = [] if endpoints is None else endpoints.endpoints
            ways = [Way(https_url=one.server, mqtt_host=one.mqtt_host, mqtt_port=one.mqtt_port) for one in told]
            self._order = tuple(dict.fromkeys([*ways, self._home]))
            self._current, self._failures = self._order[0], 0
            log.info("the catalogue names the way", extra={"server": self._current.https_url})
            return True

    def reload(self) -> None:
        """Read keys and certificates again; later connections use them. Raises as `client_context`."""
        with self._lock:
            self._load()

    def failed(self, way: Way) -> None:
        """The broker of this way did not take us."""
        with self._lock:
            if way != self._current:
                return
            self._failures += 1
            if self._failures >= self._tries and len(self._order) > 1:
                place = (self._order.index(way) + 1) % len(self._order)
                self._current, self._failures = self._order[place], 0
                log.warning("no answer there, trying another way", extra={"server": self._current.https_url})

    def reached(self, way: Way) -> None:
        """The broker of this way took us."""
        with self._lock:
            if way == self._current:
                self._failures = 0

    def choose(self, way: Way) -> None:
        """Try this way next."""
        with self._lock:
            if way in self._order:
                self._current, self._failures = way, 0

    def _load(self) -> None:
        directory, clock, pins = self._directory, self._trusted_time, self.pins
        context, bare = (
            tls.client_context(directory, clock, pins=pins),
            tls.server_context(directory, clock, pins=pins),
        )
        trusted = pins if pins else (directory / SERVICES_CA_FILE).read_text(encoding="ascii", errors="replace")
        self._services_cas = tuple(_fingerprint(pem) for pem in _CERTIFICATE.findall(trusted))
        self.context, self.bare_context = context, bare


def _line(pem: str) -> str:
    return pem if pem.endswith("\n") else pem + "\n"


def _fingerprint(pem: str) -> str:
    """sha256 (hex) of the DER of a certificate that OpenSSL has loaded."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
