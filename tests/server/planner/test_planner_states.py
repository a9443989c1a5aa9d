"""The tables: complete for what can happen, closed for what can't, and drawn in the docs as they are."""

from pathlib import Path

import pytest

from firmware.protocol.words import AgentState
from server.planner import states
from server.planner.states import (
    ASSIGNMENT,
    CAMPAIGN,
    FAILURES,
    IN_FLIGHT,
    NEUTRAL,
    SUCCEEDED,
    UNDECIDED,
    Move,
    TransitionError,
    next_assignment,
    next_campaign,
    next_cohort,
)
from server.planner.words import AssignmentState, CampaignState, CohortState, Verb

A = AssignmentState
DOC = Path(__file__).parents[3] / "docs" / "reference" / "states.md"


def test_every_state_has_a_table() -> None:
    assert set(ASSIGNMENT) == set(A)
    assert set(CAMPAIGN) == set(CampaignState)


def test_every_assignment_state_is_undecided_or_one_kind_of_end() -> None:
    kinds = [UNDECIDED, SUCCEEDED, FAILURES, NEUTRAL]
    assert sum(len(kind) for kind in kinds) == len(set().union(*kinds)) == len(A)


@pytest.mark.parametrize("state", [state for state in A if state is not A.PLANNED])
def test_every_agent_word_is_known_in_every_ordered_state(state: AssignmentState) -> None:
    missing = [word for word in AgentState if not states.has_row(state, word)]
    assert missing == []


@pytest.mark.parametrize("state", sorted((NEUTRAL | FAILURES) - {A.MISSING, A.DRIFTED}))
def test_ends_are_sticky(state: AssignmentState) -> None:
    assert {next_assignment(state, word) for word in AgentState} == {state}
    ways_out = {A.SKIPPED: [Move.SELECT_AGAIN]}
    assert [move for move in Move if states.has_row(state, move)] == ways_out.get(state, [])


def test_no_word_alone_ends_drift() -> None:
    assert {next_assignment(A.DRIFTED, word) for word in AgentState} == {A.DRIFTED}


def test_success_is_reached_only_through_committed() -> None:
    into = {state for state, row in ASSIGNMENT.items() if A.VERIFIED in row.values() and state is not A.VERIFIED}
    assert into == {A.COMMITTED}


def test_no_word_before_the_activation_undoes_a_permit() -> None:
    for state in (*IN_FLIGHT, A.MISSING):
        for word in (AgentState.ORDERED, AgentState.DOWNLOADING, AgentState.STAGED, AgentState.ASKING):
            assert next_assignment(state, word) is state


def test_a_missing_row_raises() -> None:
    with pytest.raises(TransitionError, match="planned can't take 'committed'"):
        next_assignment(A.PLANNED, AgentState.COMMITTED)
    with pytest.raises(TransitionError, match="can't resume"):
        next_campaign(CampaignState.RUNNING, Verb.RESUME)
    with pytest.raises(TransitionError):
        next_cohort(CohortState.FAILED, CohortState.OPEN)


def test_the_docs_show_the_tables_as_they_are() -> None:
    assert states.diagram() in DOC.read_text(), (
        "docs/reference/states.md is stale; paste server.planner.states.diagram()"
    )
