"""Blocks over a broker that loses, repeats, reorders and lies: what is given out is what was asked for, or nothing."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agent.boot.files import encode_status
from device_agent.effects import FileEffects
from device_agent.install.blocks import BlockPatience, BlockSource
from device_agent.install.sources import Named, Sources
from device_agent.install.stream import StreamInstaller
from device_agent.ports import AbsentError, BootOutcome, BootStatus, Slot
from device_agent.slots.files import board_slots, create_board
from firmware.errors import UnavailableError
from firmware.manifest import WINDOW_BYTES
from firmware.protocol.blocks import Block, Want, artifact_name, encode_block, parse_want
from firmware.protocol.order import FileRef

DATA = random.Random(5).randbytes(700_001)
SHA = hashlib.sha256(DATA).hexdigest()
FILE = FileRef(path="releases/demo/1.0/image", length=len(DATA), sha256=SHA)
PATIENCE = BlockPatience(credit_bytes=100_000, ask_again_s=10.0, give_up_s=60.0)


class Line:
    """A server that answers wants at once, through whatever `spoil` does to the blocks of one want."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {artifact_name(SHA): DATA}
        self.wants: list[Want] = []
        self.sent: dict[int, int] = {}
        self.size = 30_000
        self.now = 0.0
        self.is_up = True
        self.spoil: Callable[[list[Block]], list[Block]] = lambda blocks: blocks
        self.most_waiting = 0
        numbers = iter(range(1, 1000))
        self.source = BlockSource(self.take, seconds=self.seconds, patience=PATIENCE, number=lambda: next(numbers))

    def seconds(self) -> float:
        self.now += 0.5
        return self.now

    def take(self, payload: bytes) -> bool:
        want = parse_want(payload)
        self.wants.append(want)
        if not self.is_up:
            return False
        for block in self.spoil(self.answer(want)):
            self.source.receive(encode_block(block))
        waiting = [sum(map(len, stream.blocks)) for stream in self.source._streams.values()]
        self.most_waiting = max([self.most_waiting, *waiting])
        return True

    def answer(self, want: Want) -> list[Block]:
        data = self.files.get(want.name)
        if data is None:
            return [Block(stream=want.stream, offset=0, total=0, absent=True)]
        at = max(self.sent.get(want.stream, 0), want.offset)
        end = min(len(data), want.offset + want.credit)
        blocks = []
        while at < end:
            part = data[at : min(end, at + self.size)]
            blocks.append(Block(stream=want.stream, offset=at, total=len(data), data=part))
            at += len(part)
        self.sent[want.stream] = at
        return blocks

    def fetch(self, offset: int = 0) -> bytes:
        return b"".join(self.source.open(FILE, offset=offset))


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr("device_agent.install.blocks.NAP_S", 0.0)
    return Line()


def same(got: bytes, offset: int = 0) -> bool:
    return hashlib.sha256(got).digest() == hashlib.sha256(DATA[offset:]).digest()


@pytest.mark.parametrize("offset", [0, 1, 65536, len(DATA) - 1])
def test_a_file_comes_from_any_offset_within_the_credit(line: Line, offset: int) -> None:
    assert same(line.fetch(offset), offset)
    assert line.most_waiting <= PATIENCE.credit_bytes
    assert len({want.stream for want in line.wants}) == 1
    assert not line.source._streams


def test_lost_blocks_are_asked_for_again_under_a_new_number(line: Line) -> None:
    chance = random.Random(1)
    line.spoil = lambda blocks: [block for block in blocks if chance.random() > 0.3]
    assert same(line.fetch())
    assert len({want.stream for want in line.wants}) > 1


def test_repeated_and_disordered_blocks_change_nothing(line: Line) -> None:
    chance = random.Random(2)

    def shuffled(blocks: list[Block]) -> list[Block]:
        mixed = [*blocks, *blocks]
        chance.shuffle(mixed)
        return mixed

    line.spoil = shuffled
    assert same(line.fetch())


Twist = Callable[[Block], Any]
TWISTS: dict[str, Twist] = {
    "another stream": lambda block: {"stream": block.stream + 77},
    "an earlier stream": lambda block: {"stream": block.stream - 1},
    "a wrong offset": lambda block: {"offset": block.offset + 1, "total": block.total + 1},
    "far beyond the credit": lambda block: {"offset": 600_000, "data": b"x" * 10},
    "a longer file": lambda block: {"total": block.total + 1},
    "a shorter file": lambda block: {"total": block.offset + 1, "data": b"\0"},
}


@pytest.mark.parametrize("twist", TWISTS.values(), ids=TWISTS.keys())
def test_blocks_that_nobody_asked_for_are_dropped(line: Line, twist: Twist) -> None:
    """Each good block comes with a forged one before it and one after it."""

    def forge(block: Block) -> Block:
        values = {"stream": block.stream, "offset": block.offset, "total": block.total, "data": b"\0" * len(block.data)}
        return Block(**(values | twist(block)))

    line.spoil = lambda blocks: [one for block in blocks for one in (forge(block), block, forge(block))]
    assert same(line.fetch())


