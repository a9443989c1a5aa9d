"""The agent's link on both brokers, over TLS with the agent's own certificate."""

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest_asyncio

from device_agent.identity import SERVICES_CA_FILE, TLS_CERTIFICATE_FILE, TLS_KEY_FILE
from device_agent.ports import Incoming
from device_agent.runtime import presence_messages
from device_agent.transport.mqtt import Broker, MqttLink, Will
from device_agent.transport.tls import client_context
from firmware.protocol import topics
from server.identity.authority import Authorities
from server.transport.broker import RunningBroker
from tests.brokers import A, Yard, authorities, broker, next_message, until, yard

__all__ = ["authorities", "broker", "yard"]
FAR_FUTURE = 1 << 40


def directory_of(yard: Yard, folder: Path) -> Path:
    """An agent's directory as enrolment leaves it."""
    files = yard.agent_files(A)
    folder.mkdir()
    for name, source in (
        (SERVICES_CA_FILE, files.ca),
        (TLS_CERTIFICATE_FILE, files.certificate),
        (TLS_KEY_FILE, files.key),
    ):
        (folder / name).write_bytes(source.read_bytes())
    return folder


@dataclass
class Ears:
    """What a link told."""

    messages: queue.Queue[Incoming] = field(default_factory=queue.Queue)
    up: list[bool] = field(default_factory=list)


@dataclass
class Linked:
    link: MqttLink
    ears: Ears


def make_link(
    running: RunningBroker,
    directory: Path,
    *,
    trusted_time: float = 0.0,
    port: int | None = None,
    longest_s: float = 0.2,
) -> MqttLink:
    topic, _, will = presence_messages(A, "session-1")
    place = Broker(
        host=running.host, port=port or running.ports.agents, reconnect_min_s=0.05, reconnect_max_s=longest_s
    )
    return MqttLink(place, A, Will(topic=topic, payload=will), tls=client_context(directory, lambda: trusted_time))


@pytest_asyncio.fixture
async def linked(yard: Yard, tmp_path: Path) -> AsyncIterator[Linked]:
    link, ears = make_link(yard.broker, directory_of(yard, tmp_path / "agent")), Ears()
    link.start(ears.messages.put, ears.up.append)
    await until(lambda: ears.up == [True])
    yield Linked(link=link, ears=ears)
    await asyncio.to_thread(link.stop)


async def test_agent_hears_its_orders_and_the_doorbell(linked: Linked, yard: Yard) -> None:
    async with yard.server() as server:
        await server.publish(topics.of_target(A, A, topics.Leaf.ORDER), b"order", qos=1, retain=True)
        await server.publish(topics.CATALOGUE, b"ding", qos=1, retain=True)
        await until(lambda: linked.ears.messages.qsize() == 2)
    heard = {message.leaf: message for message in (linked.ears.messages.get(), linked.ears.messages.get())}
    assert heard["order"] == Incoming(leaf="order", target=A, payload=b"order")
    assert heard["catalogue"] == Incoming(leaf="catalogue", target=None, payload=b"ding")


async def test_agent_is_heard_and_its_will_speaks_after_it(linked: Linked, yard: Yard) -> None:
    async with yard.server() as server:
        await server.subscribe(topics.of_target(A, A, topics.Leaf.REPORT), qos=1)
        await server.subscribe(topics.presence(A), qos=1)
        assert linked.link.publish(topics.of_target(A, A, topics.Leaf.REPORT), b"report", qos=1)
        first = await next_message(server)
        assert first.payload == b"report"
        drop(linked.link)
        second = await next_message(server)
    assert second.payload == presence_messages(A, "session-1")[2]


async def test_agent_that_is_stopped_says_that_it_is_gone(linked: Linked, yard: Yard) -> None:
    async with yard.server() as server:
        await server.subscribe(topics.presence(A), qos=1)
        await asyncio.to_thread(linked.link.stop)
        assert (await next_message(server)).payload == presence_messages(A, "session-1")[2]


async def test_link_comes_back_by_itself_and_says_so(linked: Linked) -> None:
    drop(linked.link)
    await until(lambda: linked.ears.up == [True, False, True])


