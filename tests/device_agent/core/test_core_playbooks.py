"""The rules of the device core, one playbook each."""

import pytest
from msgspec.structs import replace

from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core.machine import TransitionError, running_of, step, wake_at
from device_agent.core.soak import soak_at
from device_agent.core.staging import MOST_OPEN
from device_agent.core.states import TABLE, Downloading, FellBack, Refused, Standing
from device_agent.core.values import Content, Part, content_of_parts
from device_agent.ports import BootOutcome, Slot
from firmware.protocol.order import Counter
from firmware.protocol.permit import Verdict
from firmware.protocol.report import Reason
from firmware.protocol.words import Action, AgentState
from tests.device_agent.core.playbook import NOW, TUNING, Player, boot, content, held

UNREACHABLE = Reason(kind="unreachable", text="No network.")
CHAPTERS = ["ordered", "downloading", "staged", "asking", "activating", "trial", "committed"]


def play(chapter: str) -> Player:
    return getattr(Player(), chapter)()  # type: ignore[no-any-return]


# An install from order to commit


def test_install_goes_through_every_state_in_order() -> None:
    p = Player().ordered()
    assert (p.word, p.told, p.done) == ("ordered", [("ordered", None)], ["CheckOrder"])
    p.tell(ev.OrderChecked(order_hash=held().hash, content=content(), floor=0, min_uptime_s=0))
    assert (p.word, p.told, p.done) == ("downloading", [("downloading", None)], ["Stage"])
    p.tell(ev.StageFinished(order_hash=held().hash))
    assert (p.word, p.told, p.done) == ("staged", [("staged", None)], [])
    p.wake()
    assert (p.word, p.told, p.done) == ("asking", [], ["SendAsk"])
    p.tell(p.permit())
    assert (p.word, p.told, p.done) == ("activating", [("activating", None)], ["TrySlot", "Reboot"])
    p.reboot_into_trial()
    assert (p.word, p.told, p.done) == ("trial", [("trial", None)], ["RunHealth"])
    p.healthy()
    assert (p.word, p.told, p.done) == ("trial", [], ["CommitTrial"])
    p.tell(ev.TrialCommitted(trial_id="nonce-1"))
    assert (p.word, p.told, p.done) == ("committed", [("committed", None)], [])
    running = running_of(p.standing)
    assert (running.slot, running.version, running.previous_version) == ("B", "2.0", "1.0")


def test_staging_forgets_the_previous_release_before_its_first_byte() -> None:
    p = Player().committed()
    assert running_of(p.standing).rollback_available
    p.downloading(held(2, name="next"))  # same release again: already running
    assert p.word == "committed"
    other = ev.OrderChecked(order_hash="third", content=content("3.0", 3), floor=0, min_uptime_s=0)
    p.ordered(held(3, name="third")).tell(other)
    assert p.done == ["Stage"]
    assert not running_of(p.standing).rollback_available


def test_release_that_already_runs_is_committed_without_writing() -> None:
    p = Player().committed().downloading(held(2, name="again"))
    assert (p.word, p.told, p.done) == ("committed", [("committed", "already-running")], [])


def of_three(app: str, *, good: bool = False) -> Content:
    parts = [
        Part(slot_set=name, sha256=digit * 64, length=10)
        for name, digit in (("app", app), ("boot", "b"), ("root", "2"))
    ]
    return content_of_parts(parts, product="demo", version="2.0", counter=2, good=good)


def test_several_images_run_already_only_if_all_of_them_do() -> None:
    """The same `root` and `boot` with another `app` is another content, and is staged."""
    for app, word in (("a", "committed"), ("c", "downloading")):
        p = Player(Standing(slots={Slot.A: of_three("a", good=True)}))
        p.ordered()
        p.tell(ev.OrderChecked(order_hash=held().hash, content=of_three(app), floor=0, min_uptime_s=0))
        assert p.word == word, app


def test_a_report_names_every_image_that_runs() -> None:
    p = Player(Standing(slots={Slot.A: of_three("a", good=True)}))
    running = running_of(p.standing)
    assert [(image.slot, image.sha256[0]) for image in running.images] == [("app", "a"), ("boot", "b"), ("root", "2")]
    assert (running.sha256, running.length) == (of_three("a").sha256, 30)
    assert running_of(Player().standing).images == []


