"""Enrolment by a key that was uploaded, or by a factory certificate: who gets in, and what becomes of a copy."""

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec.structs import replace
from securesystemslib.signer import CryptoSigner

from firmware.errors import RefusedError
from firmware.protocol.enrol_key import KEY_PROOF_KIND, KeyEnrolRequest, KeyProof
from firmware.protocol.envelope import seal
from server.errors import NotFoundError
from server.identity.factory import Factory
from server.identity.key_enrolment import KeyEnrolmentService, key_fingerprint
from server.identity.known_devices import KnownDevices
from server.identity.roots import Roots
from server.ports import AgentStatus, Database, KnownDevice
from tests.brokers import csr_of
from tests.enrolment import HARDWARE, ROOT_1, Desk, Device, desk_of, known_desk
from tests.factories import FactoryCa
from tests.identity_store import SettableClock, clock, database, only_agent

__all__ = ["clock", "database"]
OTHER = "0" * 64


@pytest.fixture
def desk(database: Database, clock: SettableClock, tmp_path: Path) -> Desk:
    return desk_of(database, clock, tmp_path)


@pytest.fixture
def known(desk: Desk) -> KnownDevices:
    return KnownDevices(
        desk.database, url="https://127.0.0.1:1", services_ca=OTHER, roots=Roots(desk.metadata), clock=desk.clock
    )


@pytest.fixture
def own() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def factory(clock: SettableClock) -> FactoryCa:
    return FactoryCa.make(clock.now())


def believing(*roots: FactoryCa, unlisted: bool = False) -> Factory:
    labels = {"model": "organizational_unit", "board": "serial_number"}
    return Factory(roots=[root.certificate for root in roots], labels=labels, admits_unlisted=unlisted)


def asked(
    desk: Desk, own: ec.EllipticCurvePrivateKey, device: Device, *, shown: bytes = b"", csr: str = "", **said: str
) -> KeyEnrolRequest:
    """A right request, but for other words in its proof."""
    public = own.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    text, csr = (shown or public).decode(), csr or csr_of(device.tls_key).decode()
    words = {
        "device_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "csr_sha256": hashlib.sha256(csr.encode()).hexdigest(),
        "hardware": HARDWARE,
        "nonce": desk.challenges.issue(desk.clock.now()),
        **said,
    }
    return KeyEnrolRequest(
        device=text,
        csr=csr,
        report_key=device.signer.public_key.to_dict(),
        hardware=HARDWARE,
        root_sha256=hashlib.sha256(ROOT_1).hexdigest(),
        proof=seal(KeyProof(**words), KEY_PROOF_KIND, CryptoSigner(own), device.signer).decode(),
    )


async def refused(service: KeyEnrolmentService, request: KeyEnrolRequest) -> str:
    with pytest.raises(RefusedError) as caught:
        await service.enrol(request)
    assert caught.value.text.endswith((".", "was."))
    return caught.value.kind


def listed(own: ec.EllipticCurvePrivateKey, **labels: str) -> KnownDevice:
    return KnownDevice(id="", key_sha256=key_fingerprint(own.public_key()), labels=labels)


async def all_known(desk: Desk) -> list[KnownDevice]:
    return list(await desk.database.read(lambda unit: unit.identities.known_devices()))


async def test_a_device_whose_key_was_uploaded_enrols_with_its_labels(
    desk: Desk, known: KnownDevices, own: ec.EllipticCurvePrivateKey
) -> None:
    service, device = known_desk(desk), Device.new()
    assert await refused(service, asked(desk, own, device)) == "device-unknown"
    assert await known.add([listed(own, site="berlin")], by="anna") == 1
    assert await known.add([listed(own, site="berlin")], by="anna") == 0
    answer = await service.enrol(asked(desk, own, device))
    certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
    assert certificate.public_key() == device.tls_key.public_key()
    record = await only_agent(desk.database, answer.agent)
    assert record.report_keyid == device.signer.public_key.keyid
    (one,) = await all_known(desk)
    assert (one.agent, dict(one.labels)) == (answer.agent, {"site": "berlin"})
    lines = await desk.database.read(lambda unit: unit.audit.latest(limit=10))
    assert [line.kind for line in lines][:2] == ["agent-enrolled", "devices-known"]


async def test_the_same_request_again_finds_its_agent(
    desk: Desk, known: KnownDevices, own: ec.EllipticCurvePrivateKey
) -> None:
    service, device = known_desk(desk), Device.new()
    await known.add([listed(own)], by="anna")
    csr = csr_of(device.tls_key).decode()
    first = await service.enrol(asked(desk, own, device, csr=csr))
    assert (await service.enrol(asked(desk, own, device, csr=csr))).agent == first.agent
    assert await refused(service, asked(desk, own, device)) == "already-enrolled"  # another CSR
    assert (await only_agent(desk.database, first.agent)).status is AgentStatus.ACTIVE


