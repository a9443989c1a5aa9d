"""Ending an agent's session and keeping it out, on both brokers."""

import asyncio
import contextlib

import aiomqtt
import pytest
from cryptography import x509

from firmware.errors import UnavailableError
from firmware.protocol import topics
from server.identity.authority import Authorities
from server.identity.private_files import write_private
from server.transport.broker import RunningBroker
from server.transport.takeover import Takeover
from tests.brokers import A, B, Yard, authorities, broker, soon, yard

__all__ = ["authorities", "broker", "yard"]


async def is_lost(client: aiomqtt.Client) -> bool:
    """Whether the connection ends by itself, and soon."""
    try:
        await soon(anext(client.messages), deadline_s=10.0)
    except (aiomqtt.MqttError, StopAsyncIteration):
        return True
    except TimeoutError:
        return False
    return False


async def gets_in(yard: Yard, agent: str) -> bool:
    try:
        async with asyncio.timeout(10.0), yard.connected(agent) as client:
            await client.subscribe([(topic, 1) for topic in topics.for_agent(agent)])
    except (aiomqtt.MqttError, TimeoutError):
        return False
    return True


async def test_the_session_ends_and_the_agent_may_come_back(
    broker: RunningBroker, yard: Yard, authorities: Authorities
) -> None:
    takeover = Takeover(broker.host, broker.ports.agents, authorities)
    async with yard.connected(B) as bystander:
        with contextlib.suppress(aiomqtt.MqttError):  # it can't say good-bye any more
            async with yard.connected(A) as client:
                await takeover.end_session(A)
                assert await is_lost(client)
        await bystander.publish(topics.presence(B), b"{}", qos=1)
    assert await gets_in(yard, A)
    assert not list(authorities.directory.glob(".takeover-*"))


async def test_a_revoked_certificate_is_refused_once_the_broker_has_read_the_list(
    broker: RunningBroker, yard: Yard, authorities: Authorities
) -> None:
    certificate = yard.agent_files(A).certificate.read_bytes()
    yard.agent_files(B)
    assert await gets_in(yard, A)
    write_private(authorities.revocation_file, authorities.revocation_lists([_serial(certificate)]))
    broker.reload()
    await until_refused(yard)
    assert await gets_in(yard, B)
    await Takeover(broker.host, broker.ports.agents, authorities).end_session(A)  # the server still can


async def until_refused(yard: Yard) -> None:
    for _ in range(10):
        if not await gets_in(yard, A):
            return
        await asyncio.sleep(0.2)
    raise AssertionError("the revoked certificate still opens the broker")


async def test_a_broker_that_is_away_is_told_apart(broker: RunningBroker, authorities: Authorities) -> None:
    await broker.stop()
    with pytest.raises(UnavailableError) as caught:
        await Takeover(broker.host, broker.ports.agents, authorities).end_session(A)
    assert caught.value.kind == "broker-unreachable"


def _serial(pem: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"
