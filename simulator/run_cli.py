"""`otaria sim run`: scenarios in virtual time, from the library or from files, with what must hold checked on the way."""

from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec
from rich.progress import Progress

from server.cli.output import emit, json_option, table
from simulator.virtual.library import load, names
from simulator.virtual.outcome import CampaignOutcome, Outcome
from simulator.virtual.run import Run
from simulator.virtual.world import World

HOUR_S = 3600.0
COLUMNS = (
    "scenario",
    "campaign",
    "ended",
    "verified",
    "fell back",
    "failed",
    "unreached",
    "stopped at",
    "virtual days",
    "seconds",
    "violations",
)


@click.command("run")
@click.argument("scenarios", nargs=-1, metavar="[NAME|FILE]...")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), help="Instead of the scenario's own: other chances.")
@json_option
def run(scenarios: Sequence[str], seed: int | None, as_json: bool) -> int:
    """Run scenarios in virtual time: the server's own planner over simulated devices, weeks within seconds.

    Without a name: the whole library. The same scenario and seed give the same run, bit for bit (`digest`). Exit code 1 when
    something that must hold did not, or a campaign did not end as the scenario expects.

    Example: otaria sim run one-bad-revision --seed 7
    """
    worlds = [load(name) for name in scenarios or names()]
    found: list[tuple[World, Outcome, list[str]]] = []
    with Progress(disable=as_json, transient=True) as progress:
        task = progress.add_task("running", total=len(worlds))
        for world in worlds:
            outcome = Run(world, seed=seed).play()
            found.append((world, outcome, list(unmet(world, outcome))))
            progress.advance(task)
    shown = [{**msgspec.to_builtins(outcome), "unmet": missed} for _, outcome, missed in found]
    rows = [row for _, outcome, _ in found for row in _rows(outcome)]
    emit({"runs": shown}, as_json=as_json, text=table(COLUMNS, rows))
    for _, outcome, missed in found if not as_json else ():
        for line in _complaints(outcome, missed):
            click.echo(line)
    return 1 if any(outcome.broken or missed for _, outcome, missed in found) else 0


def unmet(world: World, outcome: Outcome) -> Iterator[str]:
    """What the scenario expects and did not happen, in sentences."""
    by_name = {one.campaign: one for one in outcome.campaigns}
    for wanted in world.expectations:
        one = by_name.get(wanted.campaign)
        if one is None:
            yield f"Campaign {wanted.campaign} was never made."
            continue
        if wanted.states and one.state not in wanted.states:
            yield f"Campaign {one.campaign} is {one.state} and should be {' or '.join(wanted.states)}: {one.reason}"
        if one.verified < wanted.verified_at_least * one.targets:
            yield f"{one.verified} of {one.targets} verified in {one.campaign}, and {wanted.verified_at_least:.0%} should."
        if wanted.harmed_at_most is not None and one.harmed > wanted.harmed_at_most:
            yield f"{one.harmed} devices were harmed by {one.campaign}, and {wanted.harmed_at_most} may be."


def _complaints(outcome: Outcome, missed: Sequence[str]) -> Iterator[str]:
    again = f"otaria sim run {outcome.world} --seed {outcome.seed}"
    for text in outcome.violations:
        yield f"{outcome.world}: VIOLATION: {text}"
    if outcome.broken > len(outcome.violations):
        yield f"{outcome.world}: … and {outcome.broken - len(outcome.violations)} more."
    for text in missed:
        yield f"{outcome.world}: not as expected: {text}"
    if outcome.broken or missed:
        yield f"The same again (seed {outcome.seed}): {again}"


def _rows(outcome: Outcome) -> Iterator[tuple[Any, ...]]:
    for place, one in enumerate(outcome.campaigns):
        once = (f"{outcome.virtual_days:.1f}", f"{outcome.seconds:.1f}", outcome.broken) if place == 0 else ("", "", "")
        numbers = (one.verified, one.fell_back, one.failed, one.unreached)
        yield (outcome.world if place == 0 else "", one.campaign, one.state, *numbers, _stopped(one), *once)


def _stopped(one: CampaignOutcome) -> str:
    """When it was stopped, and how many had a permit by then."""
    if one.stopped_s is None:
        return ""
    return f"{one.stopped_s / HOUR_S:.1f} h ({one.admitted} of {one.targets})"
