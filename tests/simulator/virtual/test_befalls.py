"""What befalls devices in a scenario, from chances: slow flash, low battery, wrong clocks, messages out of order, false words."""

import re
from collections.abc import Mapping, Sequence

import pytest

from firmware.errors import RefusedError
from server.planner.rows import AssignmentRow
from server.planner.words import AssignmentState
from simulator.virtual.outcome import Outcome
from simulator.virtual.run import Run
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world

BEFALLS = """
name: befalls
days: 6
fleet:
  - {name: lamp, devices: 12, hardware: lamp-r1, sites: 3, link: {mbit: 80, LINK}, MORE}
releases:
  - {version: "2.0.0", image: 30 MB}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: share, max_failure_rate: 90%}}]
        budgets: [{by: campaign, limit: 12}]
        retry: 10m
"""


def befalls(more: str = "", link: str = "loss: 0%", seed: int = 1) -> World:
    text = BEFALLS.replace("MORE", more or "labels: {}").replace("LINK", link)
    return parse_world(f"{text}seed: {seed}\n", "befalls.yaml")


def played(world: World) -> tuple[Run, Outcome]:
    run = Run(world)
    outcome = run.play()
    assert (outcome.broken, outcome.violations, outcome.ignored) == (0, (), {})
    return run, outcome


def rows(run: Run) -> Mapping[str, AssignmentRow]:
    return {row.target: row for row in run.store.in_states("spring", tuple(AssignmentState))}


def done_s(outcome: Outcome) -> float:
    done = outcome.campaigns[0].done_s
    assert done is not None
    return done


def refused(more: str, what: Sequence[str]) -> None:
    with pytest.raises(RefusedError, match=r"befalls.yaml, line 5: .*" + ".*".join(map(re.escape, what))):
        befalls(more)


def test_an_image_is_written_as_slowly_as_the_flash_is_and_read_back_as_slowly() -> None:
    _, quick = played(befalls())
    run, slow = played(befalls("flash: {bytes_per_s: 50 kB}"))
    assert {row.state for row in rows(run).values()} == {AssignmentState.VERIFIED}
    assert done_s(slow) - done_s(quick) == pytest.approx(2 * 600 - 3, abs=5)  # the link alone needs three seconds


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("flash: {bytes_per_s: fast}", ["fleet[0].flash.bytes_per_s", "size"]),
        ("flash: {bytes_per_s: 0 kB}", ["fleet[0].flash.bytes_per_s", "more than nothing"]),
        ("flash: {speed: 1 MB}", ["fleet[0].flash.speed", "no key of a scenario"]),
    ],
)
def test_flash_that_cannot_be_is_refused(more: str, what: Sequence[str]) -> None:
    refused(more, what)
