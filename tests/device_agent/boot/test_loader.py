"""The boot loader's state machine: playbooks, hostile requests, and invariants over arbitrary histories."""

import json
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.boot.loader import (
    MAX_REQUEST_BYTES,
    Boot,
    Limits,
    LoaderState,
    Named,
    Request,
    Try,
    attempt_failed,
    decide,
    decode_state,
    encode_state,
    expire,
    newest,
    parse_request,
    recover,
    refill,
    rescue,
    retire,
    settle,
)
from device_agent.ports import BootOutcome, Slot

LIMITS = Limits(max_attempts=3, max_deadline_s=100)


def ask_try(trial_id: str = "t1", slot: Slot = Slot.B, deadline_s: float = 60) -> Request:
    return Request(try_=Try(slot=slot, trial_id=trial_id, deadline_s=deadline_s))


def ask_commit(trial_id: str = "t1") -> Request:
    return Request(commit=Named(trial_id=trial_id))


def ask_give_up(trial_id: str = "t1") -> Request:
    return Request(give_up=Named(trial_id=trial_id))


def on_trial() -> tuple[LoaderState, Boot]:
    return decide(LoaderState(), ask_try(), LIMITS)


def test_a_fresh_board_boots_slot_a_normally() -> None:
    state, boot = decide(LoaderState(), None, LIMITS)
    assert (boot.slot, boot.outcome, boot.trial_id) == (Slot.A, BootOutcome.NORMAL, None)
    assert state.trial is None


def test_a_trial_is_counted_in_the_state_that_is_stored_before_it_boots() -> None:
    state, boot = on_trial()
    assert boot == Boot(slot=Slot.B, outcome=BootOutcome.TRIAL, trial_id="t1", deadline_s=60)
    assert state.trial is not None
    assert (state.trial.attempts_left, state.active) == (2, Slot.A)


def test_three_attempts_then_the_old_slot_with_the_reason() -> None:
    state, boot = on_trial()
    outcomes = [boot.outcome]
    for _ in range(3):
        state, boot = decide(state, None, LIMITS)
        outcomes.append(boot.outcome)
    assert outcomes == [BootOutcome.TRIAL] * 3 + [BootOutcome.FELL_BACK]
    assert (boot.slot, boot.trial_id, boot.cause) == (Slot.A, "t1", "attempts-exhausted")


def test_falling_back_is_told_at_every_boot_until_another_trial() -> None:
    state, running = on_trial()
    state = settle(state, ask_give_up(), running)
    for _ in range(3):
        state, boot = decide(state, None, LIMITS)
        assert (boot.outcome, boot.trial_id, boot.cause) == (BootOutcome.FELL_BACK, "t1", "requested")
    state, boot = decide(state, ask_try("t2"), LIMITS)
    assert (boot.outcome, boot.trial_id) == (BootOutcome.TRIAL, "t2")


def test_commit_makes_the_running_slot_the_active_one() -> None:
    state, running = on_trial()
    state = settle(state, ask_commit(), running)
    assert (state.active, state.trial, state.committed) == (Slot.B, None, "t1")
    state, boot = decide(state, None, LIMITS)
    assert (boot.slot, boot.outcome) == (Slot.B, BootOutcome.NORMAL)


def test_after_a_commit_the_new_system_may_try_the_other_slot() -> None:
    state, running = on_trial()
    state, _ = decide(settle(state, ask_commit(), running), None, LIMITS)
    state, boot = decide(state, ask_try("t2", Slot.A), LIMITS)
    assert (boot.slot, boot.outcome) == (Slot.A, BootOutcome.TRIAL)


def test_deadline_gives_up_with_attempts_left() -> None:
    state, _ = on_trial()
    _, boot = decide(expire(state), None, LIMITS)
    assert (boot.slot, boot.outcome, boot.cause) == (Slot.A, BootOutcome.FELL_BACK, "trial-deadline")


def test_a_program_that_fails_uses_the_attempts_and_names_itself() -> None:
    state, _ = on_trial()
    for _ in range(3):
        state, boot = decide(attempt_failed(state), None, LIMITS)
    assert (boot.slot, boot.outcome, boot.cause) == (Slot.A, BootOutcome.FELL_BACK, "boot-failed")


def test_give_up_found_at_power_on_counts() -> None:
    state, _ = on_trial()
    _, boot = decide(state, ask_give_up(), LIMITS)
    assert (boot.slot, boot.cause) == (Slot.A, "requested")


# What a request can never do


