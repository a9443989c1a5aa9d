"""Events in, commands out: a core that is told things and asked what it wants."""

from typing import Any

from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core.machine import step, wake_at
from device_agent.core.states import Standing
from device_agent.core.values import Content, Held, Tuning
from device_agent.ports import BootOutcome, BootStatus, Slot
from firmware.protocol.order import Counter, FileRef, Order, OrderedImage, ReleaseRef
from firmware.protocol.permit import Permit, Verdict
from firmware.protocol.words import Action

NOW = 1_800_000_000
TUNING = Tuning()


def file_ref(path: str, digit: str) -> FileRef:
    return FileRef(path=path, length=1000, sha256=digit * 64)


def content(version: str = "2.0", counter: int = 2, *, good: bool = False) -> Content:
    return Content(
        product="demo", version=version, counter=counter, sha256=version[0] * 64, length=1000, good=good, manifest=None
    )


def held(n: int = 1, action: Action = Action.INSTALL, *, epoch: int = 1, name: str = "", **fields: Any) -> Held:
    named: dict[str, Any] = {}
    if action is Action.INSTALL:
        release = ReleaseRef(
            product="demo", version="2.0", counter=2, manifest=file_ref("releases/demo/2.0/m.json", "a")
        )
        named = {"release": release, "images": [OrderedImage(file=file_ref("releases/demo/2.0/image", "2"))]}
    values: dict[str, Any] = {
        "target": "dev-1",
        "agent": "dev-1",
        "hardware": "board-1",
        "counter": Counter(epoch=epoch, n=n),
        "action": action,
        "change_id": "change-1",
        "issued_at": NOW,
        "expires_at": NOW + 1000,
        "trial_s": 60,
    }
    return Held(order=Order(**{**values, **named, **fields}), hash=name or f"{epoch}-{n}-{action}")


def boot(boot_id: str = "boot-1", slot: Slot = Slot.A, **fields: Any) -> ev.Booted:
    values = {"outcome": BootOutcome.NORMAL, **fields}
    return ev.Booted(status=BootStatus(boot_id=boot_id, slot=slot, **values))


class Player:
    """Plays events against the core; keeps the standing, the time and the last commands."""

    def __init__(self, standing: Standing | None = None) -> None:
        self.standing = standing or Standing(slots={Slot.A: content("1.0", 1, good=True)})
        self.now = 100.0
        self.trusted = float(NOW)
        self.last: tuple[do.Command, ...] = ()
        self._nonces = 0
        if standing is None:
            self.tell(boot())

    def tell(self, event: ev.Event) -> "Player":
        self.standing, self.last = step(self.standing, event, self.now, self.trusted, TUNING)
        return self

    def wake(self, *, late_s: float = 0.0) -> "Player":
        """Let time pass to the wanted wake."""
        at = wake_at(self.standing)
        assert at is not None, f"{self.word} wants no wake"
        self.now = max(self.now, at) + late_s
        self._nonces += 1
        return self.tell(ev.Woke(nonce=f"nonce-{self._nonces}"))

    @property
    def word(self) -> str:
        return str(self.standing.state.__struct_config__.tag)

    @property
    def told(self) -> list[tuple[str, str | None]]:
        """(state, reason kind) of the reports of the last step."""
        return [
            (command.state.value, command.reason.kind if command.reason else None)
            for command in self.last
            if isinstance(command, do.Tell)
        ]

    @property
    def done(self) -> list[str]:
        """Names of the other commands of the last step, in order."""
        return [type(command).__name__ for command in self.last if not isinstance(command, do.Tell)]

    # Chapters

    def ordered(self, order: Held | None = None) -> "Player":
        return self.tell(ev.OrderArrived(held=order or held()))

    def downloading(self, order: Held | None = None, *, floor: int = 0, min_uptime_s: int = 0) -> "Player":
        order = order or held()
        checked = ev.OrderChecked(order_hash=order.hash, content=content(), floor=floor, min_uptime_s=min_uptime_s)
        return self.ordered(order).tell(checked)

    def staged(self, order: Held | None = None, **fields: Any) -> "Player":
        order = order or held()
        return self.downloading(order, **fields).tell(ev.StageFinished(order_hash=order.hash))

    def asking(self, order: Held | None = None, **fields: Any) -> "Player":
        return self.staged(order, **fields).wake()

    def activating(self, order: Held | None = None, **fields: Any) -> "Player":
        return self.asking(order, **fields).tell(self.permit())

    def trial(self, order: Held | None = None, **fields: Any) -> "Player":
        self.activating(order, **fields)
        return self.reboot_into_trial()

    def reboot_into_trial(self, boot_id: str = "boot-2") -> "Player":
        trial_id = self.standing.state.trial_id  # type: ignore[union-attr]
        self.now = 10.0
        return self.tell(boot(boot_id, self.standing.state.goal.slot, outcome=BootOutcome.TRIAL, trial_id=trial_id))  # type: ignore[union-attr]

    def healthy(self, *, ok: bool = True) -> "Player":
        trial_id = self.standing.state.trial_id  # type: ignore[union-attr]
        return self.tell(ev.HealthFinished(trial_id=trial_id, healthy=ok, text="seen"))

    def committed(self, order: Held | None = None, **fields: Any) -> "Player":
        self.trial(order, **fields).healthy()
        return self.tell(ev.TrialCommitted(trial_id=self.standing.state.trial_id))  # type: ignore[union-attr]

    def permit(self, verdict: Verdict = Verdict.GRANTED, **fields: Any) -> ev.PermitArrived:
        """The permit that answers the latest open ask, with `fields` changed."""
        state: Any = self.standing.state
        values = {
            "target": "dev-1",
            "agent": "dev-1",
            "order_hash": state.held.hash,
            "counter": state.held.order.counter,
            "boot_id": state.boot_id,
            "nonce": state.unanswered[-1].nonce,
            "verdict": verdict,
            "valid_s": 300,
            "change_id": "change-1",
            "issued_at": NOW,
        }
        return ev.PermitArrived(permit=Permit(**{**values, **fields}))