# Orders


@pytest.mark.parametrize("chapter", ["ordered", "downloading", "staged", "asking", "committed"])
def test_newer_install_supersedes_until_activation(chapter: str) -> None:
    p = play(chapter).ordered(held(9))
    assert p.word == "ordered"
    assert p.done[-1] == "CheckOrder"
    assert ("StopStaging" in p.done) == (chapter == "downloading")


@pytest.mark.parametrize("chapter", ["activating", "trial"])
def test_newer_order_waits_while_activating_or_on_trial(chapter: str) -> None:
    p = play(chapter).ordered(held(9))
    assert (p.word, p.told, p.done) == (chapter, [], [])
    assert p.standing.pending == held(9)
    if chapter == "activating":
        p.reboot_into_trial()
    p.healthy().tell(ev.TrialCommitted(trial_id="nonce-1"))
    assert (p.word, p.told, p.done) == ("ordered", [("committed", None), ("ordered", None)], ["CheckOrder"])
    assert p.standing.pending is None


def test_pending_order_is_taken_up_after_falling_back() -> None:
    p = Player().trial().ordered(held(9)).healthy(ok=False)
    p.tell(boot("boot-3", outcome=BootOutcome.FELL_BACK, trial_id="nonce-1", cause="requested"))
    assert p.told == [("fell_back", "health-failed"), ("ordered", None)]
    assert p.word == "ordered"


@pytest.mark.parametrize("chapter", ["ordered", "downloading", "staged", "asking"])
def test_signed_nothing_withdraws_before_activation(chapter: str) -> None:
    p = play(chapter).ordered(held(9, Action.NOTHING))
    assert (p.word, p.told) == ("cancelled", [("cancelled", "withdrawn")])
    assert ("StopStaging" in p.done) == (chapter == "downloading")
    tells = [command for command in p.last if isinstance(command, do.Tell)]
    assert tells[0].evidence == {"was": chapter}


def test_expired_nothing_still_withdraws() -> None:
    p = Player().staged().ordered(held(9, Action.NOTHING, expires_at=NOW - 1))
    assert p.word == "cancelled"


def test_withdrawn_work_changes_nothing_when_its_answer_comes_late() -> None:
    p = Player().downloading().ordered(held(9, Action.NOTHING))
    p.tell(ev.StageFinished(order_hash=held().hash))
    assert (p.word, p.last) == ("cancelled", ())


def test_same_order_again_changes_nothing_in_any_state() -> None:
    for chapter in CHAPTERS:
        p = play(chapter)
        before = p.standing
        p.ordered(held())
        assert (p.standing, p.last) == (before, ()), chapter


def test_older_order_is_ignored_and_reported_once() -> None:
    p = Player().ordered(held(5))
    p.ordered(held(4))
    assert (p.word, p.told, p.done) == ("ordered", [("refused", "stale-counter")], [])
    p.ordered(held(4))
    assert p.last == ()
    assert p.standing.highest == Counter(epoch=1, n=5)


def test_equal_counter_with_other_content_is_equivocation_and_changes_nothing() -> None:
    p = Player().staged()
    p.ordered(held(1, name="twin"))
    assert (p.word, p.told) == ("staged", [("refused", "equivocation")])
    p.ordered(held(1, name="twin"))
    assert p.last == ()


def test_higher_epoch_beats_any_number() -> None:
    p = Player().ordered(held(10**9)).ordered(held(1, epoch=2))
    assert p.standing.highest == Counter(epoch=2, n=1)


def test_order_for_somebody_else_is_reported_once_and_moves_no_counter() -> None:
    p = Player().staged()
    foreign = ev.OrderForeign(held=held(99, target="dev-2"), reason=Reason(kind="wrong-target", text="Not mine."))
    assert p.tell(foreign).told == [("refused", "wrong-target")]
    assert p.tell(foreign).last == ()
    assert (p.word, p.standing.highest) == ("staged", Counter(epoch=1, n=1))


