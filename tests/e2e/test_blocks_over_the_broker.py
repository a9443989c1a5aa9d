"""A device that reaches nothing but the broker: a whole update comes in blocks, whatever else the broker sends."""

import random
import threading
from collections.abc import Callable

import pytest

from firmware.errors import RefusedError
from firmware.manifest import WINDOW_BYTES
from firmware.protocol.blocks import Block, Want, encode_block, parse_want
from firmware.protocol.topics import Leaf, of_target
from tests.e2e.rig import FULL, Bench, Rig

WITHOUT_HTTP = 'sources = ["mqtt"]\n'


def wants(rig: Rig, bench: Bench, after: int) -> list[Want]:
    """The wants for artifacts that Eve saw this board send."""
    topic = of_target(bench.target, bench.target, Leaf.WANT)
    seen = [parse_want(message.payload) for message in rig.eve.seen[after:] if message.topic == topic]
    return [want for want in seen if want.sha256 is not None]


def image_hash(rig: Rig, version: str) -> str:
    return str(rig.lab.rest.get(f"/releases/gateway/{version}")["images"][0]["file"]["sha256"])


def test_an_update_comes_over_the_broker_alone_and_goes_on_after_a_kill(rig: Rig) -> None:
    known = len(rig.eve.seen)
    bench = rig.board("blocks-alone", settings=f'{WITHOUT_HTTP}download_rate = "1MiB"\n')
    bench.link.close()
    campaign = bench.start(FULL)
    digest = image_hash(rig, FULL)

    def asked() -> list[Want]:
        return [want for want in wants(rig, bench, known) if want.sha256 == digest]

    bench.wait(lambda: max((want.offset for want in asked()), default=0) >= 2 * WINDOW_BYTES, "half of it")
    bench.board.kill_agent()
    before = {want.stream for want in asked()}
    bench.assert_verified_once(campaign)
    assert bench.view["running_version"] == FULL
    again = [want.offset for want in asked() if want.stream not in before]
    assert again
    assert min(again) >= WINDOW_BYTES, "it went on behind what the slot held"


@pytest.mark.deep
def test_blocks_that_nobody_asked_for_change_nothing(rig: Rig) -> None:
    known = len(rig.eve.seen)
    bench = rig.board("blocks-flooded", settings=WITHOUT_HTTP)
    bench.link.close()
    topic = of_target(bench.target, bench.target, Leaf.BLOCK)
    running = bench.active_slot().read_bytes()
    over = threading.Event()

    def flood() -> None:
        chance, sent = random.Random(3), 0
        while not over.wait(0.01) and sent < 1500:
            sent += 1
            rig.eve.publish(topic, junk(chance, lambda: wants(rig, bench, known)), retain=sent % 10 == 0)

    eve = threading.Thread(target=flood)
    eve.start()
    try:
        campaign = bench.start(FULL)
        bench.assert_verified_once(campaign)
    finally:
        over.set()
        eve.join()
        rig.eve.publish(topic, b"", retain=True)
    assert bench.view["running_version"] == FULL
    assert bench.other_slot().read_bytes() == running


def junk(chance: random.Random, asked: Callable[[], list[Want]]) -> bytes:
    """Bytes that are no frame, blocks of streams that are none, and replays of earlier places of the one under way."""
    kind = chance.randrange(3)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    last = asked()[-1:] if kind == 2 else []
    stream = last[0].stream if last else chance.getrandbits(64)
    offset = max(0, last[0].offset - 5000) if last else 0
    try:
        return encode_block(Block(stream=stream, offset=offset, total=offset + 4000, data=bytes(4000)))
    except RefusedError:
        return b""
