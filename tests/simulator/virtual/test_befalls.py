"""What befalls devices in a scenario, from chances: slow flash, low battery, wrong clocks, messages out of order, false words."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import pytest

from firmware.errors import RefusedError
from server.planner.availability import HOUR_S
from server.planner.events import Event, Reported
from server.planner.rows import AssignmentRow
from server.planner.words import AssignmentState, Verb
from simulator.virtual.device import Device
from simulator.virtual.outcome import Outcome
from simulator.virtual.run import Run
from simulator.virtual.world import Act, World
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


def test_who_has_a_low_battery_puts_its_restart_off_and_says_so_until_it_is_charged() -> None:
    words: dict[str, list[str]] = {}

    class Listening(Run):
        def _say(self, device: Device, event: Event) -> None:
            if isinstance(event, Reported):
                words.setdefault(device.id, []).append(f"{event.state} {event.reason_kind}")
            super()._say(device, event)

    run = Listening(befalls("battery: {share: 50%, for: 8h}"))
    outcome = run.play()
    assert outcome.violations == ()
    low = {name for name, said in words.items() if "deferred condition-not-met" in said}
    assert 0 < len(low) < 12
    for name, row in rows(run).items():
        assert row.state is AssignmentState.VERIFIED
        took_s = (row.committed_at or 0.0) - run.world.begins
        assert (8 * HOUR_S < took_s < 8.5 * HOUR_S) if name in low else took_s < 0.5 * HOUR_S
        told = ["downloading none", "staged none"]
        wanted = [*told, "deferred condition-not-met", "staged none"] if name in low else told
        assert words[name] == [*wanted, "activating none", "trial none", "committed none"]


def test_low_hours_are_those_of_the_place() -> None:
    _, there = played(befalls("timezone: Asia/Tokyo, battery: {share: 100%, low: 08-20}"))
    assert 11 * HOUR_S < done_s(there) < 11.5 * HOUR_S  # it begins at 9 in the morning there


def test_an_order_to_go_back_waits_for_the_battery_too_and_a_gate_that_is_over_for_nobody() -> None:
    world = befalls("battery: {share: 100%, for: 3h}")
    back = dataclasses.replace(world, acts=(Act(campaign="spring", verb=Verb.ROLLBACK, after_s=10 * HOUR_S),))
    run = Run(back)
    assert run.play().violations == ()
    assert {row.state for row in rows(run).values()} == {AssignmentState.ROLLED_BACK}
    assert run.now > run.world.begins + 13 * HOUR_S


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("battery: {share: 5%}", ["fleet[0].battery", "either `low`", "or `for`"]),
        ("battery: {share: 5%, low: 08-10, for: 2h}", ["fleet[0].battery", "either `low`"]),
        ("battery: {for: 2h}", ["fleet[0].battery", "the key share"]),
        ("battery: {share: 5%, low: 00-24}", ["fleet[0].battery.low", "leave some hours"]),
        ("battery: {share: 5%, low: always}", ["fleet[0].battery.low", "hours such as"]),
    ],
)
def test_a_battery_that_cannot_be_is_refused(more: str, what: Sequence[str]) -> None:
    refused(more, what)


def test_a_clock_that_counts_wrongly_watches_trials_for_longer_or_shorter() -> None:
    world = befalls("clock: {share: 60%, drift: 30%}, health: 5m")
    run, _ = played(world)
    members = {one.id: one for one in world.members(world.seed)}
    assert {min(max(one.pace, 0.99), 1.01) for one in members.values()} == {0.99, 1.0, 1.01}
    right = next(name for name, one in members.items() if one.pace == 1)
    found = {name: row.committed_at or 0.0 for name, row in rows(run).items()}
    for name, at in found.items():
        assert at - found[right] == pytest.approx(300 / members[name].pace - 300, abs=15)


def test_a_permit_dies_by_the_clock_of_who_gets_it() -> None:
    """Its way and the ask's take four minutes together, and it lives for five."""
    slow, quick = "latency: 2m, loss: 0%", {1.0: AssignmentState.VERIFIED, 1.4: AssignmentState.MISSING}
    for pace, state in quick.items():
        world = befalls(link=slow)
        run = Run(world, members=[dataclasses.replace(one, pace=pace) for one in world.members(world.seed)])
        assert run.play().violations == ()
        assert {row.state for row in rows(run).values()} == {state}


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("clock: {share: 5%}", ["fleet[0].clock", "the key drift"]),
        ("clock: {drift: 80%}", ["fleet[0].clock.drift", "0% to 50%"]),
        ("clock: {drift: 5%, error: 2h}", ["fleet[0].clock.error", "no key of a scenario"]),
    ],
)
def test_a_clock_that_cannot_be_is_refused(more: str, what: Sequence[str]) -> None:
    refused(more, what)


def test_messages_out_of_order_are_late_and_change_no_end() -> None:
    run, late = played(befalls(link="reordering: 80%"))
    assert {row.state for row in rows(run).values()} == {AssignmentState.VERIFIED}
    _, quick = played(befalls())
    assert 2 < done_s(late) - done_s(quick) < 60


def test_a_share_out_of_order_is_a_share() -> None:
    with pytest.raises(RefusedError, match=re.escape("line 5: fleet[0].link.reordering must be a share")):
        befalls(link="reordering: often")


def captives(world: World) -> set[str]:
    return {one.id for one in world.members(world.seed) if one.is_captive}


def test_where_http_is_not_reached_nobody_loads_and_the_campaign_goes_on_without_them() -> None:
    world = befalls(link="captive: 50%")
    held = captives(world)
    sites = {one.id: one.site for one in world.members(world.seed)}
    assert 0 < len(held) < 12
    assert not {sites[name] for name in held} & {sites[name] for name in sites if name not in held}
    run, outcome = played(world)
    for name, row in rows(run).items():
        assert (row.state is AssignmentState.VERIFIED) is (name not in held)
    assert {(row.state, row.reason_kind) for name, row in rows(run).items() if name in held} == {
        ("ordered", "unreached")
    }
    assert {row.heard for row in rows(run).values()} == {True}
    assert outcome.campaigns[0].unreached == len(held)
    assert {run.devices[name].image.version for name in held} == {"0.9.0"}
