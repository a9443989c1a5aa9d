"""Several sources: the order, what is remembered of each, and a slot that never holds a wrong byte whoever gave it."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from device_agent.boot.files import encode_status
from device_agent.effects import FileEffects
from device_agent.install.rate import NAP_S, RateLimit
from device_agent.install.sources import Manners, Named, Sources
from device_agent.install.stream import StreamInstaller
from device_agent.ports import AbsentError, BootOutcome, BootStatus, Slot
from device_agent.slots.files import board_slots, create_board
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.manifest import WINDOW_BYTES
from firmware.protocol.order import FileRef

MANNERS = Manners(pause_min_s=30.0, pause_max_s=120.0, slow_bytes_per_s=1000.0, slow_after_s=10.0)
Fault = Callable[[int, bytes], bytes]


class Clock:
    """Seconds that only pass when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


class Shop:
    """One place with files. `fault` (offset of the chunk, chunk) gives what is sent instead, or raises."""

    def __init__(self, clock: Clock, files: dict[str, bytes], chunk: int = 65536) -> None:
        self.clock, self.files, self.chunk = clock, files, chunk
        self.opened: list[int] = []
        self.fault: Fault = lambda at, chunk: chunk
        self.takes_s = 0.0

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        self.opened.append(offset)
        if file.sha256 not in self.files:
            raise AbsentError("unreachable", "Not here.")
        data = self.files[file.sha256]
        for at in range(offset, len(data), self.chunk):
            self.clock.now += self.takes_s
            yield self.fault(at, data[at : at + self.chunk])


class Market:
    """A board, three shops in order, and an installer that asks them."""

    def __init__(self, stage: Any) -> None:
        self.stage, self.clock = stage, Clock()
        image = stage.folder / "factory.img"
        image.write_bytes(stage.old)
        self.board = create_board(stage.folder / "board", image, 4 << 20, "sim-1")
        self.effects = FileEffects()
        status = BootStatus(boot_id="b", slot=Slot.A, outcome=BootOutcome.NORMAL)
        self.effects.replace(self.board.status, encode_status(status))
        self.shops = [Shop(self.clock, stage.shelf.files) for _ in range(3)]
        self.restart()

    def restart(self, limit: RateLimit | None = None) -> None:
        """A new process: only what is durable is left."""
        names = ("cache", "server", "store")
        pairs = zip(names, self.shops, strict=True)
        named = [Named(name=name, source=shop, is_server=name == "server") for name, shop in pairs]
        self.sources = Sources(named, seconds=self.clock, manners=MANNERS, limit=limit)
        self.installer = StreamInstaller(
            effects=self.effects,
            slots=board_slots(self.effects, self.board.directory),
            source=self.sources,
            directory=self.board.agent,
        )

    def run(
        self, delta: Any = None, stop: Callable[[], bool] = lambda: False, max_rate: int | None = None
    ) -> dict[str, object]:
        order = replace(self.stage.order(delta), max_rate=max_rate)
        return self.installer.stage(
            order, self.stage.manifest, active=Slot.A, on_progress=lambda done, total: None, stop=stop
        )

    def fails(self, delta: Any = None) -> OtariaError:
        with pytest.raises(OtariaError) as caught:
            self.run(delta)
        assert not self.is_staged()
        return caught.value

    def is_staged(self) -> bool:
        return self.board.slot(Slot.B).read_bytes()[: len(self.stage.new)] == self.stage.new

    @property
    def opened(self) -> list[list[int]]:
        return [shop.opened for shop in self.shops]

    def forget(self) -> None:
        for shop in self.shops:
            shop.opened.clear()


@pytest.fixture
def market(stage: Any) -> Market:
    return Market(stage)


def spoil(window: int) -> Fault:
    """Flip a bit in the middle of a window."""
    spot = window * WINDOW_BYTES + WINDOW_BYTES // 2

    def fault(at: int, chunk: bytes) -> bytes:
        if not at <= spot < at + len(chunk):
            return chunk
        spoilt = bytearray(chunk)
        spoilt[spot - at] ^= 1
        return bytes(spoilt)

    return fault


def dead_from(offset: int) -> Fault:
    def fault(at: int, chunk: bytes) -> bytes:
        if at >= offset:
            raise UnavailableError("unreachable", "The line went dead.")
        return chunk

    return fault


def test_the_first_source_serves_all_when_it_is_well(market: Market) -> None:
    assert market.run() == {"fetched_bytes": {"cache": len(market.stage.new)}}
    assert market.is_staged()
    assert market.opened == [[0], [], []]


