"""The table of a box's course: it has an end everywhere, never restarts a box without a word, and its file is old or new."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from device_agent.appliances.course import TABLE, WORK, Course, CourseError, Step, Turn, Work, begun, found, turned
from device_agent.appliances.course_file import COURSE_FILE, CourseFile
from device_agent.appliances.driver import BoxImage, Facts
from firmware.errors import RefusedError, UnavailableError
from simulator.fakes import MemoryEffects

IMAGE = BoxImage(path="/x", name="2.0.bin", version="2.0", length=5, digests={"sha256": "0" * 64})
BEFORE = Facts(running="1.0", permanent="1.0", boot="b1")
WORDS = {Turn.BEGIN, Turn.CHECK, Turn.ARM, Turn.GO, Turn.KEEP, Turn.LEAVE}
RESTS = set(Step) - set(WORK)


def test_every_step_can_be_reached() -> None:
    reached = {Step.IDLE}
    while new := {after for (step, _), after in TABLE.items() if step in reached} - reached:
        reached |= new
    assert reached == set(Step)


def test_work_always_has_a_way_on_and_rest_waits_for_a_word() -> None:
    for step in Step:
        turns = {turn for at, turn in TABLE if at is step}
        if step in WORK:
            assert turns - WORDS, f"{step} has no end"
        else:
            assert turns & WORDS or step is Step.STRANDED, f"nobody can do anything at {step}"


def test_a_box_is_restarted_only_after_a_word_to_go() -> None:
    restarts = {step for step, work in WORK.items() if work in (Work.ACTIVATE, Work.ROLLBACK, Work.STANDBY)}
    for (step, turn), after in TABLE.items():
        if after in restarts and step not in restarts:
            assert turn is Turn.GO


def test_a_commit_is_only_reached_by_a_word_out_of_a_trial() -> None:
    ways = {(step, turn) for (step, turn), after in TABLE.items() if after is Step.COMMITTING}
    assert ways == {(Step.TRIAL, Turn.KEEP)}
    assert {step for (step, _), after in TABLE.items() if after is Step.COMMITTED} == {Step.COMMITTING}


def test_whoever_leaves_the_staged_image_says_what_the_box_runs() -> None:
    """After a restart was asked for, no rest is reached without the box's own word, or its refusal."""
    told = {Turn.NEW, Turn.OLD, Turn.OTHER, Turn.STAYED}
    for (step, turn), after in TABLE.items():
        if step in (Step.AWAITING, Step.AWAITING_OLD):
            assert turn in told
            assert after in RESTS | {Step.CALLING_OFF, Step.STANDBY_BACK}


def test_whoever_fell_back_has_looked_after_the_second_supervisor() -> None:
    """A box that runs what somebody else put on it is left as it is."""
    ways = {(step, turn) for (step, turn), after in TABLE.items() if after is Step.FELL_BACK}
    assert ways == {(Step.STANDBY_BACK, Turn.DONE), (Step.STANDBY_BACK, Turn.FAILED), (Step.ARMED, Turn.OTHER)}


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("turn", Turn)
def test_a_pair_that_is_not_in_the_table_is_an_error(step: Step, turn: Turn) -> None:
    course = Course(step=step, image=IMAGE, before=BEFORE)
    if (step, turn) in TABLE:
        assert turned(course, turn).step is TABLE[step, turn]
    else:
        with pytest.raises(CourseError, match=turn.value):
            turned(course, turn)


def test_an_error_is_kept_and_a_new_course_begins_without_it() -> None:
    failed = turned(Course(step=Step.CHECK, image=IMAGE), Turn.FAILED, error=RefusedError("box-hash", "wrong"))
    assert (failed.step, failed.cause, failed.why) == (Step.IDLE, "box-hash", "wrong")
    assert begun(failed, IMAGE) == Course(step=Step.IDENTIFY, image=IMAGE)


@pytest.mark.parametrize(("running", "turn"), [("2.0", Turn.NEW), ("1.0", Turn.OLD), ("3.0", Turn.OTHER)])
def test_what_runs_is_told_by_the_box(running: str, turn: Turn) -> None:
    course = Course(step=Step.AWAITING, image=IMAGE, before=BEFORE)
    assert found(course, replace(BEFORE, running=running)) is turn


COURSES = st.builds(
    Course,
    step=st.sampled_from(Step),
    image=st.sampled_from([None, IMAGE]),
    before=st.sampled_from([None, BEFORE]),
    config=st.text(max_size=200),
    sets=st.dictionaries(st.text(max_size=8), st.tuples(st.text(max_size=8)), max_size=3),
    why=st.text(max_size=50),
)


@given(COURSES)
def test_a_stored_course_comes_back(course: Course) -> None:
    file = CourseFile(MemoryEffects(), Path("/a"))
    file.store(course)
    assert file.load() == course


@given(COURSES, st.data())
def test_a_damaged_file_counts_as_none(course: Course, data: st.DataObject) -> None:
    effects = MemoryEffects()
    file = CourseFile(effects, Path("/a"))
    file.store(course)
    body = effects.read(Path("/a") / COURSE_FILE)
    assert body is not None
    at = data.draw(st.integers(0, len(body) - 1))
    effects.replace(Path("/a") / COURSE_FILE, body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
    assert file.load() == Course()


def test_storage_that_fails_is_told() -> None:
    class Broken(MemoryEffects):
        def replace(self, path: Path, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        def read(self, path: Path) -> bytes | None:
            raise OSError(5, "Input/output error")

    with pytest.raises(UnavailableError, match="No space left"):
        CourseFile(Broken(), Path("/a")).store(Course())
    with pytest.raises(UnavailableError, match="can't be read"):
        CourseFile(Broken(), Path("/a")).load()
