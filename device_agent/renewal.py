"""Renewal on the device: a new key and certificate, got with the keys it has, early or as late as it wakes.

Order, so that the power may go at any moment. The new key and its request are on disk before they are sent, so that a retry
sends the very same. What comes back is checked, and written beside the certificate in use; a connection with it must have
worked before it takes that one's place, in one replacement of one file. Until then, and whenever anything here fails, the
device goes on with what it has.
"""

import hashlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Meta, Struct
from securesystemslib.signer import CryptoSigner, Signer

from device_agent.identity import (
    TLS_CERTIFICATE_FILE,
    TLS_KEY_FILE,
    TLS_RENEWED_FILE,
    Identity,
)
from device_agent.ports import Effects
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.envelope import seal
from firmware.protocol.renew import RENEWAL_KIND, Challenge, Renewal, RenewRequest, RenewResponse
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
T = TypeVar("T")
PENDING_FILE = "renewal.json"
NEXT_FILE = "tls.next.pem"
MAX_PENDING_BYTES = 16384
LIFE_BEFORE_RENEWAL = 2 / 3
SPREAD = 1 / 12
"""Of a certificate's life: devices that were enrolled together do not all come back on one day."""


class RenewalServer(Protocol):
    """The server as a renewal needs it. Raises `UnavailableError`, `RefusedError`."""

    def challenge(self) -> Challenge: ...
    def renew(self, request: RenewRequest) -> RenewResponse: ...
    def is_taken(self, context: ssl.SSLContext) -> bool:
        """Whether the server serves whoever shows the certificate of this context."""
        ...


class _Pending(Struct, frozen=True, kw_only=True):
    """A renewal under way: the new key (PEM) and the request made with it."""

    key: Annotated[str, Meta(max_length=4096)]
    csr: Annotated[str, Meta(max_length=4200)]


@dataclass(frozen=True, kw_only=True)
class Held:
    """A certificate with its key. `text`: its PEM."""

    certificate: x509.Certificate
    text: str
    key: ec.EllipticCurvePrivateKey

    def is_due(self, now: float, authority: str) -> bool:
        """Whether it should be renewed at POSIX seconds `now`: two thirds of its life are over, or another CA signs by now."""
        begin, end = self.certificate.not_valid_before_utc.timestamp(), self.certificate.not_valid_after_utc.timestamp()
        chance = int.from_bytes(self.certificate.fingerprint(hashes.SHA256())[:4], "big") / (1 << 32)
        return now >= begin + (end - begin) * (LIFE_BEFORE_RENEWAL - SPREAD * chance) or self._issuer() != authority

    def _issuer(self) -> str:
        try:
            known = self.certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        except x509.ExtensionNotFound:
            return ""
        return (known.key_identifier or b"").hex()