def test_expired_order_is_refused_before_anything_is_fetched() -> None:
    p = Player()
    p.trusted = NOW + 1000.0
    p.ordered()
    assert (p.word, p.told, p.done) == ("refused", [("refused", "order-expired")], [])


def test_expiry_stops_the_start_but_not_what_was_started() -> None:
    late = Player().ordered()
    late.trusted = NOW + 1000.0
    late.tell(ev.OrderChecked(order_hash=held().hash, content=content(), floor=0, min_uptime_s=0))
    assert late.told == [("refused", "order-expired")]
    going_on = Player().downloading()
    going_on.trusted = NOW + 1000.0
    going_on.tell(ev.StageFinished(order_hash=held().hash)).wake()
    going_on.tell(going_on.permit()).reboot_into_trial().healthy().tell(ev.TrialCommitted(trial_id="nonce-1"))
    assert going_on.word == "committed"


def test_order_that_must_be_rejected_is_refused_and_its_counter_counts() -> None:
    p = Player().staged()
    reason = Reason(kind="wrong-hardware", text="Other board.")
    p.tell(ev.OrderArrived(held=held(7), reject=reason))
    assert (p.word, p.told) == ("refused", [("refused", "wrong-hardware")])
    assert p.standing.highest == Counter(epoch=1, n=7)


def test_rejected_order_does_not_disturb_a_trial() -> None:
    p = Player().trial()
    p.tell(ev.OrderArrived(held=held(7), reject=Reason(kind="not-understood", text="New field.")))
    assert (p.word, p.told) == ("trial", [("refused", "not-understood")])
    assert p.healthy().done == ["CommitTrial"]


# Checking and staging


def test_order_that_the_catalogue_contradicts_is_refused() -> None:
    p = Player().ordered()
    p.tell(ev.CheckRefused(order_hash=held().hash, reason=Reason(kind="catalogue-mismatch", text="No.")))
    assert (p.word, p.told) == ("refused", [("refused", "catalogue-mismatch")])


def test_expired_catalogue_defers_and_is_looked_at_again() -> None:
    expired = ev.CheckRefused(order_hash=held().hash, reason=Reason(kind="catalogue-expired", text="Old."))
    p = Player().ordered().tell(expired)
    assert (p.word, p.told) == ("deferred", [("deferred", "catalogue-expired")])
    p.wake()
    assert (p.word, p.done) == ("ordered", ["CheckOrder"])
    p.tell(expired)
    assert (p.word, p.told) == ("deferred", []), "the same reason is told once"


def test_unreachable_server_is_retried_with_growing_waits_and_told_once() -> None:
    p = Player().downloading()
    waits = []
    for attempt in range(12):
        p.tell(ev.StageDelayed(order_hash=held().hash, reason=UNREACHABLE, jitter=0.5))
        assert p.told == ([("downloading", "unreachable")] if attempt == 0 else [])
        waits.append((wake_at(p.standing) or 0) - p.now)
        p.wake()
        assert p.done == ["Stage"]
    assert waits[:3] == [5.0, 10.0, 20.0]
    assert waits[-1] == TUNING.retry_max_s


def test_wrong_bytes_fail_the_order() -> None:
    p = Player().downloading()
    p.tell(ev.StageRefused(order_hash=held().hash, reason=Reason(kind="artifact-changed", text="Window 3.")))
    assert (p.word, p.told) == ("failed", [("failed", "artifact-changed")])
    assert wake_at(p.standing) is None


def test_slot_staged_in_an_earlier_boot_is_read_again_before_the_ask() -> None:
    p = Player().staged().tell(boot("boot-2"))
    assert (p.word, p.done) == ("staged", ["VerifySlot"])
    assert wake_at(p.standing) is None, "no ask before it is verified"
    p.tell(ev.SlotVerified(order_hash=held().hash, intact=True)).wake()
    assert p.done == ["SendAsk"]


def test_staged_slot_that_changed_is_staged_again() -> None:
    p = Player().staged().tell(boot("boot-2"))
    p.tell(ev.SlotVerified(order_hash=held().hash, intact=False))
    assert (p.word, p.told, p.done) == ("downloading", [("downloading", "read-back-differs")], ["Stage"])


