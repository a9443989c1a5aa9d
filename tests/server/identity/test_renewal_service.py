"""Renewal at the server: who gets a new certificate for an old one, and who does not."""

import dataclasses
import hashlib
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from firmware.errors import OtariaError, RefusedError
from server.errors import DeniedError
from server.identity.authority import Authorities
from server.identity.challenges import GOOD_FOR_S, Challenges
from server.identity.renewal import REST_S
from server.ports import AgentStatus, Database
from tests.brokers import csr_of
from tests.enrolment import Desk, desk_of
from tests.identity_store import SettableClock, clock, database, only_agent
from tests.renewals import Enrolled, expires_at, public_of

__all__ = ["clock", "database"]
YEAR_S = 365 * 86400.0


@pytest.fixture
def desk(database: Database, clock: SettableClock, tmp_path: Path) -> Desk:
    return desk_of(database, clock, tmp_path)


async def kind_of(enrolled: Enrolled, **changes: object) -> str:
    """The kind of the error with which a renewal is refused."""
    with pytest.raises(OtariaError) as caught:
        await enrolled.desk.renewal.renew(enrolled.request(**changes))  # type: ignore[arg-type]
    return caught.value.kind


async def test_a_certificate_is_renewed_for_a_new_key(desk: Desk) -> None:
    enrolled = await Enrolled.at(desk)
    new = ec.generate_private_key(ec.SECP256R1())
    answer = await desk.renewal.renew(enrolled.request(new=new))
    made = x509.load_pem_x509_certificate(answer.certificate.encode())
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(answer.fleet_ca.encode()))
    assert public_of(answer.certificate) == new.public_key()
    assert made.subject.rfc4514_string() == f"CN={enrolled.agent}"
    record = await only_agent(desk.database, enrolled.agent)
    assert record.certificate_serial == f"{made.serial_number:x}"
    line = await desk.database.read(lambda unit: unit.audit.latest(limit=1)[0])
    assert (line.kind, line.target) == ("certificate-renewed", enrolled.agent)


async def test_an_expired_certificate_is_renewed_years_later(desk: Desk, clock: SettableClock) -> None:
    enrolled = await Enrolled.at(desk)
    clock.time += 9 * YEAR_S
    answer = await desk.renewal.renew(enrolled.request())
    assert expires_at(enrolled.certificate.encode()) < clock.time < expires_at(answer.certificate.encode())


async def test_a_challenge_is_good_once_and_not_for_long(desk: Desk, clock: SettableClock) -> None:
    enrolled = await Enrolled.at(desk)
    new, nonce = ec.generate_private_key(ec.SECP256R1()), desk.renewal.challenge().nonce
    request = enrolled.request(new=new, nonce=nonce)
    await desk.renewal.renew(request)
    with pytest.raises(RefusedError) as caught:
        await desk.renewal.renew(request)
    assert caught.value.kind == "stale-challenge"
    late = desk.renewal.challenge().nonce
    clock.time += GOOD_FOR_S + 1
    assert await kind_of(enrolled, nonce=late) == "stale-challenge"
    assert await kind_of(enrolled, nonce=Challenges().issue(clock.time)) == "stale-challenge"
    assert await kind_of(enrolled, nonce="A" * 64) == "stale-challenge"


def test_an_older_challenge_than_the_last_used_is_no_good() -> None:
    challenges = Challenges()
    first, second = challenges.issue(100.0), challenges.issue(100.0)
    challenges.spend("d-a", challenges.made_at(second, 100.0))
    challenges.spend("d-b", challenges.made_at(first, 100.0))
    with pytest.raises(RefusedError):
        challenges.spend("d-a", challenges.made_at(first, 100.0))


@pytest.mark.parametrize("who", ["tls", "report", "nobody", "stranger"])
async def test_both_keys_of_the_agent_must_sign(desk: Desk, who: str) -> None:
    """A stolen TLS key alone renews nothing, and neither does a stolen report key."""
    enrolled = await Enrolled.at(desk)
    tls, stranger = CryptoSigner(enrolled.device.tls_key), CryptoSigner(ec.generate_private_key(ec.SECP256R1()))
    signers = {
        "tls": (tls, stranger),
        "report": (stranger, enrolled.device.signer),
        "nobody": (),
        "stranger": (stranger,),
    }
    assert await kind_of(enrolled, signers=signers[who]) in ("bad-proof", "malformed")
    assert (await only_agent(desk.database, enrolled.agent)).certificate_serial == serial_of(enrolled.certificate)


