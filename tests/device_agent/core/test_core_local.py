"""Playbooks of the device's own say: deferral, consent, windows and hooks as the core sees them."""

from typing import Any

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core.local import LOOK_AGAIN_S
from device_agent.core.machine import step, wake_at
from device_agent.core.states import Deferred, State, Trial
from device_agent.core.values import Held, Phase, Tuning
from device_agent.journal import Record, decode, durable, encode
from device_agent.outbox import Outbox
from device_agent.ports import Slot
from firmware.protocol.permit import Verdict
from firmware.protocol.report import Reason
from firmware.protocol.words import Action, AgentState
from tests.device_agent.core.playbook import NOW, Player, boot, held

BATTERY = Reason(kind="condition-not-met", text="Condition battery is not met.")
HOUR = 3600.0


class Owned(Player):
    """A player on a device with an owner."""

    def __init__(self, **tuning: Any) -> None:
        self.tuning = Tuning(**tuning)
        super().__init__()

    def tell(self, event: ev.Event) -> "Owned":
        self.standing, self.last = step(self.standing, event, self.now, self.trusted, self.tuning)
        return self

    def pass_time(self, seconds: float) -> "Owned":
        self.now += seconds
        self.trusted += seconds
        return self.tell(ev.Woke(nonce=f"later-{self.now}"))

    def cleared(self, valid_s: float = 600.0) -> "Owned":
        return self.tell(ev.Cleared(order_hash=self.order_hash, valid_s=valid_s))

    def withheld(self, reason: Reason = BATTERY, *, retry_s: float = 60.0, veto: bool = False) -> "Owned":
        return self.tell(ev.Withheld(order_hash=self.order_hash, reason=reason, retry_s=retry_s, veto=veto))

    @property
    def order_hash(self) -> str:
        return str(self.standing.state.held.hash)  # type: ignore[union-attr]


def staged(**tuning: Any) -> Owned:
    p = Owned(**tuning)
    p.staged()
    return p


def asking(**tuning: Any) -> Owned:
    p = Owned(**tuning)
    p.asking()
    return p


# Putting off


def test_deferral_is_told_at_once_and_the_ask_follows_its_end() -> None:
    p = staged().tell(ev.DeferAsked(seconds=2 * HOUR))
    assert (p.word, p.told, p.done) == ("deferred", [("deferred", "put-off")], [])
    for _ in range(7):
        p.pass_time(LOOK_AGAIN_S)
        assert (p.word, p.last) == ("deferred", ()), "the same reason is told once"
    p.pass_time(LOOK_AGAIN_S)
    assert (p.word, p.told) == ("staged", [("staged", None)])
    p.wake()
    assert p.done == ["SendAsk"]


def test_deferral_before_an_order_holds_for_it() -> None:
    p = Owned().tell(ev.DeferAsked(seconds=HOUR))
    assert p.last == ()
    p.asking()
    assert (p.word, p.told, p.done) == ("deferred", [("deferred", "put-off")], [])


def test_deferral_does_not_stop_a_download() -> None:
    p = Owned()
    p.downloading()
    assert p.tell(ev.DeferAsked(seconds=HOUR)).word == "downloading"


def test_security_no_order_can_be_put_off_for_ever() -> None:
    p = staged(max_defer_s=3 * HOUR)
    waited = 0.0
    while p.word in ("deferred", "staged") and "SendAsk" not in p.done:
        p.tell(ev.DeferAsked(seconds=100 * HOUR))
        if p.word == "deferred":
            p.pass_time(LOOK_AGAIN_S)
            waited += LOOK_AGAIN_S
        else:
            p.pass_time(0)
        assert waited <= 4 * HOUR
    assert p.done == ["SendAsk"]
    assert waited == 3 * HOUR


def test_deferral_during_an_open_ask_declines_its_permit() -> None:
    p = asking()
    p.tell(ev.DeferAsked(seconds=HOUR))
    assert (p.word, p.last) == ("asking", ()), "a permit may be under way"
    p.tell(p.permit())
    assert (p.word, p.told, p.done) == ("deferred", [("deferred", "put-off")], [])
    tell = p.last[0]
    assert isinstance(tell, do.Tell)
    assert tell.evidence == {"declined": "nonce-1"}


def test_deferral_while_the_server_lets_it_wait_takes_effect_at_once() -> None:
    p = asking()
    p.tell(p.permit(Verdict.WAIT)).tell(ev.DeferAsked(seconds=HOUR))
    assert p.told == [("deferred", "put-off")]


def test_deferral_survives_a_restart_and_reads_the_slot_again_after_it() -> None:
    p = staged().tell(ev.DeferAsked(seconds=HOUR))
    record = Record(standing=p.standing, outbox=Outbox(journal="j"))
    p.standing = decode(encode(record)).standing
    p.now = 10.0
    p.tell(boot("boot-2"))
    assert (p.word, p.last) == ("deferred", ())
    p.pass_time(1)
    assert (p.word, p.last) == ("deferred", ())
    p.pass_time(HOUR)
    assert (p.word, p.told, p.done) == ("staged", [("staged", None)], ["VerifySlot"])
    assert wake_at(p.standing) is None, "no ask before the slot is read in this boot"
    p.tell(ev.SlotVerified(order_hash=p.order_hash, intact=True)).wake()
    assert p.done == ["SendAsk"]