# Ask and permit


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonce": "nonce-0"},
        {"boot_id": "boot-0"},
        {"order_hash": "other"},
        {"target": "dev-2"},
        {"agent": "dev-2"},
        {"counter": Counter(epoch=1, n=2)},
    ],
)
def test_permit_that_does_not_answer_the_open_ask_is_ignored(wrong: dict[str, object]) -> None:
    p = Player().asking()
    before = p.standing
    p.tell(p.permit(**wrong))
    assert (p.standing, p.last) == (before, ())


def test_permit_is_counted_from_when_the_ask_was_sent() -> None:
    p = Player().asking()
    permit = p.permit(valid_s=30)
    p.now += 30.5
    assert p.tell(permit).last == ()
    p.now -= 1
    assert p.tell(permit).done == ["TrySlot", "Reboot"]


def test_answers_may_take_longer_than_the_next_ask() -> None:
    p = Player().asking()
    first = p.permit(valid_s=300)
    for _ in range(3):
        p.wake()
    assert p.tell(first).word == "activating"


def test_a_permit_for_an_earlier_ask_is_counted_from_when_that_was_sent() -> None:
    p = Player().asking()
    first = p.permit(valid_s=30)
    p.now += 20
    p.wake()
    p.now += 20
    assert p.tell(first).last == (), "too late for the first"
    assert p.tell(p.permit(valid_s=30)).word == "activating", "and in time for the second"


def test_no_more_asks_are_kept_than_may_be_answered() -> None:
    p = Player().asking()
    first = p.permit()
    for _ in range(MOST_OPEN):
        p.wake()
    assert p.tell(first).last == ()
    assert len(p.standing.state.unanswered) == MOST_OPEN  # type: ignore[union-attr]


def test_who_puts_it_off_says_that_no_open_ask_will_be_used() -> None:
    p = Player().asking()
    nonces = [p.permit().permit.nonce]
    p.wake()
    nonces.append(p.permit().permit.nonce)
    p.tell(ev.DeferAsked(seconds=100))
    p.wake()
    tell = next(one for one in p.last if isinstance(one, do.Tell))
    assert tell.evidence == {"declined": " ".join(nonces)}
    assert tell.state == "deferred"


def test_a_second_wait_brings_the_next_ask_forward_and_no_replay_does() -> None:
    p = Player().asking()
    first, sooner = p.permit(Verdict.WAIT, retry_after_s=3600), p.permit(Verdict.WAIT, retry_after_s=10)
    later, granted = p.permit(Verdict.WAIT, retry_after_s=9000), p.permit()
    p.tell(first)
    at = wake_at(p.standing)
    assert at is not None
    p.now += 60
    for useless in (first, later, granted):
        p.tell(useless)
        assert (p.word, p.last, wake_at(p.standing)) == ("asking", (), at)
    p.tell(sooner)
    soon = wake_at(p.standing)
    assert soon is not None
    assert 10 <= soon - p.now <= 11
    p.now += 5
    p.tell(sooner)
    assert wake_at(p.standing) == soon, "a replay is later than what it repeats"
    p.wake()
    (ask,) = p.last
    assert isinstance(ask, do.SendAsk)
    open_until = wake_at(p.standing)
    p.tell(sooner)
    assert wake_at(p.standing) == open_until, "it answers another ask than the one that is open"


@pytest.mark.parametrize("field", ["target", "agent", "order_hash", "boot_id", "nonce"])
def test_a_second_wait_about_something_else_brings_nothing_forward(field: str) -> None:
    p = Player().asking()
    other = {"order_hash": "f" * 64, "boot_id": "boot-9", "nonce": "nonce-9"}.get(field, "dev-9")
    sooner = p.permit(Verdict.WAIT, retry_after_s=1, **{field: other})
    p.tell(p.permit(Verdict.WAIT, retry_after_s=3600))
    at = wake_at(p.standing)
    p.tell(sooner)
    assert wake_at(p.standing) == at


