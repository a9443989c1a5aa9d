"""The table by itself."""

import pytest

from device_agent.packages.ladder import (
    ENDS,
    RESTARTS,
    RESTS,
    TABLE,
    Happened,
    LadderError,
    Ledger,
    Move,
    Phase,
    Route,
    Side,
    files_kept,
    follow,
    route_to,
)
from device_agent.ports import Slot


def reachable(start: Phase) -> set[Phase]:
    found, waiting = {start}, [start]
    while waiting:
        at = waiting.pop()
        after = {to for (phase, _), to in TABLE.items() if phase is at} - found
        found |= after
        waiting += after
    return found


def test_every_phase_can_be_reached_and_every_one_but_the_ends_leads_to_both_kinds_of_end() -> None:
    assert reachable(Phase.ARMED) == set(Phase)
    for phase in set(Phase) - ENDS:
        assert reachable(phase) & ENDS
    for phase in ENDS:
        assert reachable(phase) == {phase}


def test_every_phase_with_work_says_what_follows_its_failure() -> None:
    for phase in set(Phase) - RESTS:
        assert (phase, Happened.FAILED) in TABLE
        assert (phase, Happened.DONE) in TABLE


def test_from_the_installation_on_nothing_falls_back_without_a_look() -> None:
    before = {phase for (phase, _), to in TABLE.items() if to is Phase.FELL_BACK}
    assert before == {Phase.COMPARE, Phase.DRAIN, Phase.SNAPSHOT, Phase.LOOK_BACK}
    assert {to for (phase, _), to in TABLE.items() if phase in RESTARTS} == {
        Phase.SETTLE,
        Phase.UNDO_PACKAGES,
        Phase.LOOK_BACK,
    }


def test_what_the_table_does_not_know_is_a_defect() -> None:
    with pytest.raises(LadderError):
        follow(Phase.COMMITTED, Happened.GIVE_UP)


MOVE = Move(
    name="a",
    arch="all",
    old=Side(version="1", file="a1.deb", sha256="1" * 64),
    new=Side(version="2", file="a2.deb", sha256="2" * 64),
)


def test_the_way_back_is_the_way_there_reversed() -> None:
    way = Route(slot=Slot.B, document="d", plan="p", moves=(MOVE,))
    back = route_to(Ledger(slot=Slot.B, way=way), Slot.A)
    assert back is not None
    assert (back.moves[0].new.version, back.moves[0].old.version, back.downgrade) == ("1", "2", True)
    assert route_to(Ledger(slot=Slot.B, way=way), Slot.B) is None
    assert route_to(Ledger(slot=Slot.B), Slot.A) is None
    assert files_kept(Ledger(slot=Slot.B, way=way)) == {"a1.deb", "a2.deb"}


def test_what_was_staged_is_taken_before_the_way_back() -> None:
    staged = Route(slot=Slot.A, document="new", plan="p", moves=())
    way = Route(slot=Slot.B, document="d", plan="p", moves=(MOVE,))
    assert route_to(Ledger(slot=Slot.B, way=way, staged=staged), Slot.A) is staged
