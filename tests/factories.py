"""A factory for tests: a CA, perhaps with one below it, that certifies the keys devices are born with."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.identity.certificates import pem_of


@dataclass(frozen=True, kw_only=True)
class FactoryCa:
    """A CA and its key; `above` signed it, or it itself."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: "FactoryCa | None" = None

    @classmethod
    def make(
        cls, now: float, *, above: "FactoryCa | None" = None, path_length: int | None = 1, **more: Any
    ) -> "FactoryCa":
        key = ec.generate_private_key(ec.SECP256R1())
        wanted = _Wanted(name=f"factory {id(key)}", now=now, ca=True, path_length=path_length, **more)
        signer = (above.certificate.subject, above.key) if above else None
        return cls(certificate=_certificate(key, wanted, signer), key=key, above=above)

    def chain(self, key: ec.EllipticCurvePrivateKey, now: float, *, serial: str = "SN-1", **more: Any) -> bytes:
        """A device's certificate and the CAs below the topmost, in PEM."""
        leaf = _certificate(
            key, _Wanted(name="board", serial=serial, now=now, **more), (self.certificate.subject, self.key)
        )
        out, ca = pem_of(leaf), self
        while ca.above is not None:
            out, ca = out + pem_of(ca.certificate), ca.above
        return out


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    name: str
    now: float
    serial: str = ""
    ca: bool = False
    path_length: int | None = None
    days: float = 365
    key_cert_sign: bool = True
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    unit: str = "r7"
    more: dict[str, Any] = field(default_factory=dict)


def _certificate(
    key: ec.EllipticCurvePrivateKey, wanted: _Wanted, signer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None
) -> x509.Certificate:
    names = [(NameOID.COMMON_NAME, wanted.name), (NameOID.ORGANIZATIONAL_UNIT_NAME, wanted.unit)]
    if wanted.serial:
        names.append((NameOID.SERIAL_NUMBER, wanted.serial))
    subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in names])
    at = datetime.fromtimestamp(wanted.now, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[0] if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(days=2))
        .not_valid_after(at + timedelta(days=wanted.days))
        .add_extension(x509.BasicConstraints(ca=wanted.ca, path_length=wanted.path_length), critical=True)
    )
    if wanted.ca:
        bits = dict.fromkeys(
            (
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "crl_sign",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        usage = x509.KeyUsage(key_cert_sign=wanted.key_cert_sign, **bits)
        builder = builder.add_extension(usage, critical=True)
    for extension, critical in wanted.extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer[1] if signer else key, hashes.SHA256())
