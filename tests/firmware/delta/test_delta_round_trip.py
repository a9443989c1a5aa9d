"""Whatever two images are, the delta between them makes the second from the first, exactly."""

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware.delta.apply import BLOCK_BYTES, apply_delta
from firmware.delta.facts import DeltaFacts
from firmware.delta.format import HEADER_BYTES, MAX_BATCH_BYTES, read_header
from firmware.delta.make import make_delta
from firmware.errors import UnavailableError


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def made(tmp_path: Path, old: bytes, new: bytes) -> tuple[DeltaFacts, bytes]:
    """The delta between two images: its facts and its bytes."""
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    facts = make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "patch", level=3)
    return facts, (tmp_path / "patch").read_bytes()


def applied(old: bytes, patch: bytes, *, skip: int = 0, chunk: int = 1 << 16) -> bytes:
    chunks = (patch[at : at + chunk] for at in range(0, len(patch), chunk))
    ends = read_header(patch).ends
    return b"".join(apply_delta(chunks, lambda at, size: old[at : at + size], expect=ends, skip=skip))


@st.composite
def images(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An old image, and a new one made from it by cutting, moving, changing and adding."""
    old = noise(draw(st.sampled_from([0, 700, 5000, 40_000, 60_123])), draw(st.integers(0, 3)))
    new = bytearray(old)
    for _ in range(draw(st.integers(0, 6))):
        at, size = draw(st.integers(0, len(new))), draw(st.sampled_from([1, 7, 512, 4096, 9000]))
        match draw(st.sampled_from(["insert", "cut", "move", "zero", "tweak"])):
            case "insert":
                new[at:at] = noise(size, draw(st.integers(4, 9)))
            case "cut":
                del new[at : at + size]
            case "move":
                new[at:at] = new[: min(len(new), 20_000)]
            case "zero":
                new[at : at + size] = bytes(size)
            case _:
                new[at : at + size : 64] = bytes((byte + 1) % 256 for byte in new[at : at + size : 64])
    return old, bytes(new)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(pair=images(), chunk=st.sampled_from([1, 100, 1 << 16]))
def test_every_pair_comes_back_exactly(tmp_path: Path, pair: tuple[bytes, bytes], chunk: int) -> None:
    old, new = pair
    facts, patch = made(tmp_path, old, new)
    assert applied(old, patch, chunk=chunk) == new
    assert (facts.length, facts.sha256) == (len(patch), hashlib.sha256(patch).hexdigest())
    ends = facts.ends
    assert (ends.source_length, ends.source_sha256) == (len(old), hashlib.sha256(old).hexdigest())
    assert (ends.output_length, ends.output_sha256) == (len(new), hashlib.sha256(new).hexdigest())


def test_what_was_moved_and_changed_is_looked_for_behind_its_old_neighbour(tmp_path: Path) -> None:
    first, second, third, last = (noise(400 * 512, seed) for seed in range(4))
    changed = bytearray(third)
    changed[::600] = bytes(len(changed[::600]))
    old, new = first + second + third + last, second + bytes(changed) + first + last
    facts, patch = made(tmp_path, old, new)
    assert applied(old, patch) == new
    assert facts.length < 10_000


def test_equal_images_make_a_tiny_patch(tmp_path: Path) -> None:
    image = noise(3 << 20)
    facts, patch = made(tmp_path, image, image)
    assert applied(image, patch) == image
    assert facts.length < 200


def test_a_small_change_in_a_large_image_makes_a_small_patch(tmp_path: Path) -> None:
    old = noise(1 << 20)
    new = old[:300_000] + b"twelve bytes" + old[300_012:700_000] + noise(300, 9) + old[700_000:]
    facts, patch = made(tmp_path, old, new)
    assert applied(old, patch) == new
    assert facts.length < 1500


def test_a_shift_that_no_block_boundary_survives_is_found_piece_by_piece(tmp_path: Path) -> None:
    old = noise(5 << 20)
    new = b"!" + old
    facts, patch = made(tmp_path, old, new)
    assert applied(old, patch) == new
    assert facts.length < 10_000


def test_swapped_halves_are_found(tmp_path: Path) -> None:
    old = noise(512 * 200)
    new = old[512 * 90 :] + old[: 512 * 90]
    facts, patch = made(tmp_path, old, new)
    assert applied(old, patch) == new
    assert facts.length < 300


@pytest.mark.parametrize(
    ("old", "new"), [(b"", b"new"), (b"old", b""), (b"", b""), (b"x", b"x"), (b"", bytes(100_000))]
)
def test_empty_and_tiny_images(tmp_path: Path, old: bytes, new: bytes) -> None:
    _, patch = made(tmp_path, old, new)
    assert applied(old, patch) == new


def test_skipping_gives_the_rest_and_nothing_else(tmp_path: Path) -> None:
    old, new = noise(200_000), noise(90_000) + noise(150_000, 2)
    _, patch = made(tmp_path, old, new)
    for skip in (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 199_999, len(new) - 1, len(new), len(new) + 5):
        assert applied(old, patch, skip=skip) == new[skip:]


def test_a_file_is_as_good_as_chunks(tmp_path: Path) -> None:
    old, new = noise(100_000), noise(100_000) + b"more"
    facts, _ = made(tmp_path, old, new)
    with (tmp_path / "patch").open("rb") as file:
        assert b"".join(apply_delta(file, lambda at, size: old[at : at + size], expect=facts.ends)) == new


def test_blocks_are_small_and_the_source_is_read_in_bounds(tmp_path: Path) -> None:
    old, new = noise(500_000), noise(500_000) + noise(300_000, 2)
    facts, patch = made(tmp_path, old, new)

    def read(at: int, size: int) -> bytes:
        assert 0 < size <= MAX_BATCH_BYTES
        assert at + size <= len(old)
        return old[at : at + size]

    blocks = list(apply_delta(iter([patch]), read, expect=facts.ends))
    assert all(0 < len(block) <= BLOCK_BYTES + MAX_BATCH_BYTES for block in blocks)
    assert b"".join(blocks) == new


def test_progress_rises_to_the_whole(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(noise(100_000))
    (tmp_path / "new").write_bytes(noise(60_000) + noise(50_000, 2))
    seen: list[tuple[int, int]] = []
    make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "patch", progress=lambda *now: seen.append(now))
    assert seen == sorted(seen)
    assert seen[-1] == (110_000, 110_000)
    assert len(seen) > 1


def test_nothing_half_made_is_left_when_an_image_is_missing(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "patch").write_bytes(b"what was here")
    with pytest.raises(FileNotFoundError):
        make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    assert (tmp_path / "patch").read_bytes() == b"what was here"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("changes", ["old", "new"])
@pytest.mark.parametrize("shrinks", [False, True])
def test_an_image_that_changes_meanwhile_never_becomes_a_delta(tmp_path: Path, changes: str, shrinks: bool) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(noise(100_000))
    new.write_bytes(noise(50_000) + noise(30_000, 2) + noise(20_000, 3))

    def meddle(done: int, total: int) -> None:
        data = bytearray((tmp_path / changes).read_bytes())
        data[10:20] = data[90_000:90_010] = b"other data"
        with (tmp_path / changes).open("r+b") as file:
            file.write(data[: -20_000 if shrinks else None])
            file.truncate()

    with pytest.raises(UnavailableError) as stopped:
        make_delta(old, new, tmp_path / "patch", progress=meddle)
    assert stopped.value.kind == "interrupted"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_patch_begins_with_the_documented_header(tmp_path: Path) -> None:
    facts, patch = made(tmp_path, b"old image", b"new image")
    assert HEADER_BYTES == 88
    assert patch[:8] == b"OTD1\x02\x01\x16\x00"
    assert patch[8:16] == (9).to_bytes(8, "little") == patch[48:56]
    assert patch[16:48] == hashlib.sha256(b"old image").digest()
    assert patch[56:88] == hashlib.sha256(b"new image").digest()
    assert patch[88:92] == b"\x28\xb5\x2f\xfd"
    assert read_header(patch).ends == facts.ends
