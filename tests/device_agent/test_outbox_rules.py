"""The outbox: contiguous, bounded, emptied only by an ack that names journal, seq and hash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.outbox import MAX_ENTRIES, Entry, Outbox, acked, add, oldest_after_adding
from firmware.protocol.report import Ack


def entry(seq: int) -> Entry:
    return Entry(seq=seq, hash=f"{seq:064x}", leaf="report", envelope=b"e")


def filled(count: int) -> Outbox:
    outbox = Outbox(journal="j")
    for seq in range(1, count + 1):
        outbox = add(outbox, entry(seq))
    return outbox


def ack(seq: int, *, journal: str = "j", digest: str | None = None) -> Ack:
    return Ack(
        target="d", agent="d", journal=journal, seq=seq, report_hash=digest or f"{max(seq, 0):064x}", issued_at=0
    )


def test_ack_covers_everything_up_to_its_seq() -> None:
    left = acked(filled(5), ack(3))
    assert [one.seq for one in left.entries] == [4, 5]
    assert (left.oldest, left.next_seq) == (4, 6)


@pytest.mark.parametrize("wrong", [ack(3, digest="f" * 64), ack(3, journal="k"), ack(9)])
def test_ack_that_does_not_fit_changes_nothing(wrong: Ack) -> None:
    assert acked(filled(5), wrong) == filled(5)


def test_repeated_ack_is_harmless() -> None:
    left = acked(filled(5), ack(3))
    assert acked(left, ack(3)) == left
    assert acked(left, ack(2)) == left


def test_seq_is_never_used_twice_even_when_empty() -> None:
    left = acked(filled(2), ack(2))
    assert (left.entries, left.oldest, left.next_seq) == ((), 3, 3)
    with pytest.raises(ValueError, match="seq 3"):
        add(left, entry(2))


def test_bound_lets_the_oldest_go_and_says_so() -> None:
    outbox = filled(MAX_ENTRIES)
    assert oldest_after_adding(outbox) == 2
    outbox = add(outbox, entry(MAX_ENTRIES + 1))
    assert (len(outbox.entries), outbox.oldest) == (MAX_ENTRIES, 2)


@given(st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60))
def test_entries_stay_contiguous_whatever_is_added_and_acked(steps: list[int | None]) -> None:
    outbox = Outbox(journal="j")
    for step in steps:
        outbox = add(outbox, entry(outbox.next_seq)) if step is None else acked(outbox, ack(max(step, 1)))
        seqs = [one.seq for one in outbox.entries]
        assert seqs == list(range(outbox.oldest, outbox.next_seq))
