"""`otaria sim run`: scenarios in virtual time or on the wire, from the library or files; what must hold is checked on the way."""

import shlex
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.progress import Progress
from rich.table import Table

from firmware.errors import OtariaError
from server.campaigns.rehearsal import Rehearsal
from server.cli.output import emit, fitting, json_option, table
from simulator.exact.telling import run_exactly
from simulator.exact.trace import Difference
from simulator.virtual.cuts import told as cuts_told
from simulator.virtual.deeds import DATABASES
from simulator.virtual.library import load, names
from simulator.virtual.outcome import CampaignOutcome, Outcome
from simulator.virtual.run import Run
from simulator.virtual.world import World
from simulator.wire.foretold import told as became
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
    "--database",
    type=click.Choice(DATABASES),
    help="With --wire: what the server keeps its data in. PostgreSQL is started for the run.  [default: SQLite, or PostgreSQL "
    "where a scenario kills its database]",
)
@click.option(
    "--rehearse",
    is_flag=True,
    help="With --wire: have each campaign rehearsed over the server's fleet before it begins, and say what became of that.",
)
@click.option(
    "--exact",
    is_flag=True,
    help="In virtual time, but with real agents, real messages and the server's own core and database.",
)
@click.option(
    "--trace", "out", type=TRACE, help="With --exact: write each message and event, as JSON lines, once all is done."
)
@click.option(
    "--replay",
    "kept",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --exact: run a scenario again with the seed of this trace of it, and name the first line that differs.",
)
@json_option
def run(
    scenarios: Sequence[str],
    seed: int | None,
    wire: bool,
    pace: float | None,
    database: str | None,
    rehearse: bool,
    exact: bool,
    out: Path | None,
    kept: Path | None,
    as_json: bool,
) -> int:
    """Run scenarios in virtual time: the server's own planner over simulated devices, weeks within seconds.

    Without a name: the whole library; what needs a server and a broker is run as with --exact. The same scenario and seed give
    the same run, bit for bit (`digest`). Exit code 1 when something that must hold did not, or a campaign did not end as the
    scenario expects.

    With --exact each device is the real agent, and the server's own core answers it: slower, for some hundreds of devices.

    With --wire one real server, one Mosquitto and real agents run each scenario. What is a day in the world takes a day then,
    unless --pace divides all of its durations.

    Example: otaria sim run one-bad-revision --seed 7
    """
    if pace is not None and not wire:
        raise click.UsageError("--pace is for --wire: virtual time takes none.")
    if database is not None and not wire:
        raise click.UsageError("--database is for --wire: exact runs have SQLite, and virtual time has no database.")
    if rehearse and not wire:
        raise click.UsageError("--rehearse is for --wire: only there is a server with a fleet of its own.")
    _require_exact(exact, wire, out, kept, scenarios=len(scenarios))
    wanted = Wanted(seed=seed, pace=pace or 1.0, database=database, rehearse=rehearse, out=out, kept=kept)
    jobs = list(jobs_of(scenarios, wire=wire, exact=exact))
    done: list[Done] = []
    refused: list[tuple[Job, OtariaError | OSError]] = []
    with Progress(disable=as_json, transient=True) as progress:
        task = progress.add_task("running", total=len(jobs))
        for job in jobs:
            say = lambda text, name=job.world.name: progress.update(task, description=f"{name}: {text}")  # noqa: E731
            try:
                done.append(on_the_wire(job, wanted, say) if job.how == WIRE else _done(job, wanted))
            except (OtariaError, OSError) as error:  # what the others came to is told all the same
                if len(jobs) == 1:
                    raise
                refused.append((job, error))
            progress.advance(task)
    starred = [one.job.world.name for one in done if one.job.how == EXACT and not exact]
    value = {"runs": [one.shown for one in done]} | (
        {"refused": [{"scenario": job.given, "text": _text(error)} for job, error in refused]} if refused else {}
    )
    emit(value, as_json=as_json, text=summary([one.outcome for one in done], starred))
    if not as_json:
        for line in (
            *_remarks(done, starred),
            *(f"{job.given}: was not run: {_text(error)}" for job, error in refused),
        ):
            click.echo(line)
    return 1 if refused or any(one.is_bad for one in done) else 0