async def test_link_outlives_what_breaks_on_its_thread(yard: Yard, tmp_path: Path) -> None:
    link, ears = make_link(yard.broker, directory_of(yard, tmp_path / "agent")), Ears()

    def breaks_once(message: Incoming) -> None:
        ears.messages.put(message)
        if ears.messages.qsize() == 1:
            raise RuntimeError("something nobody thought of")

    link.start(breaks_once, ears.up.append)
    await until(lambda: ears.up == [True])
    async with yard.server() as server:
        await server.publish(topics.of_target(A, A, topics.Leaf.ORDER), b"order", qos=1, retain=True)
        await until(lambda: ears.messages.qsize() >= 2)
    assert ears.up == [True, False, True]
    await asyncio.to_thread(link.stop)


async def test_what_breaks_the_link_again_and_again_is_met_ever_more_slowly(yard: Yard, tmp_path: Path) -> None:
    """A retained message may be what breaks it, so that connections follow each other."""
    link, ears = make_link(yard.broker, directory_of(yard, tmp_path / "agent"), longest_s=60.0), Ears()

    def breaks(message: Incoming) -> None:
        ears.messages.put(message)
        raise RuntimeError("something nobody thought of")

    async with yard.server() as server:
        await server.publish(topics.of_target(A, A, topics.Leaf.ORDER), b"order", qos=1, retain=True)
    link.start(breaks, ears.up.append)
    await until(lambda: ears.messages.qsize() >= 3)
    await asyncio.sleep(2)
    assert ears.messages.qsize() <= 8, "0.05 s, then twice as long each time"
    await asyncio.to_thread(link.stop)


async def test_nothing_is_published_while_there_is_no_broker(yard: Yard, tmp_path: Path) -> None:
    link, ears = make_link(yard.broker, directory_of(yard, tmp_path / "agent"), port=1), Ears()
    link.start(ears.messages.put, ears.up.append)
    assert not link.publish(topics.presence(A), b"x", qos=1)
    await asyncio.to_thread(link.stop)
    assert ears.up == []


async def test_broker_with_a_certificate_that_is_over_is_refused(yard: Yard, tmp_path: Path) -> None:
    link, ears = make_link(yard.broker, directory_of(yard, tmp_path / "agent"), trusted_time=FAR_FUTURE), Ears()
    link.start(ears.messages.put, ears.up.append)
    await asyncio.sleep(0.5)  # several tries: none may succeed
    assert ears.up == []
    await asyncio.to_thread(link.stop)


async def test_broker_of_another_installation_is_refused(yard: Yard, tmp_path: Path) -> None:
    directory = directory_of(yard, tmp_path / "agent")
    foreign = Authorities.open_or_create(tmp_path / "foreign")
    (directory / SERVICES_CA_FILE).write_bytes(foreign.services_ca_file.read_bytes())
    link, ears = make_link(yard.broker, directory), Ears()
    link.start(ears.messages.put, ears.up.append)
    await asyncio.sleep(0.5)  # several tries: none may succeed
    assert ears.up == []
    await asyncio.to_thread(link.stop)


def drop(link: MqttLink) -> None:
    """Cut the connection under the link, without a goodbye."""
    socket = link._client.socket()
    assert socket is not None
    with contextlib.suppress(OSError):
        socket.shutdown(2)


async def test_several_threads_may_publish_over_one_connection(linked: Linked, yard: Yard) -> None:
    """While orders come in, too: only the loop's own thread may touch the socket, or TLS breaks."""

    def talk() -> None:
        for _ in range(200):
            linked.link.publish(topics.of_target(A, A, topics.Leaf.REPORT), bytes(4000), qos=0)

    async with yard.server() as server:

        async def orders() -> None:
            for number in range(100):
                await server.publish(topics.of_target(A, A, topics.Leaf.ORDER), bytes([number]) * 2000, qos=1)

        await asyncio.gather(orders(), *(asyncio.to_thread(talk) for _ in range(4)))
        await until(lambda: linked.ears.messages.qsize() == 100)
    assert linked.ears.up == [True]
