"""A device that answers from chances: it follows orders as the agent does, and its release does to it what the world says.

Rules
- It knows orders, permits and its own clock, never the planner's rows. What it is, is its own truth (`runs`, `is_up`), which the
  run's end is held against.
- What it says waits until it is there, and comes in order; an ask travels beside, and may come twice. What is lost on the way is
  sent again, so that loss is delay.
- An answer reaches it only while it is there; else it asks again. A permit dies with its time.
- A permit is followed once: it goes down, boots the new slot on trial, and commits, falls back, or is never heard again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from device_agent.boot.loader import Limits
from device_agent.local.policy import VALID_S
from firmware.protocol.words import Action, AgentState, ReasonKind
from server.planner.commands import GrantPermit, TellWait
from server.planner.events import Asked, Event, Reported
from simulator.virtual.battery import LOOK_S, Battery
from simulator.virtual.blocks import BlockPace
from simulator.virtual.chances import chance
from simulator.virtual.fitted import FITTED
from simulator.virtual.presence import NEVER, Presence

BOOT_S = 45.0
HELD_S = 5.0
_HELD = 0x68656C64
_LOOKS = 0x6C6F6F6B73
"""Apart from its other chances."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long things take on a device, in seconds: a boot by the world's word, the rest as real agents take it
    (`simulator.virtual.fitted`)."""

    boot_s: float = BOOT_S
    ask_again_s: float = FITTED.ask_again_s
    resend_s: float = FITTED.resend_s
    staged_s: float = FITTED.staged_s


USUAL_TIMING = Timing()
Later = Callable[[float, Callable[[float], None]], None]
"""Call this at that time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """Bytes per second, seconds on the way, and the shares that are lost, that come twice, and that others overtake."""

    bytes_per_s: float = 1e6
    latency_s: float = 0.2
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0

    def held_s(self, seed: int, number: int) -> float:
        """For how long the message of this number is held back, while others pass it: some seconds, and most not at all."""
        if not self.reordering or chance(seed ^ _HELD, 2 * number) >= self.reordering:
            return 0.0
        return HELD_S * (0.2 + chance(seed ^ _HELD, 2 * number + 1))


Defect = tuple[str, float]
"""What a release does to a device (`simulator.virtual.world.DEFECTS`), and how many seconds after its commit."""
LATE_DEFECTS = ("crashes", "fails-second-boot")
"""Those that come after the commit."""
LOOPED_BOOTS = Limits().max_boots + 1
"""How many boots it takes until the boot loader leaves a slot that was committed and comes up no more."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a device installs. `defect_of`: what it does to a device."""

    version: str
    sha256: str
    product: str
    size_bytes: int
    defect_of: Callable[["Device"], Defect | None] = field(default=lambda _: None)


@dataclass(kw_only=True, slots=True)
class Order:
    """What it was told to do. `number` counts the device's orders; `life`: how often it had been flashed anew or unplugged when
    it came; `is_done`: it was followed, or failed. `cleared_until`: the device's own yes holds."""

    hash: str
    action: Action
    image: Image
    campaign: str
    max_rate: int | None
    number: int = 0
    life: int = 0
    is_done: bool = False
    staged_at: float = 0.0
    cleared_until: float = 0.0