def test_security_commit_of_a_trial_that_is_not_running_changes_nothing() -> None:
    normal = LoaderState()
    _, boot = decide(normal, None, LIMITS)
    assert settle(normal, ask_commit(), boot) == normal
    state, running = on_trial()
    assert settle(state, ask_commit("other"), running) == state
    # The attempt could not be counted, so the old slot runs while the trial is still open.
    assert settle(state, ask_commit(), Boot(slot=Slot.A, outcome=BootOutcome.NORMAL)) == state


def test_security_commit_left_behind_is_not_taken_at_a_boot() -> None:
    state, _ = on_trial()
    state, boot = decide(state, ask_commit(), LIMITS)
    assert (state.active, state.committed, boot.outcome) == (Slot.A, None, BootOutcome.TRIAL)


def test_security_commit_after_the_trial_was_given_up_is_too_late() -> None:
    state, running = on_trial()
    lost = expire(state)
    assert settle(lost, ask_commit(), running) == lost


def test_security_a_request_never_refills_the_attempts() -> None:
    state, boot = on_trial()
    for request in (ask_try(), ask_try("t2"), ask_try("t3", deadline_s=99)):
        state, boot = decide(state, request, LIMITS)
    assert (boot.slot, boot.outcome, boot.trial_id) == (Slot.A, BootOutcome.FELL_BACK, "t1")


def test_security_a_deadline_has_a_hard_cap_and_is_not_extended() -> None:
    state, boot = decide(LoaderState(), ask_try(deadline_s=1e8), LIMITS)
    assert boot.deadline_s == 100
    state, boot = decide(LoaderState(), ask_try(deadline_s=5), LIMITS)
    _, boot = decide(state, ask_try(deadline_s=90), LIMITS)
    assert boot.deadline_s == 5


def test_security_a_trial_that_was_given_up_is_not_retried() -> None:
    state, _ = on_trial()
    state, _ = decide(expire(state), None, LIMITS)
    _, boot = decide(state, ask_try(), LIMITS)
    assert (boot.slot, boot.outcome, boot.trial_id) == (Slot.A, BootOutcome.FELL_BACK, "t1")


def test_security_a_committed_trial_id_is_not_used_again() -> None:
    state, running = on_trial()
    state, _ = decide(settle(state, ask_commit(), running), None, LIMITS)
    _, boot = decide(state, ask_try("t1", Slot.A), LIMITS)
    assert (boot.slot, boot.outcome, boot.cause) == (Slot.B, BootOutcome.NORMAL, "request-refused")


def test_security_a_failed_system_cannot_start_itself_again_under_another_id() -> None:
    state, running = on_trial()
    state = settle(state, ask_give_up(), running)
    state, boot = decide(state, ask_try("t2"), LIMITS)
    assert boot.slot is Slot.A
    # The same bytes are found once more, because the power was cut before the loader removed them.
    state, boot = decide(state, ask_try("t2"), LIMITS)
    assert boot.slot is Slot.A


def test_security_the_active_slot_is_not_put_on_trial() -> None:
    state, boot = decide(LoaderState(), ask_try(slot=Slot.A), LIMITS)
    assert (boot.slot, boot.outcome, boot.cause) == (Slot.A, BootOutcome.NORMAL, "request-refused")
    assert state.trial is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 10,
        b"[]",
        b"{}",
        b'{"try":null}',
        b'{"boot":"B"}',
        b'{"try":{"slot":"C","trial_id":"t","deadline_s":1}}',
        b'{"try":{"slot":"B","trial_id":"t","deadline_s":NaN}}',
        b'{"try":{"slot":"B","trial_id":"t","deadline_s":1e999}}',
        b'{"try":{"slot":"B","trial_id":"t","deadline_s":-1}}',
        b'{"try":{"slot":"B","trial_id":"../t","deadline_s":1}}',
        b'{"try":{"slot":"B","trial_id":"t","deadline_s":1,"attempts":99}}',
        b'{"try":{"slot":"B","trial_id":"t","deadline_s":1},"commit":{"trial_id":"t"}}',
        b'{"commit":{"trial_id":"a"},"commit":{"trial_id":"b"}}',
        b'{"commit":{"trial_id":"\\ud800"}}',
        b'{"commit":{"trial_id":"t"}}' + b" " * MAX_REQUEST_BYTES,
    ],
)
def test_security_damaged_foreign_and_huge_requests_are_no_request(data: bytes) -> None:
    assert parse_request(data) is None


def test_requests_in_the_documented_form_are_understood() -> None:
    assert parse_request(b'{"try":{"slot":"B","trial_id":"t1","deadline_s":60}}') == ask_try()
    assert parse_request(b'{"commit":{"trial_id":"t1"}}') == ask_commit()
    assert parse_request(b'{"give_up":{"trial_id":"t1"}}') == ask_give_up()


