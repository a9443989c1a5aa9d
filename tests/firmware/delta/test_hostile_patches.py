"""A hostile patch gets a typed refusal: it never gives more than it promised, reads outside its source, or takes memory."""

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware.delta.apply import BLOCK_BYTES, apply_delta
from firmware.delta.format import (
    HEADER_BYTES,
    MAX_BATCH_BYTES,
    MAX_COVERS,
    MAX_EXTENTS,
    MAX_PAIRS,
    MAX_WINDOW_LOG,
    MIN_WINDOW_LOG,
    DeltaEnds,
    DeltaHeader,
    Op,
    encode_copy,
    encode_number,
    read_header,
    unzigzag,
    write_header,
    zigzag,
)
from firmware.delta.make import make_delta
from firmware.errors import RefusedError, UnavailableError

SOURCE = random.Random(1).randbytes(1000)
END = bytes((Op.END,))


def copy(size: int, seek: int = 0) -> bytes:
    return encode_copy(seek, size)


def column(numbers: Sequence[int]) -> bytes:
    planes = (max(numbers, default=0).bit_length() + 7) // 8
    return bytes((planes,)) + bytes(number >> 8 * place & 0xFF for place in range(planes) for number in numbers)


def batch(
    *,
    extents: Sequence[tuple[int, int]] = (),
    covers: Sequence[tuple[int, int, int]] = (),
    pairs: Sequence[tuple[int, int]] = (),
    literals: bytes = b"",
    inserts: bytes = b"",
    counts: Mapping[int, int] | None = None,
) -> bytes:
    """A PATCH; extents are (seek, size), covers (add, insert, signed step). `counts` replaces some of the five it begins with."""
    said = [len(extents), len(covers), len(pairs), len(literals), len(inserts)]
    for place, count in (counts or {}).items():
        said[place] = count
    columns = (
        [zigzag(seek) for seek, _ in extents],
        [size for _, size in extents],
        [add for add, _, _ in covers],
        [insert for _, insert, _ in covers],
        [abs(step) for _, _, step in covers],
        [0x80 * (step < 0) for _, _, step in covers],
    )
    runs = bytes(byte for pair in pairs for byte in pair)
    head = bytes((Op.PATCH,)) + b"".join(map(encode_number, said)) + b"".join(map(column, columns))
    return head + runs + literals + inserts


def add(diff: bytes, seek: int = 0) -> bytes:
    """A batch of one cover, of which every difference is written out."""
    pairs = [(min(255, len(diff) - at), 0) for at in range(0, len(diff), 255)]
    return batch(extents=[(seek, len(diff))], covers=[(len(diff), 0, 0)], pairs=pairs, literals=diff)


def insert(data: bytes) -> bytes:
    return batch(covers=[(0, len(data), 0)], inserts=data)


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


def plus(data: bytes, diff: bytes) -> bytes:
    return bytes((byte + other) % 256 for byte, other in zip(data, diff, strict=True))


def test_the_operations_do_what_they_say() -> None:
    output = SOURCE[:10] + b"new" + SOURCE[500:600] + plus(SOURCE[600:700], b"\1" * 100) + SOURCE[5:9]
    ops = copy(10) + insert(b"new") + copy(100, 490) + add(b"\1" * 100) + copy(4, -695) + END
    assert run(patch_of(ops, output), output) == output


def test_a_batch_gathers_steps_adds_and_inserts() -> None:
    """Two extents; covers that step over what was gathered, step back, and only insert."""
    ops = batch(
        extents=[(100, 5), (795, 40)],  # source 100 to 105, then 900 to 940
        covers=[(5, 2, 20), (10, 0, -20), (0, 1, 0), (10, 0, 5), (5, 0, 0)],
        pairs=[(0, 2), (2, 21), (5, 0)],
        literals=b"\x07\x08" + b"\xff" * 5,
        inserts=b"abc",
    )
    output = SOURCE[100:102] + plus(SOURCE[102:104], b"\x07\x08") + SOURCE[104:105] + b"ab" + SOURCE[920:930] + b"c"
    output += SOURCE[910:920] + plus(SOURCE[925:930], b"\xff" * 5)
    assert run(patch_of(ops + END, output), output) == output


def test_what_lies_outside_the_gathered_bytes_is_zero_and_not_memory() -> None:
    """Before it, behind it, and as far away as a step can be."""
    far = (1 << 24) - 1
    output = bytes(10) + SOURCE[5:10] + bytes(5) + bytes(6) + b"\5" * 4
    covers = [(0, 0, -10), (15, 0, 0), (5, 0, far), (6, 0, -far), (4, 0, -far)]
    ops = batch(extents=[(5, 5)], covers=covers, pairs=[(0, 26), (4, 0)], literals=b"\5" * 4)
    assert run(patch_of(ops + END, output), output) == output


