"""The journal: old or new, never between; what it says is what was stored; damage is noticed, never believed."""

import errno
import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from device_agent.core.states import Asking, Staged, Standing
from device_agent.core.values import Goal
from device_agent.effects import FileEffects
from device_agent.journal import JOURNAL_FILE, MAX_BYTES, Journal, Record, decode, encode
from device_agent.lineage import SCHEMA, Lineage, Step, readers_of
from device_agent.outbox import MAX_ENTRIES, Entry, Outbox
from device_agent.ports import Slot
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.report import MAX_REPORT_BYTES
from tests.crash.disk import Disk
from tests.device_agent.core.playbook import Player, content, held

STATES = ["ordered", "downloading", "staged", "activating", "trial", "committed"]


def record(standing: Standing | None = None) -> Record:
    entry = Entry(seq=3, hash="a" * 64, leaf="report", envelope=b'{"payload":"\xc3\xa9"}')
    return Record(
        standing=standing or Standing(), outbox=Outbox(journal="j", next_seq=4, entries=(entry,)), trusted_time=7.5
    )


@pytest.mark.parametrize("state", STATES)
def test_every_state_comes_back_as_it_was_stored(state: str, tmp_path: Path) -> None:
    stored = record(getattr(Player(), state)().standing)
    journal = Journal(FileEffects(), tmp_path)
    journal.store(stored)
    assert journal.load() == with_readers(stored)


def with_readers(stored: Record) -> Record:
    return replace(stored, readers=readers_of(stored.readers, stored.standing, SCHEMA))


def test_open_ask_does_not_outlive_its_process() -> None:
    player = Player().asking()
    assert isinstance(player.standing.state, Asking)
    state = decode(encode(record(player.standing))).standing.state
    assert isinstance(state, Staged)
    assert b"nonce-1" not in encode(record(player.standing))


def test_no_journal_is_no_damage(tmp_path: Path) -> None:
    assert Journal(FileEffects(), tmp_path).load() is None


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(at: int, bit: int) -> None:
    goal = Goal(slot=Slot.B, content=content())
    data = bytearray(encode(record(Standing(state=Staged(held=held(), goal=goal, boot_id="b")))))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(RefusedError) as caught:
        decode(bytes(data))
    assert caught.value.kind == "journal-damaged"


@given(st.binary(max_size=200))
def test_garbage_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(RefusedError):
        decode(data)


def test_journal_of_a_later_schema_is_not_guessed_at() -> None:
    later = Lineage(schema=2, steps={2: Step(up=dict, down=dict)})
    with pytest.raises(RefusedError, match="schema 2"):
        decode(encode(record(), later))


def test_an_agent_from_before_several_images_and_one_of_now_read_each_others_journals() -> None:
    """Its orders had one `image`, and a slot's content no list; a slot of one image is still written without."""
    goal = Goal(slot=Slot.B, content=content())
    body = msgspec.to_builtins(record(Standing(state=Staged(held=held(), goal=goal, boot_id="b"))))
    order = body["standing"]["state"]["held"]["order"]
    (image,) = order.pop("images")
    order |= {"image": image["file"], "delta": None}
    for one in (body["standing"]["state"]["goal"]["content"], *body["standing"]["slots"].values()):
        assert not one.pop("images")
    raw = msgspec.json.encode(body)
    sealed = {"checksum": hashlib.sha256(raw).hexdigest(), "record": msgspec.Raw(raw)}
    state = decode(msgspec.json.encode(sealed)).standing.state
    assert isinstance(state, Staged)
    assert state.goal == goal
    assert [part.slot_set for part in state.goal.content.parts] == ["root"]


def test_failed_write_is_a_typed_error_and_leaves_the_old_record() -> None:
    disk = Disk({})
    journal = Journal(disk, Path("/agent"))
    journal.store(record())

    def fail(kind: str, path: Path) -> None:
        raise OSError(5, "Input/output error")

    disk.fail = fail
    with pytest.raises(UnavailableError) as caught:
        journal.store(replace(record(), trusted_time=9.0))
    assert caught.value.kind == "storage-fault"
    assert journal.load() == with_readers(record())


def test_file_is_private(tmp_path: Path) -> None:
    Journal(FileEffects(), tmp_path).store(record())
    assert (tmp_path / JOURNAL_FILE).stat().st_mode & 0o777 == 0o600


class Failing(FileEffects):
    """A medium on which reading fails."""

    def __init__(self, code: int) -> None:
        self._code = code

    def read(self, path: Path) -> bytes | None:
        raise OSError(self._code, "the medium says no", str(path))


def test_journal_that_the_medium_lost_is_damaged_and_any_other_failure_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as lost:
        Journal(Failing(errno.EIO), tmp_path).load()
    assert lost.value.kind == "journal-damaged"
    with pytest.raises(UnavailableError, match=r"journal\.json") as later:
        Journal(Failing(errno.EACCES), tmp_path).load()
    assert later.value.kind == "storage-fault"


def test_folder_in_place_of_the_journal_is_said(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_FILE).mkdir()
    with pytest.raises(UnavailableError, match="directory"):
        Journal(FileEffects(), tmp_path).load()


def test_full_outbox_of_the_largest_reports_is_read_again() -> None:
    entries = tuple(
        Entry(seq=seq, hash="a" * 64, leaf="report", envelope=b"x" * MAX_REPORT_BYTES)
        for seq in range(1, MAX_ENTRIES + 1)
    )
    full = Record(outbox=Outbox(journal="j", next_seq=MAX_ENTRIES + 1, entries=entries))
    data = encode(full)
    assert len(data) <= MAX_BYTES
    assert decode(data) == with_readers(full)
