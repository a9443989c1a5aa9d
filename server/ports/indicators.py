"""Service level indicators."""

from typing import Protocol


class SliPort(Protocol):
    """Service level indicators of a monitoring system, by the names that the server's configuration gives them."""

    async def read(self, name: str) -> float:
        """The indicator's value now.

        Raises `RefusedError` (`sli-unknown`, `sli-unusable`) or `UnavailableError` (`sli-unavailable`).
        """
        ...
