"""`otaria sim soak`: the real system under campaigns without end and faults without pause."""

import json
import random
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from firmware.errors import RefusedError
from server.cli.output import emit, json_option
from simulator.soak import report
from simulator.soak.books import Ledger
from simulator.soak.chaos import LEVELS
from simulator.soak.conductor import Conductor
from simulator.soak.gauges import Sample
from simulator.soak.run import Outcome, Soak

LEAST_HOURS = 0.01
MOST_DEVICES = 50_000
MOST_TRACE = 24


@click.command("soak")
@click.option("--devices", type=click.IntRange(2, MOST_DEVICES), default=200, show_default=True)
@click.option(
    "--hours",
    type=click.FloatRange(LEAST_HOURS, 1000),
    default=0.05,
    show_default=True,
    help="After all are connected.",
)
@click.option("--chaos", type=click.Choice(list(LEVELS)), default="low", show_default=True)
@click.option(
    "--seed", type=click.IntRange(0, (1 << 31) - 1), help="Of faults, chances and defects; random unless given."
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="New; where the server, its database and the keys are kept. Removed at the end unless given.",
)
@click.option(
    "--report",
    "out",
    type=click.Path(path_type=Path),
    help="Writes NAME.html and NAME.json.",
)
@json_option
def soak(
    devices: int, hours: float, chaos: str, seed: int | None, directory: Path | None, out: Path | None, as_json: bool
) -> int:
    """Soak the real system: a real server, a real Mosquitto, simulated devices with real agents over TLS, and faults.

    Campaigns go on without end, every third with a bad release. The server and the broker are killed, devices lose power and
    network, clocks go wrong, a hostile broker replays and makes up messages. All the while it is checked that no budget is
    broken, no report lost or doubled, the trail complete, memory flat, and in the end every target in its device's own
    state. Exit code 1 when anything that must hold did not.

    Example: otaria sim soak --devices 10000 --hours 1 --chaos low --report soak
    """
    if directory is not None and directory.exists() and any(directory.iterdir()):
        raise RefusedError("directory-in-use", f"{directory} is not empty; name a new directory for this soak.")
    if out is not None:
        _prepare(out)
    number = seed if seed is not None else random.SystemRandom().randrange(1 << 31)
    with tempfile.TemporaryDirectory(prefix="otaria-soak-", ignore_cleanup_errors=True) as made:
        outcome = _run(directory or Path(made), devices, hours, chaos, number, as_json)
    shown = {key: found for key, found in report.value(outcome).items() if key != "samples"}
    emit(shown, as_json=as_json, text=_summary(outcome))
    if not as_json:
        _complain(outcome)
    if out is not None:
        _write(outcome, out)
        click.echo(f"The report is in {out}.html and {out}.json.", err=as_json)
    return 0 if outcome.is_whole else 1


def _run(directory: Path, devices: int, hours: float, chaos: str, seed: int, as_json: bool) -> Outcome:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=as_json, transient=True) as progress:
        task = progress.add_task("preparing", total=None)

        def say(text: str) -> None:
            progress.update(task, description=text)
            if not as_json and not console.is_terminal:
                console.print(text)

        def show(sample: Sample, conductor: Conductor | None, ledger: Ledger) -> None:
            say(_line(sample, conductor, ledger, hours))

        made = Soak(
            directory,
            devices=devices,
            hours=hours,
            chaos=chaos,
            seed=seed,
            say=say,
            show=show,
            on_enrolled=lambda done: progress.update(task, description=f"enrolling the devices: {done} of {devices}"),
        )
        return made.run()


def _line(sample: Sample, conductor: Conductor | None, ledger: Ledger, hours: float) -> str:
    running = conductor.rounds[-1] if conductor is not None and conductor.rounds else None
    campaign = f", {running.campaign} {running.state}" if running is not None else ""
    late = f", SIMULATOR LATE {sample.lag_s:.1f} s" if sample.lag_s > 1 else ""
    return (
        f"{sample.at_s:.0f} of {hours * 3600:.0f} s: {sample.connected} connected, {sample.down} down{campaign}, "
        f"{ledger.broken} violations{late}"
    )


def _summary(outcome: Outcome) -> str:
    said = [
        f"{outcome.devices} devices for {outcome.seconds:.0f} s, chaos {outcome.chaos}, seed {outcome.seed}: connected in "
        f"{outcome.connected_s:.1f} s, {outcome.kb_per_device:.0f} KB each; {len(outcome.conductor.rounds)} campaigns, "
        f"{outcome.followed} permits followed, {outcome.reports} reports, {len(outcome.strikes)} faults.",
        *outcome.gauges.judgement(),
        *outcome.gauges.flatness(),
    ]
    if outcome.is_whole:
        said.append("Nothing that must hold was broken.")
    return "\n".join(said)


def _complain(outcome: Outcome) -> None:
    for one in outcome.ledger.kept:
        click.echo(f"VIOLATION after {one.at_s:.0f} s, {one.kind}: {one.text}")
        for line in one.trace[-MOST_TRACE:]:
            click.echo(f"    {line}")
    if outcome.ledger.broken:
        click.echo(f"{outcome.ledger.broken} violations. The same again (seed {outcome.seed}): {report.again(outcome)}")


def _prepare(out: Path) -> None:
    """See that the report can be written before hours are spent on it."""
    if not out.name:
        raise RefusedError("no-name", f"--report wants a name, such as {out / 'soak'}; {out} is a directory.")
    out.parent.mkdir(parents=True, exist_ok=True)
    for name in _names(out):
        is_new = not name.exists()
        with name.open("ab"):
            pass
        if is_new:
            name.unlink()


def _names(out: Path) -> tuple[Path, Path]:
    return out.with_name(f"{out.name}.html"), out.with_name(f"{out.name}.json")


def _write(outcome: Outcome, out: Path) -> None:
    page, value = _names(out)
    page.write_text(report.page(outcome))
    value.write_text(json.dumps(report.value(outcome), indent=1) + "\n")
