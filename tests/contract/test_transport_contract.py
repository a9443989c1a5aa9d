"""`server.ports.Transport` over both brokers: delivery, reconnection, and what happens while the broker is away."""

import asyncio
import contextlib
import gc
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from firmware.errors import UnavailableError
from firmware.protocol import topics
from firmware.protocol.topics import Leaf
from server.identity.authority import Authorities
from server.ports import Transport
from server.transport.backlog import Backlog
from server.transport.broker import RunningBroker, start_broker
from server.transport.endpoint import BrokerEndpoint
from server.transport.mqtt import AiomqttTransport, Pauses
from tests.brokers import (
    DEADLINE_S,
    KINDS,
    A,
    B,
    Yard,
    authorities,
    broker,
    next_message,
    skip_without,
    soon,
    until,
    yard,
)

__all__ = ["authorities", "broker", "yard"]

REPORT = topics.of_target(A, A, Leaf.REPORT)
QUICK = Pauses(first_s=0.02, longest_s=0.1)


leaks_in_paho = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""paho leaves a socket whose handshake failed to the garbage collector."""


class Inbox:
    """Keeps what the transport hands over; breaks on the payload `break`."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []

    async def __call__(self, topic: str, payload: bytes, retained: bool) -> None:
        self.messages.append((topic, payload, retained))
        if payload == b"break":
            raise RuntimeError("this handler is broken")

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload, _ in self.messages]


@asynccontextmanager
async def running(transport: AiomqttTransport) -> AsyncIterator[AsyncIterator[int]]:
    """Run a transport; gives its connections, the first of which has been waited for."""
    task = asyncio.create_task(transport.run())
    connections = transport.connections()
    assert await soon(anext(connections)) == 1
    try:
        yield connections
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


async def test_it_is_a_transport(yard: Yard) -> None:
    transport: Transport = AiomqttTransport(yard.broker.services, Inbox())
    assert not transport.connected
    async with running(transport):  # type: ignore[arg-type]
        assert transport.connected
    assert not transport.connected


async def test_each_link_is_told_before_anything_comes_over_it(yard: Yard) -> None:
    inbox, seen = Inbox(), list[int]()

    async def on_link() -> None:
        seen.append(len(inbox.messages))

    async with yard.connected(A) as agent:
        await agent.publish(topics.presence(A), b"online", qos=1, retain=True)
    async with running(AiomqttTransport(yard.broker.services, inbox, on_link=on_link)):
        await until(lambda: inbox.payloads == [b"online"])
    assert seen == [0]


async def test_it_connects_only_when_it_may(yard: Yard) -> None:
    answers = [True, False, False]
    async with running(AiomqttTransport(yard.broker.services, Inbox(), may_connect=answers.pop, pauses=QUICK)):
        assert answers == []


async def test_messages_arrive_in_order_with_their_retained_flag(yard: Yard) -> None:
    inbox = Inbox()
    async with yard.connected(A) as agent:
        await agent.publish(topics.presence(A), b"online", qos=1, retain=True)
        async with running(AiomqttTransport(yard.broker.services, inbox)):
            await until(lambda: len(inbox.messages) == 1)
            for number in range(50):
                await agent.publish(REPORT, str(number).encode(), qos=1)
            await until(lambda: len(inbox.messages) == 51)
    assert inbox.messages[0] == (topics.presence(A), b"online", True)
    assert inbox.messages[1:] == [(REPORT, str(number).encode(), False) for number in range(50)]


async def test_a_published_order_reaches_its_agent_and_stays_retained(yard: Yard) -> None:
    order = topics.of_target(A, A, Leaf.ORDER)
    transport = AiomqttTransport(yard.broker.services, Inbox())
    async with running(transport):
        await transport.publish(order, b"install", retain=True)
        async with yard.connected(A) as agent:
            await agent.subscribe(order, qos=1)
            message = await next_message(agent)
            assert (message.payload, message.retain, message.qos) == (b"install", True, 1)


async def test_an_empty_retained_message_clears(yard: Yard) -> None:
    order = topics.of_target(A, A, Leaf.ORDER)
    transport = AiomqttTransport(yard.broker.services, Inbox())
    async with running(transport), yard.connected(A) as agent:
        await transport.publish(order, b"install", retain=True)
        await transport.publish(order, b"", retain=True)
        await agent.subscribe(order, qos=1)
        await transport.publish(order, b"after")
        assert (await next_message(agent)).payload == b"after"


