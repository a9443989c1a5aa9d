"""What a hostile broker does with what it hears: says it again, changes it, gives it to others, and makes some up."""

import json
import random
import time
from collections.abc import Sequence

from firmware.protocol import topics
from firmware.protocol.topics import Leaf
from simulator.wire.scene import Scene

REPLAYS = 200
"""Messages of an episode that are misused, at most."""


class Mischief:
    """`misused`: how many messages so far."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.misused = 0
        self._scene = scene
        self._chances = random.Random(seed)  # noqa: S311 - what happens, not secrets

    def be_hostile(self, for_s: float) -> None:
        """Listen for a while, then say again, change, misdirect and make up."""
        eve = self._scene.broker.eve()
        try:
            time.sleep(for_s)
            seen = list(eve.seen)
            for message in self._chances.sample(seen, min(REPLAYS, len(seen))):
                eve.publish(*misused(message.topic, message.payload, self._chances, self._targets))
            self.misused += min(REPLAYS, len(seen))
        finally:
            eve.close()

    @property
    def _targets(self) -> Sequence[str]:
        return list(self._scene.crew.targets.values())[:50]


def misused(topic: str, payload: bytes, chances: random.Random, targets: Sequence[str]) -> tuple[str, bytes]:
    """What becomes of a message that passed: the topic and payload that are said in its place."""
    kind = chances.randrange(4)
    if topic == topics.CATALOGUE:
        return topic, json.dumps({"made": "up", "n": chances.randrange(1 << 30)}).encode()
    if kind == 0:
        return topic, payload
    if kind == 1:
        return topic, _changed(payload, chances)
    if kind == 2:
        return _elsewhere(topic, targets), payload
    return topic, b"\xff{" * 40


def _changed(payload: bytes, chances: random.Random) -> bytes:
    """With one byte of it another one."""
    if not payload:
        return b"{}"
    place = chances.randrange(len(payload))
    return payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]


def _elsewhere(topic: str, targets: Sequence[str]) -> str:
    """The same leaf of another device."""
    leaf = topic.rpartition("/")[2]
    other = targets[len(topic) % len(targets)]
    return topics.presence(other) if leaf == Leaf.PRESENCE else topics.of_target(other, other, Leaf(leaf))
