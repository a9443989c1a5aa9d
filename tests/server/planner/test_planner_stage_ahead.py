"""Staging ahead: the next cohorts download while the gate of the one before is open, and none of them restarts."""

import pytest

from firmware.errors import RefusedError
from firmware.protocol.words import Action
from server.planner.commands import GrantPermit, TellWait
from server.planner.policy import parse_strategy
from server.planner.strategy import CohortPolicy, DownloadPolicy, GatePolicy
from server.planner.words import AssignmentState, CohortState, Verb
from tests.server.planner.playbook import PATIENCE_S, Board, fleet, strategy

A = AssignmentState
THREE = (
    CohortPolicy(name="canary", count=1),
    CohortPolicy(name="wave", count=2),
    CohortPolicy(name="rest"),
)


def ahead(number: int = 1, **values: object) -> Board:
    options = {"page": values.pop("page", None)}
    return fleet(6, strategy(cohorts=THREE, stage_ahead=number, **values), **options)


def ordered(board: Board, cohort: str) -> list[str]:
    return [name for name in board.members(cohort) if board.orders(name)]


@pytest.mark.parametrize(
    ("number", "cohorts"), [(0, ["canary"]), (1, ["canary", "wave"]), (2, ["canary", "wave", "rest"])]
)
def test_so_many_cohorts_ahead_are_ordered(number: int, cohorts: list[str]) -> None:
    board = ahead(number)
    for cohort in ("canary", "wave", "rest"):
        wanted = board.members(cohort) if cohort in cohorts else []
        assert ordered(board, cohort) == wanted
    assert [row.state for row in board.cohorts()] == ["open", "closed", "closed", "closed"]


def test_page_by_page_all_are_ordered() -> None:
    board = ahead(2, page=1)
    board.wait(1)
    assert board.tally() == {A.ORDERED: 6}
    assert board.campaign().wake_at is None


def test_no_permit_before_the_gate_and_the_wait_names_the_cohort() -> None:
    board = ahead()
    first = board.members("wave")[0]
    board.stage(first)
    answer = board.ask(first)
    assert isinstance(answer, TellWait)
    assert (answer.reason_kind, answer.reason.split(".")[0]) == ("gate", "Cohort canary comes first")
    told = board.explain(first)
    assert (told.kind, told.release_by) == ("gate", "cohort canary passes its gate")
    board.verify(*board.members("canary"))
    assert isinstance(board.ask(first), GrantPermit)


def test_the_one_after_that_follows_when_a_cohort_passes() -> None:
    board = ahead()
    board.verify(*board.members("canary"))
    assert board.cohort("wave").state is CohortState.OPEN
    assert ordered(board, "rest") == board.members("rest")
    assert board.cohort("rest").state is CohortState.CLOSED


def test_a_gate_counts_nobody_who_only_staged() -> None:
    board = ahead()
    board.stage(*board.members("wave"))
    board.verify(*board.members("canary"))
    wave = board.cohort("wave")
    assert (wave.state, wave.attempted, wave.verdict) == (CohortState.OPEN, 0, "insufficient")


def test_abort_takes_the_orders_back() -> None:
    board = ahead()
    board.stage(*board.members("wave"))
    board.tell(Verb.ABORT)
    for name in board.members("wave"):
        assert board.orders(name) == [Action.INSTALL, Action.NOTHING]
        assert board.state(name) is A.CANCELLED
    assert all(board.orders(name) == [] for name in board.members("rest"))


def test_a_failed_gate_stops_it() -> None:
    board = ahead(2)
    board.stage(*board.members("wave"))
    board.fall_back(board.members("canary")[0])
    answer = board.ask(board.members("wave")[0])
    assert isinstance(answer, TellWait)
    assert answer.reason_kind == "paused"


def test_who_is_silent_ahead_of_its_time_moves_to_late() -> None:
    board = ahead()
    silent = board.members("wave")[0]
    board.stage(board.members("wave")[1])
    board.wait(PATIENCE_S)
    assert board.cohorts()[board.assignment(silent).cohort].name == "late"
    assert board.cohort("wave").moved_to_late == 1


def test_the_open_cohort_downloads_first() -> None:
    plan = {"downloads": (DownloadPolicy(by="campaign", limit=1),)}
    board = ahead(2, **plan)
    came = []
    for _ in range(6):
        name = next(row.target for row in board.assignments() if row.state is A.ORDERED)
        came.append(board.cohorts()[board.assignment(name).cohort].name)
        board.stage(name)
    assert came == ["canary", "wave", "wave", "rest", "rest", "rest"]


def test_a_refused_download_is_judged_when_its_cohort_opens() -> None:
    board = ahead()
    board.report(board.members("wave")[0], "refused", reason_kind="no-space", reason="Too small.")
    assert board.campaign().state == "running"
    board.verify(*board.members("canary"))
    assert board.cohort("wave").state is CohortState.FAILED


def test_it_is_read_and_bounded() -> None:
    assert parse_strategy({"extends": "standard", "stage_ahead": 2}).stage_ahead == 2
    with pytest.raises(RefusedError, match="stage_ahead"):
        parse_strategy({"extends": "standard", "stage_ahead": 33})


def test_an_external_gate_holds_who_is_staged() -> None:
    cohorts = (
        CohortPolicy(name="canary", count=1, gate=GatePolicy(kind="external", name="board")),
        CohortPolicy(name="rest"),
    )
    board = fleet(3, strategy(cohorts=cohorts, stage_ahead=1))
    board.verify(*board.members("canary"))
    name = board.members("rest")[0]
    board.stage(name)
    assert isinstance(board.ask(name), TellWait)
