"""An update from a stick that is pulled out anywhere, holds wrong bytes, or orders what must not be. Its power cuts are a
scenario of `tests.crash.scenarios`."""

import pytest

from device_agent.core.states import Committed, Deferred, FellBack
from device_agent.ports import Slot
from firmware.errors import OtariaError
from firmware.protocol.order import Counter, Span
from tests.crash.disk import Cut, PowerCut
from tests.crash.stick import STICK, StickWorld
from tests.crash.world import BOARD, NOW


def world(**options: object) -> StickWorld:
    made = StickWorld(**options)  # type: ignore[arg-type]
    made.order()
    return made


def assert_told(one: StickWorld, *, version: str, state: type) -> None:
    """The device ended there, its running slot was never touched, and the stick brings home the whole story."""
    assert one.runtime is not None
    assert isinstance(one.runtime.standing.state, state), one.runtime.standing.state
    assert one.running_version() == version
    assert one.disk.files[BOARD.slot(Slot.A)].startswith(one.old.image)
    one.carry_home()
    one.carry_home()  # a second time it is nothing new
    last = one.server.told[-1]
    assert last.running.version == version
    assert last.state.value == ("committed" if version == "2.0" else "fell_back")
    assert one.server.asks == []


def test_a_clean_install_tells_every_step_once_and_asks_nobody() -> None:
    one = world()
    one.run()
    assert_told(one, version="2.0", state=Committed)
    assert one.server.states() == ["ordered", "downloading", "staged", "activating", "trial", "committed"]
    assert one.answers == [one.server.told[-1].order_hash]


def test_a_faulty_release_falls_back_and_its_report_comes_home_too() -> None:
    one = world(faulty={"2.0"})
    one.run()
    assert_told(one, version="1.0", state=FellBack)


def test_a_stick_pulled_out_at_any_operation_is_gone_on_with_when_it_is_back() -> None:
    clean = world()
    clean.run()
    for at in range(1, len(clean.disk.trace) + 1, 2):
        one = world()
        one.disk.system.cut = Cut(at=at, how="after")
        with pytest.raises(PowerCut):
            one.run()
        one.after_cut("none")
        stick = one.pull_out()
        looks = iter(range(40))
        one.run(until=lambda looks=looks: next(looks, None) is None)  # type: ignore[misc]
        one.put_back(stick)
        one.run()
        assert_told(one, version="2.0", state=Committed)


def test_a_stick_with_wrong_bytes_installs_nothing_and_says_so_and_a_good_copy_goes_on() -> None:
    one = world()
    good = one.disk.files[STICK]
    at = good.index(one.new.image) + 30_000
    one.put_back(good[:at] + b"?" + good[at + 1 :])
    one.run(until=lambda: one.runtime is not None and bool(getattr(one.runtime.standing.state, "told", "")))
    assert one.runtime is not None
    assert one.runtime.standing.state.told == "artifact-changed"  # type: ignore[union-attr]
    assert one.running_version() == "1.0"
    one.put_back(good)
    one.run()
    assert_told(one, version="2.0", state=Committed)


def test_before_its_window_it_waits_staged() -> None:
    one = StickWorld()
    one.order(windows=[Span(start=NOW + 7200, end=NOW + 9000)])
    one.run(until=lambda: one.runtime is not None and isinstance(one.runtime.standing.state, Deferred))
    assert one.running_version() == "1.0"
    one.run()
    assert_told(one, version="2.0", state=Committed)
    activated = next(report for report in one.server.told if report.state.value == "activating")
    assert NOW + 7200 <= activated.at < NOW + 9000


def refusal(one: StickWorld) -> str:
    """The kind with which the order is not taken up; nothing was written by then."""
    one.run(until=lambda: bool(one.answers))
    assert one.running_version() == "1.0"
    assert not any(one.disk.files[BOARD.slot(Slot.B)])
    answer = one.answers[0]
    assert isinstance(answer, OtariaError), answer
    return answer.kind


def test_an_order_that_waits_for_a_permit_is_not_taken_from_a_stick_and_reported_once() -> None:
    one = StickWorld()
    one.order(unattended=False, windows=[], crit=[])
    assert refusal(one) == "attended-order"
    one.run(until=lambda: len(one.answers) > 1)
    one.run(until=lambda: len(one.answers) > 2)
    one.carry_home()
    told = [(report.state.value, report.reason and report.reason.kind) for report in one.server.told]
    assert told[1:] == [("refused", "attended-order")]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"hardware": "board-9"}, "wrong-hardware"),
        ({"target": "dev-2"}, "wrong-target"),
        ({"windows": []}, "malformed"),
        ({"crit": ["teleport"]}, "not-understood"),
    ],
)
def test_what_is_refused_online_is_refused_from_a_stick(fields: dict[str, object], kind: str) -> None:
    one = StickWorld()
    one.order(**fields)
    assert refusal(one) == kind


def test_an_older_order_than_the_last_is_not_taken() -> None:
    one = world()
    older = one.server.orders[0]
    one.order()
    one.run()
    one.plug_in(older)
    one.server.n += 1
    one.run(until=lambda: bool(one.answers))
    answer = one.answers[0]
    assert isinstance(answer, OtariaError)
    assert answer.kind == "stale-counter"
    assert one.runtime is not None
    assert one.runtime.standing.highest == Counter(epoch=1, n=2)
