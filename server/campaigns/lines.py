"""Messages that wait to be taken in: a line for each agent, served in turns.

Rules
- The order within an agent is kept. Who floods waits behind itself alone: whoever has one message waiting is in the next batch.
- All lines together are bounded. When they are full, who has more than an equal share loses its newest message, which it will
  send again; anybody else's waits for room, and so slows the broker down to what the disk can take.
- A word of progress gives its place to the next one behind it, and is not taken at all while the lines are half full: it is
  unsigned, shown to people, and moves nothing.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from firmware.protocol.topics import Leaf


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A message as it came, and the agent whose topic it is (empty for a topic that is not ours)."""

    agent: str
    topic: str
    payload: bytes
    retained: bool

    @property
    def is_hint(self) -> bool:
        """Whether it says nothing that is signed."""
        return b'"payloadType"' not in self.payload

    @property
    def is_presence(self) -> bool:
        """Whether it says that the agent came or went, which is said once."""
        return bool(self.agent) and self.is_hint and self.topic.endswith(Leaf.PRESENCE)


class Lines:
    """For one event loop. `limit`: messages in all lines."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: dict[str, deque[Raw]] = {}
        self._turns: deque[str] = deque()
        self._number = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return self._number

    async def put(self, raw: Raw) -> bool:
        """Stand in line, once there is room; False when it may not."""
        while self._number >= self._limit:
            line = self._lines.get(raw.agent)
            if raw.is_hint or (line is not None and len(line) * len(self._lines) > self._limit):
                return False
            self._room.clear()
            await self._room.wait()
        line = self._lines.get(raw.agent)
        if raw.is_hint:
            if line and line[-1].topic == raw.topic and line[-1].is_hint:
                line[-1] = raw
                return True
            if self._number * 2 >= self._limit and raw.topic.endswith(Leaf.REPORT):
                return False
        if line is None:
            line = self._lines[raw.agent] = deque()
            self._turns.append(raw.agent)
        line.append(raw)
        self._number += 1
        self._filled.set()
        return True

    def take(self, limit: int) -> list[Raw]:
        """The next of everybody in turns, so many at most."""
        taken: list[Raw] = []
        while self._turns and len(taken) < limit:
            agent = self._turns.popleft()
            line = self._lines[agent]
            taken.append(line.popleft())
            if line:
                self._turns.append(agent)
            else:
                del self._lines[agent]
        self._number -= len(taken)
        if self._number < self._limit:
            self._room.set()
        return taken

    async def wait(self) -> None:
        """Until somebody stands in line."""
        while not self._number:
            self._filled.clear()
            await self._filled.wait()
