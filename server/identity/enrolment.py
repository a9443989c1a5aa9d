"""Enrolment: a claim token, a certificate request and a proof become an agent.

Rules: the server chooses the id. The report key must sign this very request, so nobody enrols with a key that is not
theirs. The claim is spent and the agent added in one transaction. The same request again, after a lost answer, finds its
agent and costs no further use; the same report key with any other request is refused.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer import Key, SSlibKey

from firmware.errors import RefusedError
from firmware.protocol.codec import convert
from firmware.protocol.enrol import PROOF_KIND, EnrolRequest, EnrolResponse, Proof
from firmware.protocol.envelope import open_envelope
from server.identity.authority import AgentCertificate, Authorities
from server.identity.certificates import agent_serial, requested_key
from server.identity.roots import Roots
from server.identity.secrets import hashed, new_id
from server.ports import AgentRecord, AgentStatus, CertificateRecord, Clock, Database, Unit

__all__ = ["Addresses", "EnrolRequest", "EnrolResponse", "EnrolmentOverHttp", "EnrolmentService"]

MAX_PROOF_BYTES = 8192


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where agents find us, as they are told at enrolment."""

    mqtt_host: str
    mqtt_port: int
    https_url: str


@dataclass(frozen=True, kw_only=True)
class _Applicant:
    """A request whose proof holds."""

    request: EnrolRequest
    key: Key
    secret_sha256: str

    @property
    def csr(self) -> bytes:
        return self.request.csr.encode()


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What every way of enrolling stands on."""

    database: Database
    authorities: Authorities
    roots: Roots
    addresses: Addresses
    clock: Clock

    def answer(self, agent: str, certificate: AgentCertificate, root: bytes) -> EnrolResponse:
        """What an agent is told of itself and of us."""
        return EnrolResponse(
            agent=agent,
            target=agent,
            certificate=certificate.pem.decode(),
            fleet_ca=self.authorities.fleet.pem.decode(),
            mqtt_host=self.addresses.mqtt_host,
            mqtt_port=self.addresses.mqtt_port,
            https_url=self.addresses.https_url,
            root=root.decode(),
        )


class EnrolmentService:
    """Turns enrolment requests into agents."""

    def __init__(
        self, database: Database, authorities: Authorities, *, roots: Roots, addresses: Addresses, clock: Clock
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._roots = roots
        self._clock = clock
        self.admission = Admission(
            database=database, authorities=authorities, roots=roots, addresses=addresses, clock=clock
        )

    def services_ca_pem(self) -> bytes:
        """The services CA, which anybody may have: a device compares it with its claim token."""
        return self._authorities.services.pem

    async def enrol(self, request: EnrolRequest) -> EnrolResponse:
        """Enrol one agent.

        Raises `RefusedError`: `bad-csr`, `bad-report-key`, `bad-proof`, `unknown-root`, `claim-unknown`, `claim-expired`,
        `claim-used-up`, `already-enrolled`.
        """
        applicant = await asyncio.to_thread(_examined, request)
        root = await asyncio.to_thread(self._roots.with_sha256, request.root_sha256)
        now = self._clock.now()
        agent, certificate = await self._database.write(lambda unit: self._admit(unit, applicant, now))
        return self.admission.answer(agent, certificate, root)

    def _admit(self, unit: Unit, applicant: _Applicant, now: float) -> tuple[str, AgentCertificate]:
        known = unit.identities.agent_by_report_key(applicant.key.keyid)
        if known is not None:
            _same_again(unit, known, applicant, now)
            return known.id, self._authorities.sign_agent(applicant.csr, known.id)
        claim = unit.identities.spend_claim(applicant.request.claim_id, applicant.secret_sha256, now)
        agent_id, certificate = enrolled(
            unit,
            self._authorities,
            key=applicant.key,
            csr=applicant.csr,
            hardware=applicant.request.hardware,
            labels=claim.labels,
            now=now,
            claim=claim.id,
        )
        _log(unit, agent_id, claim.id, applicant, certificate, now)
        return agent_id, certificate


class EnrolmentOverHttp:
    """The service as the devices' listener speaks to it: parsed JSON in, JSON out."""

    def __init__(self, service: EnrolmentService) -> None:
        self._service = service

    def services_ca_pem(self) -> bytes:
        return self._service.services_ca_pem()

    async def enrol(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `EnrolmentService.enrol`; also raises `RefusedError` (`malformed`) for what is not a request."""
        answer = await self._service.enrol(convert(request, EnrolRequest))
        return msgspec.structs.asdict(answer)


def enrolled(
    unit: Unit,
    authorities: Authorities,
    *,
    key: Key,
    csr: bytes,
    hardware: str,
    labels: Mapping[str, str],
    now: float,
    claim: str = "",
) -> tuple[str, AgentCertificate]:
    """Add an agent whose right to be one was shown; returns its id, which is chosen here, and its certificate."""
    agent_id = _free_id(unit)
    certificate = authorities.sign_agent(csr, agent_id)
    record = AgentRecord(
        id=agent_id,
        status=AgentStatus.ACTIVE,
        report_keyid=key.keyid,
        report_key=key.to_dict(),
        certificate_serial=certificate.serial,
        enrolled_at=now,
        claim_token=claim,
    )
    unit.identities.add_agent(record, hardware=hardware, labels=labels)
    unit.identities.add_certificate(noted(certificate, agent_id))
    return agent_id, certificate


def noted(certificate: AgentCertificate, agent: str, *, replaces: str | None = None) -> CertificateRecord:
    """What is kept of a certificate."""
    return CertificateRecord(
        serial=certificate.serial,
        agent=agent,
        issuer=certificate.issuer,
        issued_at=certificate.issued_at,
        expires_at=certificate.expires_at,
        replaces=replaces,
    )


def _examined(request: EnrolRequest) -> _Applicant:
    """Check everything that needs no storage: the request's key and signature, the report key, the proof."""
    tls_key = requested_key(request.csr.encode())
    key = report_key(request.report_key)
    if SSlibKey.from_crypto(tls_key).keyid == key.keyid:
        raise RefusedError("bad-report-key", "The report key must be another key than the TLS key; make two.")
    _check_proof(request, key)
    return _Applicant(request=request, key=key, secret_sha256=hashed(request.secret))


def report_key(value: Mapping[str, Any]) -> Key:
    """A report key from its TUF form, P-256 or Ed25519, with the key id that follows from its content.

    Raises `RefusedError` (`bad-report-key`) for another type and for anything that is not written exactly as we write it.
    """
    text = str(value.get("keyval", {}).get("public", "") if isinstance(value.get("keyval"), dict) else "")
    try:
        if len(text) > 1024:
            raise ValueError("too long")
        public = _public_key(str(value.get("keytype")), text)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_report_key() from error
    key = SSlibKey.from_crypto(public)
    if key.to_dict() != dict(value):
        raise _bad_report_key()
    return key


def _public_key(keytype: str, text: str) -> ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey:
    if keytype == "ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    loaded = serialization.load_pem_public_key(text.encode())
    if not isinstance(loaded, ec.EllipticCurvePublicKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise ValueError("not a P-256 key")
    return loaded


def _check_proof(request: EnrolRequest, key: Key) -> None:
    try:
        opened = open_envelope(request.proof.encode(), PROOF_KIND, Proof, {key.keyid: key}, max_bytes=MAX_PROOF_BYTES)
    except RefusedError as error:
        raise _bad_proof() from error
    proof = opened.message
    said = (proof.claim_id, proof.csr_sha256, proof.hardware)
    if said != (request.claim_id, hashlib.sha256(request.csr.encode()).hexdigest(), request.hardware):
        raise _bad_proof()


def _same_again(unit: Unit, known: AgentRecord, applicant: _Applicant, now: float) -> None:
    """Whether this is the request that made this agent, repeated; raises `RefusedError` when it is another."""
    claim = next((claim for claim in unit.identities.claims() if claim.id == applicant.request.claim_id), None)
    if claim is None or not hmac.compare_digest(claim.secret_sha256, applicant.secret_sha256):
        raise RefusedError("claim-unknown", "The claim token is not known here; ask the operator for a new one.")
    if claim.expires_at <= now:
        raise RefusedError("claim-expired", "The claim token has expired; ask the operator for a new one.")
    same = known.claim_token == claim.id and known.certificate_serial == f"{agent_serial(known.id, applicant.csr):x}"
    if not same or known.status is not AgentStatus.ACTIVE:
        raise RefusedError(
            "already-enrolled", "An agent with this report key is enrolled already; enrol with new keys instead."
        )


def _free_id(unit: Unit) -> str:
    while True:
        agent_id = new_id("d")
        if unit.identities.agent(agent_id) is None:
            return agent_id


def _log(unit: Unit, agent: str, claim: str, applicant: _Applicant, certificate: AgentCertificate, now: float) -> None:
    unit.audit.add(
        at=now,
        kind="agent-enrolled",
        text=f"{agent} ({applicant.request.hardware}) enrolled with the claim token {claim}.",
        actor="enrolment",
        target=agent,
        data={"claim": claim, "report_keyid": applicant.key.keyid, "serial": certificate.serial},
    )


def _bad_proof() -> RefusedError:
    return RefusedError("bad-proof", "The proof is not signed by the report key over this request; enrol again.")


def _bad_report_key() -> RefusedError:
    return RefusedError("bad-report-key", "The report key must be a P-256 or Ed25519 public key in TUF form.")
