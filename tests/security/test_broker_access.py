"""What one agent can do to another through the broker: nothing. On Mosquitto and on the embedded broker.

A refusal is invisible in MQTT 3.1.1 (the broker acknowledges and drops), so each test sends, after the attack and on the same
connection, something that is allowed, and looks at what came before it.
"""

import asyncio
import contextlib
import ssl
from pathlib import Path

import aiomqtt
import pytest

from firmware.protocol import topics
from firmware.protocol.topics import Leaf
from server.identity.authority import MQTT_IDENTITY, Authorities, TlsFiles
from server.transport.mqtt import AiomqttTransport
from tests.brokers import A, B, Yard, authorities, broker, client_context, next_message, soon, until, yard

__all__ = ["authorities", "broker", "yard"]

ORDER_A, ORDER_B = topics.of_target(A, A, Leaf.ORDER), topics.of_target(B, B, Leaf.ORDER)
EVERYTHING = f"{topics.ROOT}/#"


async def test_an_agent_cannot_read_another_agents_topics(yard: Yard) -> None:
    async with yard.server() as server, yard.connected(A) as attacker:
        await attacker.subscribe([(ORDER_B, 1), (f"{topics.ROOT}/+/{B}/#", 1), (f"{topics.ROOT}/+/+/t/+/order", 1)])
        await attacker.subscribe([(topic, 1) for topic in topics.for_agent(A)])
        for leaf in (Leaf.ORDER, Leaf.PERMIT, Leaf.ACK, Leaf.REPORT, Leaf.INVENTORY):
            await server.publish(topics.of_target(B, B, leaf), b"secret", qos=1, retain=True)
        await server.publish(topics.presence(B), b"secret", qos=1, retain=True)
        await server.publish(ORDER_A, b"mine", qos=1)
        assert (await next_message(attacker)).payload == b"mine"


async def test_an_agent_that_subscribes_to_everything_gets_only_its_own(yard: Yard) -> None:
    async with yard.server() as server, yard.connected(A) as attacker:
        await server.publish(ORDER_B, b"retained secret", qos=1, retain=True)
        for wildcard in ("#", EVERYTHING, "+/#", f"{topics.ROOT}/+/+/presence", "$SYS/#"):
            granted = await attacker.subscribe(wildcard, qos=1)
            if yard.broker.kind == "embedded":  # Mosquitto grants it and filters what is delivered
                assert [int(getattr(code, "value", code)) for code in granted] == [0x80]
        await attacker.subscribe(ORDER_A, qos=1)
        await server.publish(ORDER_B, b"secret", qos=1)
        await server.publish(ORDER_A, b"mine", qos=1)
        assert (await next_message(attacker)).payload == b"mine"


async def test_an_agent_cannot_publish_on_another_agents_topics(yard: Yard) -> None:
    async with yard.server() as server, yard.connected(A) as attacker:
        await server.subscribe(EVERYTHING, qos=1)
        for leaf in Leaf:
            if leaf is not Leaf.PRESENCE:
                await attacker.publish(topics.of_target(B, B, leaf), b"forged", qos=1, retain=True)
        await attacker.publish(topics.presence(B), b"forged", qos=1, retain=True)
        await attacker.publish(topics.CATALOGUE, b"forged", qos=1, retain=True)
        await attacker.publish(topics.of_target(A, A, Leaf.REPORT), b"mine", qos=1)
        assert (await next_message(server)).payload == b"mine"


async def test_an_agent_cannot_publish_orders_or_acks_even_on_its_own_topics(yard: Yard) -> None:
    async with yard.server() as server, yard.connected(A) as agent:
        await server.subscribe(EVERYTHING, qos=1)
        for leaf in sorted(topics.SENT_BY_SERVER):
            await agent.publish(topics.of_target(A, A, leaf), b"forged", qos=1, retain=True)
        await agent.publish(topics.presence(A), b"mine", qos=1)
        assert (await next_message(server)).payload == b"mine"


