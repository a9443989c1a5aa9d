"""Playbooks of what is watched: rounds in the trial, heartbeats after the commit, and the way back from a late regression."""

from typing import Any

import pytest
from msgspec.structs import replace

from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core import machine
from device_agent.core.machine import running_of, step, wake_at
from device_agent.core.states import Activating, Standing, Trial
from device_agent.core.values import OwnWatch, Tuning, watch_of
from device_agent.journal import Record, durable, encode
from device_agent.outbox import Outbox
from device_agent.ports import BootOutcome, Slot
from firmware.checks import Watch
from firmware.protocol.report import Reason
from firmware.protocol.words import Action
from tests.device_agent.core.playbook import Player, boot, content, held

NO_WATCH, NOTHING_OWN = Watch(), OwnWatch()
BEAT = Watch(heartbeat_s=30, failures=2, on_regression="rollback")


class Watched(Player):
    """A player whose release wants to be watched, on a device with its own wishes."""

    def __init__(self, watch: Watch = NO_WATCH, own: OwnWatch = NOTHING_OWN) -> None:
        self.watch, self.tuning = watch, Tuning(own_watch=own)
        super().__init__()

    def tell(self, event: ev.Event) -> "Watched":
        self.standing, self.last = step(self.standing, event, self.now, self.trusted, self.tuning)
        return self

    def downloading(self, order: Any = None, *, floor: int = 0, min_uptime_s: int = 0) -> "Watched":
        order = order or held()
        new = replace(content(), watch=self.watch)
        checked = ev.OrderChecked(order_hash=order.hash, content=new, floor=floor, min_uptime_s=min_uptime_s)
        self.ordered(order)
        return self.tell(checked)

    def beat(self, healthy: bool | None) -> "Watched":
        """Wait for the next heartbeat and let it end so."""
        self.wake()
        assert self.done == ["RunHeartbeat"]
        return self.tell(ev.HeartbeatDone(slot=self.standing.boot.slot, healthy=healthy, text="seen"))

    def regressed(self) -> "Watched":
        self.committed()
        self.beat(False)
        return self.beat(False)

    def previous(self, *, intact: bool = True, nonce: str = "back-1") -> "Watched":
        return self.tell(ev.PreviousVerified(sha256="1" * 64, intact=intact, nonce=nonce))

    def retreating(self) -> "Watched":
        self.regressed()
        return self.previous()

    @property
    def reasons(self) -> list[str]:
        return [tell.reason.text for tell in self.last if isinstance(tell, do.Tell) and tell.reason]


def in_trial(watch: Watch = NO_WATCH, own: OwnWatch = NOTHING_OWN, **fields: Any) -> Watched:
    p = Watched(watch, own)
    p.trial(**fields)
    return p


# Rounds in the trial


def test_soak_repeats_the_checks_and_commits_after_it() -> None:
    p = in_trial(Watch(soak_s=25, every_s=10))
    rounds = 0
    while p.healthy().done != ["CommitTrial"]:
        rounds += 1
        assert p.wake().done == ["RunHealth"]
    assert (rounds, p.now) == (3, 35.0), "rounds at 0, 10, 20 and 25 seconds"


def test_every_round_of_a_soak_must_hold() -> None:
    p = in_trial(Watch(soak_s=25, every_s=10))
    p.healthy()
    p.wake().healthy(ok=False)
    assert p.done == ["GiveUp", "Reboot"]


def test_so_many_rounds_may_fail_as_were_declared_and_no_more() -> None:
    p = in_trial(Watch(soak_s=40, every_s=10, may_fail=1))
    p.healthy(ok=False)
    assert p.last == ()
    assert p.wake().done == ["RunHealth"]
    p.healthy()
    p.wake().healthy(ok=False)
    assert p.done == ["GiveUp", "Reboot"]
    assert p.standing.state.gave_up.text == "2 rounds of the soak failed, and 1 may. seen"  # type: ignore[union-attr]


def test_a_failed_last_round_does_not_commit_even_when_it_may_fail() -> None:
    p = in_trial(Watch(soak_s=5, every_s=10, may_fail=3))
    p.now += 6
    p.healthy(ok=False)
    assert p.last == ()
    p.wake().healthy()
    assert p.done == ["CommitTrial"]


def test_may_fail_without_a_soak_means_nothing() -> None:
    p = in_trial(Watch(may_fail=5))
    assert p.healthy(ok=False).done == ["GiveUp", "Reboot"]


def test_failed_rounds_survive_a_restart_of_the_agent_in_the_trial() -> None:
    p = in_trial(Watch(soak_s=40, every_s=10, may_fail=1))
    p.healthy(ok=False)
    p.tell(boot("boot-2", Slot.B, outcome=BootOutcome.TRIAL, trial_id="nonce-1"))
    assert p.healthy(ok=False).done == ["GiveUp", "Reboot"]


