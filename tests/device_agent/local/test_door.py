"""The socket against hostile and stuck clients: each gets its typed refusal or is hung up on, and the others are served."""

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.local import door as door_module
from device_agent.local.door import MAX_BACKLOG_BYTES, MAX_CLIENTS, Door, LocalAsk, address_of
from device_agent.local.requests import MAX_REQUEST_BYTES, Commit, Consent, Defer, Health, Status, parse_request
from firmware.errors import RefusedError


class Client:
    """A program of the device."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        with address_of(path) as address:
            self.socket.connect(address)
        self._reader = self.socket.makefile("rb")

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._reader.readline())
        return value

    def ask(self, **fields: Any) -> dict[str, Any]:
        self.say(json.dumps(fields).encode() + b"\n")
        return self.line()

    def is_hung_up(self) -> bool:
        try:
            return self._reader.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._reader.close()
        self.socket.close()


class House:
    """A door, and whoever came in."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path, self.asks = path, list[LocalAsk]()
        self.holds = threading.Event()
        self.door = Door(path, **options)
        self.door.start(self.take)
        self.clients: list[Client] = []

    def take(self, ask: LocalAsk) -> None:
        self.asks.append(ask)
        if not self.holds.is_set():
            ask.reply({"ok": True, "number": len(self.asks)})

    def client(self) -> Client:
        self.clients.append(Client(self.path))
        return self.clients[-1]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def build(path: Path | None = None, **options: Any) -> House:
        houses.append(House(path or tmp_path / "agent.sock", **options))
        return houses[-1]

    yield build
    for one in houses:
        one.door.stop()
        for client in one.clients:
            client.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_requests_are_handed_on_and_answered(house: Callable[..., House]) -> None:
    home = house()
    client = home.client()
    assert client.ask(ask="status") == {"ok": True, "number": 1}
    assert client.ask(ask="defer", seconds=7200)["ok"]
    assert client.ask(ask="consent", order="a" * 64)["ok"]
    assert client.ask(ask="health")["ok"]
    asked = [ask.request for ask in home.asks]
    assert asked == [Status(), Defer(seconds=7200), Consent(order="a" * 64), Health()]
    assert {ask.uid for ask in home.asks} == {os.getuid()}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"\n", "malformed"),
        (b"status\n", "malformed"),
        (b"[]\n", "malformed"),
        (b"{}\n", "malformed"),
        (b'{"ask":"reboot"}\n', "malformed"),
        (b'{"ask":"status","x":1}\n', "malformed"),
        (b'{"ask":"status","ask":"commit"}\n', "malformed"),
        (b'{"ask":"defer"}\n', "malformed"),
        (b'{"ask":"defer","seconds":0}\n', "malformed"),
        (b'{"ask":"defer","seconds":-5}\n', "malformed"),
        (b'{"ask":"defer","seconds":1e99}\n', "malformed"),
        (b'{"ask":"defer","seconds":NaN}\n', "malformed"),
        (b'{"ask":"defer","seconds":"2h"}\n', "malformed"),
        (b'{"ask":"consent","order":"x"}\n', "malformed"),
        (b"\xff\xfe\n", "malformed"),
        (b"[" * 4000 + b"\n", "malformed"),
        (b'{"ask":"status"}' + b" " * MAX_REQUEST_BYTES + b"\n", "too-large"),
    ],
)
def test_security_hostile_request_is_refused_and_nothing_comes_of_it(
    house: Callable[..., House], line: bytes, kind: str
) -> None:
    home = house()
    client = home.client()
    client.say(line)
    answer = client.line()
    assert (answer["ok"], answer["error"]) == (False, kind)
    assert home.asks == []
    assert home.client().ask(ask="status")["ok"]


def test_security_line_without_an_end_is_refused_and_hung_up_on(house: Callable[..., House]) -> None:
    client = house().client()
    client.say(b"x" * (2 * MAX_REQUEST_BYTES))
    assert client.line()["error"] == "too-large"
    assert client.is_hung_up()