JSON = st.recursive(
    st.none() | st.text(max_size=8) | st.integers() | st.floats(),
    lambda inner: st.dictionaries(st.sampled_from(["try", "commit", "give_up", "slot", "trial_id"]), inner, max_size=3),
    max_leaves=5,
)


@given(st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode))
@settings(max_examples=50)
def test_no_bytes_make_the_request_parser_raise(data: bytes) -> None:
    parse_request(data)


# State copies


def test_the_newest_valid_copy_wins_and_damage_is_noticed() -> None:
    old = LoaderState(generation=4)
    new, _ = on_trial()
    new = msgspec.structs.replace(new, generation=5)
    copies = [encode_state(old), encode_state(new)]
    assert newest(copies) == new
    assert newest([copies[0], copies[1][:-3]]) == old
    assert newest([None, b"\0" * 100]) is None
    assert newest([b'{"checksum":"x","state":"\\ud800"}']) is None


def test_a_state_with_one_changed_value_is_not_valid() -> None:
    state, _ = on_trial()
    outer = json.loads(encode_state(state))
    outer["state"]["trial"]["attempts_left"] = 3
    assert decode_state(json.dumps(outer).encode()) is None


@given(st.integers(min_value=0, max_value=400), st.integers(min_value=1, max_value=255))
@settings(max_examples=50)
def test_no_flipped_byte_passes_for_a_state(position: int, mask: int) -> None:
    state, _ = on_trial()
    data = bytearray(encode_state(state))
    data[position % len(data)] ^= mask
    assert decode_state(bytes(data)) in (None, state)


def test_losing_the_state_boots_what_loads_and_says_so() -> None:
    for loadable, slot in (([Slot.A, Slot.B], Slot.A), ([Slot.B], Slot.B), ([], Slot.A)):
        _, boot = decide(recover(loadable), None, LIMITS)
        assert (boot.slot, boot.outcome, boot.cause) == (slot, BootOutcome.NORMAL, "loader-state-lost")


def test_rescue_takes_the_other_slot_and_says_why() -> None:
    _, boot = decide(rescue(LoaderState()), None, LIMITS)
    assert (boot.slot, boot.outcome, boot.cause) == (Slot.B, BootOutcome.NORMAL, "boot-failed")


# Any history


@dataclass
class Board:
    """A board under an adversary: what the model saw."""

    state: LoaderState = field(default_factory=LoaderState)
    running: Boot | None = None
    boots_of_trial: dict[str, int] = field(default_factory=dict)
    committed: list[Slot] = field(default_factory=lambda: [Slot.A])
    over: set[str] = field(default_factory=set)
    unfilled: int = 0
    is_intact: bool = False

    def power_on(self, request: Request | None, *, clean: bool = False) -> None:
        self.state, boot = decide(self.state, request, LIMITS, clean=clean)
        assert decode_state(encode_state(self.state)) == self.state
        if boot.outcome is BootOutcome.TRIAL:
            assert boot.trial_id is not None
            assert boot.trial_id not in self.over
            assert boot.deadline_s is not None
            assert boot.deadline_s <= LIMITS.max_deadline_s
            self.boots_of_trial[boot.trial_id] = self.boots_of_trial.get(boot.trial_id, 0) + 1
            assert self.boots_of_trial[boot.trial_id] <= LIMITS.max_attempts + LIMITS.max_spare
            self.is_intact = False
        elif boot.slot is not self.committed[-1]:
            assert (self.is_intact, boot.slot, boot.cause) == (True, self.committed[-2], "boot-loop")
            assert self.unfilled >= LIMITS.max_boots
            self.committed.append(boot.slot)
            self.is_intact = False
        else:
            self.unfilled += 1
            assert not self.is_intact or self.unfilled <= LIMITS.max_boots + LIMITS.max_spare
        if boot.outcome is BootOutcome.FELL_BACK and boot.trial_id is not None:
            self.over.add(boot.trial_id)
        self.running = boot

    def while_running(self, request: Request | None) -> None:
        assert self.running is not None
        before = self.state
        self.state = settle(self.state, request, self.running)
        if self.state.active is not before.active:
            assert request is not None
            assert request.commit is not None
            assert self.running.outcome is BootOutcome.TRIAL
            assert self.running.trial_id == request.commit.trial_id
            assert before.trial is not None
            self.committed.append(self.running.slot)
            self.over.add(request.commit.trial_id)
            self.unfilled, self.is_intact = 0, True
        elif before.trial is not None and self.state.trial is None:
            self.over.add(before.trial.trial_id)

    def stay_up(self) -> None:
        assert self.running is not None
        self.state = refill(self.state, LIMITS)
        if self.state.running is self.committed[-1]:
            self.unfilled = 0

    def overwrite(self, slot: Slot) -> None:
        self.state = retire(self.state, slot)
        if slot is not self.committed[-1]:
            self.is_intact = False

    def deadline(self) -> None:
        if self.state.trial is not None:
            self.over.add(self.state.trial.trial_id)
        self.state = expire(self.state)
        self.power_on(None)