def test_the_longer_soak_and_up_time_of_release_and_device_count() -> None:
    for watch, own in (
        (Watch(soak_s=20), OwnWatch(soak_s=5)),
        (Watch(soak_s=5), OwnWatch(soak_s=20)),
        (Watch(), OwnWatch(min_uptime_s=20)),
    ):
        p = in_trial(watch, own)
        p.now += 19
        assert p.healthy().last == ()
        p.wake().healthy()
        assert (p.done, p.now) == (["CommitTrial"], 30.0)


def test_what_the_device_sets_counts_instead_of_the_releases_word() -> None:
    release = replace(content(), watch=Watch(heartbeat_s=60, failures=9, may_fail=3, on_regression="rollback"))
    own = OwnWatch(heartbeat_s=0, failures=1, may_fail=0, every_s=2.5, on_regression="report")
    mixed = watch_of(release, own)
    assert (mixed.heartbeat_s, mixed.failures, mixed.may_fail, mixed.every_s) == (0, 1, 0, 2.5)
    assert mixed.on_regression == "report"
    assert watch_of(release, OwnWatch()) == release.watch


@pytest.mark.parametrize(
    ("watch", "own"),
    [(Watch(soak_s=60), OwnWatch()), (Watch(), OwnWatch(min_uptime_s=60)), (Watch(), OwnWatch(soak_s=61))],
)
def test_soak_that_does_not_fit_into_the_trial_is_refused_before_a_byte_is_written(watch: Watch, own: OwnWatch) -> None:
    p = Watched(watch, own)
    p.downloading()
    assert (p.word, p.told, p.done) == ("refused", [("refused", "trial-too-short")], [])


# Heartbeats


def test_no_heartbeat_unless_declared() -> None:
    p = Watched()
    p.committed()
    assert wake_at(p.standing) is None


def test_heartbeats_go_on_at_their_interval_and_tell_nothing_while_healthy() -> None:
    p = Watched(BEAT)
    p.committed()
    at = p.now
    for _ in range(3):
        p.beat(True)
        assert p.last == ()
    assert p.now == at + 90


def test_failures_in_a_row_are_a_regression_and_told_once_about_the_order_that_brought_it() -> None:
    p = Watched(replace(BEAT, on_regression="report"))
    p.committed()
    p.beat(False)
    p.beat(True)
    p.beat(False)
    assert p.last == (), "not in a row"
    p.beat(False)
    tell = p.last[0]
    assert isinstance(tell, do.Tell)
    assert (tell.state, tell.held and tell.held.hash, tell.evidence) == ("failed", held().hash, {"policy": "report"})
    assert p.told == [("failed", "health-regressed")]
    assert p.reasons == ["Its checks failed 2 times in a row after the commit. seen"]
    assert p.word == "committed", "it is what runs"
    assert p.beat(False).last == ()


def test_beat_that_could_not_look_counts_for_nothing() -> None:
    p = Watched(BEAT)
    p.committed()
    p.beat(False)
    p.beat(None)
    assert p.last == ()
    assert p.beat(False).told == [("failed", "health-regressed")]


def test_recovery_is_told_and_the_soak_begins_again() -> None:
    p = Watched(replace(BEAT, on_regression="report"))
    p.committed(floor=2)
    p.beat(False)
    p.beat(False)
    p.now += p.tuning.soak_s
    p.tell(ev.Woke(nonce="late"))
    assert p.standing.floors == {}, "the floor does not rise under a release that fails its checks"
    p.tell(ev.HeartbeatDone(slot=Slot.B, healthy=True, text="well again"))
    assert p.told == [("committed", "health-recovered")]
    assert p.standing.soak is not None
    assert p.standing.soak.soaked_at == p.now + p.tuning.soak_s


def test_heartbeat_of_another_slot_or_in_an_activation_changes_nothing() -> None:
    p = Watched(replace(BEAT, failures=1))
    p.committed()
    p.tell(ev.HeartbeatDone(slot=Slot.A, healthy=False, text="late"))
    assert p.last == ()
    p.ordered(held(2)).tell(
        ev.OrderChecked(order_hash=held(2).hash, content=content("3.0", 3), floor=0, min_uptime_s=0)
    )
    p.tell(ev.StageFinished(order_hash=held(2).hash)).wake()
    p.tell(p.permit())
    assert p.word == "activating"
    assert machine.vigil.beat_at(p.standing) is None
    p.tell(ev.HeartbeatDone(slot=Slot.B, healthy=False, text="stopped for the restart"))
    assert p.last == ()