@given(st.binary(max_size=300))
def test_security_no_bytes_but_a_request_are_one(data: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_request(data)
    assert caught.value.kind == "malformed"


def test_request_in_portions_and_several_in_one(house: Callable[..., House]) -> None:
    home = house()
    client = home.client()
    for byte in b'{"ask":"status"}\n':
        client.say(bytes([byte]))
    assert client.line()["number"] == 1
    client.say(b'{"ask":"status"}\n{"ask":"commit"}\n{"ask":"sta')
    assert [client.line()["number"], client.line()["number"]] == [2, 3]
    client.say(b'tus"}\n')
    assert client.line()["number"] == 4
    assert home.asks[2].request == Commit()


def test_client_that_waits_does_not_hold_up_the_others_nor_queues_up_work(house: Callable[..., House]) -> None:
    home = house()
    home.holds.set()
    slow = home.client()
    slow.say(b'{"ask":"health"}\n' * 100)
    until(lambda: len(home.asks) == 1)
    home.holds.clear()
    assert home.client().ask(ask="status")["ok"]
    time.sleep(0.2)
    assert len(home.asks) == 2, "one request at a time"
    home.asks[0].reply({"ok": True, "late": True})
    assert slow.line() == {"ok": True, "late": True}


def test_answer_for_a_client_that_has_gone_harms_nobody(house: Callable[..., House]) -> None:
    home = house()
    home.holds.set()
    gone = home.client()
    gone.say(b'{"ask":"status"}\n')
    until(lambda: len(home.asks) == 1)
    gone.close()
    home.holds.clear()
    home.asks[0].reply({"ok": True})
    assert home.client().ask(ask="status")["ok"]


def test_events_go_to_subscribers_only(house: Callable[..., House]) -> None:
    home = house()
    listener, other = home.client(), home.client()
    assert listener.ask(ask="subscribe") == {"ok": True}
    home.door.tell({"event": "state", "state": "trial"})
    assert listener.line() == {"event": "state", "state": "trial"}
    assert listener.ask(ask="status")["ok"], "a subscriber may ask as well"
    assert other.ask(ask="status")["number"] == 2


def test_security_subscriber_that_does_not_read_is_hung_up_on_and_harms_nobody(house: Callable[..., House]) -> None:
    home = house()
    stuck, good = home.client(), home.client()
    for client in (stuck, good):
        assert client.ask(ask="subscribe")["ok"]
    event = {"event": "progress", "text": "x" * 5000}
    sent = 0
    while len(home.door._clients) == 2:
        home.door.tell(event)
        assert good.line() == event
        sent += 5000
        assert sent < 100 * MAX_BACKLOG_BYTES
    assert sent > MAX_BACKLOG_BYTES
    assert home.client().ask(ask="status")["ok"]


def test_security_no_more_clients_than_fit_and_room_again_when_one_goes(house: Callable[..., House]) -> None:
    home = house()
    first = [home.client() for _ in range(MAX_CLIENTS)]
    assert first[-1].ask(ask="status")["ok"]
    late = home.client()
    assert late.line()["error"] == "busy"
    assert late.is_hung_up()
    first[0].close()
    until(lambda: len(home.door._clients) < MAX_CLIENTS)
    assert home.client().ask(ask="status")["ok"]


def test_client_that_says_nothing_for_long_is_hung_up_on_but_not_a_subscriber(house: Callable[..., House]) -> None:
    home = house(max_idle_s=0.3)
    listener, silent = home.client(), home.client()
    assert listener.ask(ask="subscribe")["ok"]
    poke = threading.Event()

    def events() -> None:
        while not poke.wait(0.1):
            home.door.tell({"event": "tick"})

    ticking = threading.Thread(target=events)
    ticking.start()
    assert silent.is_hung_up()
    poke.set()
    ticking.join()
    assert listener.line()["event"] == "tick"


def test_only_owner_and_group_may_connect(house: Callable[..., House]) -> None:
    home = house()
    found = home.path.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
def test_the_group_is_the_configured_one(house: Callable[..., House]) -> None:
    assert house(group="daemon").path.stat().st_gid == 1


def test_group_that_is_none_opens_no_door(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Door(tmp_path / "agent.sock", "no-such-group").start(lambda ask: None)


def test_socket_of_a_killed_agent_is_taken_over_and_a_file_is_not(house: Callable[..., House], tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "agent.sock"))
    stale.close()
    assert house().client().ask(ask="status")["ok"]
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="in use"):
        Door(tmp_path / "file").start(lambda ask: None)
    assert (tmp_path / "file").read_text() == "precious"


def test_long_path_is_no_hindrance(house: Callable[..., House], tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    assert house(deep / "agent.sock").client().ask(ask="status")["ok"]


def test_closed_door_is_gone(house: Callable[..., House]) -> None:
    home = house()
    client = home.client()
    assert client.ask(ask="status")["ok"]
    home.door.stop()
    assert client.is_hung_up()
    assert not home.path.exists()
    home.door.tell({"event": "late"})


def test_idle_door_does_not_wake_up(house: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "TICK_S", 0.01)
    home = house()
    woken = 0
    select = home.door._selector.select

    def counted(timeout: float | None = None) -> Any:
        nonlocal woken
        woken += 1
        return select(timeout)

    monkeypatch.setattr(home.door._selector, "select", counted)
    client = home.client()
    assert client.ask(ask="status")["ok"]
    client.close()
    until(lambda: not home.door._clients)
    time.sleep(0.1)
    before = woken
    time.sleep(0.3)
    assert woken - before <= 1
