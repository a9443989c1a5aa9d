"""A broker in memory, between real agents and the real server core: `server.ports.Transport` on one side, cables on the other.

Rules
- It does what MQTT 3.1.1 does for clean sessions: what is published reaches who is subscribed and connected, in order; retained
  messages are kept, and come to who connects; a last will is said once a connection is found to be dead, or taken over.
- It forgets its retained messages when it is killed.
- Each side hears what the other said in a call of its own, never within the call that published.
- Who may publish, subscribe to and receive what is decided by the product's own function (`server.transport.access`), by the name
  in a device's certificate. What isn't allowed is taken and dropped, as MQTT 3.1.1 has it; `refused` counts it.
- While it stands still nothing passes and nobody gets a connection; what it was sent meanwhile comes after, in its order.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol import topics
from firmware.protocol.codec import convert, parse_json
from firmware.protocol.report import Presence
from server.transport import access
from simulator.exact.timeline import Timeline
from simulator.exact.trace import Trace

DEAD_AFTER_S = 90.0
"""One and a half times the keepalive: so long a connection that says nothing is taken to live."""
SERVER = "server"
Heard = tuple[str, bytes, bool]


class Broker:
    """`heard`: what waits for the server; `on_heard` is told when there is something. `listeners` are told each message."""

    def __init__(self, timeline: Timeline, trace: Trace, on_heard: Callable[[], None]) -> None:
        self.heard: list[Heard] = []
        self.listeners: list[Callable[[str, bytes], None]] = []
        self.refused: Counter[str] = Counter()
        self.is_up = True
        self.waits_s: Callable[[], float] = lambda: 0.0
        """For how long it stands still yet."""
        self._timeline, self._trace, self._on_heard = timeline, trace, on_heard
        self._unread: deque[tuple[str, bytes, bool, str]] = deque()
        self._passes = False
        self._sessions: dict[str, Cable] = {}
        self._curious: dict[str, Cable] = {}
        """Those who subscribed to more than their own, and may."""
        self._retained: defaultdict[str, dict[str, bytes]] = defaultdict(dict)

    # The server's side

    @property
    def connected(self) -> bool:
        return self.is_up

    async def run(self) -> None:
        """The run hands over what is heard."""
        await asyncio.Event().wait()

    async def connections(self) -> AsyncIterator[int]:
        """The run says when to publish again."""
        await asyncio.Event().wait()
        yield 0

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._from_server(topic, payload, retain)

    def send(self, topic: str, payload: bytes) -> None:
        self._from_server(topic, payload, False)

    def _from_server(self, topic: str, payload: bytes, retain: bool) -> None:
        if not self.is_up:
            raise UnavailableError("broker-unreachable", "There is no connection.")
        self.inject(topic, payload, retain=retain, who=SERVER)

    def take(self) -> list[Heard]:
        """What the server has not heard yet."""
        heard, self.heard = self.heard, []
        return heard

    # Everybody's

    def inject(self, topic: str, payload: bytes, *, retain: bool = False, who: str) -> None:
        """Somebody publishes. What a listener says while it is told of a message passes before that."""
        if self._passes:
            self._pass(topic, payload, retain, who)
            return
        self._unread.append((topic, payload, retain, who))
        self.go_on()

    def go_on(self) -> None:
        """Pass on what it was sent, in its order, unless it stands still; then once it goes again."""
        if (wait_s := self.waits_s()) > 0:
            self._timeline.later(self._timeline.now() + wait_s, self.go_on)
            return
        self._passes = True
        while self._unread:
            self._pass(*self._unread.popleft())
        self._passes = False

    def _pass(self, topic: str, payload: bytes, retain: bool, who: str) -> None:
        if not self.is_up:
            return
        leaf = topic.rpartition("/")[2]
        agent = "" if topic == topics.CATALOGUE else _agent(topic)
        self._trace.message(self._timeline.now(), who, leaf, agent, payload)
        for listen in self.listeners:
            listen(topic, payload)
        if retain:
            self._keep(agent, topic, payload)
        if leaf in topics.SENT_BY_AGENT:
            self.heard.append((topic, payload, False))
            self._on_heard()
        elif leaf in topics.SENT_BY_SERVER or topic == topics.CATALOGUE:
            for session in [*self._sessions.values()] if not agent else self._of(agent):
                session.hear(topic, payload)
        for session in self._curious.values():
            if session.is_up and agent != session.name and session.listens_to(topic):
                session.hear(topic, payload)

    def _keep(self, agent: str, topic: str, payload: bytes) -> None:
        if payload:
            self._retained[agent][topic] = payload
        else:
            self._retained[agent].pop(topic, None)

    def _of(self, agent: str) -> "list[Cable]":
        session = self._sessions.get(agent)
        return [session] if session is not None else []

    # Devices' side

    def say(self, name: str, topic: str, payload: bytes, *, retain: bool) -> None:
        """A device publishes."""
        if access.may_publish(name, topic):
            self.inject(topic, payload, retain=retain, who=name)
        else:
            self.refused["broker: may not publish"] += 1
            self._trace.message(self._timeline.now(), name, "refused", "", payload)

    def welcome(self, cable: "Cable") -> None:
        """A device's connection is made; an older one of its name is taken over."""
        old = self._sessions.pop(cable.name, None)
        if old is not None:
            self._say_will(old.said_will)
        self._sessions[cable.name] = cable
        self.refused["broker: may not subscribe"] += cable.subscribe()
        if cable.curious:
            self._curious[cable.name] = cable
        for topic, payload in [*self._retained[cable.name].items(), *self._retained[""].items()]:
            if topic.rpartition("/")[2] not in topics.SENT_BY_AGENT:
                cable.hear(topic, payload)

    def lost(self, cable: "Cable", number: int) -> None:
        """A device's connection broke without a word, which is noticed after a while."""
        self._timeline.later(self._timeline.now() + DEAD_AFTER_S, lambda: self._bury(cable, number))

    def parted(self, name: str) -> None:
        """Nothing comes from a device any more, which is noticed after a while, unless it has another connection by then."""
        cable = self._sessions.get(name)
        if cable is not None:
            number = cable.number
            self._timeline.later(self._timeline.now() + DEAD_AFTER_S, lambda: self._give_up(cable, number))

    def _give_up(self, cable: "Cable", number: int) -> None:
        if self._sessions.get(cable.name) is cable and cable.number == number:
            del self._sessions[cable.name]
            self._say_will(cable.said_will)
            cable.break_off()

    def _bury(self, cable: "Cable", number: int) -> None:
        if self._sessions.get(cable.name) is cable and cable.number == number and not cable.is_up:
            del self._sessions[cable.name]
            self._say_will(cable.said_will)

    def _say_will(self, will: tuple[str, bytes] | None) -> None:
        if will is not None:
            self.inject(will[0], will[1], retain=True, who="broker")

    def die(self) -> None:
        """Be killed: retained messages, sessions and last wills are gone, everybody is told of the end of its connection, and
        nobody gets one before it rises."""
        self._trace.note(self._timeline.now(), "broker", "killed")
        self.is_up = False
        sessions = [*self._sessions.values()]
        self._sessions.clear()
        self._retained.clear()
        self._unread.clear()
        for session in sessions:
            session.break_off()

    def rise(self) -> None:
        """Take connections again."""
        self.is_up = True
        self._trace.note(self._timeline.now(), "broker", "up")