def test_device_with_checks_of_its_own_watches_a_factory_image_too() -> None:
    p = Watched(own=OwnWatch(heartbeat_s=30, failures=1, on_regression="rollback"))
    p.beat(False)
    tell = p.last[0]
    assert isinstance(tell, do.Tell)
    assert (tell.state, tell.held) == ("idle", None)
    assert (p.told, p.done) == ([("idle", "health-regressed")], [])


def test_newer_order_about_the_same_release_is_told_of_its_regression() -> None:
    p = Watched(replace(BEAT, failures=1, on_regression="report"))
    p.committed()
    p.downloading(held(2, name="again"))
    assert p.told == [("committed", "already-running")]
    p.beat(False)
    tell = p.last[0]
    assert isinstance(tell, do.Tell)
    assert tell.held is not None
    assert tell.held.hash == "again"


# The way back


def test_regression_goes_back_to_the_previous_slot_after_reading_it() -> None:
    p = Watched(BEAT)
    p.regressed()
    assert (p.told, p.done) == ([("failed", "health-regressed")], ["VerifyPrevious"])
    verify = p.last[1]
    assert isinstance(verify, do.VerifyPrevious)
    assert (verify.slot, verify.content.version) == (Slot.A, "1.0")
    p.previous()
    assert (p.word, p.told, p.done) == ("activating", [("activating", "health-regressed")], ["TrySlot", "Reboot"])
    p.reboot_into_trial("boot-3")
    assert (p.word, p.told, p.done) == ("trial", [("trial", None)], ["RunHealth"])
    p.healthy().tell(ev.TrialCommitted(trial_id="back-1"))
    assert (p.word, p.told) == ("fell_back", [("fell_back", "health-regressed")])
    running = running_of(p.standing)
    assert (running.slot, running.version, running.rollback_available) == ("A", "1.0", False)


def test_security_previous_slot_that_changed_is_not_gone_back_to_and_forgotten() -> None:
    p = Watched(BEAT)
    p.regressed()
    p.previous(intact=False)
    assert (p.word, p.told, p.done) == ("committed", [("failed", "read-back-differs")], [])
    assert not running_of(p.standing).rollback_available
    assert p.beat(False).last == ()


def test_security_never_goes_back_below_the_floor() -> None:
    p = Watched(BEAT)
    p.committed(floor=2)
    p.now += p.tuning.soak_s
    while p.standing.soak is not None:
        p.tell(ev.Woke(nonce="soaked"))
    p.tell(ev.HeartbeatDone(slot=Slot.B, healthy=False, text="seen"))
    p.tell(ev.HeartbeatDone(slot=Slot.B, healthy=False, text="seen"))
    tell = p.last[0]
    assert isinstance(tell, do.Tell)
    assert (p.done, tell.evidence) == ([], {"policy": "rollback", "no_way_back": "below-floor"})


def test_security_floor_that_rose_while_the_slot_was_read_ends_the_way_back() -> None:
    p = Watched(BEAT)
    p.regressed()
    p.standing = replace(p.standing, floors={"demo": 2})
    assert p.previous().last == ()
    assert p.word == "committed"


def test_security_answer_about_what_the_slot_held_before_activates_nothing() -> None:
    p = Watched(BEAT)
    p.regressed()
    p.standing = replace(p.standing, slots={**p.standing.slots, Slot.A: content("3.0", 3, good=True)})
    assert p.previous().last == ()
    assert p.word == "committed"


def test_security_answer_that_nobody_waits_for_activates_nothing() -> None:
    p = Watched(BEAT)
    p.committed()
    assert p.previous().last == ()
    p = Watched(BEAT)
    p.regressed()
    p.previous(intact=False)
    assert p.previous().last == ()


def test_another_order_has_precedence_over_going_back() -> None:
    p = Watched(BEAT)
    p.committed()
    p.beat(False)
    p.ordered(held(2))
    p.beat(False)
    tell = p.last[0]
    assert isinstance(tell, do.Tell)
    assert (p.done, tell.evidence["no_way_back"]) == ([], "busy")
    during = Watched(BEAT)
    during.regressed()
    during.ordered(held(2))
    assert during.previous().last == ()
    assert during.word == "ordered"


def test_way_back_is_not_taken_from_a_release_that_was_rolled_back_to() -> None:
    """Else a regression of the old release would bring back the withdrawn one."""
    p = Watched()
    p.committed()
    p.tuning = Tuning(own_watch=OwnWatch(heartbeat_s=30, failures=1, on_regression="rollback"))
    back = held(2, Action.ROLLBACK)
    p.ordered(back).tell(ev.SlotVerified(order_hash=back.hash, intact=True)).wake()
    p.tell(p.permit()).reboot_into_trial("boot-3").healthy()
    p.tell(ev.TrialCommitted(trial_id=p.standing.state.trial_id))  # type: ignore[union-attr]
    assert running_of(p.standing).rollback_available
    p.beat(False)
    tell = p.last[0]
    assert isinstance(tell, do.Tell)
    assert (p.done, tell.evidence["no_way_back"]) == ([], "no-previous")


