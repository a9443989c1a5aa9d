"""State tables of campaigns, cohorts and assignments, as data. A missing row is not allowed: it raises `TransitionError`.

Rules
- An assignment moves by an agent's word (a signed report about its current order) or by a `Move` of the server.
- Before activation an assignment follows what the target says, also when it skips steps or goes back one.
- Once a permit was given, words from before the activation are history: asks and reports travel apart, so they arrive late.
- A signed word that the permit was declined takes it back, and only for the permit that was given last.
- What fails for a reason that says nothing about the release may be ordered again (`retry`).
- `missing` is left only by a signed report of how it ended or that it never began, or by a new permit.
  Ends are sticky: whatever comes later is history.
- Whoever is decommissioned while it may be down counts as silent, because nobody will ever know; anywhere else it is skipped.
- `committed` and `verified` become `regressed` when the target falls back or shows another image; `committed` also when a word
  from outside that it takes to be verified is bad, or doesn't come in time.
- Who shows an image that none of its slots had is `drifted`: somebody changed it by hand. It may be ordered again.
- Who committed a release on the way is ordered on once it has stayed healthy; it is `verified` only on the campaign's own.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from firmware.errors import RefusedError
from firmware.protocol.words import AgentState as Word
from server.planner.words import AssignmentState as A
from server.planner.words import CampaignState as C
from server.planner.words import CohortState, Verb


class TransitionError(RefusedError):
    """The tables have no such row. The sentence says what is possible instead."""


class Move(StrEnum):
    """What the server itself does to an assignment."""

    ADMIT = "admit"
    SKIP = "skip"
    ORDER_IMPOSSIBLE = "order-impossible"
    NO_PATH = "no-path"
    ONWARD = "onward"
    STAY = "stay"
    TELL_WAIT = "tell-wait"
    PERMIT = "permit"
    RETRY = "retry"
    PREEMPT = "preempt"
    SUPERSEDE = "supersede"
    DECLINE = "decline"
    HORIZON = "horizon"
    HEALTHY = "healthy"
    NOT_VERIFIED = "not-verified"
    OTHER_IMAGE = "other-image"
    EXPIRE = "expire"
    WITHDRAW = "withdraw"
    ROLL_BACK = "roll-back"
    NO_WAY_BACK = "no-way-back"
    TAKEN_OVER = "taken-over"
    WENT_BACK = "went-back"
    DECOMMISSION = "decommission"
    DRIFT = "changed-by-hand"
    CORRECT = "correct"
    SEEN_AGAIN = "seen-again"
    SELECT_AGAIN = "selected-again"


class Turn(StrEnum):
    """What the planner itself does to a campaign."""

    ASKED = "asked-for-approval"
    NOT_APPROVED = "not-approved"
    SCHEDULED = "scheduled"
    ALL_PASSED = "all-passed"
    ALL_DECIDED = "all-decided"
    ALL_BACK = "all-back"
    REOPENED = "gate-reopened"
    DOUBTED = "release-suspect"


WAITING = (A.ORDERED, A.DOWNLOADING, A.STAGED, A.ASKING, A.DEFERRED)
"""Has an order and no permit: may be withdrawn, may move to `late`, holds no token."""
IN_FLIGHT = (A.ACTIVATING, A.TRIAL)
"""May be down right now: holds a token in every group."""
UNDECIDED = frozenset({A.PLANNED, *WAITING, *IN_FLIGHT, A.COMMITTED})
SUCCEEDED = frozenset({A.VERIFIED})
FAILURES = frozenset({A.FELL_BACK, A.FAILED, A.REFUSED, A.MISSING, A.REGRESSED})
"""What counts against a gate. Silence after a permit (`missing`) is one of them."""
NEUTRAL = frozenset({A.CANCELLED, A.EXPIRED, A.SKIPPED, A.SUPERSEDED, A.ROLLED_BACK, A.DRIFTED})
"""Ends that say nothing about the release."""
CAN_GO_BACK = (A.COMMITTED, A.VERIFIED)
"""Runs the release: what a rollback recalls."""

Row = dict[str, A]

_BEFORE = (Word.IDLE, Word.ORDERED, Word.DOWNLOADING, Word.STAGED, Word.ASKING, Word.DEFERRED)
_FOLLOWED: Row = {
    Word.ORDERED: A.ORDERED,
    Word.DOWNLOADING: A.DOWNLOADING,
    Word.STAGED: A.STAGED,
    Word.ASKING: A.ASKING,
    Word.DEFERRED: A.DEFERRED,
}
_DONE: Row = {
    Word.COMMITTED: A.COMMITTED,
    Word.FELL_BACK: A.FELL_BACK,
    Word.FAILED: A.FAILED,
    Word.REFUSED: A.REFUSED,
    Word.CANCELLED: A.CANCELLED,
}
_GOING: Row = {Word.ACTIVATING: A.ACTIVATING, Word.TRIAL: A.TRIAL}
_ENDS = (FAILURES - {A.MISSING}) | NEUTRAL


def _stay(state: A, words: Iterable[str]) -> Row:
    return dict.fromkeys(words, state)


def _waiting(state: A) -> Row:
    moves: Row = {
        Move.TELL_WAIT: A.ASKING,
        Move.PERMIT: A.ACTIVATING,
        Move.EXPIRE: A.EXPIRED,
        Move.WITHDRAW: A.CANCELLED,
        Move.RETRY: A.ORDERED,
        Move.PREEMPT: A.PLANNED,
        Move.SUPERSEDE: A.SUPERSEDED,
        Move.ORDER_IMPOSSIBLE: A.REFUSED,
        Move.NO_PATH: A.SKIPPED,
        Move.OTHER_IMAGE: A.FAILED,
        Move.WENT_BACK: A.ROLLED_BACK,
        Move.DECOMMISSION: A.SKIPPED,
        Move.SKIP: A.SKIPPED,
    }
    return {**_stay(state, [Word.IDLE]), **_FOLLOWED, **_GOING, **_DONE, **moves}


def _in_flight(state: A) -> Row:
    moves: Row = {
        Move.HORIZON: A.MISSING,
        Move.RETRY: A.ORDERED,
        Move.OTHER_IMAGE: A.FAILED,
        Move.WENT_BACK: A.ROLLED_BACK,
        Move.EXPIRE: A.EXPIRED,
    }
    return {**_stay(state, _BEFORE), **_DONE, **moves}


def _running(state: A) -> Row:
    lost: Row = {Word.FELL_BACK: A.REGRESSED, Word.FAILED: A.REGRESSED, Move.OTHER_IMAGE: A.REGRESSED}
    moves: Row = {
        Move.ROLL_BACK: A.ORDERED,
        Move.NO_WAY_BACK: A.FAILED,
        Move.TAKEN_OVER: A.SUPERSEDED,
        Move.DRIFT: A.DRIFTED,
        Move.DECOMMISSION: A.SKIPPED,
    }
    return {**_stay(state, Word), **lost, **moves}


ASSIGNMENT: Mapping[A, Row] = {
    A.PLANNED: {
        Move.ADMIT: A.ORDERED,
        Move.SKIP: A.SKIPPED,
        Move.SUPERSEDE: A.SUPERSEDED,
        Move.DECOMMISSION: A.SKIPPED,
    },
    **{state: _waiting(state) for state in WAITING},
    A.ACTIVATING: {
        **_in_flight(A.ACTIVATING),
        Word.ACTIVATING: A.ACTIVATING,
        Word.TRIAL: A.TRIAL,
        Move.PERMIT: A.ACTIVATING,
        Move.ORDER_IMPOSSIBLE: A.REFUSED,
        Move.DECLINE: A.DEFERRED,
    },
    A.TRIAL: {**_in_flight(A.TRIAL), **_stay(A.TRIAL, _GOING)},
    A.COMMITTED: {
        **_running(A.COMMITTED),
        Move.HEALTHY: A.VERIFIED,
        Move.NOT_VERIFIED: A.REGRESSED,
        Move.ONWARD: A.ORDERED,
        Move.STAY: A.CANCELLED,
    },
    A.VERIFIED: _running(A.VERIFIED),
    A.MISSING: {
        **_stay(A.MISSING, (*_BEFORE, *_GOING)),
        **_DONE,
        Move.PERMIT: A.ACTIVATING,
        Move.DECLINE: A.DEFERRED,
        Move.OTHER_IMAGE: A.FAILED,
        Move.WENT_BACK: A.ROLLED_BACK,
        Move.EXPIRE: A.EXPIRED,
    },
    **{state: _stay(state, Word) for state in A if state in _ENDS},
    A.SKIPPED: {**_stay(A.SKIPPED, Word), Move.SELECT_AGAIN: A.PLANNED},
    A.DRIFTED: {**_stay(A.DRIFTED, Word), Move.CORRECT: A.ORDERED, Move.SEEN_AGAIN: A.COMMITTED},
}

CAMPAIGN: Mapping[C, Mapping[str, C]] = {
    C.DRAFT: {
        Verb.START: C.RUNNING,
        Turn.ASKED: C.AWAITING_APPROVAL,
        Turn.SCHEDULED: C.SCHEDULED,
        Verb.ABORT: C.ABORTED,
    },
    C.AWAITING_APPROVAL: {
        Verb.APPROVE: C.RUNNING,
        Verb.REJECT: C.DRAFT,
        Turn.NOT_APPROVED: C.DRAFT,
        Turn.DOUBTED: C.DRAFT,
        Turn.SCHEDULED: C.SCHEDULED,
        Verb.ABORT: C.ABORTED,
    },
    C.SCHEDULED: {Verb.START: C.RUNNING, Turn.DOUBTED: C.DRAFT, Verb.ABORT: C.ABORTED},
    C.RUNNING: {
        Verb.PAUSE: C.PAUSED,
        Verb.ABORT: C.ABORTED,
        Verb.ROLLBACK: C.ROLLING_BACK,
        Turn.ALL_PASSED: C.WATCHING,
    },
    C.PAUSED: {Verb.RESUME: C.RUNNING, Verb.ABORT: C.ABORTED, Verb.ROLLBACK: C.ROLLING_BACK},
    C.WATCHING: {
        Verb.PAUSE: C.PAUSED,
        Verb.ABORT: C.ABORTED,
        Verb.ROLLBACK: C.ROLLING_BACK,
        Turn.ALL_DECIDED: C.COMPLETED,
        Turn.REOPENED: C.RUNNING,
    },
    C.COMPLETED: {Verb.ROLLBACK: C.ROLLING_BACK},
    C.ABORTED: {Verb.ROLLBACK: C.ROLLING_BACK},
    C.ROLLING_BACK: {Turn.ALL_BACK: C.ROLLED_BACK},
    C.ROLLED_BACK: {},
}

COHORT: Mapping[CohortState, frozenset[CohortState]] = {
    CohortState.CLOSED: frozenset({CohortState.OPEN}),
    CohortState.OPEN: frozenset({CohortState.PASSED, CohortState.FAILED, CohortState.ROLLED_BACK}),
    CohortState.PASSED: frozenset({CohortState.OPEN, CohortState.FAILED, CohortState.ROLLED_BACK}),
    CohortState.FAILED: frozenset(),
    CohortState.ROLLED_BACK: frozenset(),
}
"""A passed cohort fails when one of its targets regresses, or opens again when it then lacks evidence; a failed one stays failed,
also when it is taken back."""

LIVE = frozenset({C.RUNNING, C.PAUSED, C.WATCHING})
"""Gates are judged and late arrivals handled."""
GOING_BACK = frozenset({C.ROLLING_BACK, C.ROLLED_BACK})
"""Whoever still commits to the release is sent back."""
OVER = frozenset({C.ABORTED, *GOING_BACK})
"""Nothing new may be installed for it any more."""


def next_assignment(state: A, cause: str) -> A:
    """Where an assignment goes from `state` by an agent's word or a `Move`; raises `TransitionError` (`wrong-state`)."""
    row = ASSIGNMENT[state]
    if cause not in row:
        raise TransitionError("wrong-state", f"An assignment that is {state} can't take '{cause}'.")
    return row[cause]


