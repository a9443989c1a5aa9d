"""`otaria sim run`: scenarios in virtual time or on the wire, from the library or files; what must hold is checked on the way."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.progress import Progress
from rich.table import Table

from server.cli.output import emit, fitting, json_option, table
from simulator.exact.telling import run_exactly
from simulator.exact.trace import Difference
from simulator.virtual.library import load, names
from simulator.virtual.outcome import CampaignOutcome, Outcome
from simulator.virtual.run import Run
from simulator.virtual.world import World
from simulator.wire.play import Play

HOUR_S = 3600.0
TRACE = click.Path(path_type=Path, dir_okay=False)
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
NARROW = ("scenario", "ended", "verified", "back", "failed", "away", "stopped", "days")
"""Where there is no room for all: what was violated is told below, and `--json` has the rest."""


@click.command("run")
@click.argument("scenarios", nargs=-1, metavar="[NAME|FILE]...")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), help="Instead of the scenario's own: other chances.")
@click.option(
    "--wire", is_flag=True, help="Against a real server and Mosquitto, with real agents, instead of in virtual time."
)
@click.option(
    "--pace",
    type=click.FloatRange(1, 2000),
    help="With --wire: how much faster than the world's the clock goes.  [default: 1]",
)
@click.option(
    "--exact",
    is_flag=True,
    help="In virtual time, but with real agents, real messages and the server's own core and database.",
)
@click.option("--trace", "out", type=TRACE, help="With --exact: write each message and event, as JSON lines.")
@click.option(
    "--replay",
    "kept",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --exact: run again what a trace is of, and name the first line that differs.",
)
@json_option
def run(
    scenarios: Sequence[str],
    seed: int | None,
    wire: bool,
    pace: float | None,
    exact: bool,
    out: Path | None,
    kept: Path | None,
    as_json: bool,
) -> int:
    """Run scenarios in virtual time: the server's own planner over simulated devices, weeks within seconds.

    Without a name: the whole library. The same scenario and seed give the same run, bit for bit (`digest`). Exit code 1 when
    something that must hold did not, or a campaign did not end as the scenario expects.

    With --exact each device is the real agent, and the server's own core answers it: slower, for some hundreds of devices.

    With --wire one real server, one Mosquitto and real agents run each scenario. What is a day in the world takes a day then,
    unless --pace divides all of its durations.

    Example: otaria sim run one-bad-revision --seed 7
    """
    if pace is not None and not wire:
        raise click.UsageError("--pace is for --wire: virtual time takes none.")
    _require_exact(exact, wire, traced=bool(out or kept), scenarios=len(scenarios))
    library = [*names(), *names(wire=True)] if exact else names(wire=wire)
    worlds = [load(name, deeds=wire or exact) for name in scenarios or library]
    differences: list[Difference] = []
    found: list[tuple[World, Outcome, list[str]]] = []
    judgements: list[Sequence[str]] = []
    with Progress(disable=as_json, transient=True) as progress:
        task = progress.add_task("running", total=len(worlds))
        for world in worlds:
            if wire:
                say = lambda text, name=world.name: progress.update(task, description=f"{name}: {text}")  # noqa: E731
                outcome, judgement = on_the_wire(world, seed, pace or 1.0, say)
                judgements.append(judgement)
            elif exact:
                told = run_exactly(world, seed=seed, out=out, kept=kept)
                outcome, differences = told.outcome, [*differences, *([told.difference] if told.difference else [])]
            else:
                outcome = Run(world, seed=seed).play()
            found.append((world, outcome, list(unmet(world, outcome))))
            progress.advance(task)
    shown = [{**msgspec.to_builtins(outcome), "unmet": missed} for _, outcome, missed in found]
    for place, judgement in enumerate(judgements):
        shown[place] |= {"simulator": list(judgement), "pace": pace or 1.0}
    if exact:
        shown = [{**one, "differs": msgspec.to_builtins(differences)} for one in shown]
    emit({"runs": shown}, as_json=as_json, text=summary([outcome for _, outcome, _ in found]))
    more = f" --wire --pace {pace or 1:g}" if wire else " --exact" if exact else ""
    for _, outcome, missed in found if not as_json else ():
        for line in _complaints(outcome, missed, more):
            click.echo(line)
    for judgement in judgements if not as_json else ():
        click.echo(" ".join(judgement))
    for difference in differences if not as_json else ():
        click.echo(difference.text)
    return 1 if differences or any(outcome.broken or missed for _, outcome, missed in found) else 0


def _require_exact(exact: bool, wire: bool, *, traced: bool, scenarios: int) -> None:
    if traced and not (exact and scenarios == 1):
        raise click.UsageError("--trace and --replay are for --exact and one scenario.")
    if exact and wire:
        raise click.UsageError("--exact is virtual time, --wire is not: choose one.")


def on_the_wire(
    world: World, seed: int | None, pace: float, say: Callable[[str], None]
) -> tuple[Outcome, Sequence[str]]:
    """Run one against a real server; the outcome, and whether the simulator kept real time."""
    with tempfile.TemporaryDirectory(prefix="otaria-wire-", ignore_cleanup_errors=True) as directory:
        played = Play(world, Path(directory), seed=seed, pace=pace, say=say).run()
    return played.outcome, played.judgement


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


def _complaints(outcome: Outcome, missed: Sequence[str], more: str = "") -> Iterator[str]:
    again = f"otaria sim run {outcome.world} --seed {outcome.seed}{more}"
    for text in outcome.violations:
        yield f"{outcome.world}: VIOLATION: {text}"
    if outcome.broken > len(outcome.violations):
        yield f"{outcome.world}: … and {outcome.broken - len(outcome.violations)} more."
    for text in missed:
        yield f"{outcome.world}: not as expected: {text}"
    if outcome.broken or missed:
        yield f"The same again (seed {outcome.seed}): {again}"


def summary(outcomes: Sequence[Outcome]) -> Table:
    """A row for each campaign, with as many columns as the terminal has room for."""
    whole = table(COLUMNS, (row for outcome in outcomes for row in _rows(outcome)))
    few = table(NARROW, (row for outcome in outcomes for row in _few(outcome)))
    few.padding = (0, 1, 0, 0)
    return fitting(whole, few)


def _few(outcome: Outcome) -> Iterator[tuple[Any, ...]]:
    for place, one in enumerate(outcome.campaigns):
        name = outcome.world if place == 0 else f"+ {one.campaign}"
        stopped = "" if one.stopped_s is None else f"{one.stopped_s / HOUR_S:.1f} h"
        days = f"{outcome.virtual_days:.1f}" if place == 0 else ""
        yield (name, one.state, one.verified, one.fell_back, one.failed, one.unreached, stopped, days)


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
