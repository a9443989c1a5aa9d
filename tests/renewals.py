"""An enrolled device with its files, and renewals made by hand, right ones and wrong ones."""

import asyncio
import hashlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner, Signer

from firmware.errors import UnavailableError
from firmware.protocol.envelope import seal
from firmware.protocol.renew import RENEWAL_KIND, Challenge, Renewal, RenewRequest, RenewResponse
from tests.brokers import csr_of, key_pem
from tests.enrolment import Desk, Device


@dataclass
class Enrolled:
    """A device of a desk: its id, keys and certificate."""

    desk: Desk
    agent: str
    device: Device
    certificate: str

    @classmethod
    async def at(cls, desk: Desk) -> "Enrolled":
        device = Device.new()
        answer = await desk.service.enrol(device.request(await desk.claim()))
        return cls(desk=desk, agent=answer.agent, device=device, certificate=answer.certificate)

    def request(
        self,
        *,
        new: ec.EllipticCurvePrivateKey | None = None,
        nonce: str | None = None,
        signers: tuple[Signer, ...] | None = None,
        certificate: str | None = None,
        **said: Any,
    ) -> RenewRequest:
        """A right renewal, but for what is given."""
        certificate = certificate or self.certificate
        csr = csr_of(new or ec.generate_private_key(ec.SECP256R1())).decode()
        words = {
            "agent": self.agent,
            "nonce": nonce or self.desk.renewal.challenge().nonce,
            "certificate_sha256": hashlib.sha256(certificate.encode()).hexdigest(),
            "csr_sha256": hashlib.sha256(csr.encode()).hexdigest(),
            **said,
        }
        keys = signers if signers is not None else (CryptoSigner(self.device.tls_key), self.device.signer)
        proof = seal(Renewal(**words), RENEWAL_KIND, *keys).decode()
        return RenewRequest(certificate=certificate, csr=csr, proof=proof)

    def write(self, directory: Path) -> None:
        """The files that enrolment leaves."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tls.key").write_bytes(key_pem(self.device.tls_key))
        (directory / "tls.crt").write_text(self.certificate)


@dataclass
class DirectServer:
    """`RenewalServer` straight onto a desk's service. `lose_answers`: how many answers get lost on the way."""

    desk: Desk
    lose_answers: int = 0
    taken: bool = True
    sent: list[RenewRequest] = field(default_factory=list)

    def challenge(self) -> Challenge:
        return self.desk.renewal.challenge()

    def renew(self, request: RenewRequest) -> RenewResponse:
        self.sent.append(request)
        answer = asyncio.run(self.desk.renewal.renew(request))
        if self.lose_answers:
            self.lose_answers -= 1
            raise UnavailableError("unreachable", "The answer was lost.")
        return answer

    def is_taken(self, context: ssl.SSLContext) -> bool:
        return self.taken


def public_of(pem: str) -> object:
    """The public key of a certificate in PEM."""
    return x509.load_pem_x509_certificate(pem.encode()).public_key()


def expires_at(pem: bytes) -> float:
    """When a certificate ends, in POSIX seconds."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key in PEM."""
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