async def test_a_report_under_a_foreign_shard_never_reaches_the_handler(yard: Yard) -> None:
    got: list[tuple[str, bytes]] = []

    async def on_message(topic: str, payload: bytes, retained: bool) -> None:
        got.append((topic, payload))

    transport = AiomqttTransport(yard.broker.services, on_message)
    running = asyncio.create_task(transport.run())
    await soon(anext(transport.connections()))
    own = topics.of_target(A, A, Leaf.REPORT)
    shard = topics.shard_of(A)
    foreign = own.replace(f"/{shard}/", f"/{'00' if shard != '00' else '01'}/")
    async with yard.connected(A) as agent:
        await agent.publish(foreign, b"forged", qos=1)
        await agent.publish(own, b"mine", qos=1)
        await until(lambda: bool(got))
    assert got == [(own, b"mine")]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_last_will_cannot_be_planted_on_another_agents_presence(yard: Yard) -> None:
    will = aiomqtt.Will(topics.presence(B), b"forged", qos=1, retain=True)
    async with yard.server() as server:
        await server.subscribe(EVERYTHING, qos=1)
        with contextlib.suppress(aiomqtt.MqttError):  # the embedded broker refuses the connection itself
            async with yard.connected(A, will=will) as attacker:
                await drop(attacker)
        async with yard.connected(A) as agent:
            await agent.publish(topics.presence(A), b"mine", qos=1)
        assert (await next_message(server)).payload == b"mine"
    async with yard.server() as late:
        await late.subscribe(EVERYTHING, qos=1)
        await late.publish(ORDER_A, b"no forged presence was retained", qos=1)
        assert (await next_message(late)).payload == b"no forged presence was retained"


async def test_an_agents_own_last_will_is_published_when_it_dies(yard: Yard) -> None:
    will = aiomqtt.Will(topics.presence(A), b"offline", qos=1, retain=True)
    async with yard.server() as server:
        await server.subscribe(topics.FROM_AGENTS[0], qos=1)
        async with yard.connected(A, will=will) as agent:
            await agent.publish(topics.presence(A), b"online", qos=1, retain=True)
            assert (await next_message(server)).payload == b"online"
            await drop(agent)
            assert (await next_message(server)).payload == b"offline"


async def test_an_agent_cannot_kick_another_by_its_client_id(yard: Yard) -> None:
    async with yard.server() as server, yard.connected(B) as victim:
        await victim.subscribe([(topic, 1) for topic in topics.for_agent(B)])
        for stolen in (B, MQTT_IDENTITY):
            with contextlib.suppress(aiomqtt.MqttError):
                async with yard.connected(A, identifier=stolen) as attacker:
                    await attacker.publish(topics.of_target(A, A, Leaf.REPORT), b"x", qos=1)
        await server.publish(ORDER_B, b"still here", qos=1)
        assert (await next_message(victim)).payload == b"still here"
        await victim.publish(topics.of_target(B, B, Leaf.REPORT), b"and speaking", qos=1)


async def test_a_client_id_gives_no_rights(yard: Yard) -> None:
    async with yard.server() as server:
        await server.subscribe(EVERYTHING, qos=1)
        with contextlib.suppress(aiomqtt.MqttError):
            async with yard.connected(A, identifier=B, username=MQTT_IDENTITY, password="x") as attacker:
                await attacker.publish(topics.of_target(B, B, Leaf.REPORT), b"forged", qos=1)
        async with yard.connected(A) as agent:
            await agent.publish(topics.of_target(A, A, Leaf.REPORT), b"mine", qos=1)
        assert (await next_message(server)).payload == b"mine"


async def test_a_retained_order_reaches_only_its_target(yard: Yard) -> None:
    async with yard.server() as server, yard.connected(B) as other:
        await server.subscribe(EVERYTHING, qos=1)
        await other.subscribe([(topic, 1) for topic in topics.for_agent(B)])
        await server.publish(ORDER_A, b"for A", qos=1, retain=True)
        await server.publish(ORDER_B, b"for B", qos=1, retain=True)
        assert (await next_message(other)).payload == b"for B"
        async with yard.connected(A) as agent:
            # Connected and not subscribed: what others subscribed to must not come here.
            await agent.publish(topics.presence(A), b"on", qos=1)
            await agent.subscribe([(topic, 1) for topic in topics.for_agent(A)])
            message = await next_message(agent)
            assert (message.topic.value, message.payload, message.retain) == (ORDER_A, b"for A", True)
            await server.publish(ORDER_A, b"and nothing in between", qos=1)
            assert (await next_message(agent)).payload == b"and nothing in between"