async def test_a_proof_holds_for_one_request_and_one_challenge(
    desk: Desk, known: KnownDevices, own: ec.EllipticCurvePrivateKey
) -> None:
    service, device = known_desk(desk), Device.new()
    await known.add([listed(own)], by="anna")
    for words in ({"device_sha256": OTHER}, {"csr_sha256": OTHER}, {"hardware": "other-board"}):
        assert await refused(service, asked(desk, own, device, **words)) == "bad-proof"
    assert await refused(service, asked(desk, own, device, nonce="A" * 64)) == "stale-challenge"
    old = asked(desk, own, device)
    desk.clock.time += 121
    assert await refused(service, old) == "stale-challenge"
    used = asked(desk, own, device)
    await service.enrol(used)
    assert await refused(service, used) == "stale-challenge"


async def test_a_key_that_is_known_is_nothing_without_its_private_half(
    desk: Desk, known: KnownDevices, own: ec.EllipticCurvePrivateKey
) -> None:
    """Fingerprints and public keys are no secret: both keys must have signed."""
    service, device, thief = known_desk(desk), Device.new(), ec.generate_private_key(ec.SECP256R1())
    await known.add([listed(own)], by="anna")
    right, stolen = asked(desk, own, device), asked(desk, thief, device)
    proof = KeyProof(
        device_sha256=hashlib.sha256(right.device.encode()).hexdigest(),
        csr_sha256=hashlib.sha256(right.csr.encode()).hexdigest(),
        hardware=HARDWARE,
        nonce=desk.challenges.issue(desk.clock.now()),
    )
    for signers in ((CryptoSigner(thief), device.signer), (device.signer,), (CryptoSigner(own),)):
        forged = seal(proof, KEY_PROOF_KIND, *signers).decode()
        assert await refused(service, replace(right, proof=forged)) == "bad-proof"
    assert await refused(service, replace(right, proof=stolen.proof)) == "bad-proof"


async def test_one_key_for_several_purposes_is_refused(
    desk: Desk, known: KnownDevices, own: ec.EllipticCurvePrivateKey
) -> None:
    service, other = known_desk(desk), Device.new()
    for device in (Device(tls_key=own, signer=other.signer), Device(tls_key=other.tls_key, signer=CryptoSigner(own))):
        assert await refused(service, asked(desk, own, device)) == "bad-report-key"
    weak = rsa.generate_private_key(65537, 2048).public_key()
    pem = weak.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert await refused(service, replace(asked(desk, own, other), device=pem.decode())) == "bad-device-key"


async def test_a_copy_is_refused_and_the_agent_quarantined_until_a_person_decides(
    desk: Desk, known: KnownDevices, own: ec.EllipticCurvePrivateKey
) -> None:
    service, copy = known_desk(desk), Device.new()
    await known.add([listed(own)], by="anna")
    first = (await service.enrol(asked(desk, own, Device.new()))).agent
    assert await refused(service, asked(desk, own, copy)) == "device-copied"
    assert (await only_agent(desk.database, first)).status is AgentStatus.QUARANTINED
    assert await refused(service, asked(desk, own, copy)) == "device-copied"
    (one,) = await all_known(desk)
    await known.allow(one.id, by="anna", reason="its flash was replaced")
    second = (await service.enrol(asked(desk, own, copy))).agent
    assert second != first
    assert (await only_agent(desk.database, first)).status is AgentStatus.REVOKED
    assert await refused(service, asked(desk, own, Device.new())) == "device-copied"
    assert (await only_agent(desk.database, second)).status is AgentStatus.QUARANTINED


async def test_a_device_that_was_shut_out_stays_out_with_its_key(
    desk: Desk, known: KnownDevices, own: ec.EllipticCurvePrivateKey
) -> None:
    service, device = known_desk(desk), Device.new()
    await known.add([listed(own)], by="anna")
    first = (await service.enrol(asked(desk, own, device))).agent
    await desk.database.write(lambda unit: unit.identities.set_agent_status(first, AgentStatus.REVOKED))
    assert await refused(service, asked(desk, own, device)) == "already-enrolled"
    assert await refused(service, asked(desk, own, Device.new())) == "device-copied"
    assert (await only_agent(desk.database, first)).status is AgentStatus.REVOKED


