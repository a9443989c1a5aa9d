"""What hostile devices of a process are handed of the others, as if they had overheard it."""

from collections import deque
from itertools import count

from firmware.protocol.topics import Leaf

KEPT = 200


class Grapevine:
    """What attackers of a process are handed: everybody's names, and the last that was signed. `liars`: counts those who lie."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.liars = count()
        self.said: deque[tuple[str, bytes]] = deque(maxlen=KEPT)

    def hear(self, topic: str, payload: bytes) -> None:
        """A device says something."""
        if topic.endswith(Leaf.REPORT) and b'"payloadType"' in payload:
            self.said.append((topic, payload))
