"""What gates say, for people; and `otaria campaign gate`, by which a person says it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from server.cli.output import emit, json_option
from server.cli.rest import connect, segment, server_options

MAX_LINES = 12
MAX_PAIRS = 3


@click.command("gate")
@click.argument("campaign_id", metavar="CAMPAIGN")
@click.argument("cohort")
@click.argument("verdict", type=click.Choice(("pass", "fail")))
@click.option("--reason", default="", help="Why, for the trail.")
@click.option("--gate", "name", default="", help="Which external gate, when the cohort has several.")
@server_options
@json_option
def gate(
    campaign_id: str,
    cohort: str,
    verdict: str,
    reason: str,
    name: str,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Say whether a cohort passes its external gate.

    Example: otaria campaign gate spring-1f3a canary pass --reason 'the ward is quiet'
    """
    path = f"/campaigns/{segment(campaign_id)}/cohorts/{segment(cohort)}/gate"
    view = connect(server, token_file, state).post(path, {"verdict": verdict, "reason": reason, "gate": name})
    told = next(one["verdict_text"] for one in view["cohorts"] if one["name"] == cohort)
    emit(view, as_json=as_json, text=f"{cohort}: {told}")


def evidence_lines(view: dict[str, Any]) -> list[str]:
    """What the tests of a campaign's gates know, one line per stratum; of the cohorts that were opened."""
    lines = [
        f"{cohort['name']}: {line}"
        for cohort in view["cohorts"]
        if cohort["state"] != "closed"
        for found in cohort.get("evidence", ())
        for line in _lines(found)
    ]
    more = len(lines) - MAX_LINES
    return [*lines[:MAX_LINES], f"… and {more} lines more; --json has all"] if more > 0 else lines


def comparison_lines(view: dict[str, Any]) -> list[str]:
    """What the first targets wait for that are to be compared with their controls."""
    waiting = view.get("comparisons", ())
    lines = [f"{one['target']}, not compared with {one['control']} yet: {one['text']}" for one in waiting[:MAX_PAIRS]]
    more = len(waiting) - MAX_PAIRS
    return [*lines, f"… and others likewise: {more} more; --json has them"] if more > 0 else lines


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for stratum in found.get("strata", ()):
        sure = f"between {_share(stratum['lower'])} and {_share(stratum['upper'])}"
        name = "" if stratum["name"] == "all" else f"{stratum['name']}, "
        missing = (
            f"; {stratum['missing']} more needed" if stratum["missing"] and stratum.get("judged_by") != "all" else ""
        )
        if found["kind"] == "rate":
            n = f"n {stratum['n']} in {stratum['sites']} sites, effective n {stratum['effective_n']}"
            yield f"{name}{n}, {stratum['failed']} failed; rate {sure}, bound {_share(found['bound'])}{missing}"
        else:
            pairs = f"{stratum['metric']} compared in {stratum['effective_n']} sites"
            yield f"{name}{pairs}; worse {sure}, bound {_share(found['bound'])}{missing}"


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"