class Cable:
    """One device's (`simulator.wire.ports.Cable`). `latency_s`: one way; a connection takes a few ways."""

    needs_pings = False

    def __init__(
        self,
        broker: Broker,
        timeline: Timeline,
        *,
        address: tuple[str, int],
        name: str,
        pem: Path,
        topics: tuple[str, ...],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_message: Callable[[str, bytes], None],
    ) -> None:
        """`address` and `pem` are for cables that lead somewhere."""
        self.curious: tuple[str, ...] = ()
        """Filters that are not only its own, and were granted."""
        self._topics = topics
        self.will: tuple[str, bytes] | None = None
        self.said_will: tuple[str, bytes] | None = None
        self.name, self.number = name, 0
        self.latency_s = 0.0
        self._broker, self._timeline = broker, timeline
        self._on_up, self._on_down, self._on_message = on_up, on_down, on_message
        self._is_up = self._is_connecting = False

    @property
    def is_up(self) -> bool:
        return self._is_up

    @property
    def is_idle(self) -> bool:
        return not (self._is_up or self._is_connecting)

    def connect(self) -> None:
        if not self.is_idle:
            return
        self._is_connecting = True
        self.number += 1
        number = self.number
        self._timeline.later(self._timeline.now() + 4 * self.latency_s, lambda: self._arrive(number))

    def _arrive(self, number: int) -> None:
        if number != self.number or not self._is_connecting:
            return
        if (wait_s := self._broker.waits_s()) > 0:
            self._timeline.later(self._timeline.now() + wait_s, lambda: self._arrive(number))
            return
        self._is_connecting = False
        if not self._broker.is_up:
            self._on_down()
            return
        self._is_up, self.said_will = True, self.will
        self._broker.welcome(self)
        self._on_up()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        if not self._is_up:
            return False
        self._broker.say(self.name, topic, payload, retain=retain)
        return True

    def ping(self) -> None:
        """It is never taken for dead while it is up."""

    def cut(self) -> None:
        was_up, self._is_up, self._is_connecting = self._is_up, False, False
        if was_up:
            self._broker.lost(self, self.number)

    def break_off(self) -> None:
        """The other end is gone, and this one hears of it."""
        if self._is_up:
            self._is_up = False
            self._timeline.later(self._timeline.now(), self._on_down)

    def subscribe(self) -> int:
        """Subscribe to all that it wants; how much was refused."""
        own = topics.for_agent(self.name)
        wanted = [one for one in self._topics if one not in own]
        self.curious = tuple(one for one in wanted if access.may_subscribe(self.name, one))
        return len(wanted) - len(self.curious)

    def listens_to(self, topic: str) -> bool:
        """Whether a message comes by what it subscribed to beside its own."""
        return any(matches(one, topic) for one in self.curious) and access.may_receive(self.name, topic)

    def hear(self, topic: str, payload: bytes) -> None:
        """A message for this connection."""
        number = self.number
        self._timeline.later(self._timeline.now(), lambda: self._hear(number, topic, payload))

    def _hear(self, number: int, topic: str, payload: bytes) -> None:
        if self._is_up and number == self.number:
            self._on_message(topic, payload)


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a subscription to the filter has this topic."""
    wanted, parts = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        parts = parts[: len(wanted)]
    return len(wanted) == len(parts) and all(one in ("+", part) for one, part in zip(wanted, parts, strict=True))


def _agent(topic: str) -> str:
    try:
        return topics.parse(topic).agent
    except RefusedError:
        return ""


def online(payload: bytes) -> bool:
    """What a presence message says."""
    try:
        return convert(parse_json(payload, max_bytes=4096), Presence).online
    except OtariaError:
        return False
