"""Acks: what agents wait for, signed once their reports are on the disk, and sent without waiting for the broker.

An ack waits nowhere. One that is lost, because the server dies here, the broker is away or the director's key can't be used, is
made again when its report comes again; so it needs no row of its own, and no transaction.
"""

import asyncio
import logging
from collections.abc import Sequence

from firmware.errors import OtariaError
from firmware.protocol.report import Ack
from firmware.protocol.topics import Leaf, of_target
from server.campaigns.director import Director
from server.ports import Transport

_log = logging.getLogger(__name__)


class Acks:
    """Signs and sends."""

    def __init__(self, director: Director, transport: Transport) -> None:
        self._director = director
        self._transport = transport

    async def send(self, acks: Sequence[Ack]) -> None:
        """Send acks of reports that are committed. Never raises: what goes wrong is told in the log."""
        if not acks or not self._transport.connected:
            return
        try:
            signed = await asyncio.to_thread(self._signed, acks)
            for topic, envelope in signed:
                self._transport.send(topic, envelope)
        except OtariaError as error:
            _log.warning("acks are not sent now: %s", error, extra={"kind": error.kind})

    def _signed(self, acks: Sequence[Ack]) -> list[tuple[str, bytes]]:
        return [(of_target(ack.agent, ack.target, Leaf.ACK), self._director.sign_ack(ack)) for ack in acks]
