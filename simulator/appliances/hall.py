"""Emulated boxes on a loop and thread of their own, for whoever is not asyncio."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import asyncssh

from simulator.appliances.box import Box
from simulator.appliances.server import BoxServer


@contextmanager
def powered(boxes: Sequence[Box]) -> Iterator[list[BoxServer]]:
    """These boxes, up, each at a port of the loopback."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="boxes", daemon=True)
    thread.start()
    servers = [BoxServer(box, key) for box in boxes]

    async def start() -> None:
        await asyncio.gather(*(server.start() for server in servers))

    async def stop() -> None:
        await asyncio.gather(*(server.stop() for server in servers))

    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(60)
        yield servers
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