class Device:
    """One device. `say` hands an event to the server; `images` has what orders may name, by campaign;
    `blocks`: how quickly these come, where nothing else does."""

    __slots__ = (
        "_asked",
        "_later",
        "_life",
        "_order",
        "_orders",
        "_said",
        "_say",
        "_timing",
        "battery",
        "blocks",
        "by",
        "flash_faults",
        "flash_rate",
        "hardware",
        "harmed_by",
        "health_s",
        "id",
        "image",
        "is_bricked",
        "is_captive",
        "is_down",
        "is_shut_out",
        "link",
        "pace",
        "power_cuts",
        "presence",
        "previous",
        "seed",
        "silences",
        "site",
    )
    is_liar = False
    """Whether what it says need not be true."""

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 (the word for it everywhere)
        seed: int,
        hardware: str,
        site: str,
        image: Image,
        presence: Presence,
        link: Link,
        later: Later,
        say: Callable[["Device", Event], None],
        health_s: float = 60.0,
        flash_faults: float = 0.0,
        flash_rate: float = NEVER,
        power_cuts: float = 0.0,
        silences: float = 0.0,
        battery: Battery | None = None,
        pace: float = 1.0,
        is_captive: bool = False,
        blocks: BlockPace | None = None,
        timing: Timing = USUAL_TIMING,
    ) -> None:
        self._timing = timing
        self.id, self.seed, self.hardware, self.site = id, seed, hardware, site
        self.image, self.previous = image, None  # type: Image, Image | None
        self.presence, self.link = presence, link
        self.health_s, self.flash_faults, self.power_cuts = health_s, flash_faults, power_cuts
        self.silences, self.flash_rate, self.battery = silences, flash_rate, battery
        self.pace, self.is_captive, self.blocks = pace, is_captive, blocks
        self.is_down = self.is_bricked = False
        self.is_shut_out = False
        """The server doesn't listen to it (any more)."""
        self.harmed_by: frozenset[str] = frozenset()
        """The campaigns whose release hurt it."""
        self.by = ""
        """The campaign whose permit it followed last."""
        self._later, self._say = later, say
        self._order: Order | None = None
        self._said = 0.0
        self._asked = self._orders = self._life = 0

    @property
    def is_up(self) -> bool:
        """Whether it works, connected or not."""
        return not (self.is_down or self.is_bricked)

    @property
    def said_until(self) -> float:
        """When the last that it said arrives."""
        return self._said

    # What reaches it

    def ordered(self, order: Order, at: float) -> None:
        """An order was stored for it; it comes once the device is there. A later order replaces it on the way."""
        self._orders += 1
        self._order, order.number, order.life = order, self._orders, self._life
        self._later(self._reached(at), lambda now: self._take(order, now))

    def answered(self, answer: GrantPermit | TellWait, at: float) -> None:
        """The server answers its ask; lost when it is away."""
        comes, order, number = at + self.link.latency_s, self._order, self._asked
        if self.presence.is_there(comes) and (not self.link.loss or self._chance(number, 5) >= self.link.loss):
            self._later(comes, lambda now: self._heed(answer, now))
        elif order is not None:
            self._ask_again(order, number, at)

    def reflash(self, image: Image, at: float) -> None:
        """Be flashed anew: run `image`, and know nothing but who it is. The order that the broker keeps for it comes again."""
        if self.is_bricked or self.is_shut_out:
            return
        kept, self._order = self._order, None
        self._life += 1
        self.is_down = False
        self.image, self.previous = image, None
        self._report(None, AgentState.IDLE, at)
        if kept is not None:
            self.ordered(replace(kept, is_done=False), at)

    def unplug(self) -> None:
        """Be gone for ever."""
        self._order, self.is_shut_out = None, True
        self._life += 1

    def _take(self, order: Order, at: float) -> None:
        if order is not self._order or self.is_bricked or self.is_down:
            return  # what came during a boot is there, retained, when that is over
        if order.action is Action.NOTHING:
            order.is_done = True
            self._report(order, AgentState.CANCELLED, at, ReasonKind.WITHDRAWN)
            return
        if order.action is Action.ROLLBACK:
            self._is_staged(order, at)
            return
        if self.is_captive:  # it can't look at the catalogue, nor load
            self._report(order, AgentState.ORDERED, at, ReasonKind.UNREACHABLE)
            return
        self._report(order, AgentState.DOWNLOADING, at)
        self._load(order, at)

    def _load(self, order: Order, at: float) -> None:
        reads_s = order.image.size_bytes / self.flash_rate
        done = self.presence.done(at, self._loading_s(order, at) + self._timing.staged_s) + reads_s
        if done < NEVER:
            self._later(done, lambda now: self._staged(order, now))

    def _loading_s(self, order: Order, at: float) -> float:
        size = order.image.size_bytes
        rate = min(self.link.bytes_per_s, order.max_rate or self.link.bytes_per_s, self.flash_rate)
        return (
            size / rate
            if self.blocks is None
            else max(size / rate, self.blocks.takes_s(self.site, self.link, size, at))
        )

    def _staged(self, order: Order, at: float) -> None:
        if order is not self._order:
            return
        if self.flash_faults and self._chance(order.number, 1) < self.flash_faults:
            order.is_done = True
            self._report(order, AgentState.FAILED, at, ReasonKind.STORAGE_FAULT)
            return
        self._is_staged(order, at)

    def _is_staged(self, order: Order, at: float) -> None:
        order.staged_at = order.staged_at or at
        self._report(order, AgentState.STAGED, at)
        self._ask(order, at)

    def _puts_off(self, order: Order, at: float) -> bool:
        """Whether its battery is too low now, of which it tells; then it goes on by itself when there is enough."""
        if self.battery is None or at < order.cleared_until:
            return False
        enough_at = self.battery.enough_at(at, order.staged_at)
        if enough_at <= at:
            order.cleared_until = at + VALID_S
            return False
        self._report(order, AgentState.DEFERRED, at, ReasonKind.CONDITION_NOT_MET)
        looks_at = enough_at + LOOK_S * chance(self.seed ^ _LOOKS, order.number)
        self._later(looks_at, lambda now: self._is_staged(order, now) if order is self._order and self.is_up else None)
        return True

    def _ask(self, order: Order, at: float) -> None:
        if order is not self._order or order.is_done or not self.is_up:
            return
        at = self.presence.comes(at)
        if at == NEVER or self._puts_off(order, at):
            return
        self._asked += 1
        number = self._asked
        comes = max(self._sent(at, number), self._said)
        self._later_ask(order, number, comes)
        if self.link.duplication and self._chance(number, 6) < self.link.duplication:
            self._later_ask(order, number, comes + self.link.latency_s + 1.0)

    def _ask_again(self, order: Order, number: int, at: float) -> None:
        """Unless there is an answer until then."""
        again = at + self._timing.ask_again_s / self.pace
        self._later(again, lambda now: self._ask(order, now) if number == self._asked else None)

    def _later_ask(self, order: Order, number: int, comes: float) -> None:
        ask = Asked(target=self.id, order_hash=order.hash, boot_id="boot", nonce=f"{number}", at=comes)
        self._later(comes, lambda _: self._say(self, ask))

    def _heed(self, answer: GrantPermit | TellWait, at: float) -> None:
        order = self._order
        is_last = order is not None and answer.order_hash == order.hash and answer.nonce == f"{self._asked}"
        if order is None or not is_last or order.is_done or not self.is_up:
            return
        if isinstance(answer, GrantPermit) and 2 * self.link.latency_s * self.pace > answer.valid_s:
            self._ask_again(order, self._asked, at)  # by its own clock the permit died on its way
            return
        self._asked += 1  # it waits for no answer any more
        if isinstance(answer, TellWait):
            again = at + answer.retry_after_s * (1 + 0.1 * self._chance(self._asked, 7)) / self.pace
            self._later(again, lambda now: self._ask(order, now))
            return
        order.is_done = True
        self._activate(order, at)

    # What it does with a permit

    def _activate(self, order: Order, at: float) -> None:
        self._report(order, AgentState.ACTIVATING, at)
        self.is_down = True
        after = self.previous if order.action is Action.ROLLBACK else order.image
        if after is None:
            self.is_down = False
            self._report(order, AgentState.REFUSED, at, ReasonKind.SLOT_MISSING)
            return
        defect = after.defect_of(self) if order.action is Action.INSTALL else None
        kind = defect[0] if defect else ""
        self.by = order.campaign
        if kind and kind not in LATE_DEFECTS:
            self.harmed_by |= {order.campaign}
        if kind == "bricks":
            self.is_bricked = True
            return
        if self.silences and self._chance(order.number, 0) < self.silences:
            self.is_bricked = True
            return
        cut = self._chance(order.number, 2) < self.power_cuts
        if kind == "fails-boot" or cut:
            self._later(
                at + self._timing.boot_s * FITTED.boots_back, lambda now: self._back(order, now, ReasonKind.BOOT_FAILED)
            )
            return
        self._later(at + self._timing.boot_s * FITTED.boots, lambda now: self._try(order, after, defect, now))

    def _try(self, order: Order, after: Image, defect: Defect | None, at: float) -> None:
        if order.life != self._life:
            return
        before, self.image = self.image, after
        self._report(order, AgentState.TRIAL, at)
        if defect and defect[0] == "fails-health":
            self.image = before
            self._later(
                at + self._timing.boot_s * FITTED.boots_unwell,
                lambda now: self._back(order, now, ReasonKind.HEALTH_FAILED),
            )
            return
        self._later(
            at + self.health_s / self.pace + FITTED.commit_s, lambda now: self._commit(order, before, defect, now)
        )

    def _commit(self, order: Order, before: Image, defect: Defect | None, at: float) -> None:
        if order.life != self._life:
            return
        self.previous, self.is_down = before, False
        self._report(order, AgentState.COMMITTED, at)
        if defect and defect[0] == "crashes":
            self._later(at + defect[1], lambda now: self._crash(order, before, now))
        elif defect and defect[0] == "fails-second-boot":
            self._later(at + defect[1], lambda now: self._restart(order, before, now))
        self._follow_up(at)

    def _crash(self, order: Order, before: Image, at: float) -> None:
        """Leaked until it couldn't go on: the boot loader's count brings it back."""
        if self.image is before or self.is_down or order.life != self._life:
            return
        self.harmed_by |= {order.campaign}
        self.image, self.previous = before, None
        self._report(order, AgentState.FELL_BACK, at, ReasonKind.HEALTH_REGRESSED)

    def _restart(self, order: Order, before: Image, at: float) -> None:
        """What it committed comes up no more, so the boot loader brings the slot before back."""
        if self.image is not order.image or not self.is_up or order.life != self._life:
            return
        self.harmed_by |= {order.campaign}
        self.is_down = True
        self.image, self.previous = before, None
        self._later(at + self._timing.boot_s * LOOPED_BOOTS, lambda now: self._back(order, now, ReasonKind.BOOT_LOOP))

    def _back(self, order: Order, at: float, kind: ReasonKind) -> None:
        if order.life != self._life:
            return
        self.is_down = False
        self._report(order, AgentState.FELL_BACK, at, kind)
        self._follow_up(at)

    def _follow_up(self, at: float) -> None:
        """Take the order that came meanwhile."""
        order = self._order
        if order is not None and not order.is_done:
            self._later(self._reached(at), lambda now: self._take(order, now))

    # Words

    def _report(self, order: Order | None, state: AgentState, at: float, kind: ReasonKind | None = None) -> None:
        """Say where it is with an order, or what it runs, once it is there."""
        number, life = order.number if order else self._orders, self._life
        self._said = comes = max(self._said, self._sent(self.presence.comes(at), number + ord(state[0])))
        if comes == NEVER:
            return
        said = Reported(
            target=self.id,
            state=state,
            order_hash=order.hash if order else None,
            running_version=self.image.version,
            running_sha256=self.image.sha256,
            rollback_available=self.previous is not None or state not in _FRESH,
            reason_kind=kind or "none",
            reason=_SENTENCES[kind] if kind else "",
            at=comes,
        )
        self._later(comes, lambda _: self._say(self, said) if life == self._life else None)

    def _reached(self, at: float) -> float:
        return self.presence.comes(at + self.link.latency_s)

    def _sent(self, at: float, number: int) -> float:
        """When what is sent `at` arrives."""
        at += self.link.latency_s * (0.5 + self._chance(number, 3)) + self.link.held_s(self.seed, number)
        tries = 0
        while self.link.loss and tries < 20 and self._chance(number * 32 + tries, 4) < self.link.loss:
            tries += 1
        return at if not tries else self.presence.comes(at + tries * self._timing.resend_s / self.pace)

    def _chance(self, about: int, what: int) -> float:
        return chance(self.seed, about * 8 + what)


_FRESH = (AgentState.COMMITTED, AgentState.IDLE)
"""Words of a device whose other slot holds what it was told before, if anything."""
_SENTENCES: dict[str, str] = {
    ReasonKind.WITHDRAWN: "The order was withdrawn.",
    ReasonKind.CONDITION_NOT_MET: "Condition battery is not met.",
    ReasonKind.STORAGE_FAULT: "Its flash failed.",
    ReasonKind.UNREACHABLE: "It reaches no server.",
    ReasonKind.SLOT_MISSING: "No slot is left to go back to.",
    ReasonKind.PERMIT_STALE: "The permit ended before the activation did.",
    ReasonKind.ATTEMPTS_EXHAUSTED: "It used up its boot attempts.",
    ReasonKind.BOOT_FAILED: "It did not boot.",
    ReasonKind.BOOT_LOOP: "The committed slot never came up again.",
    ReasonKind.HEALTH_FAILED: "Its health check failed.",
    ReasonKind.HEALTH_REGRESSED: "It crashed too often.",
}
