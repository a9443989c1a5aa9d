"""`otaria campaign forecast`: when a campaign will be through."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from firmware.errors import OtariaError
from server.cli.output import emit, json_option
from server.cli.rest import RestClient, connect, segment, server_options
from server.planner.forecast import CAUSE_WORDS

LITTLE_KNOWN = 0.5


@click.command()
@click.argument("campaign_id", metavar="CAMPAIGN")
@server_options
@json_option
def forecast(campaign_id: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Say when a campaign will be through, by what presence taught of when its targets are there.

    Example: otaria campaign forecast spring-1f3a
    """
    found = connect(server, token_file, state).get(f"/campaigns/{segment(campaign_id)}/forecast")
    emit(found, as_json=as_json, text="\n".join(_lines(found)))


def forecast_line(client: RestClient, campaign_id: str) -> str | None:
    """The forecast in a line; None where there is none."""
    try:
        found = client.get(f"/campaigns/{segment(campaign_id)}/forecast")
    except OtariaError:
        return None
    return f"Forecast: the {_done(found)}" if found["targets"] else None


def _lines(found: dict[str, Any]) -> Iterator[str]:
    if not found["targets"]:
        yield "No target is undecided."
        return
    for cohort in found["cohorts"]:
        span = cohort["decided"]
        when = f"{_moment(span['p50'])} (even chance), {_moment(span['p90'])} (nine of ten)"
        yield f"Cohort {cohort['name']} is decided by {when}."
    yield f"The {_done(found)}"
    if found["never"] >= 0.05:
        yield f"Their orders expire, and the campaign closes, by {_moment(found['closes']['p90'])}."
    if found["dominated_by"]:
        shares = sorted(found["dominated_by"].items(), key=lambda one: -one[1])
        said = ", ".join(f"{share:.0%} {CAUSE_WORDS[cause]}" for cause, share in shares if share >= 0.005)
        yield f"The time goes to: {said}."
    if found["known"] < LITTLE_KNOWN:
        yield f"Little is known: only {found['known']:.0%} of {found['targets']} targets have a record."
    yield "Taken for granted: the release is good, people answer at once, and downloads take no time."


def _done(found: dict[str, Any]) -> str:
    span, never = found["done"], found["never"]
    said = f"last target that comes is verified by {_moment(span['p50'])} (even chance), {_moment(span['p90'])} (nine of ten)"
    left = (
        f"; {never:.1f} of {found['targets']} are expected not to come before their order expires"
        if never >= 0.05
        else ""
    )
    return f"{said}{left}."


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%a %Y-%m-%d %H:%M UTC")