def test_wrong_bytes_are_fetched_from_the_next_and_their_source_is_left_for_the_file(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    market.shops[0].fault = spoil(1)
    evidence = market.run()
    assert market.is_staged()
    assert market.opened == [[0], [WINDOW_BYTES], []]
    assert evidence["wrong_bytes_from"] == ["cache"]
    told = [record for record in caplog.records if "wrong bytes" in record.message]
    assert len(told) == 1
    market.forget()
    market.board.slot(Slot.B).write_bytes(bytes(4 << 20))
    market.clock.now += 1e6
    market.run()
    assert market.opened == [[], [0], []], "it is left for this file for good"
    assert len([record for record in caplog.records if "wrong bytes" in record.message]) == 1


def test_sources_that_anybody_may_stand_before_can_delay_and_not_end_an_order(market: Market) -> None:
    cache = Named(name="cache", source=market.shops[0])
    market.sources = Sources([cache], seconds=market.clock, manners=MANNERS)
    market.installer._source = market.sources
    market.shops[0].fault = spoil(0)
    with pytest.raises(UnavailableError) as caught:
        market.run()
    assert caught.value.kind == "artifact-changed"
    market.shops[0].fault = lambda at, chunk: chunk
    market.run()
    assert market.is_staged()


def test_when_all_give_wrong_bytes_it_is_refused_and_a_later_order_may_try_again(market: Market) -> None:
    for shop in market.shops:
        shop.fault = spoil(0)
    assert market.fails().kind == "artifact-changed"
    assert market.opened == [[0], [0], [0]]
    for shop in market.shops:
        shop.fault = lambda at, chunk: chunk
    market.run()
    assert market.is_staged()


@pytest.mark.parametrize("cut", [0, 70_000, WINDOW_BYTES, WINDOW_BYTES + 70_000, 2 * WINDOW_BYTES + 1])
def test_a_dead_source_is_passed_over_at_once(market: Market, cut: int) -> None:
    market.shops[0].fault = dead_from(cut)
    market.run()
    assert market.is_staged()
    assert market.opened[0] == [0]
    (resumed,) = market.opened[1]
    assert resumed % WINDOW_BYTES == 0
    assert resumed >= cut - WINDOW_BYTES - market.shops[0].chunk


def test_one_that_lacks_the_file_is_passed_over(market: Market) -> None:
    market.shops[0].files, market.shops[1].files = {}, {}
    market.run()
    assert market.is_staged()
    assert market.opened == [[0], [0], [0]]
    market.forget()
    market.board.slot(Slot.B).write_bytes(bytes(4 << 20))
    market.run()
    assert market.opened == [[], [], [0]]


def test_a_slow_source_is_left_when_another_is_there(market: Market) -> None:
    market.shops[0].takes_s, market.shops[0].chunk = 2.0, 100
    market.run()
    assert market.is_staged()
    assert market.opened == [[0], [0], []]


def test_the_only_source_may_be_as_slow_as_it_is(market: Market) -> None:
    market.shops[0].takes_s = 100.0
    market.sources = Sources([Named(name="server", source=market.shops[0])], seconds=market.clock, manners=MANNERS)
    market.installer._source = market.sources
    market.run()
    assert market.is_staged()


def test_the_better_source_is_gone_back_to_at_a_window_border(market: Market) -> None:
    market.shops[0].fault = dead_from(0)
    market.shops[1].takes_s = 2.0
    served: list[int] = []

    def heal(at: int, chunk: bytes) -> bytes:
        served.append(at)
        market.shops[0].fault = lambda at, chunk: chunk
        return chunk

    market.shops[1].fault = heal
    market.run()
    assert market.is_staged()
    assert market.opened[0] == [0, WINDOW_BYTES * (1 + served[-1] // WINDOW_BYTES)]
    assert len(market.opened[1]) == 1


def test_a_source_that_stays_dead_is_asked_less_and_less_often(market: Market) -> None:
    market.shops[0].fault = dead_from(0)
    asked: list[float] = []
    for _ in range(60):
        before = len(market.shops[0].opened)
        market.run()
        assert market.is_staged()
        if len(market.shops[0].opened) > before:
            asked.append(market.clock.now)
        market.board.slot(Slot.B).write_bytes(bytes(4 << 20))
        market.clock.now += 10.0
    gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
    assert gaps == [30.0, 60.0, 120.0, 120.0, 120.0, 120.0]


def test_every_call_asks_somebody_even_when_all_failed_just_now(market: Market) -> None:
    for shop in market.shops:
        shop.fault = dead_from(0)
    assert market.fails().kind == "unreachable"
    market.forget()
    assert market.fails().kind == "unreachable"
    assert sum(map(len, market.opened)) == 1


def test_a_source_that_says_itself_that_its_file_is_another_one_is_left(market: Market) -> None:
    def lies(at: int, chunk: bytes) -> bytes:
        raise RefusedError("artifact-changed", "It has other bytes.")

    market.shops[0].fault = lies
    market.run()
    assert market.is_staged()
    assert market.opened == [[0], [0], []]


def test_a_short_file_is_the_sources_fault(market: Market) -> None:
    short = {digest: data[:-1] for digest, data in market.stage.shelf.files.items()}
    market.shops[0].files = short
    market.run()
    assert market.is_staged()
    last = (len(market.stage.new) - 1) // WINDOW_BYTES * WINDOW_BYTES
    assert market.opened == [[0], [last], []]


def test_a_delta_is_fetched_anew_from_the_next_when_one_gave_wrong_bytes(market: Market) -> None:
    delta = market.stage.delta()
    market.shops[0].fault = lambda at, chunk: bytes(len(chunk))
    market.run(delta)
    assert market.is_staged()
    assert market.opened == [[0], [0], []], "the delta itself is not given up"
    assert len(market.shops[1].files[delta.file.sha256]) == delta.file.length


def test_a_delta_of_two_sources_blames_neither_and_counts_as_failed(market: Market) -> None:
    delta = market.stage.delta()
    half = delta.file.length // 2
    market.shops[0].chunk = half

    def cut_after_a_window(at: int, chunk: bytes) -> bytes:
        if at >= half:
            raise UnavailableError("unreachable", "The line went dead.")
        return bytes(len(chunk))

    market.shops[0].fault = cut_after_a_window
    market.installer._patch._effects.append(market.installer._patch._path, bytes(10))
    market.run(delta)
    assert market.is_staged()
    assert "wrong_bytes_from" not in market.sources.evidence()


def test_the_count_of_delta_failures_outlives_restarts_and_then_the_full_image_comes(market: Market) -> None:
    """Only one source, whose delta is wrong each time; the process ends after each try."""
    delta = market.stage.delta()
    spoilt = {delta.file.sha256: bytes(delta.file.length)}
    opened: list[str] = []

    class Lone:
        def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
            opened.append(file.path)
            if file.path == market.stage.file.path:
                raise UnavailableError("unreachable", "The line went dead.")
            if opened.count(file.path) == 2:
                raise UnavailableError("unreachable", "The power went.")
            yield spoilt[file.sha256]

    for _ in range(4):
        market.sources = Sources([Named(name="server", source=Lone(), is_server=True)], seconds=market.clock)
        market.installer = StreamInstaller(
            effects=market.effects,
            slots=board_slots(market.effects, market.board.directory),
            source=market.sources,
            directory=market.board.agent,
        )
        assert market.fails(delta).kind == "unreachable"
    assert opened == [delta.file.path] * 3 + [market.stage.file.path] * 3


def test_the_rate_is_kept_and_stopping_does_not_wait_for_it(market: Market) -> None:
    length, rate = len(market.stage.new), 100_000
    market.restart(RateLimit(rate, rate, seconds=market.clock, sleep=market.clock.sleep))
    begun = market.clock.now
    market.run()
    assert market.is_staged()
    took = market.clock.now - begun
    assert length / rate - 1.5 <= took <= length / rate + 0.5
    assert max(market.clock.naps) <= NAP_S
    market.board.slot(Slot.B).write_bytes(bytes(4 << 20))
    market.restart(RateLimit(1, 1, seconds=market.clock, sleep=market.clock.sleep))
    begun = market.clock.now
    with pytest.raises(UnavailableError) as caught:
        market.run(stop=lambda: market.clock.now > begun + 1.0)
    assert caught.value.kind == "interrupted"
    assert market.clock.now - begun < 2.0


@pytest.mark.parametrize(
    ("own", "ordered", "kept"), [(0, 200_000, 200_000), (300_000, 100_000, 100_000), (100_000, 300_000, 100_000)]
)
def test_the_lower_of_its_own_and_the_ordered_rate_is_kept(market: Market, own: int, ordered: int, kept: int) -> None:
    length = len(market.stage.new)
    market.restart(RateLimit(own, seconds=market.clock, sleep=market.clock.sleep))
    begun = market.clock.now
    market.run(max_rate=ordered)
    assert market.is_staged()
    took = market.clock.now - begun
    assert length / kept - 1.5 <= took <= length / kept + 0.5


def test_an_order_without_a_rate_takes_an_earlier_ones_back(market: Market) -> None:
    market.restart(RateLimit(0, seconds=market.clock, sleep=market.clock.sleep))
    with pytest.raises(UnavailableError):
        market.run(max_rate=1, stop=lambda: market.clock.naps != [])
    market.clock.naps.clear()
    market.run()
    assert market.is_staged()
    assert market.clock.naps == []


def test_no_copy_of_the_image_is_made(market: Market, tmp_path: Path) -> None:
    sizes: list[int] = []
    slots = set(map(market.board.slot, Slot))

    def look(at: int, chunk: bytes) -> bytes:
        found = (path for path in market.board.directory.rglob("*") if path.is_file() and path not in slots)
        sizes.append(sum(path.stat().st_size for path in found))
        return chunk

    market.shops[0].fault = look
    market.run()
    assert max(sizes) < 16384


def test_an_encrypted_image_that_was_tampered_with_is_fetched_from_the_next(stage: Any) -> None:
    stage.encrypt_for_device()
    market = Market(stage)
    market.installer._keys = stage.keys
    market.shops[0].fault = spoil(1)
    evidence = market.run()
    assert market.is_staged()
    assert evidence["wrong_bytes_from"] == ["cache"]
    assert [len(opened) for opened in market.opened] == [1, 1, 0]
