"""Random stories: whatever happens in whatever order, the core's promises hold."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core.local import is_clearing
from device_agent.core.machine import running_of, step, wake_at
from device_agent.core.states import (
    Activating,
    Asking,
    Deferred,
    Downloading,
    Ordered,
    Staged,
    Standing,
    Trial,
)
from device_agent.core.values import OwnWatch, Tuning
from device_agent.journal import Record, decode, encode
from device_agent.outbox import Outbox
from device_agent.ports import BootOutcome, BootStatus, Slot
from firmware.protocol.permit import Permit, Verdict
from firmware.protocol.report import Reason
from firmware.protocol.words import Action
from tests.device_agent.core.playbook import NOW, content, held

STRANGE = [held(n, action).hash for n in range(1, 5) for action in Action]
HASHES = st.none() | st.none() | st.none() | st.sampled_from(STRANGE)
"""None stands for the order that is current."""
REASONS = st.sampled_from(
    [Reason(kind=kind, text="") for kind in ("unreachable", "catalogue-expired", "artifact-changed")]
)
TUNING = Tuning(
    own_watch=OwnWatch(heartbeat_s=30, failures=2, on_regression="rollback"), consent_required=True, clear_first=True
)
SLOTS = st.sampled_from(list(Slot))
FLAGS = st.booleans()


class Story(RuleBasedStateMachine):
    """One device; events of every kind, also late, forged, repeated and senseless ones."""

    def __init__(self) -> None:
        super().__init__()
        self.standing = Standing(slots={Slot.A: content("1.0", 1, good=True)})
        self.now, self.boots, self.nonces = 0.0, 0, 0
        self.permits: list[Permit] = []
        self.granted: set[str] = set()
        self.tell(self.booted(Slot.A, BootOutcome.NORMAL, None))

    def booted(self, slot: Slot, outcome: BootOutcome, trial_id: str | None) -> ev.Booted:
        status = BootStatus(boot_id=f"boot-{self.boots}", slot=slot, outcome=outcome, trial_id=trial_id)
        return ev.Booted(status=status)

    def tell(self, event: ev.Event) -> None:
        before = self.standing
        self.standing, commands = step(before, event, self.now, float(NOW), TUNING)
        if before.highest is not None:
            assert self.standing.highest is not None
            assert self.standing.highest >= before.highest, "counters never fall"
        for product, floor in before.floors.items():
            assert self.standing.floors[product] >= floor, "floors never fall"
        if isinstance(self.standing.state, Activating) and not isinstance(before.state, Activating):
            self.check_activation(before, event, self.standing.state)
        for command in commands:
            self.check_command(command)

    def check_activation(self, before: Standing, event: ev.Event, state: Activating) -> None:
        assert isinstance(event, ev.PermitArrived | ev.PreviousVerified), "only a permit or a regression activates"
        if isinstance(event, ev.PermitArrived):
            assert isinstance(before.state, Asking)
            assert event.permit.nonce in {one.nonce for one in before.state.unanswered}
            assert event.permit.nonce not in self.granted, "a permit is good once"
            local = before.local
            assert local.defer_until <= NOW, "never activates what somebody put off"
            assert local.consent == before.state.held.hash, "nor without consent"
            assert local.clearance is not None
            assert local.clearance.until is not None
            assert local.clearance.order_hash == before.state.held.hash
            assert self.now < local.clearance.until, "nor after the device's yes has ended"
            self.granted.add(event.permit.nonce)
            return
        assert event.intact
        assert event.sha256 == before.slots[before.boot.slot.other].sha256, "goes back to what was read"
        assert state.retreat is not None
        assert before.vigil is not None
        assert before.vigil.retreat == state.retreat, "goes back only when that was wanted"
        assert state.goal.content.good, "goes back only to what ran well"
        assert state.goal.content.counter >= before.floors.get("demo", 0), "never goes back below the floor"
        self.granted.add(event.nonce)

    def check_command(self, command: do.Command) -> None:
        if isinstance(command, do.TrySlot):
            assert command.trial_id in self.granted, "no trial without a permit"
            assert command.slot is not self.standing.boot.slot, "never tries the slot that runs"
        if isinstance(command, do.CommitTrial):
            assert isinstance(self.standing.state, Trial), "commits only a trial"
            assert self.standing.boot.slot is self.standing.state.goal.slot, "commits only the slot that runs"
            assert self.standing.state.gave_up is None, "a trial that was given up is never committed"
        if isinstance(command, do.Stage):
            assert self.standing.boot.slot is command.active
            assert self.standing.boot.slot.other not in self.standing.slots, (
                "rollback is given up before it is overwritten"
            )

    def which(self, order_hash: str | None) -> str:
        current = getattr(self.standing.state, "held", None)
        return order_hash or (current.hash if current else "none")

    @rule(
        ahead=st.integers(-2, 3),
        action=st.sampled_from([Action.INSTALL, Action.INSTALL, *Action]),
        odd=st.integers(0, 9),
    )
    def order(self, ahead: int, action: Action, odd: int) -> None:
        highest = self.standing.highest
        n = max(1, (highest.n if highest else 0) + ahead)
        order = held(n, action, expires_at=NOW - 1 if odd == 0 else NOW + 1000)
        self.tell(ev.OrderArrived(held=held(n, action, name="twin") if odd == 1 else order))

    @rule(moves=st.integers(1, 9), well=st.integers(0, 5))
    def go_on(self, moves: int, well: int) -> None:
        """What usually comes next, several times: without it a random story hardly ever reaches a trial."""
        for _ in range(moves):
            self.one_move(well > 0)

    def one_move(self, well: bool) -> None:
        state = self.standing.state
        if isinstance(state, Ordered) and state.goal is not None:
            self.verified(None, well)
        elif isinstance(state, Ordered):
            running = self.standing.slots.get(self.standing.boot.slot)
            self.checked(None, "3.0" if running and running.version == "2.0" else "2.0", 0)
        elif isinstance(state, Downloading):
            self.staged(None)
        elif isinstance(state, Staged) and state.boot_id != self.standing.boot.boot_id:
            self.verified(None, well)
        elif is_clearing(self.standing):
            self.cleared(None, 5000.0)
        elif isinstance(state, Asking) and state.unanswered:
            self.answer(not well)
        elif isinstance(state, Activating):
            self.boot(True, BootOutcome.TRIAL if well else BootOutcome.FELL_BACK, Slot.A)
        elif isinstance(state, Trial) and state.committing:
            self.commit(False)
        elif isinstance(state, Trial) and state.gave_up is None:
            self.health(well, 1)
        elif isinstance(state, Trial):
            self.boot(True, BootOutcome.FELL_BACK, Slot.A)
        elif isinstance(state, Staged | Asking | Deferred):
            self.tell(ev.Consented())
            self.wake(0.0)

    @rule(n=st.integers(1, 9))
    def foreign(self, n: int) -> None:
        self.tell(ev.OrderForeign(held=held(n, name=f"foreign-{n}"), reason=Reason(kind="wrong-target", text="")))

    @rule(order_hash=HASHES, version=st.sampled_from(["1.0", "2.0", "3.0"]), floor=st.integers(0, 9))
    def checked(self, order_hash: str | None, version: str, floor: int) -> None:
        what = content(version, int(version[0]))
        self.tell(ev.OrderChecked(order_hash=self.which(order_hash), content=what, floor=floor, min_uptime_s=floor))

    @rule(order_hash=HASHES, reason=REASONS, kind=st.integers(0, 3))
    def trouble(self, order_hash: str | None, reason: Reason, kind: int) -> None:
        events: list[Any] = [ev.CheckRefused, ev.CheckDelayed, ev.StageRefused, ev.StageDelayed]
        self.tell(events[kind](order_hash=self.which(order_hash), reason=reason))

    @rule(order_hash=HASHES)
    def staged(self, order_hash: str | None) -> None:
        self.tell(ev.StageFinished(order_hash=self.which(order_hash)))

    @rule(order_hash=HASHES, intact=FLAGS)
    def verified(self, order_hash: str | None, intact: bool) -> None:
        self.tell(ev.SlotVerified(order_hash=self.which(order_hash), intact=intact))

    @rule(skip=st.sampled_from([0.0, 1.0, 100.0, 4000.0]))
    def wake(self, skip: float) -> None:
        self.now += skip
        at = wake_at(self.standing)
        self.now = max(self.now, at or 0.0)
        self.nonces += 1
        self.tell(ev.Woke(nonce=f"nonce-{self.nonces}"))

    @precondition(lambda self: isinstance(self.standing.state, Asking) and self.standing.state.unanswered)
    @rule(wait=FLAGS, late=FLAGS)
    def answer(self, wait: bool, late: bool = False) -> None:
        state = self.standing.state
        assert isinstance(state, Asking)
        permit = Permit(
            target="dev-1",
            agent="dev-1",
            order_hash=state.held.hash,
            counter=state.held.order.counter,
            boot_id=state.boot_id,
            nonce=state.unanswered[0 if late else -1].nonce,
            verdict=Verdict.WAIT if wait else Verdict.GRANTED,
            valid_s=300,
            retry_after_s=5,
            change_id="change-1",
            issued_at=NOW,
        )
        self.permits.append(permit)
        self.tell(ev.PermitArrived(permit=permit))

    @precondition(lambda self: self.permits)
    @rule(pick=st.integers(0, 99))
    def replay(self, pick: int) -> None:
        before = self.standing
        self.tell(ev.PermitArrived(permit=self.permits[pick % len(self.permits)]))
        assert self.standing.state == before.state, "a replayed permit moves nothing"

    @rule(link=FLAGS)
    def reconnect(self, link: bool) -> None:
        self.tell(ev.LinkUp(jitter=0.1 if link else 0.9))

    @rule(healthy=FLAGS, trial_id=st.integers(0, 30))
    def health(self, healthy: bool, trial_id: int) -> None:
        state = self.standing.state
        name = state.trial_id if isinstance(state, Trial) and trial_id % 2 else f"nonce-{trial_id}"
        self.tell(ev.HealthFinished(trial_id=name, healthy=healthy, text="seen"))

    @rule(healthy=st.sampled_from([True, False, False, False, None]), slot=st.none() | SLOTS, times=st.integers(1, 4))
    def heartbeats(self, healthy: bool | None, slot: Slot | None, times: int) -> None:
        for _ in range(times):
            self.tell(ev.HeartbeatDone(slot=slot or self.standing.boot.slot, healthy=healthy, text="seen"))

    @rule(intact=st.sampled_from([True, True, False]), version=st.sampled_from(["1", "1", "2", "3"]), now=FLAGS)
    def previous(self, intact: bool, version: str, now: bool) -> None:
        other = self.standing.slots.get(self.standing.boot.slot.other)
        digest = other.sha256 if other and now else version * 64
        self.nonces += 1
        self.tell(ev.PreviousVerified(sha256=digest, intact=intact, nonce=f"back-{self.nonces}"))

    @rule(order_hash=HASHES, valid_s=st.sampled_from([0.0, 10.0, 5000.0]))
    def cleared(self, order_hash: str | None, valid_s: float) -> None:
        self.tell(ev.Cleared(order_hash=self.which(order_hash), valid_s=valid_s))

    @rule(order_hash=HASHES, veto=st.sampled_from([False, False, False, True]))
    def withheld(self, order_hash: str | None, veto: bool) -> None:
        reason = Reason(kind="hook-deferred", text="")
        self.tell(ev.Withheld(order_hash=self.which(order_hash), reason=reason, retry_s=60, veto=veto))

    @rule(seconds=st.sampled_from([1.0, 4000.0]), consent=FLAGS, order_hash=st.sampled_from(["", "", *STRANGE]))
    def owner_says(self, seconds: float, consent: bool, order_hash: str) -> None:
        self.tell(ev.Consented(order_hash=order_hash) if consent else ev.DeferAsked(seconds=seconds))

    @rule(commit=FLAGS)
    def asked(self, commit: bool) -> None:
        reason = Reason(kind="rolled-back-locally", text="")
        self.tell(ev.CommitAsked() if commit else ev.RollbackAsked(reason=reason))

    @precondition(lambda self: isinstance(self.standing.state, Trial) and self.standing.state.committing)
    @rule(fails=FLAGS)
    def commit(self, fails: bool) -> None:
        state = self.standing.state
        assert isinstance(state, Trial)
        event = ev.CommitFailed if fails else ev.TrialCommitted
        self.tell(event(trial_id=state.trial_id))

    @precondition(lambda self: isinstance(self.standing.state, Activating))
    @rule()
    def loader_fails(self) -> None:
        state = self.standing.state
        assert isinstance(state, Activating)
        self.tell(ev.ActivationFailed(trial_id=state.trial_id, reason=Reason(kind="storage-fault", text="")))

    @rule(new_boot=FLAGS, outcome=st.sampled_from(list(BootOutcome)), slot=SLOTS)
    def boot(self, new_boot: bool, outcome: BootOutcome, slot: Slot) -> None:
        state = self.standing.state
        self.boots += new_boot
        trial_id = getattr(state, "trial_id", None)
        goal = getattr(state, "goal", None)
        if not new_boot:
            slot, outcome = self.standing.boot.slot, self.standing.boot.outcome
            trial_id = self.standing.boot.trial_id
        elif trial_id is not None and goal is not None and outcome is not BootOutcome.NORMAL:
            slot = goal.slot if outcome is BootOutcome.TRIAL else goal.slot.other
        self.tell(self.booted(slot, outcome, None if outcome is BootOutcome.NORMAL else trial_id))

    @invariant()
    def journal_gives_the_same_standing_back(self) -> None:
        record = Record(standing=self.standing, outbox=Outbox(journal="j"))
        data = encode(record)
        assert encode(decode(data)) == data
        assert not is_clearing(decode(data).standing)

    @invariant()
    def running_release_is_the_running_slots(self) -> None:
        assert running_of(self.standing).slot == self.standing.boot.slot.value

    @invariant()
    def nothing_waits_without_a_way_on(self) -> None:
        waits = isinstance(self.standing.state, Asking | Activating | Deferred)
        if waits and not is_clearing(self.standing):
            assert wake_at(self.standing) is not None


TestStory = Story.TestCase
