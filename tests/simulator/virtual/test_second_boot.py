"""A release that is bad after a second boot: it is committed and verified, and at the next restart the boot loader leaves it."""

import re

import pytest

from firmware.errors import RefusedError
from server.planner.words import AssignmentState
from simulator.virtual.device import BOOT_S, LOOPED_BOOTS
from simulator.virtual.run import Run
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world

WORLD = """
name: twice
days: 8
fleet: [{name: lamp, devices: 8, hardware: lamp-r1, sites: 2, link: {mbit: 8}}]
releases:
  - {version: "2.0.0", image: 1 MB, defects: [DEFECT]}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: share, max_failure_rate: 90%}}]
        budgets: [{by: site, limit: 1}]
"""


def twice(defect: str = "{kind: fails-second-boot, share: 50%, after: 20h}") -> World:
    return parse_world(WORLD.replace("DEFECT", defect), "twice.yaml")


def test_it_verifies_and_falls_back_at_its_next_restart() -> None:
    run = Run(twice())
    [told] = run.play().campaigns
    assert run.books.violations == []
    hurt = {name for name, device in run.devices.items() if "spring" in device.harmed_by}
    assert 0 < told.harmed == len(hurt) < 8
    for row in run.store.in_states("spring", tuple(AssignmentState)):
        device = run.devices[row.target]
        is_hurt = row.target in hurt
        assert row.state is (AssignmentState.REGRESSED if is_hurt else AssignmentState.VERIFIED)
        assert row.reason_kind == ("boot-loop" if is_hurt else "none")
        assert device.is_up
        assert device.image.version == ("0.9.0" if is_hurt else "2.0.0")


def test_it_is_down_for_as_many_boots_as_the_loader_gives_and_not_longer() -> None:
    run = Run(twice("{kind: fails-second-boot, share: 100%, after: 20h}"))
    device = run.devices["lamp-000000"]
    down: list[float] = []

    def look(now: float) -> None:
        if not device.is_up:
            down.append(now - run.world.begins)
        if now < run.world.begins + 3 * 86400:
            run._later(now + 5, look)

    run._later(run.world.begins + 6 * 3600, look)
    run.play()
    assert 10 * 3600 < down[0] < 36 * 3600
    assert BOOT_S * LOOPED_BOOTS - 10 <= down[-1] - down[0] <= BOOT_S * LOOPED_BOOTS
    assert device.is_up


@pytest.mark.parametrize("defect", ["{kind: fails-second-boot}", "{kind: fails-boot, after: 2h}"])
def test_when_it_is_restarted_is_said_for_it_and_for_nothing_that_comes_at_once(defect: str) -> None:
    with pytest.raises(
        RefusedError, match=re.escape("twice.yaml, line 6: ") + ".*`after` for crashes and fails-second"
    ):
        twice(defect)
