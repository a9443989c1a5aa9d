"""The course of one box from one image to the next, as a table: at which step it is, what is done there, and where that leads.

Pure. The step is durable before its work begins, so whoever was killed at any point begins that work anew; all work may be done
twice. A pair that is not in `TABLE` is an error of this program.

Up to `ARMED` the box runs its old image and would boot it again. `ACTIVATING` and after: only what the box says when it is back
counts, never what was sent to it.
"""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from device_agent.appliances.driver import BoxImage, Facts
from device_agent.ports import Slot
from firmware.errors import OtariaError


class Step(StrEnum):
    """`IDLE`, `STAGED`, `ARMED`, `TRIAL`, `GIVEN_UP`, `COMMITTED`, `FELL_BACK` and `STRANDED` wait for somebody's word; at all
    others there is work to do. `STANDBY_BACK`: the box runs its old image, and a second supervisor that was brought to the new
    one goes back, too. `STRANDED`: the new image runs, is not wanted, and there is no way back."""

    IDLE = "idle"
    IDENTIFY = "identify"
    PRECHECK = "precheck"
    BACKUP = "backup"
    UPLOAD = "upload"
    CHECK = "check"
    INSTALL = "install"
    VERIFY_STAGED = "verify-staged"
    UNDOING = "undoing"
    STAGED = "staged"
    SNAPSHOT = "snapshot"
    ARMING = "arming"
    DISARMING = "disarming"
    ARMED = "armed"
    STANDBY = "standby"
    ACTIVATING = "activating"
    AWAITING = "awaiting"
    CALLING_OFF = "calling-off"
    STANDBY_BACK = "standby-back"
    TRIAL = "trial"
    COMMITTING = "committing"
    COMMITTED = "committed"
    GIVEN_UP = "given-up"
    ROLLING_BACK = "rolling-back"
    AWAITING_OLD = "awaiting-old"
    FELL_BACK = "fell-back"
    STRANDED = "stranded"


class Turn(StrEnum):
    """What happened. `BEGIN`, `CHECK`, `ARM`, `GO`, `KEEP`, `LEAVE`: somebody's word. `DONE`, `FAILED`: of the step's work.
    `NEW`, `OLD`, `OTHER`: what the box was found to run. `STAYED`: it never restarted."""

    BEGIN = "begin"
    CHECK = "check"
    ARM = "arm"
    GO = "go"
    KEEP = "keep"
    LEAVE = "leave"
    DONE = "done"
    FAILED = "failed"
    NEW = "new"
    OLD = "old"
    OTHER = "other"
    STAYED = "stayed"


class Work(StrEnum):
    """What is done at a step: the driver's verbs."""

    IDENTIFY = "identify"
    PRECHECK = "precheck"
    BACKUP = "backup"
    UPLOAD = "upload"
    CHECK = "check"
    INSTALL = "install"
    VERIFY_STAGED = "verify_staged"
    SNAPSHOT = "snapshot"
    ARM = "arm"
    DISARM = "disarm"
    STANDBY = "standby"
    STANDBY_BACK = "standby_back"
    ACTIVATE = "activate"
    AWAIT_RETURN = "await_return"
    COMMIT = "commit"
    ROLLBACK = "rollback"


WORK: Mapping[Step, Work] = {
    Step.IDENTIFY: Work.IDENTIFY,
    Step.PRECHECK: Work.PRECHECK,
    Step.BACKUP: Work.BACKUP,
    Step.UPLOAD: Work.UPLOAD,
    Step.CHECK: Work.CHECK,
    Step.INSTALL: Work.INSTALL,
    Step.VERIFY_STAGED: Work.VERIFY_STAGED,
    Step.SNAPSHOT: Work.SNAPSHOT,
    Step.ARMING: Work.ARM,
    Step.UNDOING: Work.DISARM,
    Step.DISARMING: Work.DISARM,
    Step.STANDBY: Work.STANDBY,
    Step.ACTIVATING: Work.ACTIVATE,
    Step.AWAITING: Work.AWAIT_RETURN,
    Step.CALLING_OFF: Work.DISARM,
    Step.STANDBY_BACK: Work.STANDBY_BACK,
    Step.COMMITTING: Work.COMMIT,
    Step.ROLLING_BACK: Work.ROLLBACK,
    Step.AWAITING_OLD: Work.AWAIT_RETURN,
}
"""The work of each step that has any."""