async def test_a_second_connection_of_one_identity_ends_the_first_and_receives(yard: Yard) -> None:
    async with yard.server() as server, yard.connected(A) as first:
        await first.subscribe(ORDER_A, qos=1)
        async with yard.connected(A) as second:
            await second.subscribe(ORDER_A, qos=1)
            await server.publish(ORDER_A, b"to the second", qos=1)
            assert (await next_message(second)).payload == b"to the second"
            with pytest.raises(aiomqtt.MqttError):
                await next_message(first)


async def test_agents_may_read_the_doorbell(yard: Yard) -> None:
    async with yard.server() as server, yard.connected(A) as agent:
        await server.publish(topics.CATALOGUE, b"ring", qos=1, retain=True)
        await agent.subscribe(topics.CATALOGUE, qos=1)
        assert (await next_message(agent)).payload == b"ring"


async def test_no_client_without_a_certificate(yard: Yard) -> None:
    for port in (yard.broker.ports.agents, yard.broker.ports.services):
        context = ssl.create_default_context(cafile=yard.authorities.services_ca_file)
        assert await refused(yard, port, context)


async def test_certificates_of_a_foreign_installation_are_refused(yard: Yard, tmp_path: Path) -> None:
    foreign = Authorities.open_or_create(tmp_path / "foreign")
    agent = yard.agent_files(A, by=foreign)
    assert await refused(yard, yard.broker.ports.agents, client_context(agent))
    assert await refused(yard, yard.broker.ports.services, client_context(_trusting(yard, foreign.mqtt_client)))


async def test_an_agents_certificate_does_not_open_the_services_listener(yard: Yard) -> None:
    assert await refused(yard, yard.broker.ports.services, client_context(yard.agent_files(A)))


async def test_the_servers_certificate_does_not_open_the_agents_listener(yard: Yard) -> None:
    assert await refused(yard, yard.broker.ports.agents, client_context(yard.authorities.mqtt_client))


async def test_a_server_certificate_is_no_client_certificate(yard: Yard) -> None:
    """The broker's own certificate is signed by the services CA too, but only for servers."""
    assert await refused(yard, yard.broker.ports.services, client_context(yard.authorities.broker_for_services))


async def test_the_own_certificate_is_not_refused(yard: Yard) -> None:
    """The tests above would pass on a broker that refuses everybody."""
    assert not await refused(yard, yard.broker.ports.agents, client_context(yard.agent_files(A)))
    assert not await refused(
        yard, yard.broker.ports.services, client_context(yard.authorities.mqtt_client), MQTT_IDENTITY
    )


async def test_an_oversized_message_does_not_pass(yard: Yard) -> None:
    async with yard.server() as server:
        await server.subscribe(EVERYTHING, qos=1)
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            async with yard.connected(A) as agent:
                await asyncio.wait_for(agent.publish(topics.of_target(A, A, Leaf.REPORT), bytes(200_000), qos=1), 2)
        async with yard.connected(A) as agent:
            await agent.publish(topics.of_target(A, A, Leaf.REPORT), b"mine", qos=1)
        assert (await next_message(server)).payload == b"mine"


async def refused(yard: Yard, port: int, context: ssl.SSLContext, identifier: str = A) -> bool:
    """Whether a client with this TLS context is turned away: it gets no CONNACK that accepts it."""
    try:
        reader, writer = await asyncio.open_connection(yard.broker.host, port, ssl=context)
    except OSError:
        return True
    try:
        writer.write(connect_packet(identifier))
        return await soon(reader.readexactly(4)) != b"\x20\x02\x00\x00"
    except (OSError, asyncio.IncompleteReadError):
        return True
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def connect_packet(identifier: str) -> bytes:
    """An MQTT 3.1.1 CONNECT with a clean session and a minute of keep-alive."""
    name = identifier.encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(name).to_bytes(2, "big") + name
    return bytes([0x10, len(body)]) + body


async def drop(client: aiomqtt.Client) -> None:
    """Cut the connection without a DISCONNECT, as a power cut does."""
    socket = client._client.socket()
    assert socket is not None
    socket.shutdown(2)


def _trusting(yard: Yard, files: TlsFiles) -> TlsFiles:
    return TlsFiles(ca=yard.authorities.services_ca_file, certificate=files.certificate, key=files.key)
