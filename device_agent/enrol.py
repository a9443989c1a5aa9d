"""Enrolment on the device: a claim token becomes keys, a certificate and an identity.

Order, so that a cut at any moment leaves either nothing, something to continue, or all: keys, then the request (so that a
retry sends the very same one), then the exchange, then certificates, and `identity.json` last. The secret leaves the device
only over TLS verified against the CA whose fingerprint the token pins. A new device's clock may be years off, so
certificates are checked for who signed them, not for their dates.
"""

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from msgspec import Meta, Struct
from securesystemslib.signer import CryptoSigner

from device_agent.effects import FileEffects
from device_agent.enrol_client import EnrolClient
from device_agent.identity import (
    IDENTITY_FILE,
    REPORT_KEY_FILE,
    ROOT_FILE,
    SERVICES_CA_FILE,
    TLS_CERTIFICATE_FILE,
    TLS_KEY_FILE,
    Identity,
    save_identity,
)
from device_agent.ports import Effects
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.enrol import PROOF_KIND, Claim, EnrolRequest, EnrolResponse, Hardware, Proof, parse_claim
from firmware.protocol.enrol_key import KEY_PROOF_KIND, Introduction, KeyEnrolRequest, KeyProof, parse_introduction
from firmware.protocol.envelope import seal
from firmware.protocol.words import Id

FLEET_CA_FILE = "fleet-ca.pem"
PENDING_FILE = "enrolment.json"
MAX_PENDING_BYTES = 16384
TIMEOUT_S = 30.0
DeviceKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class _Pending(Struct, frozen=True, kw_only=True):
    """An enrolment under way: the claim (or known key) it uses and the certificate request it sends."""

    claim_id: Id
    csr: Annotated[str, Meta(max_length=4200)]


@dataclass(frozen=True, kw_only=True)
class _Applicant:
    """The keys of this device and the request made with them."""

    tls_key: ec.EllipticCurvePrivateKey
    signer: CryptoSigner
    csr: str


def enrol(
    directory: Path, claim: str, hardware: str, *, effects: Effects | None = None, timeout_s: float = TIMEOUT_S
) -> Identity:
    """Enrol this device with a claim token; fills `directory` and returns the identity. Blocking.

    `hardware` is the hardware id that releases name. Raises `RefusedError`: `claim-malformed`, `malformed`,
    `already-enrolled`, `wrong-pin`, `wrong-server`, `bad-answer`, or the server's own kind (`claim-expired`,
    `claim-used-up`, …); `UnavailableError`: `unreachable`, `busy`. After any of them the same call may be made again.
    """
    return _enrolled(directory, _ByClaim(parse_claim(claim)), hardware, effects or FileEffects(), timeout_s)