def test_wait_closes_the_ask_and_asks_again_with_a_new_nonce() -> None:
    p = Player().asking()
    granted = p.permit()
    p.tell(p.permit(Verdict.WAIT, retry_after_s=40))
    assert (p.word, p.last) == ("asking", ())
    assert p.tell(granted).last == (), "an answered ask can't be answered again"
    at = wake_at(p.standing)
    assert at is not None
    assert 40 <= at - p.now <= 44
    p.wake()
    ask = p.last[0]
    assert isinstance(ask, do.SendAsk)
    assert ask.nonce == "nonce-2"


def test_reconnect_repeats_an_unanswered_ask_soon() -> None:
    p = Player().asking().wake().wake().wake()
    p.tell(ev.LinkUp(jitter=0.5))
    assert (wake_at(p.standing) or 0) - p.now <= TUNING.ask_spread_s


def test_restarted_agent_asks_anew_in_the_same_boot() -> None:
    p = Player().asking()
    old = p.permit()
    p.tell(boot("boot-1"))
    assert p.word == "staged"
    p.wake()
    assert p.tell(old).last == ()
    assert p.tell(p.permit()).word == "activating"


# Activation and trial


def test_permit_dies_with_a_reboot_before_activation() -> None:
    p = Player().activating().tell(boot("boot-2"))
    assert (p.word, p.told, p.done) == ("staged", [("staged", "permit-stale")], ["GiveUp", "VerifySlot"])


def test_agent_that_died_while_activating_completes_it_in_the_same_boot() -> None:
    p = Player().activating().tell(boot("boot-1"))
    assert (p.word, p.done) == ("activating", ["TrySlot", "Reboot"])


def test_agent_that_comes_back_after_the_permit_ended_asks_anew() -> None:
    p = Player().activating()
    p.now += 301
    p.tell(boot("boot-1"))
    assert (p.word, p.told, p.done) == ("staged", [("staged", "permit-stale")], ["GiveUp"])


def test_boot_loader_that_refuses_the_trial_fails_the_order() -> None:
    p = Player().activating().tell(boot("boot-2", cause="request-refused"))
    assert (p.word, p.told) == ("failed", [("failed", "boot-failed")])


def test_boot_loader_that_cannot_be_asked_fails_the_order() -> None:
    p = Player().activating()
    p.tell(ev.ActivationFailed(trial_id="nonce-1", reason=Reason(kind="storage-fault", text="EIO")))
    assert (p.word, p.told, p.done) == ("failed", [("failed", "storage-fault")], ["GiveUp"])


def test_reboot_that_does_not_come_is_asked_for_again() -> None:
    p = Player().activating().wake()
    assert (p.word, p.done) == ("activating", ["Reboot"])


def test_failed_health_gives_up_and_its_reason_survives_the_reboot() -> None:
    p = Player().trial().healthy(ok=False)
    assert (p.word, p.told, p.done) == ("trial", [], ["GiveUp", "Reboot"])
    p.tell(boot("boot-3", outcome=BootOutcome.FELL_BACK, trial_id="nonce-1", cause="requested"))
    assert (p.word, p.told) == ("fell_back", [("fell_back", "health-failed")])
    assert not running_of(p.standing).rollback_available


def test_given_up_trial_never_commits_again() -> None:
    p = Player().trial().healthy(ok=False).healthy()
    assert p.last == ()
    p.reboot_into_trial("boot-3")
    assert p.done == ["GiveUp", "Reboot"]


@pytest.mark.parametrize("cause", ["attempts-exhausted", "trial-deadline", "boot-failed"])
def test_boot_loaders_cause_is_reported(cause: str) -> None:
    p = Player().activating()
    p.tell(boot("boot-5", outcome=BootOutcome.FELL_BACK, trial_id="nonce-1", cause=cause))
    assert p.told == [("fell_back", cause)]
    assert isinstance(p.standing.state, FellBack)


def test_checks_that_pass_after_the_deadline_do_not_commit() -> None:
    p = Player().trial()
    p.now += 60
    p.healthy()
    assert p.done == ["GiveUp", "Reboot"]


def test_deadline_passes_while_checks_still_run() -> None:
    p = Player().trial().wake()
    assert p.done == ["GiveUp", "Reboot"]


