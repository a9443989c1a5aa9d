"""Renewal: an agent proves that it holds the keys of the certificate it was given, and gets one for a new key.

Rules: the challenge is ours, fresh and unused. The certificate is the agent's current one, or the one before it when the
very same request comes again after a lost answer. Whether it has expired, or its CA was retired, does not matter; whether
its agent was quarantined or shut out does. Both of the agent's keys sign, and the report key counts as it was bound at
enrolment: so neither a stolen TLS key nor a certificate forged with a stolen fleet CA gets any further here.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID
from securesystemslib.signer import Key, SSlibKey

from firmware.errors import RefusedError
from firmware.protocol.codec import convert
from firmware.protocol.envelope import key_from_dict, open_envelope
from firmware.protocol.renew import (
    MAX_PROOF_BYTES,
    RENEWAL_KIND,
    Challenge,
    Renewal,
    RenewRequest,
    RenewResponse,
)
from firmware.protocol.words import Id
from server.errors import DeniedError
from server.identity.authority import AgentCertificate, Authorities
from server.identity.certificates import AgentKey, agent_serial, requested_key
from server.identity.challenges import Challenges
from server.identity.enrolment import noted
from server.ports import AgentRecord, AgentStatus, CertificateRecord, Clock, Database, Unit

REST_S = 60.0
"""An agent gets another certificate only so long after its last: each leaves a line on the trail."""


@dataclass(frozen=True, kw_only=True)
class _Applicant:
    """A request whose form is right: the certificate held, its agent and key, and the key of the request."""

    request: RenewRequest
    certificate: x509.Certificate
    agent: str
    held_key: AgentKey
    new_key: AgentKey

    @property
    def serial(self) -> str:
        return f"{self.certificate.serial_number:x}"

    @property
    def next_serial(self) -> str:
        return f"{agent_serial(self.agent, self.request.csr.encode()):x}"


class RenewalService:
    """Gives agents new certificates for their old ones."""

    def __init__(
        self, database: Database, authorities: Authorities, *, clock: Clock, challenges: Challenges | None = None
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._challenges = challenges or Challenges()

    def challenge(self) -> Challenge:
        """A new challenge, with what tells an agent that it should renew."""
        now = self._clock.now()
        return Challenge(
            nonce=self._challenges.issue(now), at=int(now), authority=self._authorities.fleet.key_identifier
        )

    async def renew(self, request: RenewRequest) -> RenewResponse:
        """Certify the new key.

        Raises `RefusedError`: `malformed`, `bad-csr`, `stale-challenge`, `bad-proof`, `certificate-unknown`,
        `certificate-replaced`, `renewed-just-now`; `DeniedError` (`forbidden`) for an agent that is unknown, quarantined or
        shut out.
        """
        applicant = await asyncio.to_thread(_examined, request)
        known = await self._database.read(lambda unit: _standing(unit, applicant))
        proof = await asyncio.to_thread(self._proven, applicant, known)
        made = self._challenges.made_at(proof.nonce, self._clock.now())
        self._challenges.spend(applicant.agent, made)
        certificate = await self._database.write(lambda unit: self._certify(unit, applicant))
        return RenewResponse(certificate=certificate.pem.decode(), fleet_ca=self._authorities.fleet.pem.decode())

    def _proven(self, applicant: _Applicant, known: AgentRecord) -> Renewal:
        """What both keys of the agent signed, about this very request."""
        if not any(_issued(applicant.certificate, issuer) for issuer in self._authorities.issuers):
            raise RefusedError("certificate-unknown", "The certificate is of no CA of this fleet; enrol anew.")
        held = SSlibKey.from_crypto(applicant.held_key)
        proof = _opened(applicant, held)
        if _opened(applicant, key_from_dict(known.report_keyid, dict(known.report_key))) != proof:
            raise _bad_proof()
        request = applicant.request
        said = (proof.agent, proof.certificate_sha256, proof.csr_sha256)
        if said != (applicant.agent, _sha256(request.certificate), _sha256(request.csr)):
            raise _bad_proof()
        new_keyid = SSlibKey.from_crypto(applicant.new_key).keyid
        if new_keyid in (held.keyid, known.report_keyid):
            raise RefusedError("bad-csr", "The certificate request must be for a key that is new.")
        return proof

    def _certify(self, unit: Unit, applicant: _Applicant) -> AgentCertificate:
        known, now = _standing(unit, applicant), self._clock.now()
        current = unit.identities.certificate(known.certificate_serial)
        _require_current(applicant, known, current)
        again = known.certificate_serial == applicant.next_serial
        if not again and current is not None and current.replaces and now < current.issued_at + REST_S:
            raise RefusedError("renewed-just-now", f"{known.id} was given a certificate just now; try again later.")
        certificate = self._authorities.sign_agent(applicant.request.csr.encode(), known.id)
        unit.identities.add_certificate(noted(certificate, known.id, replaces=applicant.serial))
        if not again:
            _log(unit, known, applicant, certificate, now)
        return certificate


class RenewalOverHttp:
    """The service as the devices' listener speaks to it: parsed JSON in, JSON out."""

    def __init__(self, service: RenewalService) -> None:
        self._service = service

    def challenge(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self._service.challenge())

    async def renew(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `RenewalService.renew`."""
        return msgspec.structs.asdict(await self._service.renew(convert(request, RenewRequest)))


def _examined(request: RenewRequest) -> _Applicant:
    """Check all that needs no storage and no signature of the agent's."""
    new_key = requested_key(request.csr.encode())
    try:
        certificate = x509.load_pem_x509_certificate(request.certificate.encode())
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        held_key = certificate.public_key()
        agent = convert(names[0] if len(names) == 1 else None, Id)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError("malformed", "The certificate held is not one in PEM; enrol anew.") from error
    if not isinstance(held_key, AgentKey):
        raise RefusedError("malformed", "The certificate held is for a key of another kind; enrol anew.")
    return _Applicant(request=request, certificate=certificate, agent=agent, held_key=held_key, new_key=new_key)


def _standing(unit: Unit, applicant: _Applicant) -> AgentRecord:
    known = unit.identities.agent(applicant.agent)
    if known is None:
        raise DeniedError("forbidden", f"No agent of this fleet is called {applicant.agent}; enrol with a claim token.")
    if known.status.shut_out:
        text = f"{known.id} was {known.status}, and that is for ever; enrol anew, with new keys and a claim token."
        raise DeniedError("forbidden", text)
    if known.status is not AgentStatus.ACTIVE:
        raise DeniedError("forbidden", f"{known.id} is {known.status}; an administrator must release it first.")
    return known


def _require_current(applicant: _Applicant, known: AgentRecord, current: CertificateRecord | None) -> None:
    if applicant.serial == known.certificate_serial:
        return
    again = current is not None and current.replaces == applicant.serial and current.serial == applicant.next_serial
    if not again:
        raise RefusedError(
            "certificate-replaced",
            f"{known.id} was given a later certificate than this one; only that one can be renewed. If it is lost, or if "
            "somebody else got it, revoke the agent and enrol the device anew.",
        )


def _opened(applicant: _Applicant, key: Key) -> Renewal:
    try:
        data = applicant.request.proof.encode()
        return open_envelope(data, RENEWAL_KIND, Renewal, {key.keyid: key}, max_bytes=MAX_PROOF_BYTES).message
    except RefusedError as error:
        raise _bad_proof() from error


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _log(unit: Unit, agent: AgentRecord, applicant: _Applicant, made: AgentCertificate, now: float) -> None:
    unit.audit.add(
        at=now,
        kind="certificate-renewed",
        text=f"{agent.id} was given a new certificate for its old one.",
        actor="enrolment",
        target=agent.id,
        data={"serial": made.serial, "replaces": applicant.serial, "issuer": made.issuer},
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _bad_proof() -> RefusedError:
    return RefusedError(
        "bad-proof", "The proof is not signed by the certificate's key and the report key over this request."
    )
