"""A hostile patch gets a typed refusal: it never gives more than it promised, reads outside its source, or takes memory."""

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware.delta.apply import BLOCK_BYTES, STEP_BYTES, apply_delta
from firmware.delta.format import (
    HEADER_BYTES,
    MAX_WINDOW_LOG,
    MIN_WINDOW_LOG,
    DeltaEnds,
    DeltaHeader,
    Op,
    encode_op,
    read_header,
    unzigzag,
    write_header,
)
from firmware.delta.make import make_delta
from firmware.errors import RefusedError, UnavailableError

SOURCE = random.Random(1).randbytes(1000)
END = bytes((Op.END,))


def copy(size: int) -> bytes:
    return encode_op(Op.COPY, size)


def add(diff: bytes) -> bytes:
    return encode_op(Op.ADD, len(diff)) + diff


def insert(data: bytes) -> bytes:
    return encode_op(Op.INSERT, len(data)) + data


def seek(distance: int) -> bytes:
    return encode_op(Op.SEEK, distance)


def ends_for(output: bytes, source: bytes = SOURCE) -> DeltaEnds:
    return DeltaEnds(
        source_length=len(source),
        source_sha256=hashlib.sha256(source).hexdigest(),
        output_length=len(output),
        output_sha256=hashlib.sha256(output).hexdigest(),
    )


def frame_of(ops: bytes, window_log: int = 20) -> bytes:
    settings = zstandard.ZstdCompressionParameters(window_log=window_log)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return compressor.compress(ops) + compressor.flush()


def patch_of(ops: bytes, output: bytes, *, window_log: int = 20) -> bytes:
    return write_header(DeltaHeader(ends=ends_for(output), window_log=window_log)) + frame_of(ops)


def read_source(at: int, size: int) -> bytes:
    assert at >= 0
    assert at + size <= len(SOURCE)
    return SOURCE[at : at + size]


def run(patch: bytes, output: bytes) -> bytes:
    return b"".join(apply_delta(iter([patch]), read_source, expect=ends_for(output)))


def refusal(patch: bytes, output: bytes) -> str:
    """The kind a patch is refused with; nothing of its last block may have come out."""
    given_out = 0
    try:
        for block in apply_delta(iter([patch]), read_source, expect=ends_for(output)):
            given_out += len(block)
    except RefusedError as refused:
        return refused.kind if given_out <= (len(output) - 1) // BLOCK_BYTES * BLOCK_BYTES else "too late"
    return "accepted"


def test_the_operations_do_what_they_say() -> None:
    output = SOURCE[:10] + b"new" + SOURCE[500:600] + bytes((byte + 1) % 256 for byte in SOURCE[600:700]) + SOURCE[5:9]
    ops = copy(10) + insert(b"new") + seek(490) + copy(100) + add(b"\1" * 100) + seek(-695) + copy(4) + END
    assert run(patch_of(ops, output), output) == output


WRONG = {
    "copies more than promised": (copy(101) + END, "artifact-too-long"),
    "copies once more than promised": (copy(100) + copy(1) + END, "artifact-too-long"),
    "inserts more than promised": (insert(bytes(101)) + END, "artifact-too-long"),
    "claims an endless insert": (encode_op(Op.INSERT, (1 << 62)), "artifact-too-long"),
    "claims an endless add": (encode_op(Op.ADD, (1 << 62)), "artifact-too-long"),
    "says more after its end": (copy(100) + END + b"x", "artifact-too-long"),
    "ends twice": (copy(100) + END + END, "artifact-too-long"),
    "ends early": (copy(99) + END, "artifact-truncated"),
    "never ends": (copy(100), "artifact-truncated"),
    "stops within an insert": (encode_op(Op.INSERT, 100) + bytes(99), "artifact-truncated"),
    "stops within a number": (bytes((Op.COPY, 0x80)), "artifact-truncated"),
    "says nothing": (b"", "artifact-truncated"),
    "seeks before the source": (copy(1) + seek(-2) + copy(99) + END, "malformed"),
    "seeks behind the source": (seek(1001) + copy(100) + END, "malformed"),
    "seeks behind the source and stays away from it": (seek(1001) + insert(SOURCE[:100]) + END, "malformed"),
    "seeks to the edge of the world": (seek((1 << 61) - 1) + copy(100) + END, "malformed"),
    "copies across the end of the source": (seek(950) + copy(100) + END, "malformed"),
    "adds across the end of the source": (seek(950) + add(bytes(100)) + END, "malformed"),
    "seeks twice in a row": (seek(5) + seek(-5) + copy(100) + END, "malformed"),
    "copies nothing": (copy(0) + copy(100) + END, "malformed"),
    "inserts nothing": (insert(b"") + copy(100) + END, "malformed"),
    "has an unknown operation": (b"\x05\x01" + END, "malformed"),
    "has a number without end": (b"\x01" + b"\x80" * 10 + b"\x01" + END, "malformed"),
    "makes other bytes": (seek(1) + copy(100) + END, "artifact-changed"),
}