def test_minimum_up_time_is_waited_for_and_the_checks_run_again() -> None:
    p = Player().trial(min_uptime_s=20).healthy()
    assert p.last == ()
    p.wake()
    assert p.done == ["RunHealth"]
    assert p.healthy().done == ["CommitTrial"]


def test_commit_that_fails_is_tried_again_until_the_deadline() -> None:
    p = Player().trial().healthy()
    for _ in range(3):
        p.tell(ev.CommitFailed(trial_id="nonce-1"))
        assert p.wake().done == ["CommitTrial"]
    p.tell(ev.CommitFailed(trial_id="nonce-1"))
    p.now += 60
    p.tell(ev.Woke(nonce="late"))
    assert p.done == ["GiveUp", "Reboot"]


def test_commit_that_the_power_cut_before_the_journal_is_still_a_commit() -> None:
    p = Player().trial().healthy().tell(boot("boot-3", Slot.B))
    assert (p.word, p.told) == ("committed", [("committed", None)])


def test_agent_that_died_during_a_trial_runs_the_checks_again() -> None:
    p = Player().trial()
    started = p.standing.state
    p.now += 7
    p.tell(boot("boot-2", Slot.B, outcome=BootOutcome.TRIAL, trial_id="nonce-1"))
    assert (p.word, p.told, p.done) == ("trial", [], ["RunHealth"])
    assert p.standing.state.started_at == started.started_at  # type: ignore[union-attr]


def test_trial_that_the_journal_does_not_know_is_given_up() -> None:
    p = Player(Standing()).tell(boot("boot-9", Slot.B, outcome=BootOutcome.TRIAL, trial_id="unknown"))
    assert p.done == ["GiveUp", "Reboot"]
    assert p.word == "idle"


def test_fall_back_after_a_commit_is_reported() -> None:
    p = Player().committed()
    p.tell(boot("boot-4", outcome=BootOutcome.FELL_BACK, trial_id="nonce-1", cause="boot-failed"))
    assert (p.word, p.told) == ("fell_back", [("fell_back", "boot-failed")])


def test_trial_that_runs_again_after_a_lost_commit_is_checked_again() -> None:
    p = Player().committed().tell(boot("boot-3", Slot.B, outcome=BootOutcome.TRIAL, trial_id="nonce-1"))
    assert (p.word, p.done) == ("trial", ["RunHealth"])


def test_committed_agent_that_restarts_in_its_trial_boot_stays_committed() -> None:
    p = Player().committed().tell(boot("boot-2", Slot.B, outcome=BootOutcome.TRIAL, trial_id="nonce-1"))
    assert (p.word, p.last) == ("committed", ())


def test_slots_that_changed_their_roles_restart_the_order() -> None:
    p = Player().downloading().tell(boot("boot-2", Slot.B))
    assert (p.word, p.done[-1]) == ("ordered", "CheckOrder")


# Floor and rollback


def test_floor_rises_only_after_the_soak() -> None:
    p = Player().committed(floor=2)
    assert p.standing.floors == {}
    p.now += TUNING.soak_s - 1
    p.tell(boot("boot-3", Slot.B))
    assert p.standing.floors == {}, "a reboot starts the soak again"
    p.wake()
    assert p.standing.floors == {"demo": 2}
    assert not running_of(p.standing).rollback_available


@pytest.mark.parametrize("action", [Action.NOTHING, Action.INSTALL])
def test_security_order_during_the_soak_does_not_keep_the_floor_down(action: Action) -> None:
    p = Player().committed(floor=2).ordered(held(2, action))
    p.now += TUNING.soak_s - 20
    p.tell(boot("boot-2", Slot.B))
    p.now += 21
    while p.standing.soak is not None:
        p.wake()
    assert p.standing.floors == {"demo": 2}


def test_security_ordering_what_runs_again_does_not_lengthen_the_soak() -> None:
    p = Player().committed(floor=2)
    soaked_at = p.standing.soak and p.standing.soak.soaked_at
    p.now += TUNING.soak_s - 1
    p.downloading(held(2), floor=2)
    assert p.word == "committed"
    assert p.standing.soak is not None
    assert p.standing.soak.soaked_at == soaked_at


