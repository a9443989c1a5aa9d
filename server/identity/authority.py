"""The server's two certificate authorities and its own certificates, in one private directory.

Made at first use and kept; a service certificate is renewed at start when less than a third of its life is left or the
names in it are no longer those configured. Anything damaged is refused, never replaced in silence: a new CA would strand
every device that pinned the old one.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN
from server.identity.certificates import (
    CLIENT_AUTH,
    SERVER_AUTH,
    Authority,
    LeafProfile,
    agent_serial,
    alternative_names,
    issue,
    make_authority,
    requested_key,
)
from server.identity.private_files import load_or_make_key, locked_directory, write_private

MQTT_IDENTITY = "otaria.server"
"""Common name of the server's MQTT client certificate; agent ids have no dots, so no agent can hold it."""
BROKER_NAME = "otaria.broker"
HTTPS_NAME = "otaria.https"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_ID = re.compile(ID_PATTERN)
SERVICE_DAYS = 365
AGENT_DAYS = 3 * 365


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files of one end of a TLS connection; `ca` is what it verifies the other end with."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class AgentCertificate:
    """A certificate for an agent: PEM, and its serial as lower-case hex."""

    pem: bytes
    serial: str


@dataclass(frozen=True, kw_only=True)
class Authorities:
    """Both CAs and the files of the server's own ends."""

    directory: Path
    fleet: Authority
    services: Authority
    clock: Callable[[], float]

    @classmethod
    def open_or_create(
        cls, directory: Path, *, hosts: Sequence[str] = (), clock: Callable[[], float] = time.time
    ) -> "Authorities":
        """Load the authorities of a directory, making what is missing; `hosts` are further names for the server certificates.

        Blocking. Raises `RefusedError` (`bad-key-file`, `bad-certificate-file`, `bad-name`).
        """
        with locked_directory(directory):
            made = cls(
                directory=directory,
                fleet=_open_authority(directory, "fleet-ca", "Otaria fleet CA", clock()),
                services=_open_authority(directory, "services-ca", "Otaria services CA", clock()),
                clock=clock,
            )
            names = (*LOOPBACK_NAMES, *hosts)
            made._keep_leaf(
                "broker", LeafProfile(common_name=BROKER_NAME, use=SERVER_AUTH, days=SERVICE_DAYS, names=names)
            )
            made._keep_leaf(
                "https", LeafProfile(common_name=HTTPS_NAME, use=SERVER_AUTH, days=SERVICE_DAYS, names=names)
            )
            made._keep_leaf("mqtt-client", LeafProfile(common_name=MQTT_IDENTITY, use=CLIENT_AUTH, days=SERVICE_DAYS))
        return made

    @property
    def fleet_ca_file(self) -> Path:
        return self.directory / "fleet-ca.pem"

    @property
    def services_ca_file(self) -> Path:
        return self.directory / "services-ca.pem"

    @property
    def broker_for_agents(self) -> TlsFiles:
        """The broker's end for agents: its client certificates come from the fleet CA."""
        return self._files("broker", self.fleet_ca_file)

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
        profile = LeafProfile(common_name=agent_id, use=CLIENT_AUTH, days=AGENT_DAYS)
        pem = issue(self.fleet, key, profile, now=self.clock(), serial=serial)
        return AgentCertificate(pem=pem, serial=f"{serial:x}")

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


def _open_authority(directory: Path, stem: str, name: str, now: float) -> Authority:
    path, key_path = directory / f"{stem}.pem", directory / f"{stem}.key"
    if path.exists() and not key_path.exists():
        raise RefusedError("bad-key-file", f"{key_path} is missing beside its certificate; restore it from a backup.")
    key = load_or_make_key(key_path)
    if not path.exists():
        authority = make_authority(name, now, key)
        write_private(path, authority.pem)
        return authority
    certificate = _load_certificate(path)
    if certificate.public_key() != key.public_key():
        raise RefusedError("bad-certificate-file", f"{path} and {key_path} do not belong together; restore both.")
    return Authority(certificate=certificate, key=key)


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise RefusedError("bad-certificate-file", f"{path} is not a certificate in PEM; restore it.") from error


def _is_current(
    path: Path, key: ec.EllipticCurvePrivateKey, profile: LeafProfile, authority: Authority, now: float
) -> bool:
    """Whether the stored leaf is ours, fits its key and names, and has more than a third of its life left."""
    if not path.exists():
        return False
    leaf = _load_certificate(path)
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
