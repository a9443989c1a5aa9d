"""What became of rehearsed campaigns, for people; and `otaria campaign hindsight`, over all of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from firmware.errors import OtariaError
from server.campaigns.reckoning import DONE, Hindsight, Reckoned, hit_sentence
from server.cli.output import emit, json_option, table
from server.cli.rest import RestClient, connect, segment, server_options

HOUR_S, MINUTE_S = 3600.0, 60.0


@click.command()
@server_options
@json_option
def hindsight(server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Say how often reality fell in the bands of rehearsals, over all campaigns that have ended since.

    A band from p10 to p90 should hold reality in four of five.

    Example: otaria campaign hindsight
    """
    found = connect(server, token_file, state).get("/rehearsals")
    known = msgspec.convert(found, Hindsight)
    if not known.campaigns:
        emit(found, as_json=as_json, text="No campaign that was rehearsed has ended yet.")
        return
    rows = [(one.campaign, *_row(what)) for one in known.campaigns for what in one.reality]
    emit(found, as_json=as_json, text=table(("campaign", "what", "foretold", "happened", "fell"), rows))
    for line in () if as_json else sentences(known):
        click.echo(line)


def sentences(known: Hindsight) -> Iterator[str]:
    """How often each band held."""
    yield from filter(None, (hit_sentence(known.done, "Ends"), hit_sentence(known.cohorts, "Decisions of cohorts")))
    yield "Four in five should be within."


def reality_lines(client: RestClient, campaign_id: str) -> list[str]:
    """What happened to a campaign beside its rehearsal; nothing where it was never rehearsed, or hasn't ended."""
    try:
        found = client.get(f"/campaigns/{segment(campaign_id)}/rehearsals")
    except OtariaError:
        return []
    return [f"Rehearsed: {_line(one)}" for one in msgspec.convert(found["reality"], list[Reckoned])]


def _line(one: Reckoned) -> str:
    what, foretold, happened, where = _row(one)
    return f"{what} after {foretold}; it happened after {happened}, {where} the band."


def _row(one: Reckoned) -> tuple[Any, ...]:
    what = "the end" if one.name == DONE else f"{one.name} decided"
    return what, f"{_span(one.p10)} to {_span(one.p90)}", _span(one.real), one.fell


def _span(seconds: float | None) -> str:
    """In hours, or minutes where there is less than one."""
    if seconds is None:
        return "never"
    return f"{seconds / HOUR_S:.1f} h" if seconds >= HOUR_S else f"{seconds / MINUTE_S:.1f} min"
