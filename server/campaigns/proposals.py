"""Proposals: drafts that bring targets back from a release that became suspect after its campaign. Only people start them.

What is to be proposed is in rows, so a server that dies goes on where it was. Making one deals all its targets; so it is done
apart from the planner's turns.
"""

import asyncio
import logging
from typing import Protocol

from firmware.errors import OtariaError

LOOK_EVERY_S = 10.0
log = logging.getLogger(__name__)


class Proposer(Protocol):
    """Makes the drafts that are due; how many campaigns it looked at."""

    async def propose(self) -> int: ...


class Proposals:
    """Keep `run` running."""

    def __init__(self, proposer: Proposer, *, every_s: float = LOOK_EVERY_S) -> None:
        self._proposer = proposer
        self._every_s = every_s

    async def run(self) -> None:
        """Propose what is due until cancelled."""
        while True:
            try:
                while await self._proposer.propose():
                    pass
            except OtariaError as error:
                log.error("proposals wait: %s", error, extra={"kind": error.kind})
            await asyncio.sleep(self._every_s)
