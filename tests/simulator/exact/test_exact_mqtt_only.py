"""Sites that reach nothing but the broker, with real agents and the server's own block service, whatever happens on the way."""

import dataclasses
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from device_agent.ports import Slot
from firmware.errors import RefusedError
from firmware.manifest import WINDOW_BYTES
from firmware.protocol import topics
from firmware.protocol.blocks import MAX_PAYLOAD_BYTES, Want, parse_block, parse_want
from firmware.protocol.topics import Leaf
from simulator.exact.catalogue import BLOCKS_BYTES, image_of
from simulator.exact.run import ExactRun, play
from simulator.exact.strand import Strand
from simulator.exact.telling import outcome_of, room, run_exactly
from simulator.exact.trace import Head, Trace
from simulator.run_cli import unmet
from simulator.virtual.library import load
from simulator.virtual.outcome import Outcome
from simulator.virtual.run import Run
from simulator.virtual.world import Deed, World
from simulator.wire.by_blocks import ByteSlots
from tests.simulator.exact.test_exact_befalls import from_chances
from tests.simulator.virtual.test_befalls import befalls, done_s
from tests.simulator.virtual.test_mqtt_only import alone

ALONE = "mqtt_only: 100%, latency: 0.2"
VICTIM = "lamp-000001"
CUT_AFTER_S = 0.5


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


class Watched(ExactRun):
    """Who got blocks, and what they wanted; `in_the_middle` is called once when so many of the victim's image came."""

    def __init__(
        self, *given: object, in_the_middle: Callable[["Watched"], None] | None = None, **more: object
    ) -> None:
        super().__init__(*given, **more)  # type: ignore[arg-type]
        self.blocks: Counter[str] = Counter()
        self.wants: list[tuple[float, str, Want]] = []
        self.middle_at, self.ended = 0.0, 0
        self._in_the_middle = in_the_middle
        self.broker.listeners.append(self._notice)

    def _notice(self, topic: str, payload: bytes) -> None:
        agent, leaf = topics.parse(topic).agent if topic != topics.CATALOGUE else "", topic.rpartition("/")[2]
        with suppress(RefusedError):  # what a hostile broker makes up
            self._see_frame(agent, leaf, payload)

    def _see_frame(self, agent: str, leaf: str, payload: bytes) -> None:
        if leaf == Leaf.WANT:
            self.wants.append((self.timeline.now(), agent, parse_want(payload)))
        elif leaf == Leaf.BLOCK:
            block = parse_block(payload)
            self.blocks[agent] += 1
            is_late = block.total == BLOCKS_BYTES and block.offset > WINDOW_BYTES
            if is_late and agent == VICTIM and not self.middle_at and self._in_the_middle is not None:
                self.middle_at = self.timeline.now()
                self._in_the_middle(self)


def played(world: World, in_the_middle: Callable[[Watched], None] | None = None) -> tuple[Watched, Outcome]:
    with room() as directory:
        trace = Trace(Head(world=world.name, seed=world.seed))
        run = Watched(world, directory, trace, in_the_middle=in_the_middle)
        outcome = outcome_of(run, play(run))
        assert outcome.violations == ()
        return run, outcome


def few(link: str = ALONE) -> World:
    world = befalls(link=link)
    return dataclasses.replace(world, lots=(dataclasses.replace(world.lots[0], devices=6, sites=2),))


def holds(run: ExactRun, name: str) -> bytes:
    """What is in the slot that a device runs, byte by byte."""
    slots = run.fleet.devices[name].flash().slots
    assert isinstance(slots, ByteSlots)
    return slots.read(Slot.B, 0, BLOCKS_BYTES + 1)


def assert_all_hold_the_release(run: ExactRun) -> None:
    assert set(run.states["spring"].values()) == {"verified"}
    for name in run.members:
        assert holds(run, name) == image_of("lamp", "2.0.0", BLOCKS_BYTES)


@pytest.mark.timeout(180)
def test_catalogue_and_images_come_in_blocks_where_nothing_else_comes_and_only_there() -> None:
    world = befalls(link="mqtt_only: 50%")
    run, outcome = played(world)
    states, other = from_chances(world, run)
    assert run.states["spring"] == states
    assert set(states.values()) == {"verified"}
    by_broker = alone(world)
    assert {*run.blocks} == by_broker
    assert min(run.blocks.values()) >= BLOCKS_BYTES // MAX_PAYLOAD_BYTES + 6  # the image, its manifest, and metadata
    reached = {one.site for one in run.members.values() if one.id not in by_broker}
    assert run.site.fetched_bytes == len(reached) * BLOCKS_BYTES  # each of these sites once, by HTTP
    assert run.site.block_bytes == len(by_broker) * BLOCKS_BYTES
    assert done_s(outcome) == pytest.approx(done_s(other), abs=60)


@pytest.mark.timeout(180)
def test_where_nobody_reaches_http_nobody_uses_it_and_the_same_seed_gives_the_same_run() -> None:
    run, outcome = played(few())
    assert run.site.fetched_bytes == 0
    assert_all_hold_the_release(run)
    assert played(few())[1].digest == outcome.digest


def killed_server(run: Watched) -> None:
    run._at(run.after_s, lambda: run.deeds.do(Deed(kind="kill-server", after_s=0)))


def killed_broker(run: Watched) -> None:
    run._at(run.after_s, lambda: run.deeds.do(Deed(kind="kill-broker", after_s=0)))


def cut_power(run: Watched) -> None:
    def cut() -> None:
        jobs = [one for one in threading.enumerate() if isinstance(one, Strand)]
        run.fleet.devices[VICTIM].power_cut()
        for one in jobs:
            one.join(0.05)
        run.ended = sum(not one.is_alive() for one in jobs)

    run.timeline.later(run.timeline.now() + CUT_AFTER_S, cut)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("befall", [killed_server, killed_broker, cut_power])
def test_a_transfer_that_is_cut_in_the_middle_goes_on_where_it_was(befall: Callable[[Watched], None]) -> None:
    run, _ = played(few(), befall)
    assert run.middle_at
    assert_all_hold_the_release(run)
    image = {want.name for _, name, want in run.wants if want.offset > WINDOW_BYTES}
    assert len(image) == 1
    late = run.middle_at + (CUT_AFTER_S if befall is cut_power else 0)
    again = [want for at, name, want in run.wants if name == VICTIM and at > late and {want.name} == image]
    assert again
    assert min(want.offset for want in again) >= WINDOW_BYTES, "it went on behind what it had"
    if befall is cut_power:
        assert run.ended == 1, "what loaded before the cut is gone"


@pytest.mark.timeout(180)
def test_a_broker_that_says_false_blocks_first_delays_and_ends_nothing() -> None:
    deeds = tuple(Deed(kind="hostile", after_s=1 + 30.0 * turn, for_s=29) for turn in range(4))
    run, _ = played(dataclasses.replace(few(), deeds=deeds))
    assert_all_hold_the_release(run)
    assert run.deeds.forged > 10
    assert run.deeds.misused > 50
    assert run.server.blocks.dropped["malformed"] > 5


@pytest.mark.timeout(180)
def test_the_librarys_world_ends_as_it_expects_both_ways() -> None:
    world = load("mqtt-only")
    exact, chances = run_exactly(world).outcome, Run(world).play()
    for outcome in (exact, chances):
        assert outcome.violations == ()
        assert list(unmet(world, outcome)) == []
