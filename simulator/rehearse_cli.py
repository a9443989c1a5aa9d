"""`otaria campaign rehearse`: a campaign over the real fleet in virtual time, before it is started: here or at the server."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click
import msgspec
from rich.progress import Progress

from firmware.errors import RefusedError
from server.campaigns.rehearsal import Casting, Rehearsal, Understudy
from server.campaigns.rehearsing import MOST_REPLICAS
from server.campaigns.strategy_file import parse_campaign
from server.cli.output import emit, json_option
from server.cli.rest import RestClient, connect, segment, server_options
from server.cli.revisions import read_file
from server.planner.availability import HOURS
from server.ports import CampaignSpec, RehearsalState
from simulator.casting import Cast, member
from simulator.rehearsal import RATES, REPLICAS, Effort
from simulator.rehearsal import rehearse as rehearse_over
from simulator.rehearsal_words import end_of, lines
from simulator.replicas import MOST_PROCESSES, usual_processes
from simulator.sampling import MOST, sample

MOST_DAYS = 60
LOOK_S = 1.0
"""How often the server is asked how far it is."""


@click.command()
@click.argument("source", metavar="[FILE]", type=click.File("rb"), required=False)
@click.option("--draft", metavar="CAMPAIGN", help="Let the server rehearse a draft of its own, by what it has learned.")
@click.option(
    "--there",
    type=click.FloatRange(0.01, 1),
    help="With a file: how often a target is there.  [default: as the server learned]",
)
@click.option("--replicas", type=click.IntRange(1, 1000), help="With a file: how many runs.  [default: 20]")
@click.option("--seed", type=click.IntRange(0), help="With a file: other chances.  [default: 1]")
@click.option(
    "--processes",
    type=click.IntRange(1, MOST_PROCESSES),
    help="With a file: how many processes run.  [default: one a processor]",
)
@click.option(
    "--defect-on", metavar="HARDWARE", help="With a file: on which hardware a bad release is bad.  [default: any]"
)
@click.option(
    "--defect-share",
    "defect_shares",
    metavar="SHARE",
    type=click.FloatRange(0, 1, min_open=True),
    multiple=True,
    help="With a file: on which share of the devices a bad release is bad; as often as you like.  [default: 0.01, 0.05, 0.2, 1]",
)
@server_options
@json_option
def rehearse(
    source: IO[bytes] | None,
    draft: str | None,
    there: float | None,
    replicas: int | None,
    seed: int | None,
    processes: int | None,
    defect_on: str | None,
    defect_shares: tuple[float, ...],
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Let a campaign run many times in virtual time over the fleet as it is, and change nothing.

    Says when it will be through, cohort by cohort, and how far a bad release would get before it is stopped.

    It goes by what the server has learned of its targets, their links and their failures. With a FILE the runs are played here;
    --there takes targets to be there so often, links to be good and nothing to fail by itself instead. With --draft the server
    plays them and keeps the result with the campaign; `otaria campaign apply` makes a draft of a file.

    Example: otaria campaign rehearse spring.yaml
    """
    if (source is None) == (draft is None):
        raise click.UsageError("Name a campaign FILE, or a draft of the server with --draft CAMPAIGN.")
    own = (there, replicas, seed, processes, defect_on, defect_shares or None)
    if draft is not None and any(one is not None for one in own):
        text = "--there, --replicas, --seed, --processes, --defect-on and --defect-share are for a FILE: the server has its own."
        raise click.UsageError(text)
    client = connect(server, token_file, state)
    if source is None or draft is not None:
        shown = at_the_server(client, draft or "", quiet=as_json)
        found = msgspec.convert(shown["result"], Rehearsal)
        emit(shown, as_json=as_json, text="\n".join(lines(found, shown["begins"])))
        return
    spec = parse_campaign(read_file(source))
    head, fleet = cast_of(client, spec)
    if defect_on is not None and all(one.hardware != defect_on for one in fleet):
        raise RefusedError("not-found", f"No active target that the release is for has the hardware {defect_on}.")
    effort = Effort(
        replicas=replicas or REPLICAS,
        processes=processes or usual_processes(min(MOST, len(fleet))),
        rates=tuple(sorted(set(defect_shares))) or RATES,
        defect_on=defect_on or "",
    )
    begins = max(time.time(), spec.start_at or 0.0)
    found = here(spec, head, fleet, begins, 1 if seed is None else seed, effort, there=there, quiet=as_json)
    emit(msgspec.to_builtins(found), as_json=as_json, text="\n".join(lines(found, begins, there)))