def enrol_with_key(
    directory: Path,
    introduction: str,
    key_pem: bytes,
    hardware: str,
    *,
    certificates: bytes = b"",
    effects: Effects | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Identity:
    """Enrol this device with a key that it was born with, and that the server's operator, or the factory, knows. Blocking.

    `certificates`: the factory's certificate for that key, and those that signed it, in PEM. The key is only used here, and kept
    nowhere. Raises as `enrol`, and `RefusedError`: `introduction-malformed`, `bad-key`, or the server's own (`device-unknown`,
    `device-copied`, `bad-factory-certificate`, …).
    """
    pins, own = parse_introduction(introduction), _own_key(key_pem)
    device = certificates.decode("ascii", errors="replace") or _public_pem(own)
    return _enrolled(directory, _ByKey(pins, own, device), hardware, effects or FileEffects(), timeout_s)


class _ByClaim:
    """The right to enrol that a claim token gives."""

    def __init__(self, claim: Claim) -> None:
        self.pins: Claim | Introduction = claim
        self.id, self._claim = claim.id, claim

    def request(self, client: EnrolClient, services_ca: bytes, applicant: "_Applicant", hardware: str) -> EnrolRequest:
        return _request(self._claim, hardware, applicant)


class _ByKey:
    """The right to enrol of a key that is known."""

    def __init__(self, pins: Introduction, key: DeviceKey, device: str) -> None:
        self.pins: Claim | Introduction = pins
        self.id = f"k-{hashlib.sha256(device.encode()).hexdigest()[:16]}"
        self._signer, self._device = CryptoSigner(key), device

    def request(
        self, client: EnrolClient, services_ca: bytes, applicant: "_Applicant", hardware: str
    ) -> KeyEnrolRequest:
        proof = KeyProof(
            device_sha256=hashlib.sha256(self._device.encode()).hexdigest(),
            csr_sha256=hashlib.sha256(applicant.csr.encode()).hexdigest(),
            hardware=hardware,
            nonce=client.challenge(services_ca).nonce,
        )
        request = KeyEnrolRequest(
            device=self._device,
            csr=applicant.csr,
            report_key=applicant.signer.public_key.to_dict(),
            hardware=hardware,
            root_sha256=self.pins.root,
            proof=seal(proof, KEY_PROOF_KIND, self._signer, applicant.signer).decode(),
        )
        return convert(parse_json(canonical(request), max_bytes=32768), KeyEnrolRequest)


def _enrolled(directory: Path, right: _ByClaim | _ByKey, hardware: str, effects: Effects, timeout_s: float) -> Identity:
    hardware = convert(hardware, Hardware)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _exclusive(directory):
        if (directory / IDENTITY_FILE).exists():
            raise RefusedError(
                "already-enrolled", f"{directory} is enrolled already; use another directory or remove it first."
            )
        return _enrol(directory.absolute(), right, hardware, effects, timeout_s)


def _enrol(directory: Path, right: _ByClaim | _ByKey, hardware: str, effects: Effects, timeout_s: float) -> Identity:
    applicant, claim = _applicant(directory, right.id, effects), right.pins
    client = EnrolClient(claim.url, timeout_s=timeout_s)
    services_ca = _pinned_ca(client.services_ca(), claim)
    request = right.request(client, services_ca, applicant, hardware)
    answer = client.enrol(request, services_ca)
    _check(answer, claim, applicant)
    identity = _identity(answer, claim, hardware)
    files = {
        SERVICES_CA_FILE: services_ca,
        FLEET_CA_FILE: answer.fleet_ca.encode(),
        ROOT_FILE: answer.root.encode(),
        TLS_CERTIFICATE_FILE: answer.certificate.encode(),
    }
    for name, data in files.items():
        effects.replace(directory / name, data)
    save_identity(directory, identity, effects)
    effects.unlink(directory / PENDING_FILE)
    return identity


def _applicant(directory: Path, right: str, effects: Effects) -> _Applicant:
    """The keys and request of an enrolment by this right that was cut off, or new ones on disk."""
    return _resumed(directory, right, effects) or _fresh(directory, right, effects)


def _resumed(directory: Path, right: str, effects: Effects) -> _Applicant | None:
    data = effects.read(directory / PENDING_FILE)
    if data is None:
        return None
    try:
        pending = convert(parse_json(data, max_bytes=MAX_PENDING_BYTES), _Pending)
    except RefusedError:
        return None  # a medium that fails: begun anew, nothing of it was ever sent on
    keys = [_load_key(effects.read(directory / name)) for name in (TLS_KEY_FILE, REPORT_KEY_FILE)]
    if pending.claim_id != right or keys[0] is None or keys[1] is None:
        return None
    return _Applicant(tls_key=keys[0], signer=CryptoSigner(keys[1]), csr=pending.csr)


def _fresh(directory: Path, right: str, effects: Effects) -> _Applicant:
    tls_key, report_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "otaria device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(tls_key, hashes.SHA256())
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    effects.unlink(directory / PENDING_FILE)
    effects.replace(directory / TLS_KEY_FILE, _key_pem(tls_key))
    effects.replace(directory / REPORT_KEY_FILE, _key_pem(report_key))
    effects.replace(directory / PENDING_FILE, canonical(_Pending(claim_id=right, csr=csr)))
    return _Applicant(tls_key=tls_key, signer=CryptoSigner(report_key), csr=csr)


def _request(claim: Claim, hardware: str, applicant: _Applicant) -> EnrolRequest:
    proof = Proof(
        claim_id=claim.id,
        csr_sha256=hashlib.sha256(applicant.csr.encode()).hexdigest(),
        hardware=hardware,
        nonce=secrets.token_urlsafe(16),
    )
    request = EnrolRequest(
        claim_id=claim.id,
        secret=claim.secret,
        csr=applicant.csr,
        report_key=applicant.signer.public_key.to_dict(),
        hardware=hardware,
        root_sha256=claim.root,
        proof=seal(proof, PROOF_KIND, applicant.signer).decode(),
    )
    return convert(parse_json(canonical(request), max_bytes=32768), EnrolRequest)


def _pinned_ca(pem: bytes, claim: Claim | Introduction) -> bytes:
    """The one certificate in `pem`, which must be the CA that the claim pins."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise _bad_answer("its CA is not a certificate") from error
    if len(found) != 1 or not hmac.compare_digest(found[0].fingerprint(hashes.SHA256()).hex(), claim.ca):
        raise RefusedError(
            "wrong-pin",
            "The server showed another CA than the claim token pins: it is the wrong server, or somebody is in between. "
            "Nothing secret was sent. Check the address, or ask for a new token.",
        )
    return found[0].public_bytes(serialization.Encoding.PEM)


def _check(answer: EnrolResponse, claim: Claim | Introduction, applicant: _Applicant) -> None:
    if not hmac.compare_digest(hashlib.sha256(answer.root.encode()).hexdigest(), claim.root):
        raise RefusedError(
            "wrong-pin", "The server sent another catalogue root than the claim token pins; ask for a new token."
        )
    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
        fleet_ca = x509.load_pem_x509_certificate(answer.fleet_ca.encode())
        certificate.verify_directly_issued_by(fleet_ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _bad_answer("its certificate is not signed by its fleet CA") from error
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if certificate.public_key() != applicant.tls_key.public_key() or names != [answer.agent]:
        raise _bad_answer("its certificate is for another key or name")


def _identity(answer: EnrolResponse, claim: Claim | Introduction, hardware: str) -> Identity:
    identity = Identity(
        agent=answer.agent,
        target=answer.target,
        hardware=hardware,
        mqtt_host=answer.mqtt_host,
        mqtt_port=answer.mqtt_port,
        https_url=answer.https_url,
        root_sha256=claim.root,
    )
    return convert(parse_json(canonical(identity), max_bytes=16384), Identity)


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Two enrolments into one directory would mix their keys."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UnavailableError("busy", f"Another enrolment into {directory} is running; wait for it.") from error
    finally:
        os.close(descriptor)


def _own_key(pem: bytes) -> DeviceKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError("bad-key", "The device's key is not an unencrypted PEM private key.") from error
    if not isinstance(key, DeviceKey):
        raise RefusedError("bad-key", "The device's key must be P-256, P-384 or Ed25519.")
    return key


def _public_pem(key: DeviceKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form).decode()


def _load_key(pem: bytes | None) -> ec.EllipticCurvePrivateKey | None:
    if pem is None:
        return None
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _bad_answer(why: str) -> RefusedError:
    return RefusedError(
        "bad-answer", f"The server's answer is refused: {why}. Nothing was enrolled; tell its operator."
    )