class Renewer:
    """Keeps one agent's certificate fresh. Everything durable goes through `effects`."""

    def __init__(
        self,
        directory: Path,
        identity: Identity,
        *,
        effects: Effects,
        server: RenewalServer,
        signer: Signer,
        context: Callable[[Path], ssl.SSLContext],
    ) -> None:
        """`signer`: the report key. `context`: a TLS context that shows the certificate in this file."""
        self._directory, self._identity, self._effects = directory, identity, effects
        self._server, self._signer, self._context = server, signer, context

    def finish(self) -> None:
        """Clear away what a cut left behind after the new certificate took its place. Raises `UnavailableError`."""
        in_use = self._read(TLS_RENEWED_FILE)
        if in_use is not None and self._read(NEXT_FILE) == in_use:
            self._clear()
        elif in_use is not None:
            self._clear_enrolled()

    def look(self, trusted_time: float) -> bool:
        """Renew the certificate when that is due, or go on with a renewal that was cut short; whether another is in use now.

        Raises `UnavailableError` (`unreachable`, `storage-fault`, `not-enrolled`), or `RefusedError` (`bad-answer`, or the
        server's kind); the same call may be made again later.
        """
        if self._read(NEXT_FILE) is None:
            challenge, held = self._server.challenge(), self._held()
            if not held.is_due(max(trusted_time, challenge.at), challenge.authority):
                return False
            self._fetch(challenge, held)
        return self._adopt()

    def _fetch(self, challenge: Challenge, held: Held) -> None:
        """Get the new certificate, and write it beside the one in use."""
        pending = self._pending()
        proof = Renewal(
            agent=self._identity.agent,
            nonce=challenge.nonce,
            certificate_sha256=_sha256(held.text),
            csr_sha256=_sha256(pending.csr),
        )
        envelope = seal(proof, RENEWAL_KIND, CryptoSigner(held.key), self._signer)
        request = RenewRequest(certificate=held.text, csr=pending.csr, proof=envelope.decode())
        answer = self._server.renew(request)
        _check(answer, pending, self._identity.agent)
        self._replace(NEXT_FILE, (pending.key + answer.certificate).encode())

    def _adopt(self) -> bool:
        """Use the new certificate from now on, once the server has taken it."""
        upcoming = self._read(NEXT_FILE)
        if upcoming is None or not self._is_usable():
            log.warning("the new certificate is not taken yet; going on with the old one")
            self._unlink(NEXT_FILE)
            return False
        self._replace(TLS_RENEWED_FILE, upcoming)
        self._clear()
        log.info("renewed", extra={"agent": self._identity.agent})
        return True

    def _is_usable(self) -> bool:
        try:
            context = self._context(self._directory / NEXT_FILE)
        except RefusedError:
            return False  # the medium failed; the same request brings the certificate again
        return self._server.is_taken(context)

    def _clear(self) -> None:
        """Remove what led to the certificate in use, its copy last: it says that the rest is done with."""
        self._unlink(PENDING_FILE)
        self._clear_enrolled()
        self._unlink(NEXT_FILE)

    def _clear_enrolled(self) -> None:
        for name in (TLS_KEY_FILE, TLS_CERTIFICATE_FILE):
            if self._read(name) is not None:
                self._unlink(name)

    def _pending(self) -> _Pending:
        """The key and request that may have been sent already, or new ones on disk."""
        data = self._read(PENDING_FILE)
        try:
            if data is not None and len(data) <= MAX_PENDING_BYTES:
                pending = convert(parse_json(data, max_bytes=MAX_PENDING_BYTES), _Pending)
                _key_of(pending.key.encode())
                return pending
        except RefusedError:
            log.warning("the request of a renewal is damaged; a new one is made")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "otaria device")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        pending = _Pending(key=_pem(key), csr=request.public_bytes(serialization.Encoding.PEM).decode())
        self._replace(PENDING_FILE, canonical(pending))
        return pending

    def _held(self) -> Held:
        """The certificate in use and its key."""
        renewed = self._read(TLS_RENEWED_FILE)
        certificate = self._read(TLS_CERTIFICATE_FILE) if renewed is None else renewed
        key = self._read(TLS_KEY_FILE) if renewed is None else renewed
        if certificate is None or key is None:
            raise UnavailableError("not-enrolled", f"{self._directory} lacks a key or certificate; enrol again.")
        found = _certificate_of(certificate)
        text = found.public_bytes(serialization.Encoding.PEM).decode()
        return Held(certificate=found, text=text, key=_key_of(key))

    # The disk

    def _read(self, name: str) -> bytes | None:
        return self._guarded(lambda: self._effects.read(self._directory / name))

    def _replace(self, name: str, data: bytes) -> None:
        self._guarded(lambda: self._effects.replace(self._directory / name, data))

    def _unlink(self, name: str) -> None:
        self._guarded(lambda: self._effects.unlink(self._directory / name))

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except OSError as error:
            text = f"The keys cannot be read or written: {error.strerror or error}; check the storage."
            raise UnavailableError(ReasonKind.STORAGE_FAULT, text) from error


def _check(answer: RenewResponse, pending: _Pending, agent: str) -> None:
    certificate, fleet_ca = _certificate_of(answer.certificate.encode()), _certificate_of(answer.fleet_ca.encode())
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        certificate.verify_directly_issued_by(fleet_ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _bad_answer("its certificate is not signed by its fleet CA") from error
    if certificate.public_key() != _key_of(pending.key.encode()).public_key() or names != [agent]:
        raise _bad_answer("its certificate is for another key or name")


def _certificate_of(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise RefusedError("bad-key", "A certificate is not one in PEM; enrol again.") from error


def _key_of(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError("bad-key", "A TLS key is not an unencrypted PEM private key; enrol again.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RefusedError("bad-key", "The TLS key is not an EC key; enrol again.")
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _bad_answer(why: str) -> RefusedError:
    return RefusedError("bad-answer", f"The answer to the renewal is refused: {why}. The old certificate stays in use.")
