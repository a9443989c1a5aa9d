"""The server's two certificate authorities and its own certificates, in one private directory.

Made at first use and kept; a service certificate is renewed at start when less than a third of its life is left or the
names in it are no longer those configured. Anything damaged is refused, never replaced in silence: a new CA would strand
every device that pinned the old one.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN
from server.identity.authority_files import AuthorityFiles, load_certificates
from server.identity.authority_keys import MakeKey
from server.identity.certificates import (
    CLIENT_AUTH,
    SERVER_AUTH,
    AgentKey,
    Authority,
    LeafProfile,
    agent_serial,
    alternative_names,
    issue,
    new_key,
    requested_key,
    revocation_list,
)
from server.identity.private_files import load_or_make_key, locked_directory, write_private

MQTT_IDENTITY = "otaria.server"
"""Common name of the server's MQTT client certificate; agent ids have no dots, so no agent can hold it."""
BROKER_NAME = "otaria.broker"
HTTPS_NAME = "otaria.https"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_ID = re.compile(ID_PATTERN)
FLEET, FLEET_NAME = "fleet-ca", "Otaria fleet CA"
SERVICES, SERVICES_NAME = "services-ca", "Otaria services CA"
NEXT_SERVICES = "services-ca-next"
REVOCATION_FILE = "fleet-crl.pem"
RETIRED_FILE = "fleet-ca-retired.pem"
DAY_S = 86400.0
SERVICE_DAYS = 365
AGENT_DAYS = 3 * 365


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files of one end of a TLS connection; `ca` is what it verifies the other end with, `revoked` lists whom it refuses."""

    ca: Path
    certificate: Path
    key: Path
    revoked: Path | None = None


@dataclass(frozen=True, kw_only=True)
class AgentCertificate:
    """A certificate for an agent: PEM, its serial as lower-case hex, the fingerprint of its CA, and its time in POSIX seconds."""

    pem: bytes
    serial: str
    issuer: str
    issued_at: float
    expires_at: float


@dataclass(frozen=True, kw_only=True)
class Authorities:
    """Both CAs and the files of the server's own ends.

    `accepted`: fleet CAs from before a rotation, whose certificates still open the listeners; with their keys, which sign
    nothing but their revocation lists. `retired`: those whose certificates open nothing, but may still be renewed.
    `next_services`: the services CA that devices are being told of.
    """

    directory: Path
    fleet: Authority
    services: Authority
    clock: Callable[[], float]
    accepted: tuple[Authority, ...] = ()
    retired: tuple[x509.Certificate, ...] = ()
    next_services: Authority | None = None

    @classmethod
    def open_or_create(
        cls,
        directory: Path,
        *,
        hosts: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        fleet_keys: MakeKey | None = None,
    ) -> "Authorities":
        """Load the authorities of a directory, making what is missing; `hosts` are further names for the server certificates, and
        `fleet_keys` makes the key of a fleet CA (None: in a file).

        Blocking. Raises `RefusedError` (`bad-key-file`, `bad-certificate-file`, `bad-name`), and `UnavailableError`
        (`authority-unavailable`) when something must be signed in a token that isn't there.
        """
        with locked_directory(directory):
            made = cls._loaded(directory, clock, fleet_keys or new_key)
            if not made.revocation_file.exists():
                write_private(made.revocation_file, made.revocation_lists(()))
            names = (*LOOPBACK_NAMES, *hosts)
            made._keep_leaf(
                "broker", LeafProfile(common_name=BROKER_NAME, use=SERVER_AUTH, days=SERVICE_DAYS, names=names)
            )
            made._keep_leaf(
                "https", LeafProfile(common_name=HTTPS_NAME, use=SERVER_AUTH, days=SERVICE_DAYS, names=names)
            )
            made._keep_leaf("mqtt-client", LeafProfile(common_name=MQTT_IDENTITY, use=CLIENT_AUTH, days=SERVICE_DAYS))
        return made

    @classmethod
    def open(cls, directory: Path, *, clock: Callable[[], float] = time.time) -> "Authorities":
        """Load the authorities of a server that has run, and renew nothing: which names belong into its certificates is the
        server's to know. Blocking. Raises `RefusedError` (`no-authorities`, `bad-key-file`, `bad-certificate-file`)."""
        if not (directory / f"{FLEET}.pem").exists():
            text = f"{directory} holds no CAs; name the state directory of a server that has run."
            raise RefusedError("no-authorities", text)
        with locked_directory(directory):
            return cls._loaded(directory, clock, new_key)

    @classmethod
    def _loaded(cls, directory: Path, clock: Callable[[], float], fleet_keys: MakeKey) -> "Authorities":
        fleet_files, now = AuthorityFiles(directory=directory, stem=FLEET, keys=fleet_keys), clock()
        fleet, accepted = fleet_files.open_or_make(FLEET_NAME, now)
        services, _ = AuthorityFiles(directory=directory, stem=SERVICES).open_or_make(SERVICES_NAME, now)
        upcoming, retired = AuthorityFiles(directory=directory, stem=NEXT_SERVICES), directory / RETIRED_FILE
        return cls(
            directory=directory,
            fleet=fleet,
            services=services,
            clock=clock,
            accepted=tuple(map(fleet_files.kept, accepted)),
            retired=tuple(load_certificates(retired)) if retired.exists() else (),
            next_services=upcoming.open()[0] if upcoming.exists() else None,
        )

    @property
    def fleet_ca_file(self) -> Path:
        return self.directory / "fleet-ca.pem"

    @property
    def services_ca_file(self) -> Path:
        return self.directory / "services-ca.pem"

    @property
    def revocation_file(self) -> Path:
        """The revocation lists of every accepted fleet CA; a broker reads them."""
        return self.directory / REVOCATION_FILE

    @property
    def fingerprints(self) -> frozenset[str]:
        """The CAs in force: those whose agents may connect, and the one that signs our own certificates."""
        fleet = (self.fleet, *self.accepted)
        return frozenset(authority.fingerprint for authority in (*fleet, self.services))

    @property
    def issuers(self) -> tuple[x509.Certificate, ...]:
        """Every CA that a certificate held by an agent may come from, newest first."""
        return (self.fleet.certificate, *(old.certificate for old in self.accepted), *self.retired)

    @property
    def broker_for_agents(self) -> TlsFiles:
        """The broker's end for agents: its client certificates come from the fleet CA."""
        return replace(self._files("broker", self.fleet_ca_file), revoked=self.revocation_file)

    @property
    def broker_for_services(self) -> TlsFiles:
        """The broker's end for the server itself: its client certificates come from the services CA."""
        return self._files("broker", self.services_ca_file)

    @property
    def https_for_devices(self) -> TlsFiles:
        """The HTTPS listener for devices: its client certificates come from the fleet CA."""
        return self._files("https", self.fleet_ca_file)

    @property
    def mqtt_client(self) -> TlsFiles:
        """The server as a client of the broker."""
        return self._files("mqtt-client", self.services_ca_file)

    def sign_agent(self, csr_pem: bytes, agent_id: str) -> AgentCertificate:
        """Certify the key of a request under a server-assigned agent id; raises `RefusedError` (`bad-csr`, `bad-name`)."""
        if not _ID.match(agent_id):
            raise RefusedError("bad-name", f"{agent_id!r} is no agent id; the fleet CA certifies nothing else.")
        key = requested_key(csr_pem)
        serial = agent_serial(agent_id, csr_pem)
        profile, now = LeafProfile(common_name=agent_id, use=CLIENT_AUTH, days=AGENT_DAYS), self.clock()
        return AgentCertificate(
            pem=issue(self.fleet, key, profile, now=now, serial=serial),
            serial=f"{serial:x}",
            issuer=self.fleet.fingerprint,
            issued_at=now,
            expires_at=now + AGENT_DAYS * DAY_S,
        )

    def certify_for_takeover(self, key: AgentKey, agent_id: str) -> bytes:
        """A certificate in an agent's name for the server itself, to end the agent's session with; good for a day."""
        profile = LeafProfile(common_name=agent_id, use=CLIENT_AUTH, days=1)
        return issue(self.fleet, key, profile, now=self.clock(), serial=x509.random_serial_number())

    def revocation_lists(self, serials: Sequence[str]) -> bytes:
        """A list of each accepted fleet CA that revokes these serials (lower-case hex), as PEM."""
        numbers = [int(serial, 16) for serial in serials]
        return b"".join(revocation_list(ca, numbers, now=self.clock()) for ca in (self.fleet, *self.accepted))

    def _files(self, stem: str, ca: Path) -> TlsFiles:
        return TlsFiles(ca=ca, certificate=self.directory / f"{stem}.pem", key=self.directory / f"{stem}.key")

    def _keep_leaf(self, stem: str, profile: LeafProfile) -> None:
        files = self._files(stem, self.services_ca_file)
        key = load_or_make_key(files.key)
        if not _is_current(files.certificate, key, profile, self.services, self.clock()):
            serial = x509.random_serial_number()
            write_private(
                files.certificate, issue(self.services, key.public_key(), profile, now=self.clock(), serial=serial)
            )


def _is_current(
    path: Path, key: ec.EllipticCurvePrivateKey, profile: LeafProfile, authority: Authority, now: float
) -> bool:
    """Whether the stored leaf is ours, fits its key and names, and has more than a third of its life left."""
    if not path.exists():
        return False
    leaf = load_certificates(path)[0]
    try:
        leaf.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    fresh = leaf.not_valid_after_utc - datetime.fromtimestamp(now, UTC) > life / 3
    return fresh and leaf.public_key() == key.public_key() and _names_in(leaf) == alternative_names(profile.names)


def _names_in(leaf: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