def has_row(state: A, cause: str) -> bool:
    """Whether the assignment's table has a row for this."""
    return cause in ASSIGNMENT[state]


def next_campaign(state: C, cause: str) -> C:
    """Where a campaign goes from `state` by a `Verb` or a `Turn`; raises `TransitionError` (`wrong-state`)."""
    row = CAMPAIGN[state]
    if cause not in row:
        verbs = [verb.value for verb in Verb if verb in row]
        possible = f"possible now: {', '.join(verbs)}" if verbs else "nothing can be done to it any more"
        raise TransitionError(
            "wrong-state", f"The campaign is {state.replace('_', ' ')}, so it can't {cause}; {possible}."
        )
    return row[cause]


def may_be_told(state: C, verb: Verb) -> bool:
    """Whether a campaign in this state knows the verb; to approve, or be against it, is also possible
    afterwards."""
    is_answer = verb in (Verb.APPROVE, Verb.REJECT)
    return verb in CAMPAIGN[state] or (is_answer and state not in (C.DRAFT, C.SCHEDULED))


def next_cohort(state: CohortState, to: CohortState) -> CohortState:
    """`to`, when a cohort may go there from `state`; raises `TransitionError` (`wrong-state`)."""
    if to not in COHORT[state]:
        raise TransitionError("wrong-state", f"A cohort that is {state} can't become {to}.")
    return to


def diagram() -> str:
    """The tables as Mermaid state diagrams in Markdown; words that change nothing are left out."""
    campaign = [(f, cause, t) for f, row in CAMPAIGN.items() for cause, t in row.items()]
    cohort = [(f, "", t) for f, row in COHORT.items() for t in sorted(row)]
    assignment = [(f, cause, t) for f, row in ASSIGNMENT.items() for cause, t in row.items()]
    return "\n\n".join(
        f"## {title}\n\n```mermaid\nstateDiagram-v2\n{_edges(rows)}\n```"
        for title, rows in (("Campaign", campaign), ("Cohort", cohort), ("Assignment", assignment))
    )


def _edges(rows: Iterable[tuple[str, str, str]]) -> str:
    causes: dict[tuple[str, str], list[str]] = {}
    for source, cause, target in rows:
        if source != target:
            causes.setdefault((source, target), []).append(cause)
    return "\n".join(
        f"    {source} --> {target}" + (f" : {', '.join(names)}" if any(names) else "")
        for (source, target), names in causes.items()
    )
