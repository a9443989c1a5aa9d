"""Enrolment on the server, over the in-memory store and SQL: who gets in, and what nobody gets twice."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from securesystemslib.signer import CryptoSigner, SSlibKey

from firmware.errors import RefusedError
from firmware.protocol.enrol import EnrolRequest, EnrolResponse
from server.identity.enrolment import EnrolmentOverHttp
from server.ports import AgentStatus, Database
from server.storage.database import SqlDatabase
from tests.enrolment import HARDWARE, ROOT_1, ROOT_2, Desk, Device, changed, desk_of
from tests.identity_store import SettableClock, clock, database, only_agent

__all__ = ["clock", "database"]


@pytest.fixture
def desk(database: Database, clock: SettableClock, tmp_path: Path) -> Desk:
    return desk_of(database, clock, tmp_path)


async def refusal(desk: Desk, request: EnrolRequest) -> str:
    """The kind of the refusal; whatever was refused must have left no agent behind."""
    before = await count(desk)
    with pytest.raises(RefusedError) as caught:
        await desk.service.enrol(request)
    assert await count(desk) == before
    assert caught.value.text.endswith(".")
    return caught.value.kind


async def count(desk: Desk) -> int:
    """Number of agents enrolled, told from the trail."""
    lines = await desk.database.read(lambda unit: unit.audit.latest(limit=1000))
    return sum(line.kind == "agent-enrolled" for line in lines)


async def uses_left(desk: Desk, claim_id: str) -> int:
    claims = await desk.database.read(lambda unit: unit.identities.claims())
    return next(claim.uses_left for claim in claims if claim.id == claim_id)


async def test_a_device_gets_an_identity_of_the_servers_making(desk: Desk) -> None:
    claim, device = await desk.claim(labels={"site": "berlin"}), Device.new()
    answer = await desk.service.enrol(device.request(claim))
    certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
    certificate.verify_directly_issued_by(desk.authorities.fleet.certificate)
    assert certificate.public_key() == device.tls_key.public_key()
    assert [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [answer.agent]
    assert answer.agent.startswith("d-")
    assert answer.target == answer.agent
    assert answer.root.encode() == ROOT_1
    assert (answer.mqtt_host, answer.mqtt_port) == ("127.0.0.1", 8883)
    record = await only_agent(desk.database, answer.agent)
    assert (record.status, record.claim_token) == (AgentStatus.ACTIVE, claim.id)
    assert record.report_keyid == device.signer.public_key.keyid
    assert dict(record.report_key) == device.signer.public_key.to_dict()
    assert record.certificate_serial == f"{certificate.serial_number:x}"
    assert (await count(desk), await uses_left(desk, claim.id)) == (1, 0)


async def test_a_single_use_token_is_good_for_one_device(desk: Desk) -> None:
    claim = await desk.claim()
    await desk.service.enrol(Device.new().request(claim))
    assert await refusal(desk, Device.new().request(claim)) == "claim-used-up"


async def test_a_single_use_token_used_by_many_at_once_admits_one(desk: Desk) -> None:
    claim = await desk.claim()
    outcomes = await asyncio.gather(
        *(desk.service.enrol(Device.new().request(claim)) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, EnrolResponse) for outcome in outcomes) == 1
    assert {outcome.kind for outcome in outcomes if isinstance(outcome, RefusedError)} == {"claim-used-up"}
    assert await count(desk) == 1


async def test_a_token_for_three_admits_three_different_agents(desk: Desk) -> None:
    claim = await desk.claim(uses=3)
    agents = {(await desk.service.enrol(Device.new().request(claim))).agent for _ in range(3)}
    assert len(agents) == 3
    assert await refusal(desk, Device.new().request(claim)) == "claim-used-up"


async def test_an_expired_token_is_refused(desk: Desk) -> None:
    claim = await desk.claim(expires_s=60)
    desk.clock.time += 60
    assert await refusal(desk, Device.new().request(claim)) == "claim-expired"


async def test_a_wrong_secret_is_refused_and_spends_nothing(desk: Desk) -> None:
    claim = await desk.claim()
    request = changed(Device.new().request(claim), secret="A" * 43)
    assert await refusal(desk, request) == "claim-unknown"
    assert await uses_left(desk, claim.id) == 1


async def test_a_retry_after_a_lost_answer_costs_no_further_use(desk: Desk) -> None:
    claim, device = await desk.claim(uses=2), Device.new()
    request = device.request(claim)
    first, second = await desk.service.enrol(request), await desk.service.enrol(request)
    assert first.agent == second.agent
    assert (await count(desk), await uses_left(desk, claim.id)) == (1, 1)
    serials = {x509.load_pem_x509_certificate(answer.certificate.encode()).serial_number for answer in (first, second)}
    assert len(serials) == 1


async def test_a_retry_needs_the_secret_the_same_request_and_a_live_token(desk: Desk) -> None:
    claim, device = await desk.claim(uses=5), Device.new()
    request = device.request(claim)
    answer = await desk.service.enrol(request)
    assert await refusal(desk, changed(request, secret="A" * 43)) == "claim-unknown"
    assert await refusal(desk, device.request(claim)) == "already-enrolled"  # another CSR
    other = await desk.claim()
    assert (
        await refusal(desk, Device(tls_key=device.tls_key, signer=device.signer).request(other)) == "already-enrolled"
    )
    await desk.database.write(lambda unit: unit.identities.set_agent_status(answer.agent, AgentStatus.REVOKED))
    assert await refusal(desk, request) == "already-enrolled"
    desk.clock.time += 3600
    assert await refusal(desk, request) == "claim-expired"
    assert await uses_left(desk, other.id) == 1


async def test_a_forged_proof_is_refused(desk: Desk) -> None:
    """Somebody else's report key cannot be enrolled: the proof must be signed with it."""
    claim, mine, theirs = await desk.claim(), Device.new(), Device.new()
    stolen = changed(mine.request(claim), report_key=theirs.signer.public_key.to_dict())
    assert await refusal(desk, stolen) == "bad-proof"
    claimed_id = CryptoSigner(
        mine.signer._private_key, _with_keyid(mine.signer.public_key, theirs.signer.public_key.keyid)
    )
    forged = changed(mine.request(claim, signer=claimed_id), report_key=theirs.signer.public_key.to_dict())
    assert await refusal(desk, forged) == "bad-proof"
    assert await uses_left(desk, claim.id) == 1