@pytest.mark.parametrize(("ops", "kind"), WRONG.values(), ids=WRONG.keys())
def test_wrong_operations_are_refused(ops: bytes, kind: str) -> None:
    assert refusal(patch_of(ops, SOURCE[:100]), SOURCE[:100]) == kind


def test_a_seek_to_the_very_end_is_allowed_and_a_seek_before_the_end_is_not() -> None:
    output = SOURCE[-1:] + b"x"
    assert run(patch_of(seek(1000) + insert(output) + END, output), output) == output
    assert refusal(patch_of(insert(output) + seek(5) + END, output), output) == "artifact-truncated"


GOOD = patch_of(copy(100) + END, SOURCE[:100])


def test_every_truncation_is_noticed() -> None:
    for length in range(len(GOOD)):
        assert refusal(GOOD[:length], SOURCE[:100]) == "artifact-truncated"


@pytest.mark.parametrize("tail", [b"\0", frame_of(b""), frame_of(copy(1)), b"\x50\x2a\x4d\x18\0\0\0\0"])
def test_bytes_after_the_frame_are_noticed_wherever_it_ends(tail: bytes) -> None:
    """In the step that ends the frame, behind it in the same chunk, and in a later chunk."""
    for size in range(1, STEP_BYTES + 20):
        patch = patch_of(insert(SOURCE[:size]) + END, SOURCE[:size])
        for chunks in ([patch + tail], [patch, b"", tail], [patch[:-1], patch[-1:] + tail]):
            with pytest.raises(RefusedError) as refused:
                list(apply_delta(iter(chunks), read_source, expect=ends_for(SOURCE[:size])))
            assert refused.value.kind == "artifact-too-long"


def test_a_frame_that_ends_early_is_not_continued_by_another() -> None:
    for size in range(1, STEP_BYTES + 20):
        chunks = [patch_of(insert(SOURCE[:size]), SOURCE[:100]), frame_of(insert(SOURCE[size:100]) + END)]
        with pytest.raises(RefusedError) as refused:
            list(apply_delta(iter(chunks), read_source, expect=ends_for(SOURCE[:100])))
        assert refused.value.kind == "artifact-truncated"


@pytest.mark.parametrize(
    ("at", "value", "kind"),
    [
        (0, 0x00, "malformed"),
        (4, 2, "not-understood"),
        (5, 2, "not-understood"),
        (6, MAX_WINDOW_LOG + 1, "malformed"),
        (6, 9, "malformed"),
        (6, 255, "malformed"),
        (7, 1, "malformed"),
        (13, 255, "too-large"),
        (53, 255, "too-large"),
        (8, 1, "wrong-source"),
        (16, SOURCE[0] ^ 1, "wrong-source"),
        (48, 1, "artifact-changed"),
        (88, 0, "malformed"),
    ],
)
def test_a_changed_header_is_refused(at: int, value: int, kind: str) -> None:
    assert refusal(GOOD[:at] + bytes((value,)) + GOOD[at + 1 :], SOURCE[:100]) == kind


def test_a_delta_to_another_image_than_the_one_ordered_is_refused() -> None:
    with pytest.raises(RefusedError) as refused:
        list(apply_delta(iter([GOOD]), read_source, expect=ends_for(SOURCE[:99])))
    assert refused.value.kind == "artifact-changed"


def test_a_source_that_is_shorter_than_it_was_said_to_be_is_the_wrong_one() -> None:
    with pytest.raises(RefusedError) as refused:
        list(apply_delta(iter([GOOD]), lambda at, size: SOURCE[at : at + size - 1], expect=ends_for(SOURCE[:100])))
    assert refused.value.kind == "wrong-source"


def test_a_frame_that_wants_more_memory_than_its_header_admits_is_refused() -> None:
    header = write_header(DeltaHeader(ends=ends_for(SOURCE[:100]), window_log=20))
    assert refusal(header + frame_of(copy(100) + END, window_log=21), SOURCE[:100]) == "malformed"
    assert run(header + frame_of(copy(100) + END, window_log=20), SOURCE[:100]) == SOURCE[:100]


