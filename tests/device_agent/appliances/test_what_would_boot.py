"""What a box would boot if its power were cut now: the old image at every step before the commit, the new one after it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from device_agent.appliances.course import Step
from device_agent.appliances.pilot import Pilot
from firmware.errors import UnavailableError
from simulator.appliances.image import ImageFacts, digests_of, make_image
from simulator.appliances.upgrade import upgrade
from tests.appliances import NEW, OLD, Stand, make_stand

TWO_IMAGES = ("sonic", "iosxe", "dual-image")
Build = Callable[..., Any]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Makes a box and starts it."""
    started: list[Stand] = []

    async def make(kind: str, **image: Any) -> Stand:
        stand = make_stand(tmp_path, kind, length=20_000, **image)
        started.append(stand)
        await stand.server.start()
        return stand

    yield make
    for stand in started:
        await stand.server.stop()


def watched(stand: Stand) -> tuple[Pilot, list[tuple[Step, str]]]:
    """A pilot, and what the box's default was whenever it had stored a step."""
    seen: list[tuple[Step, str]] = []
    return stand.pilot(lambda course: seen.append((course.step, stand.box.flash.permanent))), seen


async def on_trial(stand: Stand) -> Pilot:
    pilot = stand.pilot()
    await pilot.prepare(stand.image)
    await pilot.arm("trial-1", 600)
    await pilot.switch()
    assert (pilot.course.step, stand.runs) == (Step.TRIAL, NEW[stand.kind])
    return pilot


@pytest.mark.parametrize("kind", TWO_IMAGES)
async def test_the_new_image_is_the_default_after_the_commit_only(kind: str, build: Build) -> None:
    stand = await build(kind)
    pilot, seen = watched(stand)
    await upgrade(pilot, stand.image)
    assert seen[-1] == (Step.COMMITTED, NEW[kind])
    assert {boots for _, boots in seen[:-1]} == {OLD[kind]}, seen
    assert Step.TRIAL in [step for step, _ in seen]


@pytest.mark.parametrize("kind", TWO_IMAGES)
@pytest.mark.parametrize("image", [{"loses": ("eth1",)}, {"boots": False}], ids=["lost", "dead"])
async def test_who_falls_back_has_the_old_image_as_default_throughout(
    kind: str, image: dict[str, Any], build: Build
) -> None:
    stand = await build(kind, **image)
    pilot, seen = watched(stand)
    await upgrade(pilot, stand.image)
    assert seen[-1] == (Step.FELL_BACK, OLD[kind])
    assert {boots for _, boots in seen} == {OLD[kind]}, seen
    assert (stand.runs, stand.box.flash.once) == (OLD[kind], "")


@pytest.mark.parametrize("kind", TWO_IMAGES)
async def test_power_that_is_cut_in_the_trial_leads_to_the_old_image(kind: str, build: Build) -> None:
    stand = await build(kind)
    pilot = await on_trial(stand)
    await stand.server.stop()
    await stand.server.start()
    assert stand.runs == OLD[kind]
    with contextlib.suppress(UnavailableError):  # the connection of before
        await pilot.look()
    await pilot.look()
    assert (pilot.course.step, pilot.course.cause) == (Step.FELL_BACK, "trial-deadline")
    await pilot.close()


@pytest.mark.parametrize("kind", TWO_IMAGES)
async def test_power_that_is_cut_after_the_commit_leads_to_the_new_image(kind: str, build: Build) -> None:
    stand = await build(kind)
    pilot = await on_trial(stand)
    await pilot.keep("trial-1")
    await stand.server.stop()
    await stand.server.start()
    assert stand.runs == NEW[kind]
    await pilot.close()


async def test_an_installation_that_was_left_half_done_does_not_bar_the_next_release(build: Build) -> None:
    """SONiC's installer makes the new image the default; the connection is lost before that is taken back."""
    stand = await build("sonic")
    stand.box.faults.drop = "sudo sonic-installer set-default"
    pilot = stand.pilot()
    with pytest.raises(UnavailableError):
        await pilot.prepare(stand.image)
    assert (pilot.course.step, stand.box.flash.permanent) == (Step.INSTALL, NEW["sonic"])
    path = make_image(stand.directory / "later.img", ImageFacts(kind="sonic", version="202405.1"), length=20_000)
    later = {"name": "later.bin", "version": "202405.1", "path": str(path), "digests": digests_of(path)}
    await pilot.prepare(replace(stand.image, length=path.stat().st_size, **later))
    assert (pilot.course.step, pilot.course.cause) == (Step.STAGED, "")
    assert (stand.box.flash.permanent, "202405.1" in stand.box.flash.installed) == (OLD["sonic"], True)
    await pilot.close()
