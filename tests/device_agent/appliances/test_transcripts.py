"""The dialogue with each kind of box, written down in `transcripts`: for whoever knows such a box and wants to see what is said
to it.

Each is held from both sides: the driver, told what is written, says exactly what is written; and an emulated box, asked now,
leads to the same text. After a change that is meant, run these tests with `OTARIA_TRANSCRIPTS=write`, and look at the difference.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from device_agent.appliances.course import Step
from device_agent.appliances.pilot import Pilot
from simulator.appliances.upgrade import Story, upgrade
from tests.appliances import KINDS, NEW, OLD, Stand, make_stand
from tests.transcripts import Recorded, Replayed, Told, commands_of, polled_once, read, written

HERE = Path(__file__).parent / "transcripts"


@dataclass(frozen=True, kw_only=True)
class Course:
    """A way that an update can take. `standby`: with a second supervisor, where the kind may have one. `end`, where it leads, and
    `cause`, what is told of it; both by kind where kinds differ."""

    name: str
    about: str
    kinds: tuple[str, ...] = KINDS
    standby: bool = True
    image: dict[str, Any] = field(default_factory=dict)
    end: Step
    cause: str = ""
    other_end: dict[str, tuple[Step, str]] = field(default_factory=dict)


COURSES = [
    Course(name="good", about="the new image is kept", end=Step.COMMITTED),
    Course(
        name="no-boot",
        about="the new image does not boot",
        standby=False,
        image={"boots": False},
        end=Step.FELL_BACK,
        cause="boot-failed",
        other_end={"openwrt": (Step.AWAITING, "")},
    ),
    Course(
        name="no-boot-of-second",
        about="the new image does not boot on the second supervisor",
        kinds=("dual-image",),
        image={"boots": False},
        end=Step.FELL_BACK,
        cause="box-not-ready",
    ),
    Course(
        name="lost-interface",
        about="an interface is gone under the new image",
        image={"loses": ("eth1",)},
        end=Step.FELL_BACK,
        cause="health-failed",
        other_end={"openwrt": (Step.STRANDED, "health-failed")},
    ),
]
ALL = [pytest.param(kind, course, id=f"{kind}-{course.name}") for course in COURSES for kind in course.kinds]


class Leaping:
    """Time that passes by waiting alone."""

    def __init__(self) -> None:
        self._now = 0.0

    def seconds(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._now += seconds


def stand_of(kind: str, course: Course, directory: Path) -> Stand:
    stand = make_stand(directory, kind, standby=kind == "dual-image" and course.standby, **course.image)
    if not course.image.get("boots", True):
        slow = tuple(replace(one, timeout_s=1.0) if one.until else one for one in stand.dialect.standby)
        stand.dialect = replace(stand.dialect, standby=slow, return_s=1.0)
    return stand


def over(stand: Stand, lines: Any) -> Pilot:
    pilot = stand.pilot()
    pilot._lines = lines
    return pilot


def ends_well(kind: str, course: Course, story: Story) -> None:
    assert (story.course.step, story.course.cause) == course.other_end.get(kind, (course.end, course.cause)), story


def path_of(kind: str, course: Course) -> Path:
    return HERE / f"{kind}-{course.name}.txt"


@pytest.mark.parametrize(("kind", "course"), ALL)
async def test_an_emulated_box_leads_to_what_is_written(kind: str, course: Course, tmp_path: Path) -> None:
    stand = stand_of(kind, course, tmp_path)
    await stand.server.start()
    recorded = Recorded(stand.pilot()._lines, stand.dialect.session.setup)
    try:
        ends_well(kind, course, await upgrade(over(stand, recorded), stand.image, tries=1))
    finally:
        await stand.server.stop()
    said = polled_once(commands_of(recorded.entries))
    assert said == polled_once(stand.box.faults.said), "the box heard something else"
    title = f"{kind}, from {OLD[kind]} to {NEW[kind]}: {course.about}; it ends {story_end(kind, course)}"
    text = written(recorded.entries, title)
    if os.environ.get("OTARIA_TRANSCRIPTS") == "write":
        path_of(kind, course).write_text(text)
    assert text == path_of(kind, course).read_text()


def story_end(kind: str, course: Course) -> str:
    return course.other_end.get(kind, (course.end, ""))[0].value


@pytest.mark.parametrize(("kind", "course"), ALL)
async def test_the_driver_says_exactly_what_is_written(kind: str, course: Course, tmp_path: Path) -> None:
    stand = stand_of(kind, course, tmp_path)
    replayed = Replayed(read(path_of(kind, course).read_text()), stand.dialect.session.setup)
    pilot = over(stand, replayed)
    pilot._sleeper = Leaping()
    ends_well(kind, course, await upgrade(pilot, stand.image, tries=1))
    assert replayed.left == [], "the transcript goes on"


@pytest.mark.parametrize(("kind", "course"), ALL)
def test_a_transcript_is_read_as_it_was_written(kind: str, course: Course) -> None:
    text = path_of(kind, course).read_text()
    entries = read(text)
    assert written(entries, text.splitlines()[0].removeprefix("# ")) == text
    assert sum(isinstance(one, Told) for one in entries) > 15
