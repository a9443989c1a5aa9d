"""How far a device reaches: its cable to the broker, over which messages are lost, doubled, late and out of order, and
partitions, in which nothing passes.

Rules
- What is lost on the way is lost before the connection sees it; the agent's own timer sends it again.
- A connection that ended is made again after a while, which grows.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securesystemslib.signer import Signer

from device_agent.identity import Identity
from device_agent.ports import Incoming
from device_agent.runtime import Connected
from firmware.protocol import topics
from firmware.protocol.unverified import DEFAULT_MAX_BYTES
from simulator.virtual.chances import chance, seeded
from simulator.wire.hostile_cable import HostileCable
from simulator.wire.hostile_device import attacker_of
from simulator.wire.line import KEEPALIVE_S
from simulator.wire.parts import Luck
from simulator.wire.plan import Misdeeds
from simulator.wire.ports import Cables, Common

if TYPE_CHECKING:
    from simulator.wire.device import Device

PING_S = KEEPALIVE_S * 0.75


class Reach:
    """The agent's `Link`. `own`: the seed of what befalls its messages."""

    __slots__ = (
        "_attacker",
        "_attempts",
        "_cable",
        "_device",
        "_grapevine",
        "_heard",
        "_hub",
        "_link",
        "_loads_until",
        "_luck",
        "_messages",
        "_owed_s",
        "_own",
        "_parted_until",
        "_tempo",
    )

    def __init__(
        self,
        device: "Device",
        common: Common,
        identity: Identity,
        pem: Path,
        signer: Signer,
        luck: Luck,
        own: int,
    ) -> None:
        self._device, self._hub, self._tempo = device, common.hub, common.tempo
        self._link, self._luck, self._own = device.member.link, luck, own
        self._messages = self._heard = self._attempts = 0
        self._parted_until = self._loads_until = float("-inf")
        self._owed_s = 0.0
        self._grapevine, does = common.grapevine, device.member.does
        self._grapevine.names.append(identity.agent)
        self._attacker = attacker_of(does, identity, signer, common.grapevine, seeded(own, does)) if does else None
        cable: Cables = common.cable
        if self._attacker is not None:
            cable = partial(HostileCable, common.cable, self._attacker, common.hub)
        self._cable = cable(
            address=(identity.mqtt_host, identity.mqtt_port),
            name=identity.agent,
            pem=pem,
            topics=topics.for_agent(identity.agent),
            on_up=self._up,
            on_down=self._down,
            on_message=self._came,
        )

    # The device's calls

    @property
    def is_up(self) -> bool:
        return self._cable.is_up and not self.is_frozen

    @property
    def is_frozen(self) -> bool:
        """Whether a partition keeps all from it."""
        return self._hub.now() < self._parted_until

    @property
    def is_idle(self) -> bool:
        return self._cable.is_idle

    @property
    def is_dialling(self) -> bool:
        return not (self._cable.is_up or self._cable.is_idle)

    @property
    def misdeeds(self) -> Misdeeds | None:
        """Of whoever misuses the device's keys."""
        return self._attacker.misdeeds if self._attacker is not None else None

    def rest(self, rests: bool) -> None:
        """Let whoever misuses the device's keys rest, or go on."""
        if self._attacker is not None:
            self._attacker.rests = rests

    def promise(self, topic: str, will: bytes) -> None:
        """What the broker is to say of the next connections when they end."""
        self._cable.will = (topic, will)

    def dial(self) -> bool:
        """Begin to connect; False when it need not."""
        if not self._cable.is_idle or self.is_frozen:
            return False
        self._cable.connect()
        return True

    def cut(self) -> None:
        """Lose the connection with the power: nobody is told."""
        self._cable.cut()
        self._loads_until, self._owed_s = float("-inf"), 0.0

    def loads(self, for_s: float) -> None:
        """Something is loaded, which takes so long from now on, unless a partition comes."""
        self._loads_until = self._hub.now() + for_s

    def owed_s(self) -> float:
        """How much longer that takes, for the partitions that came; asked once."""
        owed_s, self._owed_s = self._owed_s, 0.0
        return owed_s

    def go_away(self) -> None:
        """End the connection, as who goes away does; the agent hears of it."""
        self._cable.cut()
        self._down()

    def freeze(self, for_s: float) -> None:
        """Let nothing pass for a while, whatever becomes of its connection and its power; then there is a new connection."""
        now = self._hub.now()
        more_s = now + for_s - max(now, self._parted_until)
        if more_s <= 0:
            return
        if now < self._loads_until:
            self._loads_until += more_s
            self._owed_s += more_s
        self._parted_until = now + for_s
        self._hub.later(self._parted_until, self._thaw)

    def _thaw(self) -> None:
        if not self.is_frozen:
            self.go_away()

    # The agent's calls

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """`Link.publish`, over a cable that loses, doubles and delays."""
        if not self._cable.is_up:
            return False
        if self._attacker is None:
            self._grapevine.hear(topic, payload)
        link = self._link
        copies = 1
        if qos and not retain:
            self._messages += 1
            if link.loss and self._chance(self._messages, 4) < link.loss:
                return True
            copies += bool(link.duplication) and self._chance(self._messages, 6) < link.duplication
        held_s = link.held_s(self._own, 2 * self._messages) if qos and not retain else 0.0
        for _ in range(copies if not self.is_frozen else 0):
            self._delayed(lambda: self._cable.publish(topic, payload, qos=qos, retain=retain), held_s)
        return True

    def start(self, on_message: Any, on_connected: Any) -> None:
        """`Link.start`: the device owns its cable."""

    def stop(self) -> None:
        """`Link.stop`: the device owns its cable."""

    # The cable's calls

    def _up(self) -> None:
        self._attempts = 0
        self._ping_later()
        self._device.handle(Connected(online=True))

    def _down(self) -> None:
        self._device.handle(Connected(online=False))
        if self.is_frozen or not self._device.is_reachable:
            return
        tempo, number = self._tempo, self._device.boots
        wait_s = min(tempo.reconnect_min_s * 2.0 ** min(self._attempts, 16), tempo.reconnect_max_s)
        self._attempts += 1
        again = lambda: self._hub.connect(self._device) if number == self._device.boots else None  # noqa: E731
        self._hub.later(self._hub.now() + wait_s * (0.5 + self._luck.jitter()), again)

    def _came(self, topic: str, payload: bytes) -> None:
        if self.is_frozen or len(payload) > DEFAULT_MAX_BYTES:
            return
        self._heard += 1
        link = self._link
        if link.loss and topic != topics.CATALOGUE and self._chance(self._heard, 5) < link.loss:
            return
        self._delayed(lambda: self._receive(topic, payload), link.held_s(self._own, 2 * self._heard + 1))

    def _receive(self, topic: str, payload: bytes) -> None:
        if not self._device.is_running:
            return
        if topic == topics.CATALOGUE:
            self._device.handle(Incoming(leaf="catalogue", target=None, payload=payload))
            return
        parsed = topics.parse(topic)
        if parsed.leaf is topics.Leaf.BLOCK:
            self._device.took_block(payload)
        elif parsed.leaf in topics.SENT_BY_SERVER:
            self._device.handle(Incoming(leaf=parsed.leaf.value, target=parsed.target, payload=payload))

    def _delayed(self, what: Callable[[], Any], held_s: float) -> None:
        latency_s = self._hub.wall_s(self._link.latency_s + held_s)
        if latency_s < 0.01:
            what()
            return
        number = self._device.boots
        self._hub.later(self._hub.now() + latency_s, lambda: what() if number == self._device.boots else None)

    def _ping_later(self) -> None:
        cable, number, attempts = self._cable, self._device.boots, self._attempts
        if not cable.needs_pings:
            return

        def ping() -> None:
            if number == self._device.boots and attempts == self._attempts and cable.is_up:
                if not self.is_frozen:
                    cable.ping()
                self._ping_later()

        self._hub.later(self._hub.now() + PING_S * (0.7 + 0.3 * self._luck.jitter()), ping)

    def _chance(self, about: int, what: int) -> float:
        return chance(self._own, about * 8 + what)