async def test_a_failing_handler_is_logged_and_not_fatal(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    async with running(AiomqttTransport(yard.broker.services, inbox)), yard.connected(A) as agent:
        await agent.publish(REPORT, b"break", qos=1)
        await agent.publish(REPORT, b"next", qos=1)
        await until(lambda: inbox.payloads == [b"break", b"next"])
    assert "this handler is broken" in caplog.text


async def test_an_oversized_payload_is_dropped_with_a_line(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    backlog = Backlog(max_messages=100, max_bytes=1 << 20, max_payload_bytes=1000)
    transport = AiomqttTransport(yard.broker.services, inbox, backlog=backlog)
    async with running(transport), yard.connected(A) as agent:
        await agent.publish(REPORT, bytes(1001), qos=1)
        await agent.publish(REPORT, bytes(1000), qos=1)
        await until(lambda: bool(inbox.messages))
    assert [len(payload) for payload in inbox.payloads] == [1000]
    assert "1001 bytes" in caplog.text


async def test_publishing_while_the_broker_is_down_raises_and_it_comes_back(
    yard: Yard, authorities: Authorities, tmp_path: Path
) -> None:
    """kill -9 of the broker, and another one on the same ports, as after a restart of the machine."""
    inbox = Inbox()
    transport = AiomqttTransport(yard.broker.services, inbox, pauses=QUICK)
    async with running(transport) as connections:
        os.kill(yard.broker.pid, signal.SIGKILL)
        await until(lambda: not transport.connected)
        with pytest.raises(UnavailableError) as caught:
            await transport.publish(REPORT, b"lost")
        assert caught.value.kind == "broker-unreachable"
        await yard.broker.stop()
        again = await start_broker(tmp_path / "broker", authorities, kind=yard.broker.kind, restart=False)  # type: ignore[arg-type]
        try:
            assert again.ports == yard.broker.ports
            assert await soon(anext(connections)) == 2
            async with yard.connected(A) as agent:
                await agent.publish(REPORT, b"after", qos=1)
                await until(lambda: inbox.payloads == [b"after"])
            await transport.publish(topics.CATALOGUE, b"ring")
        finally:
            await again.stop()


async def test_what_is_sent_without_waiting_arrives_in_order_and_is_refused_without_a_link(
    yard: Yard,
) -> None:
    transport = AiomqttTransport(yard.broker.services, Inbox(), pauses=QUICK)
    with pytest.raises(UnavailableError):
        transport.send(topics.of_target(A, A, Leaf.ACK), b"early")
    async with running(transport), yard.connected(A) as agent:
        await agent.subscribe([(topic, 1) for topic in topics.for_agent(A)])
        for number in range(500):
            transport.send(topics.of_target(A, A, Leaf.ACK), b"%d" % number)
        heard = [await next_message(agent) for _ in range(500)]
    assert [message.payload for message in heard] == [b"%d" % number for number in range(500)]


async def test_a_publish_under_way_when_the_broker_dies_raises_at_once(yard: Yard) -> None:
    transport = AiomqttTransport(yard.broker.services, Inbox(), pauses=QUICK)
    async with running(transport):
        os.kill(yard.broker.pid, signal.SIGSTOP)  # takes the message and never answers
        publishing = asyncio.create_task(transport.publish(REPORT, b"lost"))
        await asyncio.sleep(0.05)
        assert not publishing.done()
        os.kill(yard.broker.pid, signal.SIGKILL)
        with pytest.raises(UnavailableError):
            await soon(publishing, deadline_s=3)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_killed_broker_is_started_again_on_its_ports(
    kind: str, authorities: Authorities, tmp_path: Path
) -> None:
    skip_without(kind)
    running_broker = await start_broker(tmp_path / "broker", authorities, kind=kind)  # type: ignore[arg-type]
    try:
        async with running(AiomqttTransport(running_broker.services, Inbox(), pauses=QUICK)) as connections:
            first = running_broker.pid
            os.kill(first, signal.SIGKILL)
            assert await soon(anext(connections)) == 2
            assert (running_broker.pid != first, running_broker.restarts) == (True, 1)
    finally:
        await running_broker.stop()


@pytest.mark.parametrize(("kind", "count"), [("mosquitto", 10_000), ("embedded", 2_000)])
async def test_every_retained_order_reaches_one_new_subscriber(
    kind: str, count: int, authorities: Authorities, tmp_path: Path
) -> None:
    """Mosquitto's default queue keeps 1,000 of them."""
    skip_without(kind)
    started = await start_broker(tmp_path / "broker", authorities, kind=kind, restart=False)  # type: ignore[arg-type]
    yard = Yard(broker=started, authorities=authorities, directory=tmp_path)
    try:
        async with yard.server() as server:
            filling = bytes(4000 if kind == "embedded" else 100)  # about what an order has
            names = [f"d-{number:010d}" for number in range(count)]
            for start in range(0, count, 500):
                await asyncio.gather(
                    *(
                        server.publish(
                            topics.of_target(name, name, Leaf.ORDER), name.encode() + filling, qos=1, retain=True
                        )
                        for name in names[start : start + 500]
                    )
                )
        got: set[bytes] = set()
        async with yard.server() as fresh:
            await fresh.subscribe(f"{topics.ROOT}/+/+/t/+/{Leaf.ORDER}", qos=1)
            while len(got) < count:
                got.add((await next_message(fresh)).payload)  # type: ignore[arg-type]
    finally:
        await started.stop()


async def test_two_listeners_of_connections_both_see_each(yard: Yard) -> None:
    transport = AiomqttTransport(yard.broker.services, Inbox())
    async with running(transport):
        assert await soon(anext(transport.connections())) == 1
        assert await soon(anext(transport.connections())) == 1


@leaks_in_paho
async def test_a_refused_certificate_is_reported_and_tried_again(
    broker: RunningBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = Authorities.open_or_create(tmp_path / "foreign")
    endpoint = BrokerEndpoint(host=broker.host, port=broker.ports.services, tls=foreign.mqtt_client)
    transport = AiomqttTransport(endpoint, Inbox(), pauses=QUICK)
    task = asyncio.create_task(transport.run())
    await until(lambda: caplog.text.count("certificate verify failed") >= 2)
    assert not transport.connected
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gc.collect()


async def test_cancelling_while_the_broker_hangs_ends_it(yard: Yard) -> None:
    """Saying goodbye to a broker that does not answer must not turn the cancellation into a reconnection."""
    transport = AiomqttTransport(yard.broker.services, Inbox(), pauses=QUICK, answer_timeout_s=0.3)
    task = asyncio.create_task(transport.run())
    await soon(anext(transport.connections()))
    os.kill(yard.broker.pid, signal.SIGSTOP)
    stuck = [asyncio.create_task(transport.publish(REPORT, bytes(120_000))) for _ in range(80)]
    await asyncio.sleep(0.1)  # the socket is full, so the goodbye cannot be written
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    os.kill(yard.broker.pid, signal.SIGKILL)
    assert task.cancelled()
    outcomes = await asyncio.gather(*stuck, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {UnavailableError}


async def test_a_broker_that_never_answers_is_hung_up_on(authorities: Authorities) -> None:
    """Every try that times out closes its socket; hours of an absent broker must not use up the file descriptors."""
    ended: asyncio.Queue[None] = asyncio.Queue()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        ended.put_nowait(None)
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = authorities.broker_for_services
    context.load_cert_chain(files.certificate, files.key)
    server = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    async with server:
        endpoint = BrokerEndpoint(
            host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls=authorities.mqtt_client
        )
        task = asyncio.create_task(AiomqttTransport(endpoint, Inbox(), pauses=QUICK, answer_timeout_s=0.2).run())
        await soon(ended.get())
        await soon(ended.get())
        task.cancel()
        await asyncio.wait({task}, timeout=DEADLINE_S)
        assert task.cancelled()


async def test_a_cancellation_that_is_lost_on_the_way_still_ends_it(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11's `wait_for` swallows one that comes together with its result, and aiomqtt waits with it."""
    subscribe = AiomqttTransport._subscribe

    async def losing(transport: AiomqttTransport, client: aiomqtt.Client) -> None:
        await subscribe(transport, client)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(DEADLINE_S)

    monkeypatch.setattr(AiomqttTransport, "_subscribe", losing)
    task = asyncio.create_task(AiomqttTransport(yard.broker.services, Inbox()).run())
    done, _ = await asyncio.wait({task}, timeout=DEADLINE_S)
    assert done
    assert task.cancelled()


@leaks_in_paho
async def test_cancelling_while_it_connects_ends_it(authorities: Authorities) -> None:
    arrived: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    silent = await asyncio.start_server(lambda reader, writer: arrived.put_nowait(writer), "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        endpoint = BrokerEndpoint(host="127.0.0.1", port=port, tls=authorities.mqtt_client)
        task = asyncio.create_task(AiomqttTransport(endpoint, Inbox()).run())
        half_open = await soon(arrived.get())
        task.cancel()
        half_open.close()
        await asyncio.wait({task}, timeout=10)
        assert task.cancelled()
    gc.collect()


async def test_a_slow_handler_loses_the_newest_beyond_the_bound_and_nothing_else(yard: Yard) -> None:
    """The bound holds; end-to-end acks bring back what is dropped here."""
    gate, got = asyncio.Event(), []

    async def slow(topic: str, payload: bytes, retained: bool) -> None:
        await gate.wait()
        got.append(payload)

    backlog = Backlog(max_messages=10, max_bytes=1 << 20, max_payload_bytes=1000)
    async with running(AiomqttTransport(yard.broker.services, slow, backlog=backlog)), yard.connected(B) as agent:
        for number in range(30):
            await agent.publish(topics.of_target(B, B, Leaf.REPORT), str(number).encode(), qos=1)
        await until(lambda: backlog.dropped + len(backlog) == 29)  # and one is with the handler
        gate.set()
        await until(lambda: len(got) == 30 - backlog.dropped)
    assert got == [str(number).encode() for number in range(len(got))]
    assert 10 <= len(got) < 30