def test_a_frame_of_one_segment_that_is_larger_than_its_header_admits_is_refused() -> None:
    """Such a frame names no window: its content is its window."""
    frame = zstandard.ZstdCompressor().compress(copy(100) + END + SOURCE * 2000)
    assert zstandard.get_frame_parameters(frame).window_size > 1 << 20
    header = write_header(DeltaHeader(ends=ends_for(SOURCE[:100]), window_log=20))
    assert refusal(header + frame, SOURCE[:100]) == "malformed"


def test_a_header_with_a_window_out_of_bounds_is_refused() -> None:
    for window_log in (0, MIN_WINDOW_LOG - 1, MAX_WINDOW_LOG + 1, 255):
        with pytest.raises(RefusedError):
            read_header(GOOD[:6] + bytes((window_log,)) + GOOD[7:])
    for window_log in (MIN_WINDOW_LOG, MAX_WINDOW_LOG):
        assert read_header(GOOD[:6] + bytes((window_log,)) + GOOD[7:]).window_log == window_log


def test_a_frame_that_needs_a_dictionary_is_refused() -> None:
    dictionary = zstandard.train_dictionary(512, [SOURCE[at : at + 40] for at in range(960)])
    frame = zstandard.ZstdCompressor(dict_data=dictionary).compress(copy(100) + END)
    header = write_header(DeltaHeader(ends=ends_for(SOURCE[:100]), window_log=20))
    assert refusal(header + frame, SOURCE[:100]) == "malformed"


def test_an_unreachable_patch_is_not_called_wrong() -> None:
    def broken() -> Iterator[bytes]:
        yield GOOD[:90]
        raise UnavailableError("unreachable", "The network went away.")

    with pytest.raises(UnavailableError):
        list(apply_delta(broken(), read_source, expect=ends_for(SOURCE[:100])))


@settings(max_examples=100)
@given(distance=st.integers(-(1 << 61), 1 << 61))
def test_seek_distances_survive_the_wire(distance: int) -> None:
    encoded = seek(distance)
    assert len(encoded) <= 10
    value = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(encoded[1:]))
    assert unzigzag(value) == distance


@settings(max_examples=100)
@given(data=st.binary(max_size=200))
def test_any_header_is_parsed_or_refused(data: bytes) -> None:
    try:
        header = read_header(data)
    except RefusedError:
        return
    assert write_header(header) == data[:HEADER_BYTES]


def outcome(patch: bytes, ends: DeltaEnds, source: bytes) -> str:
    """`ok` or `refused`; anything else a patch could cause fails the test."""

    def read(at: int, size: int) -> bytes:
        assert at >= 0
        assert at + size <= len(source)
        return source[at : at + size]

    out, given_out = hashlib.sha256(), 0
    try:
        for block in apply_delta(iter([patch]), read, expect=ends):
            given_out += len(block)
            assert given_out <= ends.output_length
            out.update(block)
    except RefusedError:
        return "refused"
    assert out.hexdigest() == ends.output_sha256
    return "ok"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A real source and the patch that was made for it."""
    folder = tmp_path_factory.mktemp("real")
    source = random.Random(2).randbytes(40_000)
    target = source[:9000] + bytes(byte ^ (n % 7 == 0) for n, byte in enumerate(source[9000:15_000])) + source[14_000:]
    (folder / "old").write_bytes(source)
    (folder / "new").write_bytes(target)
    make_delta(folder / "old", folder / "new", folder / "patch")
    return source, (folder / "patch").read_bytes()


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 1 << 16), patch=st.binary(min_size=1, max_size=16), cut=st.booleans())
def test_mutated_patches_are_refused_or_right(real: tuple[bytes, bytes], at: int, patch: bytes, cut: bool) -> None:
    source, good = real
    at %= len(good)
    bad = good[:at] + patch + (b"" if cut else good[at + len(patch) :])
    assert outcome(bad, read_header(good).ends, source) in ("refused", "ok")
    assert outcome(good, read_header(good).ends, source) == "ok"


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 1 << 16), patch=st.binary(min_size=1, max_size=12))
def test_mutated_operations_in_a_sound_frame_are_refused_or_right(
    real: tuple[bytes, bytes], at: int, patch: bytes
) -> None:
    source, good = real
    ops = zstandard.ZstdDecompressor().decompressobj().decompress(good[HEADER_BYTES:])
    at %= len(ops)
    bad = good[:HEADER_BYTES] + frame_of(ops[:at] + patch + ops[at + len(patch) :])
    assert outcome(bad, read_header(good).ends, source) in ("refused", "ok")


@settings(max_examples=200)
@given(ops=st.lists(st.tuples(st.sampled_from(Op), st.integers(-1200, 1200), st.binary(max_size=8)), max_size=12))
def test_any_operations_stay_within_source_and_promise(ops: list[tuple[Op, int, bytes]]) -> None:
    stream = b"".join(encode_op(op, value if op is Op.SEEK else abs(value)) + data for op, value, data in ops)
    assert outcome(patch_of(stream, SOURCE[:100]), ends_for(SOURCE[:100]), SOURCE) in ("refused", "ok")


# Memory, measured in a process of its own.

MEASURE = """
import sys
from pathlib import Path
from firmware.delta.apply import apply_delta
from firmware.delta.format import HEADER_BYTES, read_header
from firmware.errors import RefusedError

