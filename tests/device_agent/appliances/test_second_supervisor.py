"""A box with two supervisors: the second goes first, both never run nothing at once, and whoever falls back takes both along."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from device_agent.appliances.course import Course, Step
from simulator.appliances.upgrade import Story, upgrade
from tests.appliances import Stand, make_stand

OLD, NEW = "1.0", "2.0"
Build = Callable[..., Any]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Makes a box and starts it."""
    started: list[Stand] = []

    async def make(*, standby: bool = True, faults: dict[str, Any] | None = None, **image: Any) -> Stand:
        stand = make_stand(tmp_path, "dual-image", standby=standby, length=20_000, **image)
        started.append(stand)
        slow = {
            name: tuple(replace(one, timeout_s=1.0) if one.until else one for one in getattr(stand.dialect, name))
            for name in ("standby", "standby_back")
        }
        stand.dialect = replace(stand.dialect, leave_s=0.3, **slow)
        for name, value in (faults or {}).items():
            setattr(stand.box.faults, name, value)
        await stand.server.start()
        return stand

    yield make
    for stand in started:
        await stand.server.stop()


def is_back(stand: Stand, story: Story, cause: str) -> None:
    """Both run the old image, would boot it, and never were down together."""
    flash = stand.box.flash
    assert (story.course.step, story.course.cause) == (Step.FELL_BACK, cause), story
    assert (flash.running, flash.permanent, flash.once, flash.standby) == (OLD, OLD, "", OLD)
    assert stand.box.standby_up
    assert not stand.box.both_down


async def test_it_is_brought_first_and_waited_for(build: Build) -> None:
    stand = await build()
    assert (await upgrade(stand.pilot(), stand.image)).course.step is Step.COMMITTED
    said = stand.box.faults.said
    assert said.index("standby upgrade 2.0") < said.index("show standby") < said.index("restart")
    assert (stand.runs, stand.box.flash.standby) == (NEW, NEW)
    assert not stand.box.both_down


async def test_an_image_that_does_not_boot_on_it_never_restarts_the_box(build: Build) -> None:
    stand = await build(boots=False)
    story = await upgrade(stand.pilot(), stand.image)
    is_back(stand, story, "box-not-ready")
    assert stand.box.flash.boots == 1
    assert "the box still said 'ready 1.0'" in story.course.why


async def test_it_goes_back_when_the_box_did_not_boot_the_new_image(build: Build) -> None:
    stand = await build(faults={"wont_boot": NEW})
    story = await upgrade(stand.pilot(), stand.image)
    is_back(stand, story, "boot-failed")
    assert "came back with 1.0: the new image did not boot" in story.course.why


@pytest.mark.parametrize(("fault", "cause"), [("restart_refused", "box-refused"), ("restart_forgotten", "box-stayed")])
async def test_it_goes_back_when_the_box_did_not_restart(fault: str, cause: str, build: Build) -> None:
    stand = await build(faults={fault: True})
    is_back(stand, await upgrade(stand.pilot(), stand.image), cause)
    assert stand.box.flash.boots == 1


async def test_it_goes_back_before_the_box_does(build: Build) -> None:
    stand = await build(loses=("eth1",))
    is_back(stand, await upgrade(stand.pilot(), stand.image), "health-failed")
    said = stand.box.faults.said
    restarts = [number for number, command in enumerate(said) if command == "restart"]
    assert restarts[0] < said.index("standby upgrade 1.0") < restarts[1]


async def test_it_goes_back_when_the_box_left_its_trial_by_itself(build: Build) -> None:
    stand = await build()
    pilot = stand.pilot()
    await pilot.prepare(stand.image)
    await pilot.arm("trial-1", 600)
    await pilot.switch()
    assert (pilot.course.step, stand.box.flash.standby) == (Step.TRIAL, NEW)
    await stand.server.stop()
    await stand.server.start()
    await pilot.close()
    await pilot.look()
    is_back(stand, Story(course=pilot.course), "trial-deadline")
    await pilot.close()


async def test_one_that_will_not_go_back_is_told_beside_the_cause(build: Build) -> None:
    stand = await build(faults={"wont_boot": NEW})

    def on_step(course: Course) -> None:
        stand.box.faults.standby_fails |= course.step is Step.AWAITING

    story = await upgrade(stand.pilot(on_step), stand.image)
    assert (story.course.step, story.course.cause, stand.runs) == (Step.FELL_BACK, "boot-failed", OLD)
    assert "the new image did not boot. The second supervisor did not go back: " in story.course.why
    assert "the box still said 'ready 2.0'" in story.course.why
    assert stand.box.flash.standby == NEW


async def test_a_box_without_one_is_not_asked_about_it(build: Build) -> None:
    stand = await build(standby=False, loses=("eth1",))
    story = await upgrade(stand.pilot(), stand.image)
    assert (story.course.step, stand.runs, stand.box.flash.standby) == (Step.FELL_BACK, OLD, "")
    assert not [command for command in stand.box.faults.said if "standby" in command]