def test_order_that_expires_while_it_is_put_off_after_staging_still_asks() -> None:
    """Who staged in time keeps waiting for a permit; the server decides."""
    p = staged().tell(ev.DeferAsked(seconds=HOUR))
    p.pass_time(HOUR).wake()
    assert p.trusted > held().order.expires_at
    assert p.done == ["SendAsk"]


@pytest.mark.parametrize("action", [Action.INSTALL, Action.NOTHING])
def test_newer_order_replaces_one_that_is_put_off(action: Action) -> None:
    p = staged().tell(ev.DeferAsked(seconds=HOUR))
    p.ordered(held(9, action))
    assert p.word == ("ordered" if action is Action.INSTALL else "cancelled")


def test_rollback_that_was_ordered_can_be_put_off_too() -> None:
    p = Owned()
    p.committed()
    p.tell(ev.DeferAsked(seconds=HOUR))
    back = held(2, Action.ROLLBACK)
    p.ordered(back).tell(ev.SlotVerified(order_hash=back.hash, intact=True)).wake()
    assert p.told == [("deferred", "put-off")]


# Consent


def test_consent_is_waited_for_and_then_asked() -> None:
    p = asking(consent_required=True)
    assert (p.word, p.told, p.done) == ("deferred", [("deferred", "consent-needed")], [])
    p.tell(ev.Consented())
    assert p.last == ()
    p.wake()
    assert p.told == [("staged", None)]
    assert p.wake().done == ["SendAsk"]


def test_security_consent_is_for_one_order() -> None:
    p = asking(consent_required=True)
    p.tell(ev.Consented(order_hash="another"))
    p.pass_time(LOOK_AGAIN_S)
    assert p.word == "deferred"
    p.tell(ev.Consented(order_hash=p.order_hash)).wake()
    assert p.word == "staged"
    p.ordered(held(2)).tell(ev.OrderChecked(order_hash=held(2).hash, content=p_content(), floor=0, min_uptime_s=0))
    p.tell(ev.StageFinished(order_hash=held(2).hash)).wake()
    assert p.told == [("deferred", "consent-needed")]


def p_content() -> Any:
    from tests.device_agent.core.playbook import content

    return content("3.0", 3)


def test_consent_ends_a_deferral_and_a_deferral_ends_a_consent() -> None:
    p = asking(consent_required=True)
    p.tell(ev.DeferAsked(seconds=HOUR)).tell(ev.Consented()).wake()
    assert p.word == "staged"
    p.tell(ev.DeferAsked(seconds=HOUR))
    assert p.told == [("deferred", "put-off")]
    p.pass_time(HOUR)
    assert p.told == [("deferred", "consent-needed")]


# Windows, conditions and hooks before an activation


def test_the_device_is_asked_before_the_server() -> None:
    p = asking(clear_first=True)
    assert (p.word, p.done) == ("staged", ["Clear"])
    command = p.last[0]
    assert isinstance(command, do.Clear)
    assert command.phase is Phase.ACTIVATION
    assert wake_at(p.standing) is None, "the answer is waited for"
    p.cleared()
    assert p.last == ()
    assert p.wake().done == ["SendAsk"]


def test_its_yes_lasts_as_long_as_it_said() -> None:
    p = asking(clear_first=True).cleared(valid_s=100)
    p.wake()
    p.now += 99
    p.tell(ev.Woke(nonce="again"))
    assert p.done == ["SendAsk"]
    p.now += 70
    p.tell(ev.Woke(nonce="third"))
    assert (p.word, p.done) == ("staged", ["Clear"])


def test_permit_that_comes_after_the_yes_has_ended_is_declined() -> None:
    p = asking(clear_first=True).cleared(valid_s=10)
    p.wake()
    permit = p.permit()
    p.now += 11
    p.tell(permit)
    assert (p.word, p.told) == ("deferred", [("deferred", "outside-window")])


def test_no_defers_and_is_asked_again_and_told_once() -> None:
    p = asking(clear_first=True).withheld()
    assert (p.word, p.told) == ("deferred", [("deferred", "condition-not-met")])
    for _ in range(3):
        p.wake()
        assert p.done == ["Clear"]
        assert wake_at(p.standing) is None
        p.withheld()
        assert p.last == ()
    p.wake().cleared()
    assert p.told == [("staged", None)]
    assert p.wake().done == ["SendAsk"]


def test_another_reason_is_told() -> None:
    p = asking(clear_first=True).withheld()
    p.wake()
    p.withheld(Reason(kind="hook-deferred", text="Busy."))
    assert p.told == [("deferred", "hook-deferred")]


def test_veto_refuses_the_order() -> None:
    p = asking(clear_first=True).withheld(Reason(kind="vetoed", text="No."), veto=True)
    assert (p.word, p.told) == ("refused", [("refused", "vetoed")])