async def test_a_proof_over_another_request_is_refused(desk: Desk) -> None:
    """A proof that was overheard is of no use with another claim, key or hardware."""
    claim = await desk.claim()
    for words in ({"claim_id": "c-other"}, {"csr_sha256": "0" * 64}, {"hardware": "other-board"}):
        assert await refusal(desk, Device.new().request(claim, **words)) == "bad-proof"


async def test_a_request_with_a_bad_csr_is_refused(desk: Desk) -> None:
    claim, device = await desk.claim(), Device.new()
    weak = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    pem = weak.sign(rsa.generate_private_key(65537, 2048), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    assert await refusal(desk, changed(device.request(claim), csr=pem.decode())) == "bad-csr"


async def test_one_key_for_both_purposes_is_refused(desk: Desk) -> None:
    claim, key = await desk.claim(), ec.generate_private_key(ec.SECP256R1())
    assert await refusal(desk, Device(tls_key=key, signer=CryptoSigner(key)).request(claim)) == "bad-report-key"


async def test_a_report_key_of_another_kind_is_refused(desk: Desk) -> None:
    claim, device = await desk.claim(), Device.new()
    good = device.signer.public_key.to_dict()
    keys: tuple[dict[str, object], ...] = (
        SSlibKey.from_crypto(rsa.generate_private_key(65537, 2048).public_key()).to_dict(),
        SSlibKey.from_crypto(ec.generate_private_key(ec.SECP384R1()).public_key()).to_dict(),
        {**good, "more": 1},
        {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": "noise"}},
        {**good, "keyval": {"public": "x" * 5000}},
        {**good, "keyval": []},
        {**good, "scheme": "ecdsa-sha2-nistp384"},
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "zz"}},
    )
    for key in keys:
        assert await refusal(desk, changed(device.request(claim), report_key=key)) == "bad-report-key"


