"""`otaria sim`: simulated devices against a real server, and worlds in virtual time."""

import logging
import signal
from collections.abc import Sequence
from pathlib import Path

import click
from rich.progress import Progress

from device_agent.core.values import Tuning
from device_agent.post import Pace
from device_agent.runtime import Settings
from firmware.errors import RefusedError
from server.cli.claims import read as read_claims
from server.cli.output import emit, json_option
from simulator.depot import Blob, Depot
from simulator.run_cli import run
from simulator.soak_cli import soak
from simulator.swarm import Swarm, World, enrol_devices
from simulator.vitals import MEASURED, Defect

MAX_DEVICES = 2000
WEEK_H = 192
"""A week and a day: what a device has measured before, where it measures."""
QUICK = Settings(
    min_uptime_s=10.0,
    tuning=Tuning(retry_min_s=1.0, retry_max_s=20.0, ask_min_s=1.0, ask_max_s=5.0, ask_spread_s=0.5, soak_s=30.0),
    agent_version="simulator",
    pace=Pace(resend_min_s=3.0, resend_max_s=20.0),
    doorbell_spread_s=1.0,
    refresh_min_s=2.0,
)
"""Intervals for a demonstration: a fleet that answers within seconds."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def sim() -> None:
    """Simulated devices: over the wire with the real agent core, or in virtual time with the real planner.

    Example: otaria sim fleet --claim-file claim.txt --devices 50 --hardware gateway-r1 --image factory.img --dir ./sim
    """


sim.add_command(run)
sim.add_command(soak)


@sim.command()
@click.option("--claim-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A claim token.")
@click.option("--devices", type=click.IntRange(1, MAX_DEVICES), help="How many to enrol with it and run.")
@click.option(
    "--claims",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead: a table of tokens, as `otaria fleet token create --from` prints it; as many devices as each row has uses.",
)
@click.option("--hardware", required=True, help="Hardware id that releases name.")
@click.option(
    "--image",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The slot image they come with from the factory.",
)
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--link-mbit", type=click.FloatRange(0.01, 10_000), default=160.0, show_default=True)
@click.option("--measure", is_flag=True, help="Let them measure themselves, as if they had done so for a week.")
@click.option("--leaks", multiple=True, metavar="VERSION", help="A release that loses 50 MB of memory an hour.")
@click.option("--crashes", multiple=True, metavar="VERSION", help="A release that crashes three times an hour.")
@json_option
def fleet(
    claim_file: Path | None,
    devices: int | None,
    claims: Path | None,
    hardware: str,
    image: Path,
    directory: Path,
    link_mbit: float,
    measure: bool,
    leaks: Sequence[str],
    crashes: Sequence[str],
    as_json: bool,
) -> None:
    """Enrol simulated devices with claim tokens and run them until Ctrl-C.

    Each has the real agent core, keys, certificate and MQTT connection of its own; its flash is memory, and devices share
    downloads like a site behind one cache. The directory must be new.

    Example: otaria sim fleet --claim-file claim.txt --devices 50 --hardware gateway-r1 --image factory.img --dir ./sim
    """
    tokens = _tokens(claim_file, devices, claims)
    if directory.exists() and any(directory.iterdir()):
        raise RefusedError("directory-in-use", f"{directory} is not empty; name a new directory for these devices.")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    depot = Depot(directory / "depot", hardware)
    world = World(
        hardware=hardware,
        factory=Blob.of(image),
        settings=QUICK,
        bytes_per_s=link_mbit * 1e6 / 8,
        measured=MEASURED if measure else None,
        measured_before_h=WEEK_H if measure else 0,
        defects=defects_of(leaks, crashes),
    )
    with Progress(disable=as_json, transient=True) as progress:
        task = progress.add_task("enrolling", total=len(tokens))
        made = enrol_devices(directory, tokens, world, depot, on_enrolled=lambda: progress.advance(task))
    emit(
        {"enrolled": len(made)},
        as_json=as_json,
        text=f"{len(made)} devices are enrolled and running; Ctrl-C stops them.",
    )
    swarm = Swarm(made, depot)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: swarm.stop())
    swarm.run()


def defects_of(leaks: Sequence[str], crashes: Sequence[str]) -> list[Defect]:
    """The defects of the versions named."""
    leaking = [Defect(version=one, leak_bytes_per_h=50e6) for one in leaks]
    return [*leaking, *(Defect(version=one, crashes_per_h=3.0) for one in crashes)]


def _tokens(claim_file: Path | None, devices: int | None, table: Path | None) -> list[str]:
    """The token of each device to be."""
    if table is not None and claim_file is None and devices is None:
        tokens = [row.token for row in read_claims(table) for _ in range(row.uses)]
    elif table is None and claim_file is not None and devices is not None:
        tokens = [claim_file.read_text().strip()] * devices
    else:
        raise click.UsageError("Name --claim-file and --devices, or --claims.")
    if "" in tokens or len(tokens) > MAX_DEVICES:
        raise RefusedError("bad-table", f"{table} must have a token in each row, and {MAX_DEVICES} uses at most.")
    return tokens
