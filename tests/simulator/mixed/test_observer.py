"""The observer of the mixed demo: what it must never miss, and that it is not believed when it could not see."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from simulator.mixed.observer import Account, Observer, answers_well, greets

PAIRS = {"core": ("a", "b")}
PATHS = {"a": (), "b": (), "edge": ("a", "b"), "web": ("edge", "a", "b")}


def seen(*rounds: str) -> Account:
    """An account of rounds in which these were down."""
    account = Account(pairs=PAIRS, paths=PATHS)
    for down in rounds:
        account.see({name: name not in down.split() for name in PATHS})
    return account


def test_one_of_a_pair_after_the_other_is_no_broken_pair() -> None:
    account = seen("", "a", "a", "", "b", "")
    assert (account.broken_pairs, account.lowest, account.rounds) == ([], {"core": 1}, 6)
    assert account.fell == {"a": 1, "b": 1}


def test_one_round_without_both_breaks_a_pair_for_good() -> None:
    account = seen("", "a b", "", "")
    assert (account.broken_pairs, account.lowest) == (["core"], {"core": 0})


def test_a_pair_is_whole_as_long_as_nobody_went_down() -> None:
    assert seen("", "web").lowest == {"core": 2}


@pytest.mark.parametrize(
    ("down", "broken"),
    [
        ("web", set()),
        ("a b", set()),
        ("edge a", {("edge", "a")}),
        ("web a", {("web", "a")}),
        ("web edge", {("web", "edge")}),
    ],
)
def test_somebody_down_behind_somebody_down_is_a_broken_path(down: str, broken: set[tuple[str, str]]) -> None:
    assert seen("", down, "").broken_paths == broken


def test_changes_are_told_once() -> None:
    account = Account(pairs={}, paths={"a": ()})
    told = [account.see({"a": is_up}) for is_up in (True, False, False, True)]
    assert told == [[], ["a went down"], [], ["a is up again"]]


@contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """A program that says this to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                with line:
                    line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_box_is_up_when_its_ssh_server_greets() -> None:
    with listening(b"SSH-2.0-Box\r\n") as port:
        assert greets(lambda: port)
    assert not greets(lambda: port)
    with listening(b"Welcome\r\n") as port:
        assert not greets(lambda: port)
    with listening(b"") as port:
        assert not greets(lambda: port)


def test_a_program_is_up_when_it_says_200() -> None:
    with listening(b"HTTP/1.0 200 OK\r\n\r\n") as port:
        assert answers_well(lambda: port, "/")
    with listening(b"HTTP/1.0 503 Service Unavailable\r\n\r\n") as port:
        assert not answers_well(lambda: port, "/")


def test_nobody_s_port_is_down() -> None:
    def unknown() -> int:
        raise FileNotFoundError

    assert not greets(unknown)


def test_it_sees_a_pair_break_while_it_looks() -> None:
    account, told = Account(pairs=PAIRS, paths={"a": (), "b": ()}), threading.Event()
    with listening(b"SSH-2.0-Box\r\n") as port:
        probes = {"a": lambda: greets(lambda: port), "b": lambda: False}
        observer = Observer(probes, account, lambda sentence: told.set() if "a went" in sentence else None)
    assert told.wait(60)
    observer.close()
    assert account.broken_pairs == ["core"]


def test_one_that_broke_off_is_not_believed() -> None:
    asked = threading.Event()

    def broken() -> bool:
        asked.set()
        raise RuntimeError("cannot ask")

    observer = Observer({"a": broken}, Account(pairs={}, paths={"a": ()}), lambda sentence: None)
    assert asked.wait(60)
    with pytest.raises(RuntimeError, match="cannot ask"):
        observer.close()
