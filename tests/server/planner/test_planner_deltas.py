"""The first cohort waits for the campaign's deltas: never longer than the strategy says, and never because of one that failed."""

from server.planner.commands import PrepareDeltas
from server.planner.strategy import DeltaPolicy
from server.planner.words import AssignmentState, CampaignState, CohortState, Verb
from tests.server.planner.playbook import Board, fleet, strategy

A, C = AssignmentState, CampaignState
WAIT_S = 300


def waiting(policy: DeltaPolicy | None = None) -> Board:
    """A started campaign whose deltas are still being made."""
    board = Board()
    board.makes_deltas = False
    for name in ("a", "b", "c0"):
        board.add_target(name)
    board.add_campaign("c", ["a", "b", "c0"], strategy(deltas=policy or DeltaPolicy(wait_s=WAIT_S)))
    board.start()
    return board


def prepared(board: Board) -> int:
    return sum(isinstance(command, PrepareDeltas) for command in board.said)


def test_nobody_is_ordered_before_the_deltas_are_made() -> None:
    board = waiting()
    board.wait(WAIT_S - 1)
    assert (board.campaign().state, prepared(board)) == (C.RUNNING, 1)
    assert board.cohort("canary").state is CohortState.CLOSED
    assert board.tally() == {A.PLANNED: 3}
    board.deltas_ready()
    assert board.campaign().deltas_until is None
    assert board.cohort("canary").state is CohortState.OPEN
    assert board.tally() == {A.ORDERED: 2, A.PLANNED: 1}


def test_the_wait_ends_by_itself_and_a_late_answer_is_history() -> None:
    board = waiting()
    board.wait(WAIT_S)
    assert board.cohort("canary").state is CohortState.OPEN
    assert len(board.records("deltas-late")) == 1
    opened = board.cohort("canary").opened_at
    before = dict(board.rows)
    board.deltas_ready()
    assert board.rows == before
    assert board.cohort("canary").opened_at == opened


def test_explain_says_until_when() -> None:
    board = waiting()
    said = board.explain("a")
    assert (said.kind, said.until) == ("deltas", board.now + WAIT_S)
    assert said.text.startswith("Waiting for deltas until 1970-01-01 00:21:40 UTC")


def test_a_pause_while_waiting_opens_nothing_and_a_resume_waits_for_the_rest() -> None:
    board = waiting()
    until = board.campaign().deltas_until
    board.tell(Verb.PAUSE)
    assert board.explain("a").kind == "paused"
    board.wait(WAIT_S / 2)
    board.tell(Verb.RESUME)
    assert board.campaign().wake_at == until
    assert board.cohort("canary").state is CohortState.CLOSED
    board.wait(WAIT_S / 2)
    assert board.cohort("canary").state is CohortState.OPEN


def test_deltas_made_during_a_pause_open_the_cohort_when_it_is_resumed() -> None:
    board = waiting()
    board.tell(Verb.PAUSE)
    board.deltas_ready()
    assert board.cohort("canary").state is CohortState.CLOSED
    board.tell(Verb.RESUME)
    assert board.tally() == {A.ORDERED: 2, A.PLANNED: 1}


def test_a_pause_longer_than_the_wait_opens_at_the_resume() -> None:
    board = waiting()
    board.tell(Verb.PAUSE)
    board.wait(2 * WAIT_S)
    assert board.cohort("canary").state is CohortState.CLOSED
    board.tell(Verb.RESUME)
    assert board.cohort("canary").state is CohortState.OPEN


def test_an_abort_while_waiting_ends_it_with_nobody_ordered() -> None:
    board = waiting()
    board.tell(Verb.ABORT)
    board.deltas_ready()
    board.wait(2 * WAIT_S)
    assert board.campaign().state is C.ABORTED
    assert board.tally() == {A.PLANNED: 3}
    assert board.campaign().wake_at is None
    assert board.explain("a").kind == "campaign-over"


def test_a_rollback_while_waiting_is_done_at_once() -> None:
    board = waiting()
    board.tell(Verb.ROLLBACK)
    assert board.campaign().state is C.ROLLED_BACK


def test_a_strategy_may_wait_for_nothing_or_want_none() -> None:
    at_once = waiting(DeltaPolicy(wait_s=0))
    assert (prepared(at_once), at_once.cohort("canary").state) == (1, CohortState.OPEN)
    none = waiting(DeltaPolicy(at_most=0))
    assert (prepared(none), none.cohort("canary").state) == (1, CohortState.OPEN)


def test_an_empty_first_cohort_passes_after_the_wait() -> None:
    board = fleet(1)
    assert board.campaign().deltas_until is None
    assert board.tally() == {A.ORDERED: 1}
