"""Requests for logs at the real runtime: signed, once, bounded, without secrets; also of a trial that failed elsewhere."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from device_agent.logs.book import LogBook, Ring
from device_agent.logs.desk import LogDesk
from device_agent.ports import Incoming, Link
from device_agent.runtime import Runtime
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.logs import MAX_LOG_BYTES, PART_BYTES, PART_KIND, REQUEST_KIND, LogPart, LogRequest, What
from firmware.protocol.order import Counter
from firmware.protocol.report import MAX_REPORT_BYTES
from firmware.protocol.words import Action
from tests.crash.disk import Disk
from tests.crash.world import BOARD, IDENTITY, NOW, Server, World


@dataclass
class Listening(Server):
    """The server's side, which takes parts of logs."""

    parts: list[LogPart] = field(default_factory=list)

    def hear(self, topic: str, payload: bytes) -> list[Incoming]:
        assert len(payload) <= MAX_REPORT_BYTES
        if b"payloadType" in payload and PART_KIND.encode() in payload:
            assert topic.endswith("/report")
            self.parts.append(open_envelope(payload, PART_KIND, LogPart, self.report_key).message)
            return []
        return super().hear(topic, payload)


class Logging(World):
    """A device that keeps logs; `lines` are what its loggers say in each boot."""

    def __init__(self, *, faulty: set[str] | None = None, allow: bool = True, lines: Sequence[str] = ()) -> None:
        super().__init__(faulty=faulty)
        self.allow, self.lines = allow, list(lines)
        self.server: Listening = Listening(self.director, self.server.report_key)
        self.n = 0
        self.desk: LogDesk | None = None

    def _agent(self, link: Link | None = None) -> Runtime:
        runtime = super()._agent(link)
        book = LogBook(self.disk, BOARD.agent)
        for line in (f"booted {self.running_version()}", *self.lines):
            book.emit(logging.LogRecord("device_agent.test", logging.INFO, __file__, 1, line, None, None))
        self.desk = LogDesk(book, allow=self.allow)
        ports = replace(runtime._ports, logs=self.desk)
        return Runtime(identity=IDENTITY, ports=ports, directory=BOARD.agent, settings=runtime._settings)

    def request(self, *what: What, signer: Any = None, **fields: Any) -> Incoming:
        self.n += 1
        values: dict[str, Any] = {
            "target": "dev-1",
            "agent": "dev-1",
            "id": f"log-{self.n}",
            "counter": Counter(epoch=1, n=self.n),
            "what": list(what) or [What.AGENT],
            "max_bytes": MAX_LOG_BYTES,
            "issued_at": NOW,
            "expires_at": NOW + 1000,
            **fields,
        }
        payload = seal(LogRequest(**values), REQUEST_KIND, signer or self.director)
        return Incoming(leaf="logs", target="dev-1", payload=payload)

    def boot_with(self, *messages: Incoming) -> None:
        """Boot once, hand these over, and let everything that comes of it happen."""
        inbox, idle = list(messages), iter(range(30))

        def ended() -> bool:
            runtime = self.runtime
            assert runtime is not None
            if inbox and not runtime.waiting_reports:
                runtime.handle(inbox.pop(0))
                return False
            return not inbox and next(idle, None) is None

        self.run(until=ended)

    def text(self) -> str:
        return b"".join(part.data for part in self.server.parts).decode()


def test_a_signed_request_is_answered_with_the_agents_lines() -> None:
    world = Logging()
    world.boot_with(world.request(What.AGENT, What.HEALTH))
    (part,) = world.server.parts
    assert (part.id, part.counter, part.index, part.count, part.reason) == ("log-1", Counter(epoch=1, n=1), 0, 1, None)
    assert "== agent ==" in world.text()
    assert "booted 1.0" in world.text()
    assert "== health ==" in world.text()


def test_a_request_is_answered_once_also_after_a_power_cut() -> None:
    world = Logging()
    request = world.request()
    world.boot_with(request, request)
    assert len(world.server.parts) == 1
    world.after_cut("none")
    world.boot_with(request)
    assert len(world.server.parts) == 1, "that it was taken is durable"
    world.boot_with(world.request())
    assert len(world.server.parts) == 2


def forged(world: Logging) -> Incoming:
    return world.request(signer=CryptoSigner.generate_ed25519())


@pytest.mark.parametrize(
    "fields",
    [
        {"target": "dev-2"},
        {"agent": "dev-2"},
        {"counter": Counter(epoch=2, n=9)},
        {"counter": Counter(epoch=0, n=9)},
        {"expires_at": NOW - 1},
        {"max_bytes": MAX_LOG_BYTES + 1},
        {"max_bytes": 0},
        {"what": ["keys"]},
        {"what": []},
    ],
)
def test_foreign_old_and_malformed_requests_get_no_answer_and_take_no_counter(fields: dict[str, Any]) -> None:
    world = Logging()
    world.boot_with(world.request(**{"what": [What.AGENT], **fields}), forged(world), world.request(n := What.AGENT))
    assert [part.id for part in world.server.parts] == [f"log-{world.n}"]
    assert n is What.AGENT


