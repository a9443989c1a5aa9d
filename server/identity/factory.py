"""Factory certificates (IEEE 802.1AR calls them initial device identities): who signed one, and what it says of its device.

A chain ends at a factory CA of the configuration, in at most two steps between. Every CA in it must be one (basic constraints,
path length, key usage), and nothing in it may be marked critical that is not looked at here. A factory CA vouches for what a
device is, and for nothing else: it signs no agent's certificate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtensionOID, NameOID

from firmware.errors import RefusedError
from server.config import KIND, EnrolmentSettings
from server.identity.authority_files import load_certificates
from server.identity.certificates import AgentKey

MAX_CHAIN = 3
MAX_TEXT = 128
_LOOKED_AT = (ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE)
ATTRIBUTES = {
    "common_name": NameOID.COMMON_NAME,
    "serial_number": NameOID.SERIAL_NUMBER,
    "organization": NameOID.ORGANIZATION_NAME,
    "organizational_unit": NameOID.ORGANIZATIONAL_UNIT_NAME,
}
CERTIFICATE_SERIAL = "certificate_serial"
"""Of the configuration's `factory_labels`: the attribute of a certificate's subject, or the serial number it has itself."""


@dataclass(frozen=True, kw_only=True)
class FactoryDevice:
    """What a good chain says: the device's key, its serial (its subject's, else its common name), and its labels."""

    key: AgentKey
    serial: str
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Factory:
    """The factory CAs that are believed. `labels`: by label, the attribute that gives it. `admits_unlisted`: whether a
    certificate is enough, or its serial must be known besides."""

    roots: Sequence[x509.Certificate] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    admits_unlisted: bool = False

    def examine(self, pem: bytes, now: float) -> FactoryDevice:
        """The device of a chain in PEM, its own certificate first. Raises `RefusedError` (`bad-factory-certificate`)."""
        chain = _parsed(pem)
        self._trace(chain, datetime.fromtimestamp(now, UTC))
        leaf = chain[0]
        key = leaf.public_key()
        if not isinstance(key, AgentKey):
            raise _bad("its key is neither an elliptic curve's nor Ed25519")
        serial = _attribute(leaf, "serial_number") or _attribute(leaf, "common_name")
        if not serial:
            raise _bad("its subject has neither a serial number nor a common name")
        found = {label: _attribute(leaf, source) for label, source in self.labels.items()}
        return FactoryDevice(key=key, serial=serial, labels={label: text for label, text in found.items() if text})

    def _trace(self, chain: Sequence[x509.Certificate], now: datetime) -> None:
        """Follow the chain to a CA that is believed; raises `RefusedError`."""
        if _is_ca(chain[0]) is not None:
            raise _bad("it is a CA's")
        for below, certificate in enumerate(chain):
            _require_sound(certificate, now)
            if below and not _may_sign(certificate, below - 1):
                raise _bad("a certificate in its chain may not sign it")
            if any(
                _issued(certificate, root) and _may_sign(root, below) and _is_current(root, now) for root in self.roots
            ):
                return
            if below + 1 < len(chain) and not _issued(certificate, chain[below + 1]):
                raise _bad("its chain is out of order")
        raise _bad("no factory CA of the configuration signed it")


def open_factory(settings: EnrolmentSettings) -> Factory:
    """The factory CAs of the configuration; raises `RefusedError` (`config`) for files that hold none."""
    roots: list[x509.Certificate] = []
    for path in settings.factory_cas:
        try:
            roots += load_certificates(path)
        except (OSError, RefusedError) as error:
            text = f"`enrolment.factory_cas`: {path} holds no certificate in PEM that can be read."
            raise RefusedError(KIND, text) from error
    return Factory(roots=roots, labels=settings.factory_labels, admits_unlisted=settings.factory_unlisted)


def _parsed(pem: bytes) -> Sequence[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(pem)
        for certificate in chain:
            certificate.extensions  # noqa: B018 - parsed when first asked for
    except ValueError as error:
        raise _bad("it is none in PEM") from error
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise _bad(f"its chain has more than {MAX_CHAIN} certificates")
    return chain


def _require_sound(certificate: x509.Certificate, now: datetime) -> None:
    if not _is_current(certificate, now):
        raise _bad("a certificate in its chain is not valid now")
    if any(one.critical and one.oid not in _LOOKED_AT for one in certificate.extensions):
        raise _bad("it has a critical extension that is not known here")


def _is_current(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _is_ca(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None
    return constraints if constraints.ca else None


def _may_sign(certificate: x509.Certificate, cas_below: int) -> bool:
    """Whether it is a CA under which so many other CAs may stand."""
    constraints = _is_ca(certificate)
    if constraints is None or (constraints.path_length is not None and constraints.path_length < cas_below):
        return False
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _attribute(certificate: x509.Certificate, name: str) -> str:
    """One value of the subject, as it may stand in a label; empty when it has none."""
    if name == CERTIFICATE_SERIAL:
        return f"{certificate.serial_number:x}"
    values = [str(one.value) for one in certificate.subject.get_attributes_for_oid(ATTRIBUTES[name])]
    if len(values) > 1 or any(len(value) > MAX_TEXT or not value.isprintable() for value in values):
        raise _bad(f"its {name} cannot be used")
    return values[0].strip() if values else ""


def _bad(why: str) -> RefusedError:
    return RefusedError("bad-factory-certificate", f"The factory certificate is refused: {why}.")