async def test_a_factory_certificate_enrols_once_and_gives_labels(
    desk: Desk, known: KnownDevices, own: ec.EllipticCurvePrivateKey, factory: FactoryCa
) -> None:
    now = desk.clock.now()
    shown = FactoryCa.make(now, above=factory, path_length=0).chain(own, now, serial="SN-7")
    closed, unlisted = known_desk(desk, believing(factory)), known_desk(desk, believing(factory, unlisted=True))
    assert await refused(closed, asked(desk, own, Device.new(), shown=shown)) == "device-unknown"
    answer = await unlisted.enrol(asked(desk, own, Device.new(), shown=shown))
    (one,) = await all_known(desk)
    assert (one.agent, one.serial, one.key_sha256) == (answer.agent, "SN-7", key_fingerprint(own.public_key()))
    assert await refused(unlisted, asked(desk, own, Device.new(), shown=shown)) == "device-copied"
    twin = ec.generate_private_key(ec.SECP256R1())
    assert await refused(unlisted, asked(desk, twin, Device.new(), shown=factory.chain(twin, now, serial="SN-7"))) == (
        "device-copied"
    )
    assert (await only_agent(desk.database, answer.agent)).status is AgentStatus.QUARANTINED


async def test_a_serial_that_was_uploaded_needs_the_factorys_word(
    desk: Desk, known: KnownDevices, own: ec.EllipticCurvePrivateKey, factory: FactoryCa
) -> None:
    service, now = known_desk(desk, believing(factory)), desk.clock.now()
    await known.add([KnownDevice(id="", serial="SN-7", labels={"site": "rome"})], by="anna")
    assert await refused(service, asked(desk, own, Device.new())) == "device-unknown"
    other = factory.chain(own, now, serial="SN-8")
    assert await refused(service, asked(desk, own, Device.new(), shown=other)) == "device-unknown"
    await service.enrol(asked(desk, own, Device.new(), shown=factory.chain(own, now, serial="SN-7")))
    (one,) = await all_known(desk)
    assert one.agent is not None


def test_which_chains_are_believed(own: ec.EllipticCurvePrivateKey, factory: FactoryCa, clock: SettableClock) -> None:
    now = clock.now()
    stranger, below = FactoryCa.make(now), FactoryCa.make(now, above=factory, path_length=0)
    device = believing(factory).examine(below.chain(own, now, serial="SN-7"), now)
    assert (device.serial, dict(device.labels)) == ("SN-7", {"model": "r7", "board": "SN-7"})
    unknown = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), True)
    deep = FactoryCa.make(now, above=FactoryCa.make(now, above=factory, path_length=0), path_length=0)
    deeper = FactoryCa.make(now, above=FactoryCa.make(now, above=factory))
    bad = {
        "a stranger's": stranger.chain(own, now),
        "expired": factory.chain(own, now, days=-1),
        "not a CA above it": FactoryCa.make(now, above=factory, key_cert_sign=False).chain(own, now),
        "too long a path": deep.chain(own, now),
        "a longer path than its root allows": deeper.chain(own, now),
        "an expired CA": FactoryCa.make(now, above=factory, days=-1).chain(own, now),
        "a CA's own": factory.chain(own, now, ca=True),
        "critical and unknown": factory.chain(own, now, extensions=(unknown,)),
        "its chain left out": below.chain(own, now).partition(b"-----END CERTIFICATE-----\n")[0]
        + b"-----END CERTIFICATE-----\n",
        "no certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }
    for why, chain in bad.items():
        with pytest.raises(RefusedError) as caught:
            believing(factory).examine(chain, now)
        assert caught.value.kind == "bad-factory-certificate", why
    with pytest.raises(RefusedError):
        believing().examine(below.chain(own, now), now)


async def test_what_may_be_uploaded(desk: Desk, known: KnownDevices, own: ec.EllipticCurvePrivateKey) -> None:
    bad = (KnownDevice(id=""), KnownDevice(id="", key_sha256=OTHER, serial="x"), KnownDevice(id="", serial="x\n"))
    for one in (*bad, listed(own, **{"agent.x": "y"})):
        with pytest.raises(RefusedError) as caught:
            await known.add([listed(own), one], by="anna")
        assert caught.value.kind == "bad-device"
    assert await all_known(desk) == []
    await known.add([listed(own, site="a")], by="anna")
    with pytest.raises(RefusedError) as caught:
        await known.add([listed(own, site="b")], by="anna")
    assert caught.value.kind == "device-known"
    (one,) = await all_known(desk)
    with pytest.raises(RefusedError, match="not enrolled"):
        await known.allow(one.id, by="anna", reason="")
    await known.remove(one.id, by="anna")
    assert await all_known(desk) == []
    with pytest.raises(NotFoundError):
        await known.remove(one.id, by="anna")
