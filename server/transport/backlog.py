"""What waits between the socket and whoever handles messages: bounded in messages and bytes.

Beyond the bounds new messages are dropped and counted. That is safe: reports are resent until a signed ack names them,
and everything else is a hint. A message larger than any of ours is dropped on its own account.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Received:
    """A message as it came: nothing about it is trusted. `retained`: the broker had it stored."""

    topic: str
    payload: bytes
    retained: bool


class Backlog:
    """A bounded queue for one event loop: `offer` never blocks, `take` waits."""

    def __init__(self, *, max_messages: int, max_bytes: int, max_payload_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._max_payload_bytes = max_payload_bytes
        self._waiting: deque[Received] = deque()
        self._filled = asyncio.Event()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, message: Received) -> bool:
        """Queue a message; False when it was dropped."""
        size = len(message.payload)
        if size > self._max_payload_bytes:
            return self._drop(message, f"it has {size} bytes and {self._max_payload_bytes} are allowed")
        if len(self._waiting) >= self._max_messages or self._bytes + size > self._max_bytes:
            return self._drop(message, "too many messages wait; its sender will send it again")
        self._waiting.append(message)
        self._bytes += size
        self._filled.set()
        return True

    async def take(self) -> Received:
        """The oldest message; waits for one."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        message = self._waiting.popleft()
        self._bytes -= len(message.payload)
        return message

    def _drop(self, message: Received, why: str) -> bool:
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # the 1st, 2nd, 4th, …: a flood must not flood the log
            logger.warning("dropped a message on %.200r: %s (%d dropped so far)", message.topic, why, self.dropped)
        return False
