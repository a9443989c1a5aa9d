"""What our certificates look like (X.509 v3, RFC 5280); no files, no clock.

Two authorities that never overlap: the *fleet* CA signs agents and nothing else, the *services* CA signs the server's own
ends. The subject is only a common name: a server-assigned agent id, or a service name with a dot, which no agent id can
have. A request decides its public key and nothing more: its subject and extensions are ignored.
"""

import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firmware.errors import RefusedError

MAX_CSR_BYTES = 4200
CA_DAYS = 20 * 365
BACKDATE = timedelta(days=1)
"""Certificates are valid from a day ago, so that a clock that lags does not refuse a fresh one."""

SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
AgentKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A CA: its certificate and private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return pem_of(self.certificate)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the DER, as claim tokens pin it."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def key_identifier(self) -> str:
        """As it stands in the certificates it signs (RFC 5280, 4.2.1.1), hex."""
        return x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()).digest.hex()


@dataclass(frozen=True, kw_only=True)
class LeafProfile:
    """What a certificate says beside its key: common name, use, names and addresses of the server, days of life."""

    common_name: str
    use: x509.ObjectIdentifier
    days: int
    names: Sequence[str] = ()


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def make_authority(name: str, now: float, key: ec.EllipticCurvePrivateKey) -> Authority:
    """A self-signed P-256 CA that may sign leaves only (path length 0)."""
    subject = _name(f"{name} {secrets.token_hex(4)}")
    start = datetime.fromtimestamp(now, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(start + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate=certificate, key=key)


def issue(authority: Authority, public_key: AgentKey, profile: LeafProfile, *, now: float, serial: int) -> bytes:
    """Sign a leaf certificate; returns PEM."""
    start = datetime.fromtimestamp(now, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(profile.common_name))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(start - BACKDATE)
        .not_valid_after(start + timedelta(days=profile.days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([profile.use]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    if profile.names:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative_names(profile.names)), critical=False)
    return pem_of(builder.sign(authority.key, hashes.SHA256()))


def revocation_list(authority: Authority, serials: Sequence[int], *, now: float) -> bytes:
    """An authority's revocation list as PEM. It never becomes outdated: one that did would lock everybody out."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(datetime.fromtimestamp(now, UTC) - BACKDATE)
        .next_update(datetime(9999, 1, 1, tzinfo=UTC))
        .add_extension(x509.CRLNumber(int(now * 1000)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    revoked_at = datetime.fromtimestamp(now, UTC) - BACKDATE
    for serial in sorted(set(serials)):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(revoked_at).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested_key(csr_pem: bytes) -> AgentKey:
    """The public key of a certificate request whose own signature holds.

    Raises `RefusedError` (`bad-csr`) for anything but one PEM request of bounded size with a P-256, P-384 or Ed25519 key.
    """
    if len(csr_pem) > MAX_CSR_BYTES:
        raise _bad_csr(f"it has more than {MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise _bad_csr("it is not a PKCS #10 request in PEM") from error
    if not valid:
        raise _bad_csr("its signature does not fit its key")
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    raise _bad_csr("its key is not P-256, P-384 or Ed25519")


def agent_serial(agent_id: str, csr_pem: bytes) -> int:
    """The serial of the certificate for this agent and request: 159 bits of sha256.

    Unforeseeable, because the id is random and assigned after the request was made; and a retry of the same request gets
    the same serial, so that one enrolment never has two.
    """
    digest = hashlib.sha256(b"otaria agent\0" + agent_id.encode() + b"\0" + csr_pem).digest()
    return (int.from_bytes(digest[:20], "big") >> 1) | 1


def alternative_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Host names and IP addresses as subject alternative names; raises `RefusedError` (`bad-name`)."""
    out: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            out.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            out.append(_dns_name(name))
    return out


def pem_of(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM bytes."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _dns_name(name: str) -> x509.DNSName:
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise RefusedError(
            "bad-name", f"{name!r} cannot stand in a certificate; give an ASCII host name or an IP address."
        ) from error


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _bad_csr(why: str) -> RefusedError:
    return RefusedError("bad-csr", f"The certificate request is refused: {why}. Make a new one with a P-256 key.")