WRONG = {
    "copies more than promised": (copy(101) + END, "artifact-too-long"),
    "copies once more than promised": (copy(100) + copy(1) + END, "artifact-too-long"),
    "inserts more than promised": (insert(bytes(101)) + END, "artifact-too-long"),
    "adds more than promised": (add(bytes(101)) + END, "artifact-too-long"),
    "claims an endless copy": (copy(1 << 62), "artifact-too-long"),
    "says more after its end": (copy(100) + END + b"x", "artifact-too-long"),
    "ends twice": (copy(100) + END + END, "artifact-too-long"),
    "ends early": (copy(99) + END, "artifact-truncated"),
    "never ends": (copy(100), "artifact-truncated"),
    "stops within an insert": (insert(bytes(100))[:-1], "artifact-truncated"),
    "stops within a number": (bytes((Op.COPY, 0x80)), "artifact-truncated"),
    "stops within a column": (insert(bytes(100))[:9], "artifact-truncated"),
    "says nothing": (b"", "artifact-truncated"),
    "seeks before the source": (copy(1) + copy(99, -2) + END, "malformed"),
    "seeks behind the source": (copy(100, 1001) + END, "malformed"),
    "seeks to the edge of the world": (copy(100, (1 << 61) - 1) + END, "malformed"),
    "copies across the end of the source": (copy(100, 950) + END, "malformed"),
    "gathers across the end of the source": (add(bytes(100), 950) + END, "malformed"),
    "gathers before the source": (add(bytes(100), -1) + END, "malformed"),
    "gathers nothing outside the source": (
        batch(extents=[(1001, 0), (-1001, 100)], covers=[(100, 0, 0)], pairs=[(0, 100)]) + END,
        "malformed",
    ),
    "copies nothing": (copy(0) + copy(100) + END, "malformed"),
    "inserts nothing": (insert(b"") + copy(100) + END, "malformed"),
    "is an empty batch": (batch() + copy(100) + END, "malformed"),
    "has an unknown operation": (b"\x05\x01" + END, "malformed"),
    "has a number without end": (b"\x01" + b"\x80" * 10 + b"\x01" + END, "malformed"),
    "has a column of too many planes": (bytes((Op.PATCH, 0, 1, 0, 0, 100, 0, 0, 4)) + bytes(200) + END, "malformed"),
    "has a seek of too many planes": (bytes((Op.PATCH, 1, 1, 0, 0, 100, 7)) + bytes(200) + END, "malformed"),
    "claims endless extents": (batch(counts={0: 1 << 62}), "malformed"),
    "claims endless covers": (batch(counts={1: 1 << 62}), "malformed"),
    "claims endless pairs": (batch(counts={2: 1 << 62}), "malformed"),
    "claims endless differences": (batch(counts={3: 1 << 62}), "malformed"),
    "claims endless inserts": (batch(counts={4: 1 << 62}), "malformed"),
    "has more extents than output": (
        batch(extents=[(0, 0)] * 101, covers=[(100, 0, 0)], pairs=[(0, 100)]) + END,
        "malformed",
    ),
    "has more covers than output": (
        batch(extents=[(0, 100)], covers=[(100, 0, 0)] + [(0, 0, 0)] * 101, pairs=[(0, 100)]) + END,
        "malformed",
    ),
    "has more pairs than output": (
        batch(extents=[(0, 100)], covers=[(100, 0, 0)], pairs=[(0, 0)] * 100 + [(0, 100)]) + END,
        "malformed",
    ),
    "gathers far more than it makes": (
        batch(extents=[(0, 401)], covers=[(100, 0, 0)], pairs=[(0, 100)]) + END,
        "malformed",
    ),
    "has more differences than bytes": (
        batch(extents=[(0, 100)], covers=[(100, 0, 0)], pairs=[(101, 0)], literals=bytes(101)) + END,
        "malformed",
    ),
    "has pairs for more than it adds": (
        batch(extents=[(0, 100)], covers=[(100, 0, 0)], pairs=[(0, 101)]) + END,
        "malformed",
    ),
    "has pairs for less than it adds": (
        batch(extents=[(0, 100)], covers=[(100, 0, 0)], pairs=[(0, 99)]) + END,
        "malformed",
    ),
    "uses less than it inserts": (batch(covers=[(0, 99, 0)], inserts=bytes(100)) + END, "malformed"),
    "uses more than it inserts": (batch(covers=[(0, 100, 0)], inserts=bytes(99)) + END, "malformed"),
    "makes other bytes": (copy(100, 1) + END, "artifact-changed"),
}


@pytest.mark.parametrize(("ops", "kind"), WRONG.values(), ids=WRONG.keys())
def test_wrong_operations_are_refused(ops: bytes, kind: str) -> None:
    assert refusal(patch_of(ops, SOURCE[:100]), SOURCE[:100]) == kind


def test_the_last_byte_of_the_source_can_be_used() -> None:
    output = SOURCE[-1:] + b"x"
    assert run(patch_of(copy(1, 999) + insert(b"x") + END, output), output) == output
    assert run(patch_of(add(b"\0", 999) + insert(b"x") + END, output), output) == output


