"""What the maker finds: covers that lie where they say, pieces without holes, and the same from either matcher."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware.delta import make, match
from firmware.delta.anchors import MIN_COVER_BYTES, aligned_covers
from firmware.delta.apply import apply_delta
from firmware.delta.covers import Covers, is_in_order, joined, uncovered
from firmware.delta.format import MAX_RUN
from firmware.delta.image_file import open_image
from firmware.delta.match import Matcher, bsdiff_covers, hdiffpatch_covers
from firmware.delta.pieces import Piece, in_place, pieces_beside, pieces_between

MEBI = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def aligned(tmp_path: Path, old: bytes, new: bytes) -> list[list[int]]:
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    with open_image(tmp_path / "old") as source, open_image(tmp_path / "new") as target, ThreadPoolExecutor(2) as pool:
        rows: list[list[int]] = aligned_covers(source, target, pool).tolist()
    return rows


def test_a_stretch_reaches_as_far_as_the_bytes_agree(tmp_path: Path) -> None:
    """Across blocks that are not unique, over chunks, and to the byte at both ends."""
    body = noise(5000) + bytes(70_001) + noise(5 * MEBI, 2)
    old, new = b"\1" * 1000 + body + b"\2" * 1000, b"\3" * 2024 + body + b"\4" * 900
    assert aligned(tmp_path, old, new) == [[1000, 2024, len(body)]]


def test_relocated_bytes_are_inside_a_cover_and_other_content_is_not(tmp_path: Path) -> None:
    old = bytearray(noise(200_000))
    new = old.copy()
    new[50_000:90_000:97] = bytes(len(new[50_000:90_000:97]))
    new[120_000:160_000] = noise(40_000, 2)
    rows = aligned(tmp_path, bytes(old), bytes(new))
    assert [row[0] == row[1] for row in rows] == [True] * len(rows)
    assert rows[0][1] == 0
    assert rows[0][1] + rows[0][2] == 120_000
    assert (rows[-1][1], rows[-1][1] + rows[-1][2]) == (160_000, 200_000)


def test_what_is_equal_everywhere_is_no_anchor(tmp_path: Path) -> None:
    assert aligned(tmp_path, noise(4096) + bytes(20_480), noise(4096, 2) + bytes(20_480)) == []


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 200])
def test_images_about_as_short_as_a_block(tmp_path: Path, size: int) -> None:
    for row in aligned(tmp_path, noise(size), noise(size)):
        assert row[2] >= MIN_COVER_BYTES


SMALL = st.binary(max_size=40).map(lambda data: data * 9)


@settings(max_examples=60, deadline=None)
@given(old=SMALL, middle=SMALL, cut=st.integers(0, 300))
@pytest.mark.parametrize("find", [bsdiff_covers, hdiffpatch_covers])
def test_covers_lie_in_both_and_in_order(find: object, old: bytes, middle: bytes, cut: int) -> None:
    if find is hdiffpatch_covers:
        pytest.importorskip("hdiffpatch")
    new = old[cut:] + middle + old[:cut]
    done = 0
    covers = (hdiffpatch_covers if find is hdiffpatch_covers else bsdiff_covers)(old, new)
    for old_at, new_at, size in covers.tolist():
        assert new_at >= done
        assert 0 <= old_at <= old_at + size <= len(old)
        assert size >= 0
        done = new_at + size
    assert done <= len(new)


def test_either_matcher_finds_what_moved() -> None:
    old = noise(60_000)
    new = old[31_001:] + b"new" + old[:31_001]
    for find in (bsdiff_covers, hdiffpatch_covers):
        equal = sum(
            int((np.frombuffer(old, np.uint8)[a : a + n] == np.frombuffer(new, np.uint8)[b : b + n]).sum())
            for a, b, n in find(old, new).tolist()
        )
        assert equal >= len(old) - 100


def test_without_hdiffpatch_bsdiff_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match, "find_spec", lambda name: None)
    assert match.matcher().name == "bsdiff4"
    old = noise(300_000)
    new = old[7:90_000] + noise(500, 3) + old[90_001:]
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    facts = make.make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    patch = (tmp_path / "patch").read_bytes()
    assert b"".join(apply_delta(iter([patch]), lambda at, size: old[at : at + size], expect=facts.ends)) == new
    assert len(patch) < 1500


spans = st.lists(st.tuples(st.integers(0, 3 * MEBI), st.integers(1, MEBI)), max_size=6)


@settings(max_examples=100, deadline=None)
@given(places=spans, olds=st.lists(st.integers(0, 2 * MEBI), min_size=6, max_size=6), piece=st.integers(1 << 16, MEBI))
def test_pieces_hold_all_that_is_not_covered_and_are_bounded(
    places: list[tuple[int, int]], olds: list[int], piece: int
) -> None:
    length, rows, done = 4 * MEBI, [], 0
    for (at, size), old_at in zip(sorted(places), olds, strict=False):
        if at >= done:
            rows.append([old_at, at, size])
            done = at + size
    covers: Covers = np.array(rows, np.int64).reshape(-1, 3)
    pieces = pieces_between(covers, 3 * MEBI, length, piece)
    seen = np.zeros(length, np.int8)
    for start, end in covers[:, 1:].tolist():
        seen[start : start + end] += 1
    for part in pieces:
        assert (part.old[:, 1] - part.old[:, 0]).sum() + (part.new[:, 1] - part.new[:, 0]).sum() <= 2 * piece + 2 * (
            1 << 19
        )
        for start, end in part.new.tolist():
            seen[start:end] += 1
        for start, end in part.old.tolist():
            assert 0 <= start < end <= 3 * MEBI
    assert (seen == 1).all()


@settings(max_examples=100, deadline=None)
@given(
    gaps=st.lists(st.tuples(st.integers(0, MEBI), st.integers(0, MEBI), st.integers(1, MEBI)), max_size=5),
    ends=st.tuples(st.integers(0, MEBI), st.integers(0, MEBI)),
    piece=st.integers(1 << 16, MEBI),
)
def test_pieces_of_what_lies_side_by_side_hold_all_and_what_is_beside(
    gaps: list[tuple[int, int, int]], ends: tuple[int, int], piece: int
) -> None:
    rows, old_at, new_at = [], 0, 0
    for old_gap, new_gap, size in gaps:
        rows.append([old_at + old_gap, new_at + new_gap, size])
        old_at, new_at = old_at + old_gap + size, new_at + new_gap + size
    old_length, new_length = old_at + ends[0], new_at + ends[1]
    covers: Covers = np.array(rows, np.int64).reshape(-1, 3)
    pieces = pieces_beside(covers, old_length, new_length, piece)
    news = [part.new.tolist() for part in pieces]
    assert [start for ((start, _),) in news] == [0, *(end for ((_, end),) in news)][: len(news)]
    assert not news or news[-1][0][1] == new_length
    for part in pieces:
        ((start, end),), ((first, last),) = part.new.tolist(), part.old.tolist()
        assert end - start <= piece
        assert 0 <= first <= last <= old_length
        for old, new, size in rows:
            if size >= 4096 and max(start, new) < min(end, new + size):
                assert first <= old + max(0, start - new)
                assert last >= old + min(size, end - new)


def test_a_stray_guide_at_a_cut_hides_nothing() -> None:
    covers: Covers = np.array([[0, 0, 510_000], [10_000, 510_000, 20_000], [530_000, 530_000, 470_000]])
    first, second = pieces_beside(covers, 1_000_000, 1_000_000, 1_000_000)
    assert first.old.tolist()[0][1] >= 510_000
    assert second.old.tolist()[0] == [0, 1_000_000]


@pytest.mark.parametrize(
    ("cut", "inserted", "dropped", "most"),
    [(0, 300_003, 0, 302_000), (300_003, 0, 0, 2000), (0, 300_000, 0, 302_000), (0, 50_003, 50_003, 52_000)],
    ids=["inserted", "removed", "inserted in words", "pushed out at the end"],
)
def test_a_small_image_that_is_shifted_is_found_in_every_piece(
    tmp_path: Path, cut: int, inserted: int, dropped: int, most: int
) -> None:
    """Shifts by other than words leave no anchor, so nothing shows how the images lie but their lengths."""
    old = noise(3 * MEBI)
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(noise(inserted, 2) + old[cut : len(old) - dropped])
    facts = make.make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "patch", level=3)
    assert facts.length < most


def test_covers_between_gathered_bytes_are_cut_where_spans_meet() -> None:
    piece = Piece(old=np.array([[100, 110], [200, 220]]), new=np.array([[5, 12], [50, 70]]))
    rows = list(in_place(np.array([[2, 3, 20]]), piece))
    assert rows == [(102, 8, 4), (106, 50, 4), (200, 54, 12)]


def test_covers_that_continue_each_other_become_one() -> None:
    covers = np.array([[0, 10, 5], [5, 15, 5], [10, 20, 0], [11, 20, 4], [15, 25, 1]])
    assert joined(covers).tolist() == [[0, 10, 10], [11, 20, 4], [15, 25, 1]]


def test_what_no_stretch_touches() -> None:
    starts, sizes = np.array([50, 10, 12]), np.array([10, 20, 3])
    assert uncovered(starts, sizes, 100).tolist() == [[0, 10], [30, 50], [60, 100]]
    assert uncovered(starts[:0], sizes[:0], 0).tolist() == []


def test_swapped_parts_are_out_of_order_and_a_stray_cover_is_not() -> None:
    assert is_in_order(np.array([[0, 0, 900], [5000, 900, 10], [900, 910, 900]]))
    assert not is_in_order(np.array([[900, 0, 900], [0, 900, 900]]))


def test_long_runs_of_differences_and_of_zeros_survive(tmp_path: Path) -> None:
    """Longer than a pair's byte can say, and exactly as long."""
    old = noise(60_000)
    new = bytearray(old)
    at = 1000
    for size in (1, MAX_RUN - 1, MAX_RUN, MAX_RUN + 1, 2 * MAX_RUN, 2 * MAX_RUN + 1, 700):
        new[at : at + size] = bytes((byte + 1) % 256 for byte in new[at : at + size])
        at += 2 * size + size % 3
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    facts = make.make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    chunks = iter([(tmp_path / "patch").read_bytes()])
    assert b"".join(apply_delta(chunks, lambda at, size: old[at : at + size], expect=facts.ends)) == new


def test_more_changes_than_a_batch_may_hold_are_put_into_several(tmp_path: Path) -> None:
    """Every second byte of a megabyte: more pairs than are allowed, in one cover."""
    old = noise(1 << 20)
    new = bytearray(old)
    new[::2] = bytes((byte + 1) % 256 for byte in new[::2])
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    found: Matcher = Matcher(name="whole", covers=lambda a, b: np.array([[0, 0, len(b)]]), piece_bytes=64 * MEBI)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "matcher", lambda: found)
        patch.setattr(make, "SMALL_PIECE_BYTES", 64 * MEBI)
        facts = make.make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    chunks = iter([(tmp_path / "patch").read_bytes()])
    assert b"".join(apply_delta(chunks, lambda at, size: old[at : at + size], expect=facts.ends)) == new
    assert facts.length < 4096