def test_answer_about_another_order_changes_nothing() -> None:
    p = asking(clear_first=True)
    before = p.standing
    p.tell(ev.Cleared(order_hash="other", valid_s=600)).tell(ev.Withheld(order_hash="other", reason=BATTERY, retry_s=1))
    assert p.standing == before


def test_answer_that_nobody_waits_for_clears_nothing() -> None:
    p = staged(clear_first=True).cleared()
    assert p.standing.local.clearance is None


def test_deferral_that_waits_for_an_answer_reads_back_as_one_to_look_at_now() -> None:
    p = asking(clear_first=True).withheld()
    p.wake()
    assert isinstance(p.standing.state, Deferred)
    assert p.standing.state.retry_at is None
    stored = durable(Record(standing=p.standing, outbox=Outbox(journal="j"))).standing.state
    assert isinstance(stored, Deferred)
    assert stored.retry_at == 0.0
    p.tell(boot("boot-1")).wake()
    assert p.done == ["Clear"], "asked anew after a restart of the agent"


class DeferredBefore(Struct, frozen=True, kw_only=True, tag="deferred"):
    """What the state was before the device had a say; an agent of then may find the journal after falling back to it."""

    held: Held
    reason: Reason
    retry_at: float
    attempts: int = 1


def test_earlier_agent_can_read_what_this_one_leaves_behind() -> None:
    p = asking(clear_first=True).withheld()
    p.wake()
    stored = durable(Record(standing=p.standing, outbox=Outbox(journal="j"))).standing.state
    assert msgspec.json.decode(msgspec.json.encode(stored), type=DeferredBefore).reason == BATTERY
    assert {state.__struct_config__.tag for state in State.__args__} == set(AgentState)


# Withheld downloads


def test_download_that_is_withheld_goes_on_when_it_may() -> None:
    p = Owned()
    p.downloading()
    p.withheld()
    assert (p.word, p.told) == ("deferred", [("deferred", "condition-not-met")])
    p.wake()
    command = p.last[0]
    assert isinstance(command, do.Clear)
    assert command.phase is Phase.DOWNLOAD
    p.withheld()
    assert p.last == ()
    p.wake().cleared(valid_s=0)
    assert (p.word, p.told, p.done) == ("downloading", [("downloading", None)], ["Stage"])
    p.tell(ev.StageFinished(order_hash=p.order_hash))
    assert p.word == "staged"


def test_security_expired_order_stays_expired_when_its_download_was_withheld() -> None:
    p = Owned()
    p.downloading()
    p.withheld()
    p.pass_time(2000)
    p.cleared()
    assert (p.word, p.told, p.done) == ("refused", [("refused", "order-expired")], [])


def test_withheld_download_survives_a_reboot() -> None:
    p = Owned()
    p.downloading()
    p.withheld().tell(boot("boot-2"))
    assert (p.word, p.last) == ("deferred", ())
    p.wake()
    assert p.done == ["Clear"]
    p.cleared()
    assert p.done == ["Stage"]


def test_slots_that_changed_their_roles_restart_a_deferred_order() -> None:
    p = staged().tell(ev.DeferAsked(seconds=HOUR)).tell(boot("boot-2", Slot.B))
    assert (p.word, p.done) == ("ordered", ["CheckOrder"])


# Hooks around the commit, and after a failure


def test_vetoed_commit_gives_the_trial_up() -> None:
    p = Owned()
    p.trial()
    p.healthy()
    assert p.done == ["CommitTrial"]
    p.tell(ev.CommitVetoed(trial_id="nonce-1", reason=Reason(kind="vetoed", text="Hook.")))
    assert p.done == ["GiveUp", "Reboot"]
    assert isinstance(p.standing.state, Trial)
    assert p.standing.state.gave_up == Reason(kind="vetoed", text="Hook.")


def test_what_kept_a_trial_from_its_commit_is_in_the_reason() -> None:
    p = Owned()
    p.trial()
    p.healthy().tell(ev.CommitFailed(trial_id="nonce-1", text="Hook before-commit (x) ended with 1."))
    p.now += 60
    p.tell(ev.Woke(nonce="late"))
    assert isinstance(p.standing.state, Trial)
    assert p.standing.state.gave_up is not None
    assert p.standing.state.gave_up.text == (
        "The trial did not commit within 60 s. Hook before-commit (x) ended with 1."
    )


def test_what_a_hook_said_about_a_failure_follows_the_report() -> None:
    p = Owned()
    p.downloading()
    p.tell(ev.StageRefused(order_hash=p.order_hash, reason=Reason(kind="artifact-changed", text="Window 3.")))
    logged = ev.FailureLogged(state="failed", held=held(), text="dmesg: I/O error")  # type: ignore[arg-type]
    p.tell(logged)
    tell = p.last[0]
    assert isinstance(tell, do.Tell)
    assert (tell.state, tell.reason) == ("failed", Reason(kind="failure-log", text="dmesg: I/O error"))


def test_the_trusted_time_is_what_counts() -> None:
    p = staged().tell(ev.DeferAsked(seconds=HOUR))
    p.trusted = NOW + 2 * HOUR
    p.wake()
    assert p.word == "staged"
    assert replace(p.standing.local).defer_until == NOW + HOUR