IDS = st.sampled_from(["a", "b", "c"])
REQUESTS = st.none() | st.one_of(
    st.builds(ask_try, IDS, st.sampled_from(list(Slot)), st.floats(min_value=0.1, max_value=1e6)),
    st.builds(ask_commit, IDS),
    st.builds(ask_give_up, IDS),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["boot", "boot", "clean", "run", "deadline", "fail", "stay", "overwrite"]), REQUESTS),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=300)
def test_invariants_hold_for_every_history(steps: list[tuple[str, Request | None]]) -> None:
    board = Board()
    board.power_on(None)
    for what, request in steps:
        if what == "boot":
            board.power_on(request)
        elif what == "clean":
            board.power_on(request, clean=True)
        elif what == "stay":
            board.stay_up()
        elif what == "overwrite":
            board.overwrite(Slot.A if request is None else Slot.B)
        elif what == "run":
            board.while_running(request)
        elif what == "fail":
            board.state = attempt_failed(board.state)
        else:
            board.deadline()


@given(STEPS, REQUESTS)
@settings(max_examples=100)
def test_without_a_commit_it_converges_to_the_old_slot(
    steps: list[tuple[str, Request | None]], stuck: Request | None
) -> None:
    board = Board()
    board.power_on(None)
    for what, request in steps:
        board.power_on(request) if what == "boot" else board.while_running(request)
    for _ in range(LIMITS.max_boots + 2 * LIMITS.max_attempts + 2):
        board.power_on(stuck)
    board.stay_up()
    assert board.running is not None
    assert board.running.slot is board.committed[-1]
    assert board.running.outcome is not BootOutcome.TRIAL


# Counting


def committed() -> LoaderState:
    state, running = on_trial()
    return settle(state, ask_commit(), running, LIMITS)


def boots(state: LoaderState, times: int, *, clean: bool = False) -> tuple[LoaderState, list[str]]:
    said = []
    for _ in range(times):
        state, boot = decide(state, None, LIMITS, clean=clean)
        said.append(f"{boot.slot.value} {boot.outcome.value} {boot.cause}".rstrip())
    return state, said


def test_a_crash_loop_after_the_commit_ends_in_the_old_slot_and_says_whose_commit_it_was() -> None:
    state, said = boots(committed(), LIMITS.max_boots + 3)
    assert said == ["B normal"] * LIMITS.max_boots + ["A fell_back boot-loop"] * 3
    assert (state.lost_trial, state.committed, state.fallback) == ("t1", None, False)


def test_a_system_that_stays_up_now_and_then_is_never_left() -> None:
    state = committed()
    for _ in range(5):
        state, said = boots(state, LIMITS.max_boots)
        assert set(said) == {"B normal"}
        state = refill(state, LIMITS)


def test_a_slot_that_is_being_overwritten_is_not_gone_back_to() -> None:
    _, said = boots(retire(committed(), Slot.A), LIMITS.max_boots + 3)
    assert set(said) == {"B normal"}
    assert retire(committed(), Slot.B) == committed()


def test_clean_shutdowns_cost_no_attempt_until_the_cap() -> None:
    state, _ = on_trial()
    state, said = boots(state, LIMITS.max_spare + LIMITS.max_attempts, clean=True)
    assert said == ["B trial"] * (LIMITS.max_spare + LIMITS.max_attempts - 1) + ["A fell_back attempts-exhausted"]


def test_a_clean_shutdown_of_the_last_attempt_gives_another() -> None:
    state, _ = boots(on_trial()[0], LIMITS.max_attempts - 1)
    _, boot = decide(state, None, LIMITS, clean=True)
    assert boot.outcome is BootOutcome.TRIAL


def test_the_restart_that_activates_gives_the_trial_nothing() -> None:
    state, _ = decide(LoaderState(), ask_try(), LIMITS, clean=True)
    assert state.trial is not None
    assert (state.trial.attempts_left, state.trial.spare) == (LIMITS.max_attempts - 1, LIMITS.max_spare)


def test_a_trial_is_not_counted_as_a_system_that_stayed_up() -> None:
    state, _ = on_trial()
    assert refill(state, LIMITS) == state