def test_soak_counts_only_in_its_own_slot_and_ends_with_another_commit() -> None:
    p = Player().committed(floor=2).tell(boot("boot-3", Slot.A))
    p.now += 2 * TUNING.soak_s
    assert soak_at(p.standing) is None
    p.tell(boot("boot-4", Slot.B)).wake()
    assert p.standing.floors == {"demo": 2}


def test_floor_does_not_rise_in_mid_activation() -> None:
    p = Player().committed(floor=2).ordered(held(2, Action.ROLLBACK))
    p.tell(ev.SlotVerified(order_hash=held(2, Action.ROLLBACK).hash, intact=True)).wake().tell(p.permit())
    assert (p.word, soak_at(p.standing)) == ("activating", None)
    p.reboot_into_trial("boot-4").healthy().tell(ev.TrialCommitted(trial_id=p.standing.state.trial_id))  # type: ignore[union-attr]
    assert p.standing.soak is None, "the release that was left no longer soaks"


def test_security_permit_for_a_release_below_a_floor_that_rose_meanwhile_is_refused() -> None:
    p = Player().committed(floor=2).ordered(held(2, Action.ROLLBACK))
    p.tell(ev.SlotVerified(order_hash=held(2, Action.ROLLBACK).hash, intact=True)).wake()
    permit = p.permit()
    p.standing = replace(p.standing, soak=None, floors={"demo": 2})
    p.tell(permit)
    assert p.told == [("refused", "below-floor")]
    assert p.done == []


def test_floor_never_locks_out_the_release_that_set_it() -> None:
    p = Player().committed(floor=99).wake()
    assert p.standing.floors == {"demo": 2}


def test_rollback_asks_and_tries_the_previous_slot() -> None:
    p = Player().committed()
    p.ordered(held(2, Action.ROLLBACK))
    assert (p.word, p.told, p.done) == ("ordered", [("ordered", None)], ["VerifySlot"])
    p.tell(ev.SlotVerified(order_hash=held(2, Action.ROLLBACK).hash, intact=True))
    assert (p.word, p.told) == ("staged", [("staged", None)])
    p.wake()
    p.tell(p.permit())
    tries = [command for command in p.last if isinstance(command, do.TrySlot)]
    assert tries[0].slot is Slot.A
    p.reboot_into_trial("boot-4").healthy().tell(ev.TrialCommitted(trial_id=p.standing.state.trial_id))  # type: ignore[union-attr]
    assert (p.word, running_of(p.standing).version) == ("committed", "1.0")


def test_rollback_without_a_good_previous_release_is_refused() -> None:
    p = Player().ordered(held(2, Action.ROLLBACK))
    assert p.told == [("refused", "no-previous")]
    p = Player().staged().ordered(held(2, Action.ROLLBACK))
    assert p.told == [("refused", "no-previous")], "staged, but never committed here"


def test_rollback_below_the_floor_is_refused() -> None:
    p = Player().committed(floor=2).wake().ordered(held(2, Action.ROLLBACK))
    assert p.told == [("refused", "below-floor")]


def test_rollback_to_a_slot_that_changed_is_refused() -> None:
    p = Player().committed().ordered(held(2, Action.ROLLBACK))
    p.tell(ev.SlotVerified(order_hash=held(2, Action.ROLLBACK).hash, intact=False))
    assert p.told == [("refused", "read-back-differs")]
    assert not running_of(p.standing).rollback_available


# The table


def test_every_state_handles_an_order_a_boot_and_a_wake() -> None:
    for word in AgentState:
        for event in (ev.OrderArrived, ev.OrderForeign, ev.Booted, ev.Woke, ev.LinkUp):
            assert (word, event) in TABLE, (word, event)


def test_missing_row_is_a_typed_error() -> None:
    p = Player().downloading()
    assert isinstance(p.standing.state, Downloading)
    with pytest.raises(TransitionError) as caught:
        step(p.standing, ev.TrialCommitted(trial_id="x"), 0.0, 0.0)
    assert caught.value.kind == "no-transition"


def test_refused_keeps_its_reason() -> None:
    p = Player().ordered(held(2, Action.ROLLBACK))
    assert isinstance(p.standing.state, Refused)
    assert p.standing.state.reason.kind == "no-previous"
