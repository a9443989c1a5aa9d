"""The connection of a hostile device: what its agent says goes through the attacker's hands, who also speaks when it likes."""

from collections.abc import Callable
from typing import Any

from simulator.wire.hostile_device import Attacker
from simulator.wire.ports import Cable, Cables, Hub


class HostileCable:
    """`simulator.wire.ports.Cable` over one that `make` makes; the certificate is the device's own."""

    def __init__(
        self,
        make: Cables,
        attacker: Attacker,
        hub: Hub,
        *,
        topics: tuple[str, ...],
        on_up: Callable[[], None],
        on_message: Callable[[str, bytes], None],
        **given: Any,
    ) -> None:
        self._attacker, self._hub, self._on_up, self._on_message = attacker, hub, on_up, on_message
        self._acts_at: float | None = None
        self._cable: Cable = make(topics=(*topics, *attacker.listens()), on_up=self._up, on_message=self._hear, **given)

    @property
    def will(self) -> tuple[str, bytes] | None:
        return self._cable.will

    @will.setter
    def will(self, will: tuple[str, bytes] | None) -> None:
        self._cable.will = will

    @property
    def needs_pings(self) -> bool:
        return self._cable.needs_pings

    @needs_pings.setter
    def needs_pings(self, needs: bool) -> None:
        self._cable.needs_pings = needs

    @property
    def is_up(self) -> bool:
        return self._cable.is_up

    @property
    def is_idle(self) -> bool:
        return self._cable.is_idle

    def connect(self) -> None:
        self._cable.connect()

    def ping(self) -> None:
        self._cable.ping()

    def cut(self) -> None:
        self._cable.cut()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """The agent speaks; whatever becomes of it, it takes it for said."""
        if not self._cable.is_up:
            return False
        for place, said, _ in self._attacker.in_place_of(topic, payload):
            self._cable.publish(place, said, qos=qos, retain=retain)
        return True

    def _up(self) -> None:
        self._on_up()
        self._act_in(self._attacker.beat_s)

    def _hear(self, topic: str, payload: bytes) -> None:
        heard = self._attacker.overheard
        in_s = self._attacker.heard(topic, payload)
        if self._attacker.overheard == heard:  # what isn't for the agent would only puzzle it
            self._on_message(topic, payload)
        if in_s is not None:
            self._act_in(in_s)

    def _act_in(self, in_s: float) -> None:
        at = self._hub.now() + in_s
        if self._acts_at is None or at < self._acts_at:
            self._acts_at = at
            self._hub.later(at, lambda: self._act(at))

    def _act(self, at: float) -> None:
        if at != self._acts_at:
            return
        self._acts_at = None
        if not self._cable.is_up or self._attacker.rests:
            return
        messages, next_s = self._attacker.acts(self._hub.now())
        for topic, payload, retain in messages:
            self._attacker.messages += 1
            self._cable.publish(topic, payload, qos=1, retain=retain)
        if next_s is not None:
            self._act_in(next_s)