def test_previous_slot_that_does_not_do_either_ends_where_it_began_and_is_not_tried_again() -> None:
    p = Watched(BEAT)
    p.retreating()
    p.reboot_into_trial("boot-3").healthy(ok=False)
    assert p.done == ["GiveUp", "Reboot"]
    p.tell(boot("boot-4", Slot.B, outcome=BootOutcome.FELL_BACK, trial_id="back-1", cause="requested"))
    assert (p.word, p.told) == ("failed", [("failed", "health-failed")])
    assert p.reasons == ["Going back failed, so what regressed runs on. seen"]
    for _ in range(4):
        assert p.beat(False).last == ()


def test_power_cut_before_the_trial_of_the_way_back_leaves_the_device_where_it_was_and_it_tries_again() -> None:
    p = Watched(BEAT)
    p.retreating()
    for attempt in (2, 3):
        p.now = 5.0
        p.tell(boot(f"boot-{attempt}0", Slot.B))
        assert (p.word, p.told, p.done) == ("failed", [("failed", "health-regressed")], ["GiveUp"])
        p.beat(False)
        p.beat(False)
        assert p.done == ["VerifyPrevious"]
        p.previous(nonce=f"back-{attempt}")
        assert p.word == "activating"
    p.tell(boot("boot-40", Slot.B))
    p.beat(False)
    assert p.beat(False).done == [], "three times are enough"


def test_agent_that_restarts_while_going_back_goes_on() -> None:
    p = Watched(BEAT)
    p.retreating().tell(boot("boot-2", Slot.B))
    assert (p.word, p.done) == ("activating", ["TrySlot", "Reboot"])


def test_order_that_arrives_while_going_back_waits_for_its_end() -> None:
    p = Watched(BEAT)
    p.retreating().ordered(held(5))
    assert p.word == "activating"
    p.reboot_into_trial("boot-3").healthy().tell(ev.TrialCommitted(trial_id="back-1"))
    assert p.told == [("fell_back", "health-regressed"), ("ordered", None)]
    assert p.word == "ordered"


def test_loader_that_can_not_be_asked_fails_the_way_back() -> None:
    p = Watched(BEAT)
    p.retreating().tell(ev.ActivationFailed(trial_id="back-1", reason=Reason(kind="storage-fault", text="No.")))
    assert (p.word, p.told, p.done) == ("failed", [("failed", "storage-fault")], ["GiveUp"])


# What a person at the device asks for


def test_asked_commit_skips_the_rest_of_the_soak_but_not_the_checks() -> None:
    p = in_trial(Watch(soak_s=50, every_s=10))
    p.healthy().tell(ev.CommitAsked())
    assert p.done == ["RunHealth"]
    assert p.healthy().done == ["CommitTrial"]
    sick = in_trial(Watch(soak_s=50))
    sick.tell(ev.CommitAsked())
    assert sick.last == (), "a round runs already"
    assert sick.healthy(ok=False).done == ["GiveUp", "Reboot"]


def test_asked_rollback_gives_up_a_trial_or_goes_back_from_a_commit() -> None:
    why = Reason(kind="rolled-back-locally", text="Somebody asked for it.")
    p = in_trial()
    p.tell(ev.RollbackAsked(reason=why))
    assert p.done == ["GiveUp", "Reboot"]
    assert isinstance(p.standing.state, Trial)
    assert p.standing.state.gave_up == why
    p = Watched()
    p.committed()
    p.tell(ev.RollbackAsked(reason=why))
    assert p.done == ["VerifyPrevious"]
    p.previous()
    assert isinstance(p.standing.state, Activating)
    assert p.standing.state.retreat == why


@pytest.mark.parametrize("event", [ev.CommitAsked(), ev.RollbackAsked(reason=Reason(kind="x"))])
def test_asked_where_there_is_nothing_to_do_changes_nothing(event: ev.Event) -> None:
    p = Watched()
    p.staged()
    before = p.standing
    p.tell(event)
    assert (p.standing, p.last) == (before, ())


# Flash


def test_checks_that_pass_cost_no_write_to_the_journal() -> None:
    def written(standing: Standing) -> bytes:
        return encode(durable(Record(standing=standing, outbox=Outbox(journal="j"))))

    p = in_trial(Watch(soak_s=50, every_s=10, heartbeat_s=30))
    before = written(p.standing)
    p.healthy()
    assert written(p.standing) == before
    p.wake()
    assert written(p.standing) == before
    p.now += 50
    p.healthy().tell(ev.TrialCommitted(trial_id="nonce-1"))
    before = written(p.standing)
    p.beat(True)
    assert written(p.standing) == before
    p.wake()
    assert written(p.standing) == before
