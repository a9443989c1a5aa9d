"""Renewal on the device: when, with what, and with the power cut at every durable operation."""

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest

from device_agent.identity import Identity
from device_agent.renewal import NEXT_FILE, PENDING_FILE, Renewer
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.renew import RenewRequest, RenewResponse
from server.ports import AgentStatus
from tests.brokers import key_pem
from tests.crash.disk import Cut, Disk, PowerCut
from tests.enrolment import Desk, desk_of
from tests.identity_store import MemoryDatabase, SettableClock
from tests.renewals import DirectServer, Enrolled, load_key, public_of

AT = Path("/device")
YEAR_S = 365 * 86400.0


@dataclass
class Bench:
    """An enrolled device on a disk that can lose power."""

    enrolled: Enrolled
    clock: SettableClock
    server: DirectServer
    disk: Disk

    def renewer(self) -> Renewer:
        """As a process that has just started has it."""
        identity = Identity(
            agent=self.enrolled.agent,
            target=self.enrolled.agent,
            hardware="hw",
            mqtt_host="h",
            mqtt_port=1,
            https_url="https://h",
            root_sha256="0" * 64,
        )
        return Renewer(
            AT,
            identity,
            effects=self.disk,
            server=self.server,
            signer=self.enrolled.device.signer,
            context=lambda _path: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )

    def start_and_look(self) -> bool:
        renewer = self.renewer()
        renewer.finish()
        return renewer.look(0.0)

    def key_in_use(self) -> object:
        """The public key of what a connection would show now; certificate and key must belong together."""
        files = {path.name: data for path, data in self.disk.files.items()}
        certificate = files.get("tls.pem", files.get("tls.crt", b"")).decode()
        key = load_key(files.get("tls.pem", files.get("tls.key", b"")))
        assert key.public_key() == public_of(certificate[certificate.index("-----BEGIN CERTIFICATE") :])
        return key.public_key()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    clock = SettableClock()
    desk = desk_of(MemoryDatabase(), clock, tmp_path)
    return bench_of(desk, clock)


def bench_of(desk: Desk, clock: SettableClock) -> Bench:
    enrolled = asyncio.run(Enrolled.at(desk))
    files = {AT / "tls.key": key_pem(enrolled.device.tls_key), AT / "tls.crt": enrolled.certificate.encode()}
    return Bench(enrolled=enrolled, clock=clock, server=DirectServer(desk), disk=Disk(files=files))


def names(bench: Bench) -> set[str]:
    return {path.name for path in bench.disk.files}


def test_a_young_certificate_is_left_alone(bench: Bench) -> None:
    bench.clock.time += 1.7 * YEAR_S
    assert not bench.start_and_look()
    assert (names(bench), bench.server.sent) == ({"tls.key", "tls.crt"}, [])


def test_it_is_renewed_early_and_the_old_key_is_gone(bench: Bench) -> None:
    bench.clock.time += 2.01 * YEAR_S
    old = bench.key_in_use()
    assert bench.start_and_look()
    assert names(bench) == {"tls.pem"}
    assert bench.key_in_use() != old
    assert not bench.start_and_look()


def test_the_trusted_time_alone_makes_it_due(bench: Bench) -> None:
    """A server whose clock stands still is no reason to let a certificate run out."""
    assert bench.renewer().look(bench.clock.time + 2.01 * YEAR_S)


def test_a_sleeper_renews_what_has_expired(bench: Bench) -> None:
    bench.clock.time += 20 * YEAR_S
    assert bench.start_and_look()


def test_one_certificate_after_another(bench: Bench) -> None:
    for _ in range(3):
        bench.clock.time += 2.01 * YEAR_S
        before = bench.key_in_use()
        assert bench.start_and_look()
        assert bench.key_in_use() != before
    assert names(bench) == {"tls.pem"}


def test_a_revoked_device_keeps_what_it_has_and_is_told_why(bench: Bench) -> None:
    bench.clock.time += 2.01 * YEAR_S
    agent, database = bench.enrolled.agent, bench.enrolled.desk.database
    asyncio.run(database.write(lambda unit: unit.identities.set_agent_status(agent, AgentStatus.REVOKED)))
    with pytest.raises(OtariaError, match="for ever"):
        bench.start_and_look()
    assert bench.key_in_use() == bench.enrolled.device.tls_key.public_key()


