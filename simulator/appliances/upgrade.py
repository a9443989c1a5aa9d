"""Takes a pilot through a whole update, as an agent's core would: tries again what could not be done now, judges the trial, and
commits or goes back."""

from dataclasses import dataclass, field

from device_agent.appliances.course import Course, Step
from device_agent.appliances.driver import BoxImage
from device_agent.appliances.pilot import Pilot
from firmware.errors import OtariaError, RefusedError, UnavailableError

TRIAL_ID = "trial-1"
TRIAL_S = 600


@dataclass(kw_only=True)
class Story:
    """How it went: the course at its end, and what was delayed or refused on the way."""

    course: Course
    delayed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


async def upgrade(pilot: Pilot, image: BoxImage, *, tries: int = 4) -> Story:
    """From wherever the course stands to an end that needs nobody any more, or until as many tries were of no use."""
    story = Story(course=pilot.course)
    for _ in range(tries):
        try:
            await _go_on(pilot, image)
        except UnavailableError as error:
            story.delayed.append(error.kind)
            story.texts.append(error.text)
            continue
        except RefusedError as error:
            story.refused.append(error.kind)
            story.texts.append(error.text)
        break
    story.course = pilot.course
    await pilot.close()
    return story


async def _go_on(pilot: Pilot, image: BoxImage) -> None:
    course = pilot.course
    if course.step in (Step.FELL_BACK, Step.STRANDED, Step.COMMITTED) and course.image == image:
        return
    if _is_staging(course):
        await pilot.prepare(image)
    if pilot.course.step in (Step.STAGED, Step.SNAPSHOT, Step.ARMING, Step.DISARMING):
        await pilot.arm(TRIAL_ID, TRIAL_S)
    if pilot.course.step is not Step.TRIAL:
        await pilot.switch()
    if pilot.course.step is Step.TRIAL:
        await _judge(pilot)


async def _judge(pilot: Pilot) -> None:
    await pilot.look()
    said = await pilot.judge()
    if not said:
        for last in (False, True):
            try:
                await pilot.keep(TRIAL_ID)
                return
            except OtariaError as error:
                if not last:
                    continue
                said = [error.text]
    await pilot.leave(TRIAL_ID, RefusedError("health-failed", f"After the restart {'; '.join(said)}."))
    await pilot.switch()


def _is_staging(course: Course) -> bool:
    return course.step in (
        Step.IDLE,
        Step.IDENTIFY,
        Step.PRECHECK,
        Step.BACKUP,
        Step.UPLOAD,
        Step.CHECK,
        Step.INSTALL,
        Step.VERIFY_STAGED,
    )
