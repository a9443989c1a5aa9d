"""What a background part of the server does again and again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from firmware.errors import OtariaError


async def forever(settle: Callable[[], Awaitable[object]], every_s: float, log: logging.Logger, what: str) -> None:
    """Call `settle` and wait `every_s` seconds, until cancelled. A typed error is logged as "`what` wait", and the next round
    tries again; any other is raised."""
    while True:
        try:
            await settle()
        except OtariaError as error:
            log.error("%s wait: %s", what, error, extra={"kind": error.kind})
        await asyncio.sleep(every_s)
