"""The parts of the transport that need no broker: access rules, configuration, backlog, pauses, leash, ports."""

import asyncio
import logging
import os
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol import topics
from firmware.protocol.topics import Leaf
from server.identity.authority import MQTT_IDENTITY, Authorities, TlsFiles
from server.transport import access
from server.transport.backlog import Backlog, Received
from server.transport.broker import start_broker
from server.transport.embedded import GuardedBroker, broker_config, main
from server.transport.embedded_config import EmbeddedConfig, EmbeddedListener, encode_config, parse_config
from server.transport.mosquitto import Listener, mosquitto_access_list, mosquitto_config
from server.transport.mqtt import Pauses
from tests.brokers import A, B, authorities, until

__all__ = ["authorities"]

FILES = TlsFiles(ca=Path("/x/ca.pem"), certificate=Path("/x/c.pem"), key=Path("/x/k.pem"))
agent_ids = st.from_regex(r"d-[a-z2-7]{10}", fullmatch=True)
levels = st.sampled_from(
    ["otaria", "v1", "+", "#", "t", A, B, topics.shard_of(A), topics.shard_of(B), *map(str, Leaf), "", "$SYS"]
)


@given(agent_ids, agent_ids)
def test_an_agent_may_do_exactly_what_its_topics_say(me: str, other: str) -> None:
    assert all(access.may_subscribe(me, topic) for topic in topics.for_agent(me))
    for leaf in Leaf:
        topic = topics.presence(me) if leaf is Leaf.PRESENCE else topics.of_target(me, me, leaf)
        assert access.may_publish(me, topic) == (leaf in topics.SENT_BY_AGENT)
        assert access.may_receive(me, topic) == access.may_subscribe(me, topic) == (leaf in topics.SENT_BY_SERVER)
        foreign = topics.presence(other) if leaf is Leaf.PRESENCE else topics.of_target(other, other, leaf)
        if other != me:
            assert not access.may_publish(me, foreign)
            assert not access.may_subscribe(me, foreign)
            assert not access.may_receive(me, foreign)


@given(st.lists(levels, min_size=1, max_size=9).map("/".join))
def test_whatever_an_agent_may_subscribe_matches_only_what_it_may_receive(topic_filter: str) -> None:
    if access.may_subscribe(A, topic_filter):
        assert topic_filter == topics.CATALOGUE or f"/{topics.shard_of(A)}/{A}/t/" in topic_filter
        assert "#" not in topic_filter
        assert topic_filter.count("+") <= 1
    assert not access.may_subscribe(A, topic_filter.replace(A, B).replace(topics.CATALOGUE, "x"))


def test_a_foreign_shard_is_not_mine_to_publish_on() -> None:
    own = topics.of_target(A, A, Leaf.REPORT)
    assert access.may_publish(A, own)
    assert not access.may_publish(A, own.replace(f"/{topics.shard_of(A)}/", f"/{topics.shard_of(B)}/"))


def test_the_server_may_everything_of_ours_and_nothing_else() -> None:
    assert access.may_subscribe(MQTT_IDENTITY, topics.FROM_AGENTS[0])
    assert access.may_publish(MQTT_IDENTITY, topics.CATALOGUE)
    for topic in ("$SYS/broker", "#", "otaria/v2/x", "other"):
        assert not access.may_publish(MQTT_IDENTITY, topic)
        assert not access.may_subscribe(MQTT_IDENTITY, topic)
    assert not access.is_agent(MQTT_IDENTITY)


def config(**changes: Any) -> str:
    listener = Listener(port=8883, tls=FILES, max_connections=10)
    values: dict[str, Any] = {
        "bind": "127.0.0.1",
        "agents": listener,
        "services": replace(listener, port=8884),
        "access_list": Path("/x/acl"),
        "log": Path("/x/log"),
        "user": "otaria",
        **changes,
    }
    return mosquitto_config(**values)


def test_mosquittos_configuration_demands_certificates_on_every_listener() -> None:
    lines = config().splitlines()
    listeners = [line for line in lines if line.startswith("listener ")]
    assert listeners == ["listener 8883 127.0.0.1", "listener 8884 127.0.0.1"]
    for needed in ("require_certificate true", "use_identity_as_username true", "use_username_as_clientid true"):
        assert lines.count(needed) == 2
    assert "allow_anonymous false" in lines
    assert "per_listener_settings false" in lines


@pytest.mark.parametrize(
    "wrong",
    [
        {"bind": "127.0.0.1\nallow_anonymous true"},
        {"bind": ""},
        {"access_list": Path("/x\nallow_anonymous true")},
        {"log": Path("/x\r/log")},
        {"user": "a\nb"},
        {"user": ""},
        {"agents": Listener(port=0, tls=FILES, max_connections=1)},
        {"agents": Listener(port=1, tls=replace(FILES, key=Path("/k\nuser root")), max_connections=1)},
    ],
)
def test_nothing_can_be_smuggled_into_mosquittos_configuration(wrong: dict[str, object]) -> None:
    with pytest.raises(RefusedError) as caught:
        config(**wrong)
    assert caught.value.kind == "bad-broker-setting"


