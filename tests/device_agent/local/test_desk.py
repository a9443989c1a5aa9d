"""What comes of local requests: the real runtime and loop, the real socket, and the command line in front of it."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_agent.cli import run
from device_agent.config import CONFIG_FILE
from device_agent.identity import IDENTITY_FILE
from device_agent.local.client import socket_of
from device_agent.local.desk import Desk, Rights
from device_agent.local.door import Door, LocalAsk
from device_agent.local.policy import LocalPolicy
from device_agent.local.requests import Commit, Consent, Defer, Request, Rollback, Status
from device_agent.loop import MAX_WAITING, AgentLoop
from firmware.checks import Watch
from firmware.protocol.permit import Verdict
from firmware.protocol.words import Action
from tests.crash.world import IDENTITY, World
from tests.device_agent.test_app_loop import ThreadedWire, until

ALL = Rights(commit=True, rollback=True)


class Home:
    """A running agent with a socket, in a directory of its own."""

    def __init__(self, directory: Path, world: World, rights: Rights) -> None:
        self.directory, self.world = directory, world
        self.wire = ThreadedWire(world)
        self.runtime = world.powered_agent(self.wire)
        socket = socket_of(directory)
        assert socket is not None
        self.door = Door(socket)
        self.runtime._notice = self.door.tell
        self.loop = AgentLoop(self.runtime, self.wire, world.clock, desk=Desk(self.runtime, rights, self.who))
        self.door.start(self.loop.ask)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def who(self) -> dict[str, Any]:
        return {"agent": "dev-1", "target": "dev-1", "hardware": "board-1"}

    def say(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
        """A command line with `--json`: exit code, and what it printed."""
        code = run(["--dir", str(self.directory), *arguments, "--json"])
        said = capsys.readouterr()
        value: dict[str, Any] = json.loads(said.out or said.err)
        return code, value

    def stop(self) -> None:
        self.loop.stop()
        self.thread.join(20)
        self.door.stop()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / IDENTITY_FILE).write_bytes(msgspec.json.encode(IDENTITY))
    (tmp_path / CONFIG_FILE).write_text('board = "."\n')
    return tmp_path


@pytest.fixture
def home(directory: Path) -> Iterator[Callable[..., Home]]:
    homes: list[Home] = []

    def build(world: World, rights: Rights = ALL) -> Home:
        homes.append(Home(directory, world, rights))
        return homes[-1]

    yield build
    for one in homes:
        one.stop()


def waiting() -> World:
    """A world whose server lets the device wait for its permit."""
    world = World()
    world.server.answer = lambda ask: Verdict.WAIT
    world.server.order(Action.INSTALL, world.new)
    return world


def test_status_comes_from_the_running_agent(home: Callable[..., Home], capsys: pytest.CaptureFixture[str]) -> None:
    one = home(waiting())
    until(lambda: "staged" in one.world.server.states())
    code, status = one.say(capsys, "status")
    assert code == 0
    assert (status["agent"], status["running"]["version"]) == ("dev-1", "1.0")
    assert status["state"] in ("staged", "asking")


def test_deferral_reaches_the_server(home: Callable[..., Home], capsys: pytest.CaptureFixture[str]) -> None:
    one = home(waiting())
    until(lambda: len(one.world.server.asks) > 0)
    code, status = one.say(capsys, "defer", "2h")
    assert code == 0
    assert status["put_off_until"] > 0
    until(lambda: "deferred" in one.world.server.states())
    report = one.world.server.told[-1]
    assert report.reason is not None
    assert report.reason.kind == "put-off"
    code, status = one.say(capsys, "consent")
    assert (code, status["put_off_until"], status["consented"]) == (0, None, True)


@pytest.mark.parametrize(
    ("arguments", "rights", "kind"),
    [
        (("commit",), Rights(), "not-allowed"),
        (("rollback",), Rights(), "not-allowed"),
        (("defer", "2h"), Rights(defer=False), "not-allowed"),
        (("commit",), ALL, "no-trial"),
        (("rollback",), ALL, "no-previous"),
        (("consent",), ALL, "no-order"),
    ],
)
def test_security_refused_requests_are_typed_and_write_nothing(
    home: Callable[..., Home],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    rights: Rights,
    kind: str,
) -> None:
    one = home(World(), rights)
    until(lambda: bool(one.world.server.told) and not one.runtime.waiting_reports)
    before = {path: hashlib.sha256(data).hexdigest() for path, data in one.world.disk.files.items()}
    code, answer = one.say(capsys, *arguments)
    assert (code, answer["error"]) == (1, kind)
    assert {path: hashlib.sha256(data).hexdigest() for path, data in one.world.disk.files.items()} == before


def test_consent_to_another_order_is_refused(home: Callable[..., Home], capsys: pytest.CaptureFixture[str]) -> None:
    one = home(waiting())
    until(lambda: "staged" in one.world.server.states())
    assert one.say(capsys, "consent", "--order", "a" * 64)[1]["error"] == "wrong-order"
    assert not one.runtime.standing.local.consent


def test_health_is_run_by_the_agent(home: Callable[..., Home], capsys: pytest.CaptureFixture[str]) -> None:
    one = home(World())
    assert one.say(capsys, "health") == (0, {"healthy": True, "text": "All is well."})
    one.world.faulty.add("1.0")
    assert one.say(capsys, "health") == (1, {"healthy": False, "text": "GET /health answered 500."})


def test_without_an_agent_the_commands_say_so_and_status_reads_the_disk(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["defer", "2h"], ["consent"], ["commit"], ["rollback"]):
        assert run(["--dir", str(directory), *arguments, "--json"]) == 1
        assert json.loads(capsys.readouterr().err)["error"] == "agent-not-running"
    assert run(["--dir", str(directory), "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "unstarted"


@pytest.mark.parametrize("time", ["2", "h", "-2h", "0m", "2.5h", "2w", "٣h", "9999d", "1e3s"])
def test_time_that_is_none_is_wrong_use(directory: Path, capsys: pytest.CaptureFixture[str], time: str) -> None:
    assert run(["--dir", str(directory), "defer", time]) == 2
    assert "usage" in capsys.readouterr().err


# The desk alone, over whole updates


class Slip:
    """A request with a place for its answer."""

    def __init__(self, request: Request) -> None:
        self.answers: list[dict[str, Any]] = []
        self.ask = LocalAsk(request=request, uid=7, reply=self.answers.append)


def hand(world: World, request: Request) -> dict[str, Any]:
    assert world.runtime is not None
    slip = Slip(request)
    Desk(world.runtime, ALL).take(slip.ask)
    while jobs := world.runtime.take_jobs():
        for job in jobs:
            world.runtime.handle(job.run())
    return slip.answers[0]


def test_rollback_at_the_device_brings_the_previous_release_back() -> None:
    world = World()
    world.server.order(Action.INSTALL, world.new)
    world.run()
    assert hand(world, Rollback())["ok"]
    world.run(until=lambda: world.server.states()[-1] == "fell_back")
    last = world.server.told[-1]
    assert last.reason is not None
    assert (last.running.version, last.reason.kind) == ("1.0", "rolled-back-locally")
    assert "user id 7" in last.reason.text


def test_commit_at_the_device_ends_a_long_soak() -> None:
    world = World(watch=Watch(soak_s=50, every_s=5))
    world.server.order(Action.INSTALL, world.new)
    started: list[float] = []

    def asked() -> bool:
        runtime = world.runtime
        if runtime is not None and world.server.states()[-1] == "trial" and not started:
            started.append(world.clock.now)
            assert hand(world, Commit())["state"] == "trial"
        return world.settled()

    world.run(until=asked)
    assert world.server.states()[-1] == "committed"
    assert world.clock.now - started[0] < 50


def test_consent_lets_a_device_that_wants_it_go_on() -> None:
    world = World(policy=LocalPolicy(), consent=True)
    world.server.order(Action.INSTALL, world.new)
    world.run(until=lambda: "deferred" in world.server.states())
    assert hand(world, Status())["state"] == "deferred"
    assert not world.server.asks
    order = hand(world, Status())["order"]
    assert hand(world, Consent(order=order))["consented"]
    world.run()
    assert world.server.states()[-1] == "committed"


def test_deferral_is_durable() -> None:
    world = World()
    world.run(until=lambda: world.runtime is not None and not world.runtime.waiting_reports)
    hand(world, Defer(seconds=7200))
    world.after_cut("none")
    world.server.order(Action.INSTALL, world.new)
    world.run(until=lambda: "deferred" in world.server.states())
    assert not world.server.asks


def test_flood_of_requests_is_answered_busy() -> None:
    world = World()
    loop = AgentLoop(world.powered_agent(ThreadedWire(world)), ThreadedWire(world), world.clock)
    answers: list[dict[str, Any]] = []
    for _ in range(MAX_WAITING + 3):
        loop.ask(LocalAsk(request=Status(), uid=0, reply=answers.append))
    assert [answer["error"] for answer in answers] == ["busy"] * 3