source, patch = (open(path, "rb", buffering=0) for path in sys.argv[1:])
ends = read_header(patch.read(HEADER_BYTES)).ends
patch.seek(0)

def read(at, size):
    source.seek(at)
    return source.read(size)

def peak():  # not ru_maxrss, which a child inherits from its parent
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

before = peak()
said, made = "ok", 0
try:
    for block in apply_delta(patch, read, expect=ends):
        made += len(block)
except RefusedError as error:
    said = error.kind
print(said, made, peak() - before)
"""


def measured(source: Path, patch: Path) -> tuple[str, int, int]:
    """How applying went in a fresh interpreter, the bytes that came out, and by how many KiB its peak grew."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(source), str(patch)],
        capture_output=True,
        check=True,
        timeout=100,
        text=True,
    )
    said, made, grown = done.stdout.split()
    print("grown by", grown, "KiB")
    return said, int(made), int(grown)


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """64 MiB, half of it added and half inserted, none of it compressible, with the largest window that is allowed."""
    half = 32 << 20
    source, noise = random.Random(3).randbytes(half), random.Random(4).randbytes(half)
    output = hashlib.sha256()
    for at in range(0, half, 1 << 20):
        mine, other = source[at : at + (1 << 20)], noise[at : at + (1 << 20)]
        left, right = (int.from_bytes(part, "little") for part in (mine, other))
        low = int.from_bytes(b"\x7f" * (1 << 20), "little")
        output.update(
            (((left & low) + (right & low)) ^ ((left ^ right) & ~low & ((1 << (8 << 20)) - 1))).to_bytes(
                1 << 20, "little"
            )
        )
    output.update(noise)
    ends = replace(ends_for(b"", source), output_length=2 * half, output_sha256=output.hexdigest())
    (tmp_path / "source").write_bytes(source)
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=MAX_WINDOW_LOG)
    with (tmp_path / "patch").open("wb") as file:
        file.write(write_header(DeltaHeader(ends=ends, window_log=MAX_WINDOW_LOG)))
        with zstandard.ZstdCompressor(compression_params=settings).stream_writer(file, closefd=False) as frame:
            frame.write(add(noise) + insert(noise) + END)
    said, made, grown = measured(tmp_path / "source", tmp_path / "patch")
    assert (said, made) == ("ok", 2 * half)
    assert grown < 16 << 10


@pytest.mark.parametrize(
    ("start", "filling", "kind"),
    [(copy(100) + END, b"\0", "artifact-too-long"), (b"\x01", b"\x80", "malformed"), (copy(50), b"\x05", "malformed")],
    ids=["behind the end", "of a number", "of operations"],
)
def test_a_bomb_is_not_unpacked(tmp_path: Path, start: bytes, filling: bytes, kind: str) -> None:
    """A quarter of a gigabyte of equal bytes in a few KiB of frame."""
    (tmp_path / "source").write_bytes(SOURCE)
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=MAX_WINDOW_LOG)
    with (tmp_path / "patch").open("wb") as file:
        file.write(write_header(DeltaHeader(ends=ends_for(SOURCE[:100]), window_log=MAX_WINDOW_LOG)))
        with zstandard.ZstdCompressor(compression_params=settings).stream_writer(file, closefd=False) as frame:
            frame.write(start)
            for _ in range(256):
                frame.write(filling * (1 << 20))
    assert (tmp_path / "patch").stat().st_size < 64 << 10
    said, made, grown = measured(tmp_path / "source", tmp_path / "patch")
    assert (said, made) == (kind, 0)
    assert grown < 16 << 10