async def test_an_ed25519_report_key_is_welcome(desk: Desk) -> None:
    device = Device(tls_key=ec.generate_private_key(ec.SECP256R1()), signer=CryptoSigner.generate_ed25519())
    answer = await desk.service.enrol(device.request(await desk.claim()))
    assert (await only_agent(desk.database, answer.agent)).report_keyid == device.signer.public_key.keyid


async def test_a_token_made_before_a_root_rotation_still_gets_its_root(desk: Desk) -> None:
    old = await desk.claim()
    (desk.metadata / "2.root.json").write_bytes(ROOT_2)
    new = await desk.claim()
    assert (await desk.service.enrol(Device.new().request(old))).root.encode() == ROOT_1
    assert (await desk.service.enrol(Device.new().request(new))).root.encode() == ROOT_2
    assert (
        await refusal(desk, changed(Device.new().request(await desk.claim()), root_sha256="0" * 64)) == "unknown-root"
    )


async def test_over_http_the_answer_is_plain_json(desk: Desk) -> None:
    door, request = EnrolmentOverHttp(desk.service), Device.new().request(await desk.claim())
    answer = await door.enrol(msgspec.to_builtins(request))
    assert msgspec.convert(answer, EnrolResponse).target == answer["agent"]
    assert door.services_ca_pem() == desk.authorities.services.pem


HOSTILE_FIELDS: tuple[tuple[str, object], ...] = (
    ("claim_id", "../../etc/passwd"),
    ("claim_id", "x" * 64),
    ("secret", ""),
    ("secret", "x" * 44),
    ("csr", "-----BEGIN CERTIFICATE REQUEST-----\n" + "A" * 5000 + "\n-----END CERTIFICATE REQUEST-----\n"),
    ("csr", ""),
    ("hardware", "../board"),
    ("hardware", "x" * 129),
    ("hardware", "a\nb"),
    ("hardware", "a/b"),
    ("root_sha256", "../1.root.json"),
    ("proof", "x" * 9000),
    ("report_key", []),
    ("agent", "d-chosen"),
)


async def test_huge_hostile_and_unknown_fields_are_malformed(desk: Desk) -> None:
    request = msgspec.to_builtins(Device.new().request(await desk.claim()))
    for field, value in HOSTILE_FIELDS:
        with pytest.raises(RefusedError) as caught:
            await EnrolmentOverHttp(desk.service).enrol({**request, field: value})
        assert (field, caught.value.kind) == (field, "malformed")
    assert await count(desk) == 0


async def test_a_request_in_a_log_line_shows_no_secret(desk: Desk) -> None:
    claim = await desk.claim()
    assert claim.secret not in repr(claim) + repr(Device.new().request(claim))


async def test_what_a_device_says_its_hardware_is_is_recorded_with_the_tokens_labels(
    database: Database, desk: Desk
) -> None:
    answer = await desk.service.enrol(Device.new().request(await desk.claim(labels={"site": "berlin"})))
    lines = await database.read(lambda unit: unit.audit.latest(limit=1))
    assert (lines[0].target, HARDWARE in lines[0].text) == (answer.agent, True)
    if isinstance(database, SqlDatabase):
        view = await database.read(lambda unit: unit.fleet.target(answer.agent))
        assert view is not None
        assert (view.hardware, dict(view.labels)) == (HARDWARE, {"site": "berlin"})


def _with_keyid(key: SSlibKey, keyid: str) -> SSlibKey:
    return SSlibKey(keyid, key.keytype, key.scheme, key.keyval)