def test_a_lost_answer_costs_a_repetition_and_no_second_key(bench: Bench) -> None:
    bench.clock.time += 2.01 * YEAR_S
    bench.server.lose_answers = 2
    for _ in range(2):
        with pytest.raises(UnavailableError):
            bench.start_and_look()
    assert bench.start_and_look()
    assert len({request.csr for request in bench.server.sent}) == 1
    assert len({request.proof for request in bench.server.sent}) == 3


def test_a_certificate_that_no_connection_takes_is_not_used(bench: Bench) -> None:
    bench.clock.time += 2.01 * YEAR_S
    bench.server.taken = False
    assert not bench.start_and_look()
    assert bench.key_in_use() == bench.enrolled.device.tls_key.public_key()
    bench.server.taken = True
    assert bench.start_and_look()
    assert len({request.csr for request in bench.server.sent}) == 1


@pytest.mark.parametrize("lie", ["key", "name", "ca"])
def test_a_lying_answer_is_refused(bench: Bench, lie: str, tmp_path: Path) -> None:
    bench.clock.time += 2.01 * YEAR_S
    desk = bench.enrolled.desk
    other = asyncio.run(Enrolled.at(desk))

    class Liar(DirectServer):
        def renew(self, request: RenewRequest) -> RenewResponse:
            ca = desk.authorities.services.pem if lie == "ca" else desk.authorities.fleet.pem
            named = desk.authorities.sign_agent(request.csr.encode(), "d-somebodyel").pem.decode()
            own = desk.authorities.sign_agent(request.csr.encode(), bench.enrolled.agent).pem.decode()
            shown = {"key": other.certificate, "name": named, "ca": own}[lie]
            return RenewResponse(certificate=shown, fleet_ca=ca.decode())

    bench.server = Liar(desk)
    with pytest.raises(RefusedError) as caught:
        bench.start_and_look()
    assert caught.value.kind == "bad-answer"
    assert bench.key_in_use() == bench.enrolled.device.tls_key.public_key()


@pytest.mark.parametrize("how", ["before", "torn", "after"])
def test_a_power_cut_at_any_operation_leaves_an_identity_that_works(tmp_path: Path, how: str) -> None:
    """From enrolled files, and from renewed ones: cut at each operation, start again, and end with one good certificate."""
    clock = SettableClock()
    desk = desk_of(MemoryDatabase(), clock, tmp_path)
    operations = 0
    for renewals_before in (0, 1):
        for at in range(1, 20):
            bench = bench_of(desk, clock)
            for _ in range(renewals_before):
                clock.time += 2.01 * YEAR_S
                assert bench.start_and_look()
            clock.time += 2.01 * YEAR_S
            bench.disk = Disk(files=bench.disk.files, cut=Cut(at=at, how=how))
            try:
                bench.start_and_look()
            except PowerCut:
                operations += 1
            else:
                break
            bench.disk = Disk(files=bench.disk.survivors("none"))
            bench.key_in_use()
            bench.start_and_look()
            assert len({request.csr for request in bench.server.sent[renewals_before:]}) <= 1 + (at == 1)
            assert names(bench) == {"tls.pem"}
            assert not {PENDING_FILE, NEXT_FILE} & names(bench)
            clock.time += 2.01 * YEAR_S
            assert bench.start_and_look()  # and the next renewal works as well
    assert operations >= 10


def test_a_damaged_request_is_made_anew_before_it_was_sent(bench: Bench) -> None:
    bench.clock.time += 2.01 * YEAR_S
    bench.disk.replace(AT / PENDING_FILE, b"\xff{")
    assert bench.start_and_look()


def test_a_full_disk_changes_nothing(bench: Bench) -> None:
    bench.clock.time += 2.01 * YEAR_S

    def full(kind: str, path: Path) -> None:
        raise OSError(28, "No space left on device")

    bench.disk.fail = full
    with pytest.raises(UnavailableError) as caught:
        bench.start_and_look()
    assert caught.value.kind == "storage-fault"
    assert bench.key_in_use() == bench.enrolled.device.tls_key.public_key()
