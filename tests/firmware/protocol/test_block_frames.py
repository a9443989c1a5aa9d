"""The binary frames: what is encoded is parsed, and nothing else is."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.protocol.blocks import (
    MAX_CREDIT_BYTES,
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    Block,
    Want,
    artifact_name,
    encode_block,
    encode_want,
    metadata_name,
    parse_block,
    parse_want,
)
from firmware.protocol.words import MAX_IMAGE_BYTES

SHA = "ab" * 32
WANT = Want(stream=7, offset=1 << 33, credit=65536, name=artifact_name(SHA))
BLOCK = Block(stream=7, offset=10, total=100, data=b"twelve bytes")
STREAMS = st.integers(0, (1 << 64) - 1)


def kind_of(parse: object, frame: bytes) -> str:
    with pytest.raises(RefusedError) as caught:
        parse(frame)  # type: ignore[operator]
    return caught.value.kind


@given(STREAMS, st.integers(0, MAX_IMAGE_BYTES), st.integers(1, MAX_CREDIT_BYTES), st.booleans())
def test_wants_come_back_as_they_were(stream: int, offset: int, credit: int, is_artifact: bool) -> None:
    name = artifact_name(SHA) if is_artifact else metadata_name("12.root.json")
    want = Want(stream=stream, offset=offset, credit=credit, name=name)
    assert parse_want(encode_want(want)) == want
    assert (want.sha256, want.metadata) == ((SHA, None) if is_artifact else (None, "12.root.json"))


@given(STREAMS, st.integers(0, MAX_IMAGE_BYTES - 1), st.binary(min_size=1, max_size=300))
def test_blocks_come_back_as_they_were(stream: int, offset: int, data: bytes) -> None:
    block = Block(stream=stream, offset=offset, total=min(MAX_IMAGE_BYTES, offset + len(data) + 5), data=data)
    if offset + len(data) <= block.total:
        assert parse_block(encode_block(block)) == block


def test_the_frames_are_as_the_documentation_lays_them_out() -> None:
    assert encode_want(WANT) == b"OW\x01\x00" + struct.pack(">QQI", 7, 1 << 33, 65536) + b"artifact/" + SHA.encode()
    assert encode_block(BLOCK) == b"OB\x01\x00" + struct.pack(">QQQ", 7, 10, 100) + b"twelve bytes"
    assert encode_block(Block(stream=9, offset=0, total=0, absent=True)) == b"OB\x01\x01" + struct.pack(">QQQ", 9, 0, 0)


def test_a_full_block_is_exactly_a_frame_long() -> None:
    full = Block(stream=1, offset=0, total=MAX_PAYLOAD_BYTES + 1, data=bytes(MAX_PAYLOAD_BYTES))
    assert len(encode_block(full)) == MAX_FRAME_BYTES
    over = encode_block(full) + b"x"
    assert kind_of(parse_block, over) == "too-large"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "artifact/",
        artifact_name("ab" * 31),
        artifact_name("AB" * 32),
        artifact_name(SHA) + "\n",
        "metadata/../root.json",
        "metadata/root.json/",
        "metadata/root.json\n",
        "metadata/.json",
        "metadata/0.root.json",
        "metadata/" + "a" * 81 + ".json",
        "secrets/key.json",
        "artifact/../../etc/passwd",
        "metadata/rööt.json",
    ],
)
def test_names_that_are_none_are_refused(name: str) -> None:
    frame = struct.pack(">2sBBQQI", b"OW", 1, 0, 1, 0, 1) + name.encode()
    assert kind_of(parse_want, frame) in ("malformed", "too-large")


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, b"XX"), (2, b"\x02"), (3, b"\x01"), (12, b"\xff" * 8), (20, bytes(4)), (20, struct.pack(">I", (1 << 20) + 1))],
)
def test_wants_out_of_bounds_are_refused(at: int, value: bytes) -> None:
    frame = bytearray(encode_want(WANT))
    frame[at : at + len(value)] = value
    assert kind_of(parse_want, bytes(frame)) == "malformed"


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"OW"),
        (2, b"\x00"),
        (3, b"\x02"),
        (3, b"\x01"),
        (12, b"\xff" * 8),
        (12, struct.pack(">Q", 89)),
        (20, b"\xff" * 8),
        (20, bytes(8)),
    ],
)
def test_blocks_out_of_bounds_are_refused(at: int, value: bytes) -> None:
    frame = bytearray(encode_block(BLOCK))
    frame[at : at + len(value)] = value
    assert kind_of(parse_block, bytes(frame)) == "malformed"


def test_frames_that_end_early_or_bring_nothing_are_refused() -> None:
    for size in range(24):
        assert kind_of(parse_want, encode_want(WANT)[:size]) == "malformed"
    for size in range(29):
        assert kind_of(parse_block, encode_block(BLOCK)[:size]) == "malformed"
    assert kind_of(parse_want, encode_want(WANT) + bytes(200)) == "too-large"


@given(st.binary(max_size=400))
def test_whatever_comes_is_parsed_or_refused(frame: bytes) -> None:
    for parse, start in ((parse_want, b"OW\x01\x00"), (parse_block, b"OB\x01\x00")):
        for data in (frame, start + frame):
            with contextlib.suppress(RefusedError):
                parse(data)  # type: ignore[operator]
