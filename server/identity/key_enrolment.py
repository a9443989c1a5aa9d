"""Enrolment of a device that is known before it comes: its own key, or the factory's word for it, stands in for a claim token.

Rules: the device's key and the report key both sign this very request over a challenge of ours, so that neither a request that
was overheard nor a certificate without its key enrols anybody. One known device is one agent. Whoever comes again with other keys
is either a copy or was erased, and nobody here can tell: the agent is quarantined until a person looks, and lets the device in
again or not. The very same request again, after a lost answer, finds its agent.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Key, SSlibKey

from firmware.errors import RefusedError
from firmware.protocol.codec import convert
from firmware.protocol.enrol import EnrolResponse
from firmware.protocol.enrol_key import KEY_PROOF_KIND, MAX_PROOF_BYTES, KeyEnrolRequest, KeyProof
from firmware.protocol.envelope import open_envelope
from server.identity.authority import AgentCertificate
from server.identity.certificates import AgentKey, agent_serial, requested_key
from server.identity.challenges import Challenges
from server.identity.enrolment import Admission, enrolled, report_key
from server.identity.factory import Factory
from server.identity.secrets import new_id
from server.ports import AgentRecord, AgentStatus, KnownDevice, Unit

CERTIFICATE_BEGINS = "-----BEGIN CERTIFICATE-----"
ShutOut = Callable[[Unit, str, str], None]
"""Quarantines or revokes an agent inside a transaction, for a reason."""


@dataclass(frozen=True, kw_only=True)
class _Comer:
    """A request whose form is right: the device's own key and what the factory says of it, and the report key."""

    request: KeyEnrolRequest
    own: AgentKey
    key: Key
    serial: str | None
    labels: dict[str, str]

    @property
    def key_sha256(self) -> str:
        return key_fingerprint(self.own)

    @property
    def csr(self) -> bytes:
        return self.request.csr.encode()


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """Who came again with other keys."""

    known: KnownDevice


class KeyEnrolmentService:
    """Turns known devices into agents. `on_shut_out` is told when somebody may have been shut out."""

    def __init__(
        self,
        admission: Admission,
        *,
        factory: Factory,
        challenges: Challenges,
        quarantine: ShutOut,
        revoke: ShutOut,
        on_shut_out: Callable[[], None] = lambda: None,
    ) -> None:
        self._admission, self._factory, self._challenges = admission, factory, challenges
        self._quarantine, self._revoke, self._on_shut_out = quarantine, revoke, on_shut_out

    async def enrol(self, request: KeyEnrolRequest) -> EnrolResponse:
        """Enrol one device.

        Raises `RefusedError`: `bad-csr`, `bad-report-key`, `bad-device-key`, `bad-factory-certificate`, `bad-proof`,
        `stale-challenge`, `unknown-root`, `device-unknown`, `device-copied`, `already-enrolled`.
        """
        base, now = self._admission, self._admission.clock.now()
        comer = await asyncio.to_thread(self._examined, request, now)
        proof = await asyncio.to_thread(_proven, comer)
        made = self._challenges.made_at(proof.nonce, now)
        root = await asyncio.to_thread(base.roots.with_sha256, request.root_sha256)
        self._challenges.spend(comer.key_sha256, made)
        admitted = await base.database.write(lambda unit: self._admit(unit, comer, now))
        self._on_shut_out()
        if isinstance(admitted, _Copy):
            raise _copied(admitted.known)
        agent, certificate = admitted
        return base.answer(agent, certificate, root)

    def _examined(self, request: KeyEnrolRequest, now: float) -> _Comer:
        tls_key, key = requested_key(request.csr.encode()), report_key(request.report_key)
        serial, labels = None, {}
        if request.device.startswith(CERTIFICATE_BEGINS):
            device = self._factory.examine(request.device.encode(), now)
            own, serial, labels = device.key, device.serial, dict(device.labels)
        else:
            own = _public_key(request.device)
        if len({SSlibKey.from_crypto(one).keyid for one in (tls_key, own)} | {key.keyid}) != 3:
            raise RefusedError(
                "bad-report-key", "The device's, the TLS and the report key must be three keys; make two."
            )
        return _Comer(request=request, own=own, key=key, serial=serial, labels=labels)

    def _admit(self, unit: Unit, comer: _Comer, now: float) -> tuple[str, AgentCertificate] | _Copy:
        known = unit.identities.known_device(key_sha256=comer.key_sha256, serial=comer.serial)
        if known is None:
            known = self._unlisted(unit, comer, now)
        before = unit.identities.agent(known.agent) if known.agent else None
        if before is not None and _is_same(before, known, comer):
            return before.id, self._admission.authorities.sign_agent(comer.csr, before.id)
        if unit.identities.agent_by_report_key(comer.key.keyid) is not None:
            text = "An agent with this report key is enrolled already; enrol with new keys instead."
            raise RefusedError("already-enrolled", text)
        if before is not None and not known.again:
            if before.status is AgentStatus.ACTIVE:
                text = f"The device {known.name} came to enrol again with other keys: it is a copy, or was erased."
                self._quarantine(unit, before.id, text)
            return _Copy(known=known)
        if before is not None and not before.status.shut_out:
            self._revoke(unit, before.id, f"{known.name} enrolled again, as it was allowed to.")
        return self._enrol(unit, comer, known, now)

    def _unlisted(self, unit: Unit, comer: _Comer, now: float) -> KnownDevice:
        """A device that only the factory vouches for; raises `RefusedError` (`device-unknown`) where that is not enough."""
        if comer.serial is None or not self._factory.admits_unlisted:
            raise RefusedError(
                "device-unknown",
                "This device is not known here; let its operator add its key or serial, and try again.",
            )
        known = KnownDevice(id=new_id("k"), serial=comer.serial, labels={}, created_at=now, created_by="factory")
        unit.identities.add_known_device(known)
        return known

    def _enrol(self, unit: Unit, comer: _Comer, known: KnownDevice, now: float) -> tuple[str, AgentCertificate]:
        agent, certificate = enrolled(
            unit,
            self._admission.authorities,
            key=comer.key,
            csr=comer.csr,
            hardware=comer.request.hardware,
            labels={**comer.labels, **known.labels},
            now=now,
        )
        unit.identities.bind_known_device(known.id, agent=agent, key_sha256=comer.key_sha256)
        unit.audit.add(
            at=now,
            kind="agent-enrolled",
            text=f"{agent} ({comer.request.hardware}) enrolled as the known device {known.name}.",
            actor="enrolment",
            target=agent,
            data={"known": known.id, "report_keyid": comer.key.keyid, "serial": certificate.serial},
        )
        return agent, certificate


