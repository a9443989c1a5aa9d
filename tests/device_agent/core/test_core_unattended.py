"""Orders for unattended use: no ask, no permit; activation inside the order's own windows, never outside, never too late."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from device_agent.core import events as ev
from device_agent.core.states import Activating, Deferred, Refused, Staged, Standing
from device_agent.core.unattended import closed_for, has_windows, open_for, too_late
from device_agent.core.values import Held
from device_agent.ports import BootOutcome, Slot
from firmware.protocol.order import Order, Span
from firmware.protocol.words import Action
from tests.device_agent.core.playbook import NOW, Player, boot, content, held

ANY = ((0, 900),)


def order(windows: tuple[tuple[int, int], ...] = ANY, **fields: Any) -> Held:
    """An unattended order with windows in seconds after `NOW`; it expires at 1000."""
    spans = [Span(start=NOW + start, end=NOW + end) for start, end in windows]
    return held(unattended=True, windows=spans, **fields)


def test_in_an_open_window_it_activates_without_an_ask() -> None:
    player = Player().staged(order()).wake()
    assert player.told == [("activating", None)]
    assert player.done == ["TrySlot", "Reboot"]
    state = player.standing.state
    assert isinstance(state, Activating)
    assert state.trial_id == "nonce-1"


def test_it_ends_as_any_other_order_does() -> None:
    player = Player().staged(order()).wake()
    player.reboot_into_trial().healthy().tell(ev.TrialCommitted(trial_id="nonce-1"))
    assert player.told == [("committed", None)]
    player = Player().staged(order()).wake().reboot_into_trial().healthy(ok=False)
    assert player.done == ["GiveUp", "Reboot"]
    player.tell(boot("boot-3", Slot.A, outcome=BootOutcome.FELL_BACK, trial_id="nonce-1"))
    assert player.told == [("fell_back", "health-failed")]


def test_before_its_window_it_waits_and_says_so_once() -> None:
    player = Player().staged(order(((500, 900),))).wake()
    assert player.told == [("deferred", "outside-window")]
    assert player.done == []
    state = player.standing.state
    assert isinstance(state, Deferred)
    assert state.retry_at == player.now + 500
    player.wake(late_s=-500 + 60)
    player.trusted = NOW + 450.0
    player.wake()
    assert (player.told, player.done, player.word) == ([], [], "deferred")
    player.trusted = NOW + 500.0
    player.wake()
    assert player.told == [("staged", None)]
    player.wake()
    assert player.done == ["TrySlot", "Reboot"]


@pytest.mark.parametrize(
    ("at", "goes"), [(99, False), (100, True), (199, True), (200, False), (300, True), (400, False)]
)
def test_a_window_holds_from_its_start_until_before_its_end(at: int, goes: bool) -> None:
    player = Player().staged(order(((100, 200), (300, 400), (600, 700))))
    player.trusted = float(NOW + at)
    player.wake()
    assert isinstance(player.standing.state, Activating) is goes


def test_after_its_last_window_it_is_refused() -> None:
    player = Player().staged(order(((100, 200),)))
    player.trusted = NOW + 200.0
    player.wake()
    assert player.told == [("refused", "order-expired")]
    assert player.done == []


def test_once_expired_it_is_refused_even_in_a_window() -> None:
    """The server counts the target as down until then, and no longer."""
    player = Player().staged(order(((100, 5000),)))
    player.trusted = NOW + 1000.0
    player.wake()
    assert player.told == [("refused", "order-expired")]


def test_one_that_waits_for_its_window_is_refused_when_it_expires() -> None:
    player = Player().staged(order(((500, 900),))).wake()
    player.trusted = NOW + 1000.0
    player.wake()
    assert player.told == [("refused", "order-expired")]
    assert isinstance(player.standing.state, Refused)


def test_a_power_cut_after_staging_reads_the_slot_again_first() -> None:
    player = Player().staged(order())
    player.now = 5.0
    player.tell(boot("boot-2"))
    assert player.done == ["VerifySlot"]
    player.tell(ev.SlotVerified(order_hash=order().hash, intact=True)).wake()
    assert player.done == ["TrySlot", "Reboot"]


def test_an_agent_that_restarts_goes_on_activating_only_while_the_window_is_open() -> None:
    player = Player().staged(order(((0, 60),))).wake()
    player.now += 59
    player.tell(boot())
    assert player.done == ["TrySlot", "Reboot"]
    player.now += 2
    player.trusted = NOW + 61.0
    player.tell(boot())
    assert player.done == ["GiveUp"]
    assert isinstance(player.standing.state, Staged)
    player.wake()
    assert player.told == [("refused", "order-expired")]


def test_the_floor_holds() -> None:
    standing = Standing(slots={Slot.A: content("1.0", 1, good=True)})
    player = Player(standing).tell(boot()).staged(order())
    player.standing = replace(player.standing, floors={"demo": 3})
    player.wake()
    assert player.told == [("refused", "below-floor")]


def test_somebody_at_the_device_may_put_it_off() -> None:
    player = Player().staged(order()).tell(ev.DeferAsked(seconds=100))
    assert player.told == [("deferred", "put-off")]


def test_a_withdrawal_ends_it_until_it_activates() -> None:
    player = Player().staged(order()).ordered(held(2, Action.NOTHING))
    assert player.told[-1] == ("cancelled", "withdrawn")


def test_a_permit_does_nothing_for_it() -> None:
    player = Player().staged(order(((500, 900),)))
    before = player.standing
    permit = Player().asking(held()).permit()
    assert player.tell(permit).standing == before


@pytest.mark.parametrize(
    ("windows", "good"),
    [
        ((), False),
        (((5, 5),), False),
        (((9, 5),), False),
        (((1, 5), (4, 9)), False),
        (((1, 5), (5, 9)), False),
        (((6, 9), (1, 5)), False),
        (((1, 5), (6, 9)), True),
    ],
)
def test_windows_must_rise_and_be_apart(windows: tuple[tuple[int, int], ...], good: bool) -> None:
    assert has_windows(order(windows).order) is good


SPANS = st.lists(st.integers(0, 2000), min_size=2, max_size=12, unique=True).map(sorted)


@given(bounds=SPANS, at=st.integers(-10, 2100))
def test_open_closed_and_too_late_never_contradict_each_other(bounds: list[int], at: int) -> None:
    windows = tuple(zip(bounds[::2], bounds[1::2], strict=False))
    one, now = order(windows), float(NOW + at)
    inside = any(start <= at < end for start, end in windows)
    expired = at >= 1000 or at >= max(end for _, end in windows)
    assert (too_late(one, now) is not None) is expired
    assert (open_for(one, now) > 0) is (inside and at < 1000)
    assert (closed_for(one, now) is None) is (open_for(one, now) > 0)


def test_an_attended_order_has_no_windows_to_wait_for() -> None:
    plain = held()
    assert closed_for(plain, NOW + 1e9) is None
    assert too_late(plain, NOW + 1e9) is None
    assert not has_windows(Order(**{**_fields(plain.order), "windows": []}))


def _fields(order: Order) -> dict[str, Any]:
    return {name: getattr(order, name) for name in order.__struct_fields__}