@pytest.mark.parametrize(
    ("field", "value"), [("agent", "d-somebodyel"), ("certificate_sha256", "0" * 64), ("csr_sha256", "0" * 64)]
)
async def test_the_proof_is_about_this_very_request(desk: Desk, field: str, value: str) -> None:
    enrolled = await Enrolled.at(desk)
    assert await kind_of(enrolled, **{field: value}) == "bad-proof"


async def test_another_request_under_the_same_proof_is_refused(desk: Desk) -> None:
    """Who sits in between can't put a key of their own into a device's renewal."""
    enrolled = await Enrolled.at(desk)
    theirs = csr_of(ec.generate_private_key(ec.SECP256R1())).decode()
    with pytest.raises(RefusedError) as caught:
        await desk.renewal.renew(msgspec.structs.replace(enrolled.request(), csr=theirs))
    assert caught.value.kind == "bad-proof"


@pytest.mark.parametrize("status", [AgentStatus.REVOKED, AgentStatus.QUARANTINED, AgentStatus.DECOMMISSIONED])
async def test_who_was_shut_out_gets_none_and_is_told_why(desk: Desk, status: AgentStatus) -> None:
    enrolled = await Enrolled.at(desk)
    await desk.database.write(lambda unit: unit.identities.set_agent_status(enrolled.agent, status))
    with pytest.raises(DeniedError, match=status) as caught:
        await desk.renewal.renew(enrolled.request())
    assert caught.value.kind == "forbidden"


async def test_an_unknown_agent_and_a_foreign_ca_get_none(desk: Desk, tmp_path: Path) -> None:
    enrolled = await Enrolled.at(desk)
    foreign = Authorities.open_or_create(tmp_path / "foreign")
    csr = csr_of(enrolled.device.tls_key)
    theirs = foreign.sign_agent(csr, enrolled.agent).pem.decode()
    assert await kind_of(enrolled, certificate=theirs) == "certificate-unknown"
    nobody = desk.authorities.sign_agent(csr, "d-nobodyknow").pem.decode()
    assert await kind_of(enrolled, certificate=nobody, agent="d-nobodyknow") == "forbidden"


async def test_a_certificate_forged_with_the_fleet_cas_key_renews_nothing(desk: Desk) -> None:
    """The thief of the CA makes a certificate with the agent's very serial; the report key is what is missing."""
    enrolled = await Enrolled.at(desk)
    key = ec.generate_private_key(ec.SECP256R1())
    forged = desk.authorities.sign_agent(csr_of(key), enrolled.agent).pem.decode()
    signers = (CryptoSigner(key), CryptoSigner(ec.generate_private_key(ec.SECP256R1())))
    assert await kind_of(enrolled, certificate=forged, signers=signers) == "bad-proof"


async def test_a_lost_answer_is_asked_for_again_with_the_same_request(desk: Desk) -> None:
    enrolled = await Enrolled.at(desk)
    new = ec.generate_private_key(ec.SECP256R1())
    request = enrolled.request(new=new)
    first = await desk.renewal.renew(request)
    again = enrolled.request(nonce=desk.renewal.challenge().nonce)
    with pytest.raises(RefusedError) as caught:  # the certificate before this one, and another request: somebody else's
        await desk.renewal.renew(again)
    assert caught.value.kind == "certificate-replaced"
    same = enrolled.request(certificate=enrolled.certificate)
    proof = enrolled.request(csr_sha256=_hash(request.csr)).proof
    repeated = await desk.renewal.renew(msgspec.structs.replace(same, csr=request.csr, proof=proof))
    assert serial_of(repeated.certificate) == serial_of(first.certificate)
    assert public_of(repeated.certificate) == new.public_key()
    count = await desk.database.read(
        lambda unit: [line.kind for line in unit.audit.latest(limit=10)].count("certificate-renewed")
    )
    assert count == 1


async def test_an_agent_gets_no_certificate_after_certificate(desk: Desk, clock: SettableClock) -> None:
    enrolled = await Enrolled.at(desk)
    key = ec.generate_private_key(ec.SECP256R1())
    enrolled.certificate = (await desk.renewal.renew(enrolled.request(new=key))).certificate
    enrolled.device = dataclasses.replace(enrolled.device, tls_key=key)
    assert await kind_of(enrolled) == "renewed-just-now"
    clock.time += REST_S
    await desk.renewal.renew(enrolled.request())


async def test_the_new_key_must_be_new(desk: Desk) -> None:
    enrolled = await Enrolled.at(desk)
    assert await kind_of(enrolled, new=enrolled.device.tls_key) == "bad-csr"


def serial_of(pem: str) -> str:
    return f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