def test_more_than_the_credit_is_never_kept(line: Line) -> None:
    def flood(blocks: list[Block]) -> list[Block]:
        if len(line.wants) > 1 or not blocks:
            return []
        first = blocks[0]
        every = range(0, len(DATA), line.size)
        return [
            Block(stream=first.stream, offset=at, total=first.total, data=DATA[at : at + line.size]) for at in every
        ]

    line.spoil = flood
    chunks = line.source.open(FILE, offset=0)
    next(chunks)
    assert line.most_waiting <= PATIENCE.credit_bytes
    chunks.close()  # type: ignore[attr-defined]
    assert not line.source._streams


def test_frames_that_are_none_are_dropped(line: Line) -> None:
    line.spoil = lambda blocks: ([line.source.receive(junk) for junk in (b"", b"OB", b"x" * 70_000)], blocks)[1]  # type: ignore[func-returns-value]
    assert same(line.fetch())


def test_a_stop_in_the_middle_is_heard_while_nothing_comes(line: Line) -> None:
    line.is_up = False
    chunks = line.source.open(FILE, offset=0)
    assert [next(chunks) for _ in range(3)] == [b"", b"", b""]


def test_silence_is_given_up_after_a_while_with_few_wants(line: Line) -> None:
    line.is_up = False
    with pytest.raises(UnavailableError) as caught:
        line.fetch()
    assert caught.value.kind == "unreachable"
    assert 20 <= len(line.wants) <= 60, "about one a second while there is no connection"
    assert 60.0 <= line.now <= 90.0


def test_a_server_that_does_not_answer_is_asked_seldom(line: Line) -> None:
    line.spoil = lambda blocks: []
    with pytest.raises(UnavailableError):
        line.fetch()
    assert 3 <= len(line.wants) <= 7
    assert len({want.stream for want in line.wants}) == len(line.wants)


def test_a_file_that_is_not_there_is_absent(line: Line) -> None:
    line.files.clear()
    with pytest.raises(AbsentError):
        line.fetch()
    assert line.source.metadata("2.root.json", 1000) is None


def test_metadata_and_targets_come_whole_and_bounded(line: Line) -> None:
    line.files["metadata/timestamp.json"] = b"{}" * 500
    line.files["metadata/long.json"] = DATA
    assert line.source.metadata("timestamp.json", 1000) == b"{}" * 500
    assert line.source.metadata("timestamp.json", 999) == (b"{}" * 500)[:1000]
    assert line.source.metadata("long.json", 50_000) == DATA[:50_001]
    assert line.source.target(f"releases/demo/1.0/{SHA}.manifest.json", len(DATA)) == DATA


def test_a_forged_target_is_a_delay_and_no_answer(line: Line) -> None:
    line.files[artifact_name(SHA)] = b"forged"
    with pytest.raises(UnavailableError) as caught:
        line.source.target(f"releases/demo/1.0/{SHA}.manifest.json", 1000)
    assert caught.value.kind == "unreachable"


@pytest.mark.parametrize("window", [0, 1, 2])
def test_forged_blocks_delay_and_no_wrong_byte_is_written(line: Line, stage: Any, window: int) -> None:
    """A broker that knows stream and offset can put its own bytes there: the window check notices, before the write."""
    written: list[tuple[int, bytes]] = []

    class Watched(FileEffects):
        def write_at(self, path: Path, offset: int, data: bytes) -> None:
            written.append((offset, data))
            super().write_at(path, offset, data)

    image = stage.folder / "factory.img"
    image.write_bytes(stage.old)
    board = create_board(stage.folder / "board", image, 4 << 20, "sim-1")
    effects = Watched()
    effects.replace(board.status, encode_status(BootStatus(boot_id="b", slot=Slot.A, outcome=BootOutcome.NORMAL)))
    line.files[artifact_name(stage.file.sha256)] = stage.new
    line.size = 65_000
    spot = window * WINDOW_BYTES + 500_000

    def forge(blocks: list[Block]) -> list[Block]:
        return [
            Block(stream=block.stream, offset=block.offset, total=block.total, data=bytes(len(block.data)))
            if block.offset <= spot < block.offset + len(block.data)
            else block
            for block in blocks
        ]

    line.spoil = forge
    sources = Sources([Named(name="mqtt", source=line.source)], seconds=line.seconds)
    slots = board_slots(effects, board.directory)
    installer = StreamInstaller(effects=effects, slots=slots, source=sources, directory=board.agent)

    def run() -> None:
        installer.stage(
            stage.order(), stage.manifest, active=Slot.A, on_progress=lambda done, total: None, stop=lambda: False
        )

    with pytest.raises(UnavailableError) as caught:
        run()
    assert caught.value.kind == "artifact-changed"
    assert all(data in (stage.new[offset : offset + len(data)], bytes(512)) for offset, data in written)
    line.spoil = lambda blocks: blocks
    run()
    assert board.slot(Slot.B).read_bytes()[: len(stage.new)] == stage.new
