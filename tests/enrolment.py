"""A whole enrolment desk for tests, and requests made by hand, right ones and wrong ones."""

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from firmware.protocol.enrol import PROOF_KIND, Claim, EnrolRequest, Proof, parse_claim
from firmware.protocol.envelope import seal
from server.identity.authority import Authorities
from server.identity.challenges import Challenges
from server.identity.claims import Claims
from server.identity.enrolment import Addresses, EnrolmentService
from server.identity.factory import Factory
from server.identity.key_enrolment import KeyEnrolmentService, ShutOut
from server.identity.renewal import RenewalService
from server.identity.roots import Roots
from server.ports import AgentStatus, Database
from tests.brokers import csr_of
from tests.identity_store import SettableClock

ROOT_1, ROOT_2 = b'{"signed": {"version": 1}}', b'{"signed": {"version": 2}}'
HARDWARE = "demo-board"


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Everything that takes part in enrolment on the server."""

    database: Database
    authorities: Authorities
    clock: SettableClock
    metadata: Path
    claims: Claims
    service: EnrolmentService
    renewal: RenewalService
    challenges: Challenges

    async def claim(self, *, uses: int = 1, expires_s: int = 3600, labels: dict[str, str] | None = None) -> Claim:
        """A parsed fresh claim token."""
        _, text = await self.claims.create_claim(uses=uses, expires_s=expires_s, labels=labels or {}, by="anna")
        return parse_claim(text)


def desk_of(database: Database, clock: SettableClock, directory: Path, *, url: str = "https://127.0.0.1:8443") -> Desk:
    """A desk with one TUF root."""
    metadata = directory / "metadata"
    metadata.mkdir()
    (metadata / "1.root.json").write_bytes(ROOT_1)
    (metadata / "root.json").write_bytes(b"no version, not looked at")
    authorities = Authorities.open_or_create(directory / "authorities", clock=clock.now)
    roots, challenges = Roots(metadata), Challenges()
    addresses = Addresses(mqtt_host="127.0.0.1", mqtt_port=8883, https_url=url)
    return Desk(
        database=database,
        authorities=authorities,
        clock=clock,
        metadata=metadata,
        claims=Claims(database, url=url, services_ca=authorities.services.fingerprint, roots=roots, clock=clock),
        service=EnrolmentService(database, authorities, roots=roots, addresses=addresses, clock=clock),
        renewal=RenewalService(database, authorities, clock=clock, challenges=challenges),
        challenges=challenges,
    )


@dataclass(frozen=True, kw_only=True)
class Device:
    """The keys of a device."""

    tls_key: ec.EllipticCurvePrivateKey
    signer: CryptoSigner

    @classmethod
    def new(cls) -> "Device":
        return cls(
            tls_key=ec.generate_private_key(ec.SECP256R1()),
            signer=CryptoSigner(ec.generate_private_key(ec.SECP256R1())),
        )

    def request(self, claim: Claim, *, signer: CryptoSigner | None = None, **proof: Any) -> EnrolRequest:
        """A right request, but for another signer of the proof or other words in it."""
        csr = csr_of(self.tls_key).decode()
        said = {
            "claim_id": claim.id,
            "csr_sha256": hashlib.sha256(csr.encode()).hexdigest(),
            "hardware": HARDWARE,
            "nonce": secrets.token_hex(16),
            **proof,
        }
        return EnrolRequest(
            claim_id=claim.id,
            secret=claim.secret,
            csr=csr,
            report_key=self.signer.public_key.to_dict(),
            hardware=HARDWARE,
            root_sha256=claim.root,
            proof=seal(Proof(**said), PROOF_KIND, signer or self.signer).decode(),
        )


def known_desk(desk: Desk, factory: Factory | None = None) -> KeyEnrolmentService:
    """The desk for devices that are known before they come; it only changes an agent's standing."""

    def becomes(status: AgentStatus) -> ShutOut:
        return lambda unit, agent, reason: unit.identities.set_agent_status(agent, status)

    return KeyEnrolmentService(
        desk.service.admission,
        factory=factory or Factory(),
        challenges=desk.challenges,
        quarantine=becomes(AgentStatus.QUARANTINED),
        revoke=becomes(AgentStatus.REVOKED),
    )


def changed(request: EnrolRequest, **fields: Any) -> EnrolRequest:
    """The request with other fields."""
    return msgspec.structs.replace(request, **fields)