def test_mosquittos_access_list_gives_agents_only_their_own_subtree() -> None:
    patterns = [line for line in mosquitto_access_list().splitlines() if line.startswith("pattern")]
    assert len(patterns) == 1 + len(topics.SENT_BY_AGENT) + len(topics.SENT_BY_SERVER)
    assert all("/%u/" in line or line == f"pattern read {topics.CATALOGUE}" for line in patterns)
    assert not [line for line in patterns if "#" in line or "readwrite" in line]


@pytest.mark.parametrize("bind", ["0.0.0.0", "192.0.2.1", "::", "", "localhost"])
async def test_the_embedded_broker_listens_on_loopback_only(
    bind: str, authorities: Authorities, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = authorities.broker_for_agents
    listener = EmbeddedListener.of(8883, files)
    with pytest.raises(RefusedError) as caught:
        parse_config(encode_config(EmbeddedConfig(bind=bind, agents=listener, services=listener)))
    assert caught.value.kind == "bad-broker-setting"
    with pytest.raises(RefusedError) as caught:
        await start_broker(tmp_path / "broker", authorities, kind="embedded", listen=bind)
    assert caught.value.kind == "bad-broker-setting"
    path = tmp_path / "config.json"
    path.write_bytes(encode_config(EmbeddedConfig(bind=bind, agents=listener, services=listener)))
    assert main([str(path)]) == 1
    assert "does not listen" in capsys.readouterr().err


def test_the_embedded_broker_demands_a_certificate_in_the_handshake(authorities: Authorities) -> None:
    listener = EmbeddedListener.of(8883, authorities.broker_for_agents)
    config = broker_config(EmbeddedConfig(bind="127.0.0.1", agents=listener, services=listener))
    for settings in config.listeners.values():
        context = GuardedBroker._create_ssl_context(settings)
        assert (context.verify_mode, settings.ssl) == (ssl.CERT_REQUIRED, True)


async def test_a_taken_port_is_a_clear_error(authorities: Authorities, tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with taken:
        port = taken.sockets[0].getsockname()[1]
        with pytest.raises(UnavailableError) as caught:
            await start_broker(tmp_path, authorities, kind="embedded", agents_port=port, services_port=port)
    assert caught.value.kind == "broker-failed"
    assert str(tmp_path / "broker.log") in caught.value.text


async def test_a_damaged_ports_file_costs_new_ports_and_no_start(authorities: Authorities, tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{")
    broker = await start_broker(tmp_path, authorities, kind="embedded")
    await broker.stop()
    again = await start_broker(tmp_path, authorities, kind="embedded")
    await again.stop()
    assert again.ports == broker.ports


async def test_the_broker_dies_with_the_process_that_started_it(authorities: Authorities, tmp_path: Path) -> None:
    """kill -9 of the server must leave no broker that holds its ports."""
    code = (
        "import asyncio, sys, pathlib\n"
        "from server.identity.authority import Authorities\n"
        "from server.transport.broker import start_broker\n"
        "async def main():\n"
        "    root = pathlib.Path(sys.argv[1])\n"
        "    broker = await start_broker(root / 'broker', Authorities.open_or_create(root / 'identity'))\n"
        "    print(broker.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    pid = int(await asyncio.wait_for(server.stdout.readline(), 30))
    assert is_running(pid)
    server.kill()
    await server.wait()
    await until(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_leash_does_nothing_when_the_parent_is_gone_already() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server.transport.leash", "1" if os.getpid() != 1 else "2", "/bin/echo", "alive"],
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.stdout == b""


def received(payload: bytes) -> Received:
    return Received(topic="t", payload=payload, retained=False)


async def test_a_backlog_is_bounded_in_messages_and_bytes(caplog: pytest.LogCaptureFixture) -> None:
    backlog = Backlog(max_messages=3, max_bytes=10, max_payload_bytes=8)
    assert not backlog.offer(received(bytes(9)))
    assert backlog.offer(received(bytes(8)))
    assert not backlog.offer(received(bytes(3)))
    assert backlog.offer(received(b"a"))
    assert backlog.offer(received(b"b"))
    assert not backlog.offer(received(b""))
    assert [len((await backlog.take()).payload) for _ in range(3)] == [8, 1, 1]
    assert (len(backlog), backlog.dropped) == (0, 3)
    assert backlog.offer(received(bytes(8)))


async def test_a_flood_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    backlog = Backlog(max_messages=0, max_bytes=10, max_payload_bytes=8)
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            backlog.offer(received(b"x"))
    assert backlog.dropped == 1000
    assert len(caplog.records) == 10


async def test_taking_waits_for_an_offer() -> None:
    backlog = Backlog(max_messages=3, max_bytes=10, max_payload_bytes=8)
    taking = asyncio.create_task(backlog.take())
    await asyncio.sleep(0)
    backlog.offer(received(b"x"))
    assert (await asyncio.wait_for(taking, 5)).payload == b"x"


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_are_jittered_and_bounded(attempt: int, chance: float) -> None:
    pauses = Pauses(first_s=0.2, longest_s=15.0)
    assert 0 < pauses.before(attempt, chance) <= 15.0
    assert pauses.before(attempt + 1, chance) >= pauses.before(attempt, chance)
    assert pauses.before(attempt, 0.0) < pauses.before(attempt, 0.9)