def test_bytes_that_are_no_request_get_no_answer() -> None:
    world = Logging()
    strange = [b"", b"{}", b"x" * 9000, b'{"payloadType":"application/vnd.otaria.log-request.v1+json"}']
    world.boot_with(*(Incoming(leaf="logs", target="dev-1", payload=data) for data in strange), forged(world))
    assert world.server.parts == []
    assert world.runtime is not None
    assert world.runtime._record.logs_taken is None


def test_a_device_that_forbids_it_says_so_and_sends_nothing() -> None:
    world = Logging(allow=False)
    world.boot_with(world.request())
    (part,) = world.server.parts
    assert part.reason is not None
    assert (part.reason.kind, part.data) == ("logs-not-allowed", b"")


def test_a_flood_of_signed_requests_gets_a_few_answers() -> None:
    world = Logging()
    world.boot_with(*(world.request() for _ in range(12)))
    assert len({part.id for part in world.server.parts}) <= 3


@pytest.mark.parametrize("most", [1024, 50_000, MAX_LOG_BYTES])
def test_an_answer_is_bounded_and_has_the_latest_lines(most: int) -> None:
    world = Logging(lines=[f"line {number} " + "x" * 900 for number in range(400)])
    world.boot_with(world.request(max_bytes=most))
    parts = world.server.parts
    assert [part.index for part in parts] == list(range(parts[0].count))
    assert all(len(part.data) <= PART_BYTES for part in parts)
    assert len(world.text().encode()) <= most
    if most > 1024:
        assert "line 399 " in world.text()
    assert "line 0 " not in world.text()


def test_secrets_are_taken_out_before_anything_is_cut() -> None:
    world = Logging(lines=["password=hunter2", "fetching https://ann:hunter2@x/ …"])
    world.boot_with(world.request())
    assert "hunter2" not in world.text()
    assert "[redacted]" in world.text()


def test_the_old_slot_sends_what_the_failed_trial_said_in_the_other() -> None:
    world = Logging(faulty={"2.0"})
    world.server.order(Action.INSTALL, world.new)
    world.run()
    assert world.running_version() == "1.0"
    world.boot_with(world.request(What.TRIAL))
    assert "agent: " in world.text()
    assert "booted 2.0" in world.text()
    assert "not healthy: GET /health answered 500." in world.text()
    assert "booted 1.0" not in world.text()


def test_a_good_trials_log_is_kept_while_it_runs_and_not_afterwards() -> None:
    world = Logging()
    world.server.order(Action.INSTALL, world.new)
    world.run()
    writes = kept_logs(world)
    assert 1 <= writes <= 3
    world.boot_with()
    assert kept_logs(world) == writes


def kept_logs(world: Logging) -> int:
    """How often the log of a trial was put into its place."""
    return sum(kind == "rename" and path.endswith("/trial-log.json") for kind, path in world.disk.trace)


def test_without_a_link_parts_wait_and_are_sent_later() -> None:
    sent: list[bytes] = []
    desk = LogDesk(LogBook(Disk({}), Path("/agent")))
    request = LogRequest(
        target="t",
        agent="t",
        id="log-1",
        counter=Counter(epoch=1, n=1),
        what=[What.AGENT],
        max_bytes=MAX_LOG_BYTES,
        issued_at=0,
        expires_at=9,
    )
    for number in range(60):
        desk.book.note(What.AGENT, f"{number} " + "y" * 1000)
    desk.queue(desk.collect(request), 10.0)
    assert desk.send_at == 10.0
    desk.send(lambda payload: False, 10.0)
    assert desk.send_at == 20.0
    while desk.send_at is not None:
        desk.send(lambda payload: sent.append(payload) is None, desk.send_at)
    assert len(sent) == 4


def test_a_ring_keeps_the_latest_lines_within_its_bytes() -> None:
    ring = Ring(100)
    for number in range(50):
        ring.add(f"line {number} é")
    assert sum(len(line.encode()) + 1 for line in ring.lines) <= 100
    assert ring.lines[-1] == "line 49 é"
    ring.add("z" * 10_000)
    assert ring.lines == [], "a line that is longer than all there is room for leaves nothing"


def test_a_damaged_trial_log_is_said_and_no_fault(tmp_path: Path) -> None:
    disk = Disk({Path("/agent/trial-log.json"): b"\xff{"})
    book = LogBook(disk, Path("/agent"))
    assert book.lines(What.TRIAL) == ["agent: The log of the trial is damaged."]


def test_the_boot_log_is_what_the_devices_own_command_prints() -> None:
    desk = LogDesk(LogBook(Disk({}), Path("/agent")), boot_argv=["/bin/sh", "-c", "echo panic; echo token=abcdef"])
    request = LogRequest(
        target="t",
        agent="t",
        id="log-1",
        counter=Counter(epoch=1, n=1),
        what=[What.BOOT],
        max_bytes=1024,
        issued_at=0,
        expires_at=9,
    )
    (part,) = desk.collect(request)
    assert b"panic" in part.data
    assert b"abcdef" not in part.data