class KeyEnrolmentOverHttp:
    """The service as the devices' listener speaks to it: parsed JSON in, JSON out."""

    def __init__(self, service: KeyEnrolmentService) -> None:
        self._service = service

    async def enrol(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `KeyEnrolmentService.enrol`; also raises `RefusedError` (`malformed`) for what is not a request."""
        return msgspec.structs.asdict(await self._service.enrol(convert(request, KeyEnrolRequest)))


def key_fingerprint(key: AgentKey) -> str:
    """sha256 (hex) of a public key's DER (SubjectPublicKeyInfo), as operators upload it."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _public_key(pem: str) -> AgentKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad_key() from error
    if not isinstance(key, AgentKey):
        raise _bad_key()
    return key


def _proven(comer: _Comer) -> KeyProof:
    """What both keys signed, about this very request; raises `RefusedError` (`bad-proof`)."""
    own = SSlibKey.from_crypto(comer.own)
    proof, again = _opened(comer, own), _opened(comer, comer.key)
    said = (proof.device_sha256, proof.csr_sha256, proof.hardware)
    request = comer.request
    if proof != again or said != (_sha256(request.device), _sha256(request.csr), request.hardware):
        raise _bad_proof()
    return proof


def _opened(comer: _Comer, key: Key) -> KeyProof:
    try:
        data = comer.request.proof.encode()
        return open_envelope(data, KEY_PROOF_KIND, KeyProof, {key.keyid: key}, max_bytes=MAX_PROOF_BYTES).message
    except RefusedError as error:
        raise _bad_proof() from error


def _is_same(before: AgentRecord, known: KnownDevice, comer: _Comer) -> bool:
    """Whether this is the request that made this agent, repeated."""
    return (
        before.status is AgentStatus.ACTIVE
        and known.key_sha256 == comer.key_sha256
        and before.report_keyid == comer.key.keyid
        and before.certificate_serial == f"{agent_serial(before.id, comer.csr):x}"
    )


def _copied(known: KnownDevice) -> RefusedError:
    return RefusedError(
        "device-copied",
        f"This device enrolled before, with other keys, as {known.agent}. An administrator must look: "
        f"`otaria fleet known allow {known.id}` lets it in again, and shuts out what it was.",
    )


def _bad_key() -> RefusedError:
    return RefusedError("bad-device-key", "The device's key must be P-256, P-384 or Ed25519, as a public key in PEM.")


def _bad_proof() -> RefusedError:
    return RefusedError(
        "bad-proof", "The proof is not signed by the device's key and the report key over this request."
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