_STAGING = (Step.IDENTIFY, Step.PRECHECK, Step.BACKUP, Step.UPLOAD, Step.CHECK, Step.INSTALL, Step.VERIFY_STAGED)
_BEGINS = (Step.IDLE, *_STAGING, Step.STAGED, Step.COMMITTED, Step.FELL_BACK, Step.STRANDED)
TABLE: Mapping[tuple[Step, Turn], Step] = {
    **{(step, Turn.BEGIN): Step.IDENTIFY for step in _BEGINS},
    **dict(zip([(step, Turn.DONE) for step in _STAGING], (*_STAGING[1:], Step.STAGED), strict=True)),
    **{(step, Turn.FAILED): Step.IDLE for step in _STAGING},
    (Step.INSTALL, Turn.FAILED): Step.UNDOING,
    (Step.VERIFY_STAGED, Turn.FAILED): Step.UNDOING,
    (Step.UNDOING, Turn.DONE): Step.IDLE,
    (Step.UNDOING, Turn.BEGIN): Step.IDENTIFY,
    (Step.STAGED, Turn.CHECK): Step.VERIFY_STAGED,
    (Step.STAGED, Turn.ARM): Step.SNAPSHOT,
    (Step.SNAPSHOT, Turn.DONE): Step.ARMING,
    (Step.SNAPSHOT, Turn.FAILED): Step.UNDOING,
    (Step.ARMING, Turn.DONE): Step.ARMED,
    (Step.ARMING, Turn.FAILED): Step.DISARMING,
    (Step.DISARMING, Turn.DONE): Step.STAGED,
    (Step.ARMED, Turn.LEAVE): Step.DISARMING,
    (Step.ARMED, Turn.GO): Step.STANDBY,
    (Step.ARMED, Turn.OLD): Step.STANDBY_BACK,
    (Step.ARMED, Turn.NEW): Step.TRIAL,
    (Step.ARMED, Turn.OTHER): Step.FELL_BACK,
    (Step.STANDBY, Turn.DONE): Step.ACTIVATING,
    (Step.STANDBY, Turn.FAILED): Step.CALLING_OFF,
    (Step.ACTIVATING, Turn.DONE): Step.AWAITING,
    (Step.ACTIVATING, Turn.FAILED): Step.CALLING_OFF,
    (Step.AWAITING, Turn.NEW): Step.TRIAL,
    (Step.AWAITING, Turn.OLD): Step.STANDBY_BACK,
    (Step.AWAITING, Turn.OTHER): Step.STRANDED,
    (Step.AWAITING, Turn.STAYED): Step.CALLING_OFF,
    (Step.CALLING_OFF, Turn.DONE): Step.STANDBY_BACK,
    (Step.STANDBY_BACK, Turn.DONE): Step.FELL_BACK,
    (Step.STANDBY_BACK, Turn.FAILED): Step.FELL_BACK,
    (Step.TRIAL, Turn.KEEP): Step.COMMITTING,
    (Step.TRIAL, Turn.LEAVE): Step.GIVEN_UP,
    (Step.TRIAL, Turn.NEW): Step.TRIAL,
    (Step.TRIAL, Turn.OLD): Step.STANDBY_BACK,
    (Step.TRIAL, Turn.OTHER): Step.STRANDED,
    (Step.COMMITTING, Turn.DONE): Step.COMMITTED,
    (Step.COMMITTING, Turn.FAILED): Step.TRIAL,
    (Step.COMMITTING, Turn.OLD): Step.STANDBY_BACK,
    (Step.GIVEN_UP, Turn.GO): Step.ROLLING_BACK,
    (Step.GIVEN_UP, Turn.FAILED): Step.STRANDED,
    (Step.GIVEN_UP, Turn.OLD): Step.STANDBY_BACK,
    (Step.ROLLING_BACK, Turn.DONE): Step.AWAITING_OLD,
    (Step.ROLLING_BACK, Turn.FAILED): Step.STRANDED,
    (Step.AWAITING_OLD, Turn.OLD): Step.STANDBY_BACK,
    (Step.AWAITING_OLD, Turn.NEW): Step.STRANDED,
    (Step.AWAITING_OLD, Turn.OTHER): Step.STRANDED,
    (Step.AWAITING_OLD, Turn.STAYED): Step.STRANDED,
}


_RUN_NEW = frozenset(
    {
        Step.TRIAL,
        Step.COMMITTING,
        Step.COMMITTED,
        Step.GIVEN_UP,
        Step.ROLLING_BACK,
        Step.AWAITING_OLD,
        Step.STRANDED,
    }
)
SWITCHING = frozenset(
    {
        Step.STANDBY,
        Step.ACTIVATING,
        Step.AWAITING,
        Step.CALLING_OFF,
        Step.STANDBY_BACK,
        Step.ROLLING_BACK,
        Step.AWAITING_OLD,
    }
)
"""The steps of a restart. Whoever comes upon one goes on with it before anything else."""


class CourseError(OtariaError):
    """A pair of step and turn that the table does not know: a defect of this program."""


class Course(Struct, frozen=True, kw_only=True):
    """`image`: where it leads; `old_slot`: the name of the one that it starts from, for an agent that thinks in A and B.
    `before`: what the box said before anything was done, and again when it was armed. `config`, `sets`: what is compared later.
    `trial_id`, `trial_s`: of the trial that was asked for. `cause` and `why`: a kind and a sentence about what went wrong last.
    `left`: the box's `boot` when it was told to restart."""

    step: Step = Step.IDLE
    old_slot: Slot = Slot.A
    image: BoxImage | None = None
    before: Facts | None = None
    config: str = ""
    sets: Mapping[str, tuple[str, ...]] = {}
    trial_id: str = ""
    trial_s: int = 0
    cause: str = ""
    why: str = ""
    left: str = ""


def turned(course: Course, turn: Turn, *, error: OtariaError | None = None) -> Course:
    """The course after a turn, with what went wrong. Raises `CourseError` (`no-turn`)."""
    after = TABLE.get((course.step, turn))
    if after is None:
        raise CourseError("no-turn", f"At step {course.step.value} there can be no {turn.value}.")
    told = {} if error is None else {"cause": error.kind, "why": error.text[:1024]}
    return replace(course, step=after, **told)


def found(course: Course, facts: Facts) -> Turn:
    """Which image the box runs, by its own words."""
    if course.image is not None and facts.running == course.image.version:
        return Turn.NEW
    if course.before is not None and facts.running == course.before.running:
        return Turn.OLD
    return Turn.OTHER


def begun(course: Course, image: BoxImage) -> Course:
    """A new course to this image."""
    return Course(step=turned(course, Turn.BEGIN).step, image=image, old_slot=running_slot(course))


def runs_new(course: Course) -> bool:
    """Whether the box runs the image that the course leads to, as far as it has told."""
    return course.step in _RUN_NEW


def running_slot(course: Course) -> Slot:
    """The name of what the box runs, as far as it has told."""
    return course.old_slot.other if runs_new(course) else course.old_slot


def is_under_way(course: Course) -> bool:
    """Whether there is work to do without anybody's word."""
    return course.step in WORK
