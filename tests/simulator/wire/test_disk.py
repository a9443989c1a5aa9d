"""What ails a server's disk, done to a real one: it says so to whoever asks for a change, goes on reading, and loses nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware.protocol.words import ReasonKind
from simulator.lab import Lab, running
from simulator.rest import RestError
from simulator.wire import disk


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running(Lab(tmp_path_factory.mktemp("disk"), broker="embedded")) as one:
        yield one


def refused(lab: Lab) -> RestError:
    with pytest.raises(RestError) as caught:
        lab.claim(uses=1)
    return caught.value


def tokens(lab: Lab) -> int:
    return len(lab.rest.get("/claim-tokens")["claim_tokens"])


@pytest.mark.timeout(120)
def test_on_a_full_disk_changes_are_refused_in_words_and_what_there_is_can_be_read(lab: Lab) -> None:
    lab.claim(uses=1)
    pid, before = lab.server_pid, tokens(lab)
    with disk.full(pid):
        for _ in range(3):
            error = refused(lab)
            assert (error.kind, error.status) == (ReasonKind.STORAGE_FAULT, 503)
            assert "that its disk has room, then try again" in error.text
        assert tokens(lab) == before
    lab.claim(uses=1)
    assert (tokens(lab), lab.has_ended, lab.server_pid) == (before + 1, False, pid)


@pytest.mark.timeout(120)
def test_who_has_to_wait_too_long_for_a_slow_disk_is_told_so(lab: Lab) -> None:
    before = tokens(lab)
    with disk.held(lab.state / "otaria.db"):
        error = refused(lab)
        assert (error.kind, error.status) == (ReasonKind.STORAGE_FAULT, 503)
        assert tokens(lab) == before
    lab.claim(uses=1)
    assert (tokens(lab), lab.has_ended) == (before + 1, False)


@pytest.mark.parametrize("pid", [0, -1, (1 << 22) - 1])
def test_a_process_that_is_not_there_has_no_disk_to_fill(pid: int, tmp_path: Path) -> None:
    with pytest.raises(ProcessLookupError), disk.full(pid):
        raise AssertionError("there is no such process")
    (tmp_path / "ours").write_bytes(bytes(disk.ROOM_BYTES + 1))
