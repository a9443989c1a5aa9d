"""Signed reports taken in, verified, stored, acked and decided on, against merely receiving the same messages."""

import asyncio
import tempfile
import time
from functools import partial
from pathlib import Path

import aiomqtt

from bench.ingest_fleet import Message, Server, reporting_fleet
from bench.measure import in_turns
from bench.mosquitto import HOST, bare_mosquitto
from bench.plan import Plan
from bench.result import Outcome, Skipped, against_peer
from server.transport.broker import find_mosquitto

ROUNDS, DEVICES = 3, 200
RECEIVER, SENDER = "bench-receiver", "bench-sender"
PEER = "bare aiomqtt receiving them from Mosquitto"


def ingest(plan: Plan) -> list[Outcome]:
    """Reports per second."""
    mosquitto = find_mosquitto()
    if mosquitto is None:
        return [Skipped(name="ingest.reports", reason="Its peer, Mosquitto, is missing: apt-get install mosquitto")]
    messages: list[Message] = []
    ours = partial(_ours, plan.scratch, plan.size(DEVICES), messages)
    mine, theirs = in_turns(plan.rounds(ROUNDS), ours, lambda: _theirs(mosquitto, plan.scratch, messages))
    return [against_peer("ingest.reports", "per s", "higher", mine, PEER, theirs)]


def _ours(scratch: Path, devices: int, messages: list[Message]) -> float:
    """Through a fresh server; leaves the messages for the peer."""

    async def handle() -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            server = Server(Path(directory) / "otaria.db")
            try:
                messages[:] = await reporting_fleet(server, devices)
                return len(messages) / await server.handle(messages)
            finally:
                await server.database.close()

    return asyncio.run(handle())


def _theirs(mosquitto: Path, scratch: Path, messages: list[Message]) -> float:
    """A subscriber that finds them queued, so that nobody else works while it receives."""

    async def receive() -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as directory, bare_mosquitto(mosquitto, Path(directory)) as port:
            async with _client(port, RECEIVER) as client:
                await client.subscribe("#", qos=1)
            async with _client(port, SENDER) as client:
                for topic, payload in messages:
                    await client.publish(topic, payload, qos=1)
            began, left = time.perf_counter(), len(messages)
            async with _client(port, RECEIVER) as client:
                async for _ in client.messages:
                    left -= 1
                    if not left:
                        break
            return len(messages) / (time.perf_counter() - began)

    return asyncio.run(receive())


def _client(port: int, name: str) -> aiomqtt.Client:
    return aiomqtt.Client(HOST, port, identifier=name, clean_session=False)