CHANCES, EXACT, WIRE = "chances", "exact", "wire"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A scenario to run, `given` by its name or file; `how`: from chances, exactly, or on the wire."""

    given: str
    world: World
    how: str


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How whoever asks wants it; None: as the scenario says. `out` and `kept`: the traces to write, and to compare with."""

    seed: int | None = None
    pace: float = 1.0
    database: str | None = None
    rehearse: bool = False
    out: Path | None = None
    kept: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of it. `unmet`: what the scenario expects and did not happen; `judgement`: whether the simulator kept time."""

    job: Job
    outcome: Outcome
    wanted: Wanted
    judgement: Sequence[str] = ()
    foretold: Mapping[str, Rehearsal] = field(default_factory=dict)
    difference: Difference | None = None

    @property
    def unmet(self) -> Sequence[str]:
        return list(unmet(self.job.world, self.outcome))

    @property
    def is_bad(self) -> bool:
        return bool(self.outcome.broken or self.unmet or self.difference)

    @property
    def again(self) -> str:
        """The command that shows it again."""
        database = f" --database {self.wanted.database}" if self.wanted.database else ""
        more = {WIRE: f" --wire --pace {self.wanted.pace:g}{database}", EXACT: " --exact"}.get(self.job.how, "")
        return f"otaria sim run {shlex.quote(self.job.given)} --seed {self.outcome.seed}{more}"

    @property
    def shown(self) -> dict[str, Any]:
        """As JSON."""
        value = {**msgspec.to_builtins(self.outcome), "unmet": self.unmet, "how": self.job.how}
        if self.job.how == WIRE:
            value |= {"simulator": list(self.judgement), "pace": self.wanted.pace}
            value |= {"rehearsed": msgspec.to_builtins(self.foretold)} if self.foretold else {}
        elif self.job.how == EXACT:
            value |= {"differs": msgspec.to_builtins([self.difference] if self.difference else [])}
        return value


def jobs_of(given: Sequence[str], *, wire: bool, exact: bool) -> Iterator[Job]:
    """What is to be run, and how. Without names: the library, of which some can't be run from chances."""
    how = WIRE if wire else EXACT if exact else CHANCES
    named = [(name, how) for name in given]
    if not given:
        named = [] if wire else [(name, how) for name in names()]
        named += [(name, WIRE if wire else EXACT) for name in names(wire=True)]
    for name, way in named:
        yield Job(given=name, world=load(name, deeds=way != CHANCES), how=way)


def _done(job: Job, wanted: Wanted) -> Done:
    """Run it in virtual time. Raises what the way of running does."""
    if job.how == EXACT:
        told = run_exactly(job.world, seed=wanted.seed, out=wanted.out, kept=wanted.kept)
        return Done(job=job, outcome=told.outcome, wanted=wanted, difference=told.difference)
    return Done(job=job, outcome=Run(job.world, seed=wanted.seed).play(), wanted=wanted)


def _require_exact(exact: bool, wire: bool, out: Path | None, kept: Path | None, *, scenarios: int) -> None:
    if (out or kept) and not (exact and scenarios == 1):
        raise click.UsageError("--trace and --replay are for --exact and one scenario.")
    if exact and wire:
        raise click.UsageError("--exact is virtual time, --wire is not: choose one.")
    if out and kept and out.exists() and out.samefile(kept):
        raise click.UsageError(f"--trace would write over {kept}, which --replay reads: name another file.")


def _text(error: OtariaError | OSError) -> str:
    return error.text if isinstance(error, OtariaError) else str(error)