GOOD = patch_of(copy(100) + END, SOURCE[:100])


def test_every_truncation_is_noticed() -> None:
    for length in range(len(GOOD)):
        assert refusal(GOOD[:length], SOURCE[:100]) == "artifact-truncated"


@pytest.mark.parametrize("tail", [b"\0", frame_of(b""), frame_of(copy(1)), b"\x50\x2a\x4d\x18\0\0\0\0"])
def test_bytes_after_the_frame_are_noticed_wherever_it_ends(tail: bytes) -> None:
    """Behind the frame in the same chunk, in a later chunk, and in a chunk that holds its last byte."""
    for size in range(1, 84):
        patch = patch_of(insert(SOURCE[:size]) + END, SOURCE[:size])
        for chunks in ([patch + tail], [patch, b"", tail], [patch[:-1], patch[-1:] + tail]):
            with pytest.raises(RefusedError) as refused:
                list(apply_delta(iter(chunks), read_source, expect=ends_for(SOURCE[:size])))
            assert refused.value.kind == "artifact-too-long"


def test_a_frame_that_ends_early_is_not_continued_by_another() -> None:
    for size in range(1, 84):
        chunks = [patch_of(insert(SOURCE[:size]), SOURCE[:100]), frame_of(insert(SOURCE[size:100]) + END)]
        with pytest.raises(RefusedError) as refused:
            list(apply_delta(iter(chunks), read_source, expect=ends_for(SOURCE[:100])))
        assert refused.value.kind == "artifact-truncated"


@pytest.mark.parametrize(
    ("at", "value", "kind"),
    [
        (0, 0x00, "malformed"),
        (4, 1, "not-understood"),
        (4, 3, "not-understood"),
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
    encoded = encode_number(zigzag(distance))
    assert len(encoded) <= 9
    assert unzigzag(sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(encoded))) == distance


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


few = st.integers(0, 60)
batches = st.builds(
    batch,
    extents=st.lists(st.tuples(st.integers(-300, 900), few), max_size=4),
    covers=st.lists(st.tuples(few, few, st.integers(-200, 200)), max_size=4),
    pairs=st.lists(st.tuples(few, few), max_size=4),
    literals=st.binary(max_size=60),
    inserts=st.binary(max_size=60),
    counts=st.dictionaries(st.integers(0, 4), st.sampled_from([0, 1, 2, 60, MAX_COVERS, MAX_PAIRS, MAX_BATCH_BYTES])),
)
copies = st.builds(copy, few, st.integers(-1200, 1200))


@settings(max_examples=300)
@given(ops=st.lists(st.one_of(batches, copies, st.binary(max_size=8), st.just(END)), max_size=8))
def test_any_operations_stay_within_source_and_promise(ops: list[bytes]) -> None:
    assert outcome(patch_of(b"".join(ops), SOURCE[:100]), ends_for(SOURCE[:100]), SOURCE) in ("refused", "ok")


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
    half, size = 32 << 20, 1 << 19
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
            for at in range(0, half, size):
                frame.write(add(noise[at : at + size]))
            for at in range(0, half, size):
                frame.write(insert(noise[at : at + size]))
            frame.write(END)
    said, made, grown = measured(tmp_path / "source", tmp_path / "patch")
    assert (said, made) == ("ok", 2 * half)
    assert grown < 16 << 10


def test_the_largest_batches_stay_within_bounds(tmp_path: Path) -> None:
    """Everything at its limit at once: output, extents, covers, pairs, differences, gathered bytes and window."""
    source = random.Random(5).randbytes(MAX_BATCH_BYTES)
    size = MAX_BATCH_BYTES
    literals = random.Random(6).randbytes(MAX_PAIRS * 15)
    covers = [(size // MAX_COVERS, 0, 0)] * MAX_COVERS
    extents = [(0, size)] + [(0, 0)] * (MAX_EXTENTS - 1)
    one = batch(extents=extents, covers=covers, pairs=[(15, 1)] * MAX_PAIRS, literals=literals)
    more = batch(extents=[(-size, size), *extents[1:]], covers=covers, pairs=[(15, 1)] * MAX_PAIRS, literals=literals)
    diff = b"".join(literals[at : at + 15] + b"\0" for at in range(0, len(literals), 15))
    made = plus(source, diff)
    output = hashlib.sha256(made * 8)
    ends = replace(ends_for(b"", source), output_length=8 * size, output_sha256=output.hexdigest())
    (tmp_path / "source").write_bytes(source)
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=MAX_WINDOW_LOG)
    with (tmp_path / "patch").open("wb") as file:
        file.write(write_header(DeltaHeader(ends=ends, window_log=MAX_WINDOW_LOG)))
        with zstandard.ZstdCompressor(compression_params=settings).stream_writer(file, closefd=False) as frame:
            frame.write(one + more * 7 + END)
    said, length, grown = measured(tmp_path / "source", tmp_path / "patch")
    assert (said, length) == ("ok", 8 * size)
    assert grown < 28 << 10


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