def here(
    spec: CampaignSpec,
    head: Casting,
    fleet: list[Understudy],
    begins: float,
    seed: int,
    effort: Effort,
    *,
    there: float | None,
    quiet: bool,
) -> Rehearsal:
    """Rehearse with processes of our own: by what the server learned, or over targets that are `there` so often and know no
    other trouble."""
    days = min(MOST_DAYS, spec.strategy.order_ttl_s / 86400 + 1)
    sampled, part = sample(fleet, spec, seed)
    some = [member(one) for one in sampled]
    if there is not None:
        some = [replace(one, week=(there,) * HOURS) for one in some]
    with Progress(disable=quiet, transient=True) as bar:
        task = bar.add_task("rehearsing", total=effort.replicas)

        def told(done: int, found: Rehearsal | None) -> None:
            bar.update(task, completed=done)
            if found is not None:
                bar.update(task, description=f"through by {end_of(found, begins)}")

        found = rehearse_over(
            spec,
            some,
            begins=begins,
            days=days,
            seed=seed,
            part=part,
            cast=Cast.of(sampled, head.frailties) if there is None else None,
            image_bytes=head.image_bytes,
            effort=effort,
            told=told,
        )
        return found if there is not None else msgspec.structs.replace(found, basis=head.basis)


def at_the_server(client: RestClient, campaign: str, *, quiet: bool) -> dict[str, Any]:
    """Have the server rehearse a draft, and wait for it. Raises `RefusedError` (`rehearsal-failed`, and what the server says)."""
    path = f"/campaigns/{segment(campaign)}/rehearsals"
    shown = client.post(path)
    with Progress(disable=quiet, transient=True) as bar:
        task = bar.add_task("rehearsing", total=REPLICAS)
        while shown["state"] == RehearsalState.RUNNING:
            done = shown["runs_done"] or 0
            bar.update(task, completed=done, total=REPLICAS if done < REPLICAS else MOST_REPLICAS)
            if shown["result"] is not None:
                found = msgspec.convert(shown["result"], Rehearsal)
                bar.update(task, description=f"through by {end_of(found, shown['begins'])}")
            time.sleep(LOOK_S)
            shown = client.get(path)
    if shown["state"] != RehearsalState.DONE:
        raise RefusedError("rehearsal-failed", f"The rehearsal {shown['state']}. {shown['text']}".strip())
    return dict(shown)


def cast_of(client: RestClient, spec: CampaignSpec) -> tuple[Casting, list[Understudy]]:
    """The active targets that the campaign's release is for, with what the server learned of them, as its API tells it. Raises
    `RefusedError` (`bad-answer`, and what the server says)."""
    lines = _lines(client.pieces(f"/releases/{segment(spec.product)}/{segment(spec.version)}/cast"))
    try:
        head = msgspec.json.decode(next(lines, b""), type=Casting)
        fleet = [msgspec.json.decode(line, type=Understudy) for line in lines]
    except msgspec.MsgspecError as error:
        raise RefusedError("bad-answer", f"The server's answer is no cast of a rehearsal: {error}") from error
    if len(fleet) != head.targets:
        raise RefusedError("bad-answer", f"The server named {len(fleet)} targets of {head.targets}; try again.")
    return head, fleet


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest
