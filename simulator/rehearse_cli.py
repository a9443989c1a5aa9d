"""`otaria campaign rehearse`: a campaign file over the real fleet's inventory in virtual time, before it is started."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import click
import msgspec
from rich.progress import Progress

from firmware.errors import RefusedError
from server.campaigns.rehearsal import Band, Rehearsal
from server.campaigns.strategy_file import parse_campaign
from server.cli.output import emit, json_option
from server.cli.rest import RestClient, connect, server_options
from server.cli.revisions import read_file
from server.planner.availability import HOURS
from server.ports import CampaignSpec
from simulator.rehearsal import REPLICAS
from simulator.rehearsal import rehearse as rehearse_over
from simulator.virtual.world import FACTORY, Member

MOST_DAYS = 60


@click.command()
@click.argument("source", metavar="FILE", type=click.File("rb"))
@click.option(
    "--there", type=click.FloatRange(0.01, 1), default=0.9, show_default=True, help="How often a target is there."
)
@click.option("--replicas", type=click.IntRange(1, 1000), default=REPLICAS, show_default=True, help="How many runs.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Other chances.")
@server_options
@json_option
def rehearse(
    source: IO[bytes],
    there: float,
    replicas: int,
    seed: int,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Let a campaign run many times in virtual time over the fleet as it is, and change nothing.

    Says when it will be through, cohort by cohort, and how far a bad release would get before it is stopped.

    Example: otaria campaign rehearse spring.yaml --there 0.8
    """
    spec = parse_campaign(read_file(source))
    fleet = list(fleet_of(connect(server, token_file, state), spec, there))
    begins = spec.start_at or time.time()
    days = min(MOST_DAYS, spec.strategy.order_ttl_s / 86400 + 1)
    with Progress(disable=as_json, transient=True) as progress:
        task = progress.add_task("rehearsing", total=replicas)
        found = rehearse_over(
            spec,
            fleet,
            begins=begins,
            days=days,
            seed=seed,
            replicas=replicas,
            progress=lambda: progress.advance(task),
        )
    emit(msgspec.to_builtins(found), as_json=as_json, text="\n".join(_lines(found, begins, there)))


def fleet_of(client: RestClient, spec: CampaignSpec, there: float) -> Iterator[Member]:
    """The active targets that the release is for, as the API tells them. Raises `RefusedError` (`not-found`)."""
    releases = client.whole("/releases", "releases")
    release = next((one for one in releases if (one["product"], one["version"]) == (spec.product, spec.version)), None)
    if release is None:
        raise RefusedError("not-found", f"There is no release {spec.version} of {spec.product}; publish it first.")
    for row in client.whole("/fleet", "targets"):
        if row["status"] == "active" and row["hardware"] in release["hardware"]:
            yield _member(row, there)


def _member(row: Mapping[str, Any], there: float) -> Member:
    return Member(
        id=row["id"],
        hardware=row["hardware"],
        labels=row["labels"],
        week=(there,) * HOURS,
        version=row["running_version"] or FACTORY,
    )


def _lines(found: Rehearsal, begins: float, there: float) -> Iterator[str]:
    of = f" of {found.targets}" if found.sampled != found.targets else ""
    yield f"{found.replicas} runs over {found.sampled}{of} targets."
    yield f"The last that comes is verified by {_when(found.done_s, begins)}."
    for one in found.cohorts:
        if one.size and one.decided_s.p50 is not None:
            yield f"Cohort {one.name} ({one.size}) is decided by {_when(one.decided_s, begins)}."
    if found.unreached.p50:
        yield f"Never reached: {found.unreached.p50:.0f} (even chance)."
    yield "A release that fails its health check on a share of the devices harms, before the campaign stops:"
    for blast in found.blast:
        numbers = f"{blast.harmed.p50 or 0:.0f} (even chance), {blast.harmed.p90 or 0:.0f} (nine of ten)"
        yield f"  {blast.rate:.0%} bad: {numbers}; stopped in {blast.stopped:.0%} of the runs"
    if found.binds:
        said = ", ".join(f"{kind} {share:.0%}" for kind, share in found.binds.items() if share >= 0.005)
        yield f"What asks were told to wait for: {said}."
    yield f"Taken for granted: each target is there {there:.0%} of the time, links are good, and people answer at once."


def _when(band: Band, begins: float) -> str:
    def moment(after_s: float | None) -> str:
        if after_s is None:
            return "never"
        return (datetime.fromtimestamp(begins, UTC) + timedelta(seconds=after_s)).strftime("%a %Y-%m-%d %H:%M UTC")

    return f"{moment(band.p50)} (even chance), {moment(band.p90)} (nine of ten), {moment(band.p10)} at the earliest (one of ten)"
