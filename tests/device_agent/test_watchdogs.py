"""The watchdogs: real datagrams to a real socket, a hardware watchdog through its port, and who is fed when."""

import configparser
import errno
import itertools
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.app import watchdog_of
from device_agent.config import Config, HardwareDog
from device_agent.core.boot import may_live, on_trial
from device_agent.loop import AgentLoop
from device_agent.runtime import Runtime
from device_agent.watchdog import RETRY_ARM_S, UNKNOWN_TIMEOUT_S, DeviceFile, Leave, Manager, Watchdog
from tests.crash.world import World
from tests.device_agent.core.playbook import Player
from tests.device_agent.test_app_loop import ThreadedWire

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT, HOST_UNIT = UNITS / "otaria-agent.service", UNITS / "otaria-host.service"
FINE = Leave()
IN_TRIAL = Leave(trial=True)
GIVEN_UP = Leave(feed=False, trial=True)


class Listener:
    """What the service manager would hear."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(10)

    def word(self) -> str:
        return self.socket.recv(4096).decode()

    def words(self) -> list[str]:
        """Everything that waits."""
        self.socket.setblocking(False)
        out = []
        try:
            while True:
                out.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            self.socket.settimeout(10)
            return out


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Listener, dict[str, str]]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@otaria-test-{os.getpid()}-{time.monotonic_ns()}"
    listener = Listener(name)
    yield listener, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "300000", "WATCHDOG_PID": str(os.getpid())}
    listener.socket.close()


class Dog:
    """`Hardware` that notes what it was told, and may refuse."""

    def __init__(self, *, takes_s: float = 30.0, broken: int | None = None) -> None:
        self.told: list[str] = []
        self.takes_s, self.broken = takes_s, broken

    def arm(self, timeout_s: int) -> float:
        if self.broken:
            raise OSError(self.broken, os.strerror(self.broken))
        self.told.append(f"arm {timeout_s}")
        return self.takes_s

    def feed(self) -> None:
        self.told.append("feed")

    def disarm(self) -> None:
        self.told.append("disarm")


NOBODY = Manager({}, 1)

# systemd


def test_the_loop_says_ready_feeds_in_time_and_says_that_it_stops(systemd: tuple[Listener, dict[str, str]]) -> None:
    listener, environment = systemd
    world = World()
    wire = ThreadedWire(world)
    runtime = world.powered_agent(wire)
    dog = Watchdog(Manager(environment, os.getpid()))
    loop = AgentLoop(runtime, wire, _Real(), watchdog=dog)
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert listener.word() == "READY=1"
    times = []
    for _ in range(8):
        assert listener.word() == "WATCHDOG=1"
        times.append(time.monotonic())
    loop.stop()
    thread.join(20)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert sorted(gaps)[len(gaps) // 2] < 0.3, "well within the timeout"
    assert listener.words()[-1] == "STOPPING=1"


def test_a_loop_that_hangs_feeds_nothing(systemd: tuple[Listener, dict[str, str]]) -> None:
    listener, environment = systemd
    world = World()
    wire = ThreadedWire(world)
    runtime = world.powered_agent(wire)
    hang, hung = threading.Event(), threading.Event()

    class Hangs(Runtime):
        def due(self) -> None:
            if hang.is_set():
                hung.set()
                hang_over.wait(20)
            super().due()

    hang_over = threading.Event()
    runtime.__class__ = Hangs
    loop = AgentLoop(runtime, wire, _Real(), watchdog=Watchdog(Manager(environment, os.getpid())))
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert listener.word() == "READY=1"
    assert listener.word() == "WATCHDOG=1"
    hang.set()
    assert hung.wait(10)
    listener.words()
    time.sleep(0.7)
    assert listener.words() == [], "twice its timeout without food"
    loop.stop()
    hang.clear()
    hang_over.set()
    thread.join(20)


class _Real:
    def seconds(self) -> float:
        return time.monotonic()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
    ],
)
def test_only_what_systemd_expects_of_this_process_counts(environment: dict[str, str], expected: float | None) -> None:
    assert Manager(environment, 7).watchdog_s == expected


@pytest.mark.parametrize("name", ["", "relative", "@", "/nonexistent/socket", "/" + "x" * 200])
def test_a_manager_that_is_not_there_is_no_reason_to_end(name: str) -> None:
    Manager({"NOTIFY_SOCKET": name}, 1).tell("READY=1")


def test_unfed_in_a_trial_that_was_given_up(systemd: tuple[Listener, dict[str, str]]) -> None:
    listener, environment = systemd
    dog = Watchdog(Manager(environment, os.getpid()))
    dog.turn(IN_TRIAL, 1.0)
    assert listener.words() == ["WATCHDOG=1"]
    dog.turn(GIVEN_UP, 2.0)
    dog.turn(GIVEN_UP, 3.0)
    assert listener.words() == []
    dog.turn(FINE, 4.0)
    assert listener.words() == ["WATCHDOG=1"]


# Hardware


def test_hardware_is_armed_for_the_trial_fed_and_disarmed_by_the_commit() -> None:
    hardware = Dog()
    dog = Watchdog(NOBODY, hardware, timeout_s=40)
    dog.turn(FINE, 0.0)
    assert hardware.told == []
    dog.turn(IN_TRIAL, 1.0)
    assert dog.every_s == 10.0, "a third of the timeout that the device took"
    dog.turn(IN_TRIAL, 2.0)
    dog.turn(IN_TRIAL, 11.0)
    dog.turn(FINE, 12.0)
    assert hardware.told == ["arm 40", "feed", "feed", "disarm"]
    dog.turn(IN_TRIAL, 13.0)
    assert hardware.told[4:] == ["arm 40", "feed"], "the next trial arms it again"


def test_hardware_starves_once_the_trial_is_given_up_and_stays_armed_when_the_agent_ends() -> None:
    hardware = Dog()
    dog = Watchdog(NOBODY, hardware)
    dog.turn(IN_TRIAL, 0.0)
    for now in range(1, 100):
        dog.turn(GIVEN_UP, float(now))
    dog.stop()
    assert hardware.told == ["arm 60", "feed"]


def test_hardware_that_is_always_armed_is_disarmed_only_by_a_proper_end_outside_a_trial() -> None:
    hardware = Dog()
    dog = Watchdog(NOBODY, hardware, always=True)
    dog.turn(FINE, 0.0)
    dog.turn(IN_TRIAL, 20.0)
    dog.turn(FINE, 40.0)
    dog.stop()
    assert hardware.told == ["arm 60", "feed", "feed", "feed", "disarm"]


def test_hardware_that_another_program_holds_is_said_and_looked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    hardware = Dog(broken=errno.EBUSY)
    dog = Watchdog(NOBODY, hardware)
    dog.turn(IN_TRIAL, 0.0)
    dog.turn(IN_TRIAL, 1.0)
    assert [record.message for record in caplog.records] == [
        "the hardware watchdog can't be armed; a machine that hangs in a trial will not restart by itself"
    ]
    assert dog.every_s is not None
    assert dog.every_s <= RETRY_ARM_S
    hardware.broken = None
    dog.turn(IN_TRIAL, RETRY_ARM_S)
    assert hardware.told == ["arm 60", "feed"]


def test_hardware_that_fails_while_it_is_fed_does_not_end_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    class Breaks(Dog):
        def feed(self) -> None:
            raise OSError(errno.EIO, "broken")

    Watchdog(NOBODY, Breaks()).turn(IN_TRIAL, 0.0)
    assert "hardware watchdog can't be fed" in caplog.text


def test_device_file_is_fed_and_closed_with_the_magic_byte(tmp_path: Path) -> None:
    """Over a plain file, which takes no timeout: this machine has no watchdog to try it on."""
    path = tmp_path / "watchdog"
    path.touch()
    device = DeviceFile(path)
    assert device.arm(60) == UNKNOWN_TIMEOUT_S
    device.feed()
    device.feed()
    device.disarm()
    device.disarm()
    device.feed()
    assert path.read_bytes() == b"\0\0V"


def test_device_that_is_not_there_can_not_be_armed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DeviceFile(tmp_path / "none").arm(60)


def test_no_watchdog_unless_there_is_one() -> None:
    assert Watchdog(NOBODY).every_s is None
    dog = watchdog_of(Config(watchdog=HardwareDog(device="/nonexistent/watchdog", timeout_s=9)))
    dog.turn(FINE, 0.0)
    assert dog.every_s is None, "an idle agent is not woken for it"
    dog.turn(IN_TRIAL, 0.0)
    assert dog.every_s == RETRY_ARM_S / 3


# What the core lets it do


def test_a_trial_may_live_until_it_is_given_up_or_its_deadline_passes() -> None:
    p = Player()
    assert may_live(p.standing, p.now)
    assert not on_trial(p.standing)
    p.trial()
    assert on_trial(p.standing)
    assert may_live(p.standing, p.now)
    assert may_live(p.standing, p.now + 59)
    assert not may_live(p.standing, p.now + 60)
    p.healthy(ok=False)
    assert on_trial(p.standing)
    assert not may_live(p.standing, p.now)


def test_a_committed_release_lives() -> None:
    p = Player().committed()
    assert may_live(p.standing, p.now + 1e9)
    assert not on_trial(p.standing)


# The unit


@pytest.mark.parametrize("given", [UNIT, HOST_UNIT], ids=lambda path: path.stem)
def test_systemd_takes_the_unit(given: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze, "run deploy/test-tools.sh"
    unit = tmp_path / given.name
    unit.write_text(given.read_text().replace("/usr/bin/otaria-agent", "/bin/true"))
    verified = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60)
    assert (verified.returncode, verified.stderr) == (0, "")


def parsed(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(path)
    return unit


def test_a_host_s_unit_lets_packages_do_what_they_do_under_apt() -> None:
    unit = parsed(HOST_UNIT)
    service = unit["Service"]
    assert (service["Type"], service["NotifyAccess"], service["KillMode"]) == ("notify", "main", "process")
    assert service["ExecStart"].endswith("otaria-agent --dir /var/lib/otaria run")
    shut_in = {"UMask", "MemoryMax", "TasksMax", "NoNewPrivileges", "CapabilityBoundingSet", "SystemCallFilter"}
    assert not [key for key in service if key.startswith(("Protect", "Restrict", "Private")) or key in shut_in]
    assert "StartLimitAction" not in unit["Unit"], "a server without A/B slots is none the better for a restart"


def test_the_unit_has_what_the_code_relies_on() -> None:
    unit = parsed(UNIT)
    service = unit["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert int(service["WatchdogSec"]) > 0
    assert service["ExecStart"].endswith("otaria-agent --dir /var/lib/otaria-agent run")
    assert unit["Unit"]["StartLimitAction"] == "reboot"
