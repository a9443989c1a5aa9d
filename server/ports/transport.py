"""The broker."""

from collections.abc import AsyncIterator
from typing import Protocol


class Transport(Protocol):
    """The broker as the server sees it. Reconnects by itself."""

    async def run(self) -> None:
        """Connect, subscribe, hand every message to the callback given at construction; until cancelled."""
        ...

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """QoS 1; returns once the broker took it. Raises `UnavailableError` while there is no connection."""
        ...

    def send(self, topic: str, payload: bytes) -> None:
        """QoS 0, without waiting for anybody: it may be lost. Raises `UnavailableError` when it is not on its way: there is no
        connection, or too much waits."""
        ...

    @property
    def connected(self) -> bool: ...
    def connections(self) -> AsyncIterator[int]:
        """Yields the number of each new connection (1, 2, …): the moment to republish what the broker may have lost."""
        ...