def on_the_wire(job: Job, wanted: Wanted, say: Callable[[str], None]) -> Done:
    """Run it against a real server. Raises what `Play` does."""
    with tempfile.TemporaryDirectory(prefix="otaria-wire-", ignore_cleanup_errors=True) as directory:
        played = Play(
            job.world,
            Path(directory),
            seed=wanted.seed,
            pace=wanted.pace,
            database=wanted.database,
            rehearse=wanted.rehearse,
            say=say,
        ).run()
    return Done(job=job, outcome=played.outcome, wanted=wanted, judgement=played.judgement, foretold=played.foretold)


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
        verified, targets = one.verified - one.hostile.get("verified", 0), one.targets - sum(one.hostile.values())
        if verified < wanted.verified_at_least * targets:
            yield f"{verified} of {targets} verified in {one.campaign}, and {wanted.verified_at_least:.0%} should."
        if wanted.harmed_at_most is not None and one.harmed > wanted.harmed_at_most:
            yield f"{one.harmed} devices were harmed by {one.campaign}, and {wanted.harmed_at_most} may be."


def _remarks(done: Sequence[Done], starred: Collection[str]) -> Iterator[str]:
    """What is said below the table."""
    if starred:
        yield "* Run with real agents, as by --exact: it is about what is done to a server and a broker."
    for one in done:
        yield from _complaints(one)
        yield from cuts_told(one.outcome.world, one.outcome.cuts)
    for one in done:
        if one.judgement:
            yield " ".join(one.judgement)
        yield from became(one.foretold, {campaign.campaign: campaign for campaign in one.outcome.campaigns})
        if one.difference:
            yield one.difference.text


def _complaints(one: Done) -> Iterator[str]:
    outcome, missed = one.outcome, one.unmet
    for text in outcome.violations:
        yield f"{outcome.world}: VIOLATION: {text}"
    if outcome.broken > len(outcome.violations):
        yield f"{outcome.world}: … and {outcome.broken - len(outcome.violations)} more."
    for text in missed:
        yield f"{outcome.world}: not as expected: {text}"
    if outcome.broken or missed:
        yield f"The same again (seed {outcome.seed}): {one.again}"


def summary(outcomes: Sequence[Outcome], starred: Collection[str] = ()) -> Table:
    """A row for each campaign, with as many columns as the terminal has room for. `starred`: worlds that get a star."""
    named = [(f"{one.world}*" if one.world in starred else one.world, one) for one in outcomes]
    whole = table(COLUMNS, (row for name, outcome in named for row in _rows(name, outcome)))
    few = table(NARROW, (row for name, outcome in named for row in _few(name, outcome)))
    few.padding = (0, 1, 0, 0)
    return fitting(whole, few)


def _few(world: str, outcome: Outcome) -> Iterator[tuple[Any, ...]]:
    for place, one in enumerate(outcome.campaigns):
        name = world if place == 0 else f"+ {one.campaign}"
        stopped = "" if one.stopped_s is None else f"{one.stopped_s / HOUR_S:.1f} h"
        days = f"{outcome.virtual_days:.1f}" if place == 0 else ""
        yield (name, one.state, one.verified, one.fell_back, one.failed, one.unreached, stopped, days)


def _rows(world: str, outcome: Outcome) -> Iterator[tuple[Any, ...]]:
    for place, one in enumerate(outcome.campaigns):
        once = (f"{outcome.virtual_days:.1f}", f"{outcome.seconds:.1f}", outcome.broken) if place == 0 else ("", "", "")
        numbers = (one.verified, one.fell_back, one.failed, one.unreached)
        yield (world if place == 0 else "", one.campaign, one.state, *numbers, _stopped(one), *once)


def _stopped(one: CampaignOutcome) -> str:
    """When it was stopped, and how many had a permit by then."""
    if one.stopped_s is None:
        return ""
    return f"{one.stopped_s / HOUR_S:.1f} h ({one.admitted} of {one.targets})"
