"""The ports that a worker stands behind: what is asked of it, what is remembered, and that strangers can't have many started."""

import socket
from pathlib import Path
from typing import Any

import pytest

from device_agent.effects import FileEffects
from device_agent.ports import Verified
from device_agent.transport.ways import Way
from device_agent.worker.known import KNOWN_FILE, KnownFacts
from device_agent.worker.proxies import START_EVERY_S, STARTS, WorkerCatalogue, WorkerNotary, WorkerRenewal
from device_agent.worker.wire import Facts, Knock, Read, Renew, Verify
from firmware.errors import RefusedError, UnavailableError
from firmware.manifest import Manifest
from firmware.protocol.endpoints import Endpoint, Endpoints
from firmware.protocol.order import FileRef
from firmware.protocol.report import EncryptionKey

TOLD = Facts(
    knows_director=True,
    endpoints=Endpoints(
        endpoints=[Endpoint(server="https://h", broker="h:1")],
        services_ca=["-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"],
    ),
    encryption_key=EncryptionKey(suite="s", public="A" * 43),
)


class PaperWorker:
    """Answers as told, and notes what it was asked."""

    def __init__(self, answer: Any = None) -> None:
        self.answer, self.asked, self.is_alive = answer, list[Any](), False

    def ask(self, call: Any, kind: Any, *, limit_s: float, **_: Any) -> Any:
        self.asked.append(call)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Hands:
    """A clock that is set by hand."""

    now = 0.0

    def seconds(self) -> float:
        return self.now


@pytest.fixture
def known(tmp_path: Path) -> KnownFacts:
    return KnownFacts(FileEffects(), tmp_path)


def notary(worker: PaperWorker, known: KnownFacts, clock: Hands | None = None) -> WorkerNotary:
    return WorkerNotary(worker, known, clock or Hands())  # type: ignore[arg-type]


def verify(notary: WorkerNotary, envelope: bytes = b"e", kind: str = "order", max_bytes: int = 100) -> Verified:
    return notary.verify(envelope, kind, max_bytes=max_bytes)


def test_what_was_verified_is_not_asked_again_until_a_worker_tells_its_facts(known: KnownFacts) -> None:
    worker = PaperWorker(Verified(epoch=1, until=2.0))
    one = notary(worker, known)
    assert [verify(one), verify(one)] == [worker.answer] * 2
    assert worker.asked == [Verify(envelope=b"e", kind="order", max_bytes=100)]
    known.tell(TOLD)
    verify(one)
    assert len(worker.asked) == 2


def test_security_the_same_bytes_under_another_kind_are_verified_anew(known: KnownFacts) -> None:
    worker = PaperWorker(Verified(epoch=1, until=2.0))
    one = notary(worker, known)
    verify(one)
    verify(one, kind="permit")
    assert [call.kind for call in worker.asked] == ["order", "permit"]


def test_security_what_is_refused_is_not_remembered_as_good(known: KnownFacts) -> None:
    worker = PaperWorker(RefusedError("bad-signature", "No."))
    one = notary(worker, known)
    for _ in range(2):
        with pytest.raises(RefusedError):
            verify(one)
    assert len(worker.asked) == 2


def test_too_large_is_refused_without_a_worker(known: KnownFacts) -> None:
    worker = PaperWorker()
    with pytest.raises(RefusedError) as caught:
        verify(notary(worker, known), b"x" * 101)
    assert (caught.value.kind, worker.asked) == ("too-large", [])


def test_security_strangers_messages_start_few_workers(known: KnownFacts) -> None:
    worker, clock = PaperWorker(RefusedError("bad-signature", "No.")), Hands()
    one = notary(worker, known, clock)
    kinds = []
    for number in range(1000):
        with pytest.raises((RefusedError, UnavailableError)) as caught:
            verify(one, b"%d" % number)
        kinds.append(caught.value.kind)
    assert len(worker.asked) == STARTS
    assert set(kinds[STARTS:]) == {"busy"}
    clock.now = START_EVERY_S
    with pytest.raises(RefusedError):
        verify(one, b"later")


def test_a_worker_that_is_there_anyway_verifies_whatever_comes(known: KnownFacts) -> None:
    worker = PaperWorker(Verified(epoch=1, until=2.0))
    worker.is_alive = True
    one = notary(worker, known)
    for number in range(100):
        verify(one, b"%d" % number)
    assert len(worker.asked) == 100


def test_a_manifest_is_read_once(known: KnownFacts) -> None:
    manifest = Manifest(product="p", version="1", counter=1, hardware=["h"], images=[])
    worker = PaperWorker(manifest)
    catalogue = WorkerCatalogue(worker, lambda: None)  # type: ignore[arg-type]
    file = FileRef(path="a/b", length=1, sha256="0" * 64)
    assert [catalogue.manifest(file), catalogue.manifest(file)] == [manifest] * 2
    assert worker.asked == [Read(file=file)]


def test_a_refresh_that_fails_nudges_nobody(known: KnownFacts) -> None:
    nudges = list[str]()
    worker = PaperWorker(UnavailableError("unreachable", "No."))
    catalogue = WorkerCatalogue(worker, lambda: nudges.append("nudge"))  # type: ignore[arg-type]
    with pytest.raises(UnavailableError):
        catalogue.refresh(0.0)
    assert nudges == []
    worker.answer = None
    catalogue.refresh(0.0)
    assert nudges == ["nudge"]


def test_no_worker_is_started_for_a_server_where_nobody_listens() -> None:
    worker = PaperWorker(True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        way = Way(https_url=f"https://127.0.0.1:{server.getsockname()[1]}", mqtt_host="h", mqtt_port=1)
        renewal = WorkerRenewal(worker, lambda: way)  # type: ignore[arg-type]
        assert renewal.look(0.0)
        assert renewal.answers(way)
    assert worker.asked == [Renew(), Knock(way=way)]
    with pytest.raises(UnavailableError) as caught:
        renewal.look(0.0)
    assert (caught.value.kind, renewal.answers(way), len(worker.asked)) == ("unreachable", False, 2)


def test_what_a_worker_told_is_there_in_the_next_process(tmp_path: Path, known: KnownFacts) -> None:
    assert known.is_empty
    known.tell(TOLD)
    after = KnownFacts(FileEffects(), tmp_path)
    assert (after.facts.endpoints, after.facts.encryption_key) == (TOLD.endpoints, TOLD.encryption_key)
    assert not after.is_empty
    assert not after.knows_director, "who the director is must be told by a worker of this process"


@pytest.mark.parametrize("place", [0, 40, -3])
def test_what_is_known_is_asked_for_anew_when_the_file_is_damaged(
    tmp_path: Path, known: KnownFacts, place: int
) -> None:
    known.tell(TOLD)
    data = bytearray((tmp_path / KNOWN_FILE).read_bytes())
    data[place] ^= 1
    (tmp_path / KNOWN_FILE).write_bytes(data)
    assert KnownFacts(FileEffects(), tmp_path).is_empty


def test_facts_that_stay_the_same_are_not_written_again(tmp_path: Path, known: KnownFacts) -> None:
    known.tell(TOLD)
    (tmp_path / KNOWN_FILE).unlink()
    known.tell(TOLD)
    assert not (tmp_path / KNOWN_FILE).exists()
