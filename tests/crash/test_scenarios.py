"""What the scenarios tell when no power goes: each step once."""

import pytest

from tests.crash.explore import Explorer
from tests.crash.loaders import LOADERS
from tests.crash.scenarios import SCENARIOS
from tests.crash.world import World

INSTALLED = ["ordered", "downloading", "staged", "activating", "trial", "committed"]
FELL_BACK = [*INSTALLED[:-1], "fell_back"]
LOST = [*INSTALLED[:4], "fell_back"]
"""The trial never came as far as the agent."""
TOLD = {
    "full": INSTALLED,
    "large": INSTALLED,
    "delta": INSTALLED,
    "unacked": INSTALLED,
    "several slots": INSTALLED,
    "several slots again": INSTALLED * 2,
    "several slots, faulty": FELL_BACK,
    "another agent": [*INSTALLED, "ordered", "staged", "activating", "trial", "committed"],
    "another agent fails": FELL_BACK,
    "offline bundle": INSTALLED,
    "faulty": FELL_BACK,
    "hanging": LOST,
    "over the previous": INSTALLED * 2,
    "after a lost trial": [*INSTALLED, *LOST, *INSTALLED],
    "ordered rollback": [*INSTALLED, "ordered", "staged", "activating", "trial", "committed"],
    "late regression": [*INSTALLED, "failed", "activating", "trial", "fell_back"],
    "crash loop": [*INSTALLED, "fell_back"],
    "deferral": ["ordered", "downloading", "staged", "deferred", "deferred", "staged", *INSTALLED[3:]],
}
MOST_BOOTS = 12


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_step_is_told_once(scenario: str, loader: str) -> None:
    explorer = Explorer(SCENARIOS[scenario], LOADERS[loader]())
    explorer.go(explorer.origin)
    world: World = explorer.world
    assert world.server.states() == TOLD[scenario]
    assert len(world.boots) <= MOST_BOOTS
    if scenario == "delta":
        assert set(world.depot.served) == {world.depot.deltas[0][0].file.path}
