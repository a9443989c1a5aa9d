"""What a stranger, or an agent that was taken over, would try on a broker; each attempt says whether it was refused.

Two made-up agents with certificates of the fleet, and the server's own name, try everything from outside: no line of the
broker's configuration is believed. Honest use is tried as well, or a broker that refuses everybody would pass.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from firmware.protocol import topics
from firmware.protocol.topics import Leaf
from server.identity.authority import DAY_S, FLEET_NAME, MQTT_IDENTITY, Authorities, TlsFiles
from server.identity.certificates import CLIENT_AUTH, Authority, LeafProfile, issue, make_authority, new_key
from server.identity.private_files import key_pem, write_private
from server.identity.secrets import new_id
from server.transport.endpoint import BrokerEndpoint
from server.transport.mosquitto import MAX_PACKET_BYTES
from server.transport.probe import Door, LostError, Probe, Way, connected, knock
from server.transport.tls import tls_context

WILL_S = 0.5
PATIENCE_S = 0.5
FLOOD_PIECE_BYTES = 100 * 1024
_SERVER_TOPICS = tuple(sorted(topics.SENT_BY_SERVER))
_AGENT_TOPICS = tuple(sorted(topics.SENT_BY_AGENT - {Leaf.PRESENCE}))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One attempt. `good`: it ended as it must. `outcome`: `refused`, `got through`, `works`, `fails`, or `not tried`."""

    name: str
    outcome: str
    detail: str = ""

    @property
    def good(self) -> bool:
        return self.outcome in ("refused", "works", "not tried")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a broker listens. `others`: ports of listeners that it has besides. `revokes`: the serial that it was told to
    revoke; None where it was told of none. `flood_bytes`: what it must refuse to keep; None: not to be tried."""

    host: str
    agents_port: int
    services_port: int
    others: tuple[int, ...] = ()
    revokes: int | None = None
    flood_bytes: int | None = None


class Attempts:
    """Tries everything on one broker; its files stay in `directory`, which the caller removes."""

    def __init__(self, authorities: Authorities, place: Place, directory: Path) -> None:
        self._authorities, self._place, self._directory = authorities, place, directory
        self._a, self._b = new_id("d"), new_id("d")
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def all(self) -> list[Finding]:
        """Every finding; those of one kind together. The flood comes last."""
        findings = await self._honest()
        if not all(one.good for one in findings):
            return findings
        findings += await self._doors()
        for name, attempt in self._inside():
            findings.append(await _tried(name, attempt))
        return findings

    async def _honest(self) -> list[Finding]:
        ways = (("an agent with its own certificate", self._agent(self._a)), ("the server", self._server()))
        found = []
        for name, way in ways:
            door = await knock(way)
            found.append(Finding(name=name, outcome="works" if door is Door.OPEN else "fails", detail=str(door)))
        if all(one.good for one in found):
            found.append(await _tried("an order, a report and the doorbell", self._exchange, good="works", bad="fails"))
        return found

    async def _exchange(self) -> str:
        """What agent and server send each other must arrive; returns what does not."""
        report, order = topics.of_target(self._a, self._a, Leaf.REPORT), topics.of_target(self._a, self._a, Leaf.ORDER)
        async with connected(self._server()) as server, connected(self._agent(self._a)) as agent:
            await server.subscribe(f"{topics.ROOT}/#")
            await agent.subscribe(order, topics.CATALOGUE)
            sent = [await agent.may_publish(report, b"mine")]
            sent += [await server.may_publish(order, b"yours"), await server.may_publish(topics.CATALOGUE, b"ring")]
            heard = (report, b"mine") in await server.settle()
            told = {(order, b"yours"), (topics.CATALOGUE, b"ring")} <= set(await agent.settle())
        return "" if all(sent) and heard and told else "something that must pass did not arrive"

    async def _doors(self) -> list[Finding]:
        """Ways in that TLS itself must shut: whoever is turned away behind it has already spoken MQTT."""
        place, made = self._place, self._made
        stranger = make_authority(FLEET_NAME, self._authorities.clock(), new_key())
        old = self._authorities.clock() - 10 * DAY_S
        trusting, broker = self._authorities.mqtt_client, self._authorities.broker_for_services
        agents, services = place.agents_port, place.services_port
        tries: list[tuple[str, int, ssl.SSLContext | None]] = [
            *((f"no TLS, port {port}", port, None) for port in (agents, services, *place.others)),
            *((f"no certificate, port {port}", port, self._bare()) for port in (agents, services, *place.others)),
            ("a certificate of a foreign CA", agents, made("foreign", by=stranger)),
            ("a foreign CA on the services' listener", services, made("foreign-server", MQTT_IDENTITY, by=stranger)),
            ("an expired certificate", agents, made("expired", at=old)),
            ("the server's certificate on the agents' listener", agents, _context(trusting, place)),
            ("an agent's certificate on the services' listener", services, made("agent")),
            ("the broker's own certificate as a client's", services, _context(broker, place)),
        ]
        if place.revokes is not None:
            tries.append(("a revoked certificate", agents, made("revoked", serial=place.revokes)))
        found = list(await asyncio.gather(*(self._door(name, port, context) for name, port, context in tries)))
        if place.revokes is None:
            text = "only a trial can revoke one for it"
            found.append(Finding(name="a revoked certificate", outcome="not tried", detail=text))
        return found

    async def _door(self, name: str, port: int, context: ssl.SSLContext | None) -> Finding:
        way = Way(host=self._place.host, port=port, context=context, name=self._a)
        door = await knock(way, patience_s=PATIENCE_S)
        outcome = "refused" if door is Door.SHUT else "got through"
        detail = "TLS let it in; only the broker behind it turned it away" if door is Door.TURNED_AWAY else ""
        return Finding(name=name, outcome=outcome, detail=detail)

    def _inside(self) -> Sequence[tuple[str, Callable[[], Awaitable[str]] | None]]:
        """What an agent with a good certificate would try. An attempt returns what got through."""
        a, b = self._a, self._b
        return (
            ("the client id of another agent", self._steals_name),
            ("the client id of the server", self._steals_servers_name),
            ("reports of another agent", self._publishes(*(topics.of_target(b, b, leaf) for leaf in _AGENT_TOPICS))),
            ("presence of another agent", self._publishes(topics.presence(b))),
            ("orders to another agent", self._publishes(*(topics.of_target(b, b, leaf) for leaf in _SERVER_TOPICS))),
            ("orders to itself", self._publishes(*(topics.of_target(a, a, leaf) for leaf in _SERVER_TOPICS))),
            ("the doorbell", self._publishes(topics.CATALOGUE)),
            ("topics that are not ours", self._publishes("made/up", "otaria", "$SYS/broker/x", f"{topics.ROOT}/x")),
            ("a last will in another agent's name", self._leaves_will),
            (
                "a wildcard subscription",
                self._listens("#", f"{topics.ROOT}/#", "+/+/+/+/#", f"$share/x/{topics.ROOT}/#"),
            ),
            ("another agent's topics", self._listens(*_all_of(b))),
            ("$SYS", self._reads_sys),
            ("an oversized message", self._sends_much),
            ("a flood of retained messages", self._floods if self._place.flood_bytes else None),
        )

    async def _steals_name(self) -> str:
        async with connected(self._agent(self._a)) as owner:
            thief = await knock(self._agent(self._b, asking_for=self._a))
            return "" if await owner.is_alive() else f"the other lost its connection ({thief})"

    async def _steals_servers_name(self) -> str:
        async with connected(self._server()) as owner:
            await knock(self._agent(self._b, asking_for=MQTT_IDENTITY))
            return "" if await owner.is_alive() else "the server lost its connection"

    def _publishes(self, *wanted: str) -> Callable[[], Awaitable[str]]:
        async def attempt() -> str:
            left, through = list(wanted), []
            while left:
                with contextlib.suppress(
                    LostError
                ):  # one that ends the connection has refused, and the next is tried anew
                    async with connected(self._agent(self._a)) as thief:
                        while left:
                            topic = left.pop()
                            if await thief.may_publish(topic):
                                through.append(topic)
            return ", ".join(sorted(through))

        return attempt

    async def _leaves_will(self) -> str:
        topic = topics.presence(self._b)
        async with connected(self._server()) as server:
            await server.subscribe(topic)
            try:
                async with connected(self._agent(self._a), will=topic) as thief:
                    thief.cut()
            except LostError:
                return ""
            await asyncio.sleep(WILL_S)
            return topic if await server.settle() else ""

    def _listens(self, *filters: str) -> Callable[[], Awaitable[str]]:
        async def attempt() -> str:
            async with connected(self._agent(self._a)) as thief, connected(self._agent(self._b)) as victim:
                await _try_all(thief, filters)
                async with connected(self._server()) as server:
                    for topic in _all_of(self._b):
                        speaker = server if topic.rpartition("/")[2] in _SERVER_TOPICS else victim
                        await speaker.may_publish(topic)
                return _foreign(await thief.settle(), self._b)

        return attempt

    async def _reads_sys(self) -> str:
        async with connected(self._agent(self._a)) as thief:
            await _try_all(thief, ("$SYS/#",))
            await asyncio.sleep(WILL_S)
            return ", ".join(sorted({topic for topic, _ in await thief.settle()})[:3])

    async def _sends_much(self) -> str:
        topic = topics.of_target(self._a, self._a, Leaf.REPORT)
        async with connected(self._agent(self._a)) as thief:
            passed = await thief.may_publish(topic, bytes(MAX_PACKET_BYTES + 1024))
        return f"{MAX_PACKET_BYTES // 1024 + 1} KiB" if passed else ""

    async def _floods(self) -> str:
        """Keep messages in ever more topics of one's own; the broker must stop that before it has taken twice its limit."""
        taken, most = 0, 2 * (self._place.flood_bytes or 0)
        async with connected(self._agent(self._a)) as thief:
            while taken < most:
                topic = topics.of_target(self._a, f"x{taken}", Leaf.REPORT)
                if not await thief.may_publish(topic, bytes(FLOOD_PIECE_BYTES), retain=True):
                    return ""
                taken += FLOOD_PIECE_BYTES
        return f"{taken >> 20} MiB were kept"

    def _agent(self, name: str, *, asking_for: str = "") -> Way:
        if name not in self._contexts:
            self._contexts[name] = self._made(f"{name}-own", name)
        return Way(
            host=self._place.host,
            port=self._place.agents_port,
            context=self._contexts[name],
            name=asking_for or name,
        )

    def _server(self) -> Way:
        context = _context(self._authorities.mqtt_client, self._place)
        return Way(host=self._place.host, port=self._place.services_port, context=context, name=MQTT_IDENTITY)

    def _bare(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._authorities.services_ca_file)

    def _made(
        self,
        stem: str,
        name: str = "",
        *,
        by: Authority | None = None,
        at: float | None = None,
        serial: int | None = None,
    ) -> ssl.SSLContext:
        """The TLS of a client with a new key and a certificate for a day."""
        key, files = new_key(), self._files(stem)
        profile = LeafProfile(common_name=name or self._a, use=CLIENT_AUTH, days=1)
        pem = issue(
            by or self._authorities.fleet,
            key.public_key(),
            profile,
            now=self._authorities.clock() if at is None else at,
            serial=serial or x509.random_serial_number(),
        )
        write_private(files.certificate, pem)
        write_private(files.key, key_pem(key))
        return _context(files, self._place)

    def _files(self, stem: str) -> TlsFiles:
        return TlsFiles(
            ca=self._authorities.services_ca_file,
            certificate=self._directory / f"{stem}.pem",
            key=self._directory / f"{stem}.key",
        )


async def _tried(
    name: str, attempt: Callable[[], Awaitable[str]] | None, *, good: str = "refused", bad: str = "got through"
) -> Finding:
    """Whose connection the broker ends has been refused."""
    if attempt is None:
        return Finding(name=name, outcome="not tried", detail="it would fill a broker that others use")
    try:
        through = await attempt()
    except LostError as error:
        through = str(error) or "no answer" if bad == "fails" else ""
    return Finding(name=name, outcome=bad if through else good, detail=through)


async def _try_all(thief: Probe, filters: Sequence[str]) -> None:
    for one in filters:
        await thief.subscribe(one)


def _all_of(agent: str) -> list[str]:
    """Every topic of an agent."""
    return [
        topics.presence(agent),
        *(topics.of_target(agent, agent, leaf) for leaf in (*_AGENT_TOPICS, *_SERVER_TOPICS)),
    ]


def _foreign(received: Sequence[tuple[str, bytes]], victim: str) -> str:
    return ", ".join(sorted({topic for topic, _ in received if f"/{victim}/" in topic}))


def _context(files: TlsFiles, place: Place) -> ssl.SSLContext:
    return tls_context(BrokerEndpoint(host=place.host, port=place.agents_port, tls=files))
