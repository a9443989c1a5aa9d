"""`otaria campaign`: bring targets to a release, watch, and say stop."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import IO, Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from firmware.errors import RefusedError, UnavailableError
from server.campaigns.reckoning import OVER
from server.campaigns.schema import campaign_schema
from server.cli.forecast import forecast, forecast_line
from server.cli.gates import comparison_lines, evidence_lines, gate
from server.cli.hindsight import hindsight, reality_lines
from server.cli.output import emit, json_option, table
from server.cli.params import Duration
from server.cli.rest import RestClient, connect, segment, server_options
from server.cli.revisions import applied, evidence, plan, read_file, revisions

JOINING = "otaria.commands.campaign"
RESTS = ("draft", "awaiting_approval", "paused", "watching", "completed", "aborted", "rolled_back")
STOPPED = ("aborted", "rolling_back", "rolled_back")
WAIT_LOOK_S = 2.0
FORECAST = ("draft", "awaiting_approval", "scheduled", "running", "watching")
"""Whose forecast is shown beside it."""
_COLOURS = {
    "verified": "green",
    "committed": "cyan",
    "passed": "green",
    "failed": "red",
    "fell_back": "red",
    "open": "blue",
}


class _Joined(click.Group):
    """A group that commands of other packages join by entry points: nothing here imports the simulator."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(point.name for point in entry_points(group=JOINING))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found: list[EntryPoint] = [point for point in entry_points(group=JOINING) if point.name == cmd_name]
        return found[0].load() if found else super().get_command(ctx, cmd_name)


@click.group(cls=_Joined)
def campaign() -> None:
    """Bring targets to a release under a strategy.

    Example: otaria campaign apply -f spring.yaml
    """


@campaign.command()
@click.option("-f", "--file", "source", type=click.File("rb"), required=True, help="The campaign as YAML; - is stdin.")
@click.option("--dry-run", is_flag=True, help="Only say what it would take, and change nothing.")
@click.option("--start", is_flag=True, help="Start it, too, unless it was started before.")
@server_options
@json_option
def apply(
    source: IO[bytes],
    dry_run: bool,
    start: bool,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Make a campaign from a file. It is a draft until it is started; one that runs gets a new revision.

    The same file again changes nothing.

    Example: otaria campaign apply -f spring.yaml --dry-run
    """
    if start and dry_run:
        raise click.UsageError("--start and --dry-run exclude each other.")
    text, client = read_file(source), connect(server, token_file, state)
    made = client.post("/campaigns" + ("?dry_run=1" if dry_run else ""), text)
    if start:
        made = {**made, **_started(client, made)}
    if not as_json and not dry_run:
        click.echo(applied(made))
    emit(made, as_json=as_json, text=_cohort_table(made))
    for warning in () if as_json else made["warnings"]:
        click.echo(f"Note: {warning}")


def _started(client: RestClient, view: dict[str, Any]) -> dict[str, Any]:
    """The campaign once it was started, now or before. Raises `RefusedError` (`campaign-ended`) for one that was stopped for
    good: the same file again won't bring it back."""
    if view["state"] == "draft":
        return dict(client.post(f"/campaigns/{segment(view['id'])}/start", {"reason": "applied with --start"}))
    if view["state"] in STOPPED:
        text = f"{_sentence(view)}. Give the file another name to try again."
        raise RefusedError("campaign-ended", text)
    return view


@campaign.command()
@click.argument("campaign_id", metavar="CAMPAIGN")
@click.option("--timeout", type=Duration(), default="1h", show_default=True, help="For how long to wait.")
@click.option(
    "--until", type=click.Choice(("decided", "completed")), default="decided", show_default=True, help="For what."
)
@server_options
@json_option
def wait(
    campaign_id: str,
    timeout: int,
    until: str,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Wait until every cohort of a campaign has passed (`decided`), or it is over (`completed`).

    Exit code 1 when it is paused, stopped or rolled back, was never started, or takes longer.

    Example: otaria campaign wait spring-1f3a --timeout 2h
    """
    client, end = connect(server, token_file, state), time.monotonic() + timeout
    wanted = ("completed",) if until == "completed" else ("watching", "completed")
    while True:
        view = client.get(f"/campaigns/{segment(campaign_id)}")
        if view["state"] in wanted:
            emit(view, as_json=as_json, text=_sentence(view))
            return
        if view["state"] in (*STOPPED, "paused", "draft"):
            raise RefusedError(
                "campaign-stopped", f"{_sentence(view)}. `otaria campaign show {campaign_id}` says more."
            )
        if time.monotonic() >= end:
            raise UnavailableError("timeout", f"Not within {timeout} s: {_sentence(view)}.")
        time.sleep(min(WAIT_LOOK_S, max(0.0, end - time.monotonic())))


@campaign.command()
def schema() -> None:
    """Print the JSON Schema of campaign files, for editors.

    Example: otaria campaign schema > campaign.schema.json
    """
    click.echo(json.dumps(campaign_schema(), indent=2))


def _verb(name: str, does: str, example: str) -> None:
    """Add the command that tells a campaign `name`."""

    @campaign.command(name, help=f"{does}\n\nExample: otaria campaign {name} {example}")
    @click.argument("campaign_id", metavar="CAMPAIGN")
    @click.option("--reason", default="", help="Why, for the trail.")
    @server_options
    @json_option
    def command(
        campaign_id: str, reason: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
    ) -> None:
        client = connect(server, token_file, state)
        view = client.post(f"/campaigns/{segment(campaign_id)}/{name}", {"reason": reason})
        emit(view, as_json=as_json, text=_sentence(view))


_verb("start", "Open the first cohort; or ask for approval, or wait for its time.", "spring-1f3a")
_verb("approve", "Agree to a start that somebody else asked for.", "spring-1f3a --reason 'CHG-4711'")
_verb(
    "reject",
    "Be against it: a draft again; or, of an emergency, declined afterwards.",
    "spring-1f3a --reason 'not this week'",
)
_verb(
    "pause", "Grant no further orders and permits; what is under way comes to its end.", "spring-1f3a --reason 'alarm'"
)
_verb("resume", "Go on where it was paused.", "spring-1f3a")
_verb("abort", "Withdraw what is not activated yet; what runs stays.", "spring-1f3a --reason 'wrong notes'")


@campaign.command()
@click.argument("campaign_id", metavar="CAMPAIGN")
@click.option("--cohort", help="Only this cohort; the campaign pauses.")
@click.option("--target", help="Only this target; the campaign goes on.")
@click.option("--reason", default="", help="Why, for the trail.")
@server_options
@json_option
def rollback(
    campaign_id: str,
    cohort: str | None,
    target: str | None,
    reason: str,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Send targets that took the release back to their previous slot: all of them, a cohort, or one.

    Who has no permit yet is withdrawn; who is in flight is sent back once it has committed.

    Example: otaria campaign rollback spring-1f3a --cohort wave --reason 'slow boot'
    """
    if cohort and target:
        raise click.UsageError("name --cohort or --target, not both")
    named = {"cohort": cohort, "target": target}
    body = {"reason": reason} | {name: value for name, value in named.items() if value}
    client = connect(server, token_file, state)
    view = client.post(f"/campaigns/{segment(campaign_id)}/rollback", body)
    emit(view, as_json=as_json, text=f"{target} goes back." if target else _sentence(view))


@campaign.command()
@click.argument("campaign_id", metavar="CAMPAIGN")
@click.argument("target")
@click.option("--reason", default="", help="Why, for the trail.")
@server_options
@json_option
def skip(
    campaign_id: str,
    target: str,
    reason: str,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Leave out a target that has no permit yet. No gate counts it.

    Example: otaria campaign skip spring-1f3a gw-0007 --reason 'in repair'
    """
    client = connect(server, token_file, state)
    view = client.post(f"/campaigns/{segment(campaign_id)}/skip", {"target": target, "reason": reason})
    emit(view, as_json=as_json, text=f"{target} is skipped.")


@campaign.command("list")
@server_options
@json_option
def list_(server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """List campaigns.

    Example: otaria campaign list
    """
    answer = {"campaigns": connect(server, token_file, state).whole("/campaigns", "campaigns")}
    rows = [
        (
            one["id"],
            one["name"],
            one["release"]["version"],
            one["state"],
            f"{_count(one, 'verified')}/{_size(one)}",
            _time(one),
        )
        for one in answer["campaigns"]
    ]
    emit(answer, as_json=as_json, text=table(("campaign", "name", "version", "state", "verified", "made"), rows))


@campaign.command()
@click.argument("campaign_id", metavar="CAMPAIGN")
@click.option("--follow", is_flag=True, help="Stay and show progress until the campaign is decided.")
@server_options
@json_option
def show(
    campaign_id: str, follow: bool, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Show a campaign and its cohorts.

    Example: otaria campaign show spring-1f3a --follow
    """
    client = connect(server, token_file, state)
    path = f"/campaigns/{segment(campaign_id)}"
    view = _follow(client, path, as_json) if follow else client.get(path)
    emit(view, as_json=as_json, text=None if follow and _watched(as_json) else _picture(view))
    if not as_json and not follow and view["state"] in FORECAST and (line := forecast_line(client, campaign_id)):
        click.echo(line)
    for line in () if as_json or follow or view["state"] not in OVER else reality_lines(client, campaign_id):
        click.echo(line)


@campaign.command()
@click.argument("target")
@server_options
@json_option
def explain(target: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Say why a target isn't moving.

    Example: otaria campaign explain gw-0007
    """
    why = connect(server, token_file, state).get(f"/fleet/{segment(target)}/explain")
    text = why["text"] + (f"\nWhat would change that: {why['release_by'].rstrip('.')}." if why["release_by"] else "")
    emit(why, as_json=as_json, text=text)


for _command in (evidence, forecast, gate, hindsight, plan, revisions):
    campaign.add_command(_command)


def _follow(client: RestClient, path: str, as_json: bool) -> dict[str, Any]:
    """Ask again whenever something changed, until nothing moves by itself; draws when a person watches."""
    last: dict[str, Any] = client.get(path)
    watched = _watched(as_json)
    with Live(_picture(last), console=Console(), auto_refresh=False) if watched else nullcontext() as live:
        for view in _views(client, path, last):
            last = view
            if live is not None:
                live.update(_picture(view), refresh=True)
    return last


def _views(client: RestClient, path: str, view: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if _rests(view):
        return
    for _ in client.changes():
        view = client.get(path)
        yield view
        if _rests(view):
            return


def _watched(as_json: bool) -> bool:
    return not as_json and sys.stdout.isatty()


def _rests(view: dict[str, Any]) -> bool:
    """Whether the campaign is decided or waits for somebody."""
    return view["state"] in RESTS


def _picture(view: dict[str, Any]) -> Table:
    out = _cohort_table(view)
    out.title = _sentence(view)
    out.title_justify = "left"
    lines = [
        *_suspicion(view),
        *evidence_lines(view),
        *comparison_lines(view),
        *([told] if (told := _downloads(view)) else ()),
    ]
    out.caption, out.caption_justify = "\n".join(lines) or None, "left"
    return out


def _suspicion(view: dict[str, Any]) -> Iterator[str]:
    """Whether its release is suspect, and what was proposed."""
    if view["suspect"]:
        release = view["release"]
        clear = f"otaria release clear {release['product']} {release['version']} --reason …"
        yield f"{release['version']} is suspect: {view['suspect']} If it is good after all: {clear}"
    if view["proposed"]:
        yield f"Campaign {view['proposed']} would bring its targets back: otaria campaign start {view['proposed']}"
    if view["undoes"]:
        yield f"It was proposed to undo campaign {view['undoes']}."


def _downloads(view: dict[str, Any]) -> str | None:
    """How far the deltas are and what they save; None before the campaign is started."""
    sums = view.get("downloads")
    if not sums:
        return None
    full, expected = decimal(sums["full_bytes"]), decimal(sums["expected_bytes"])
    needed = sums["made"] + sums["refused"] + sums["wanted"]
    if not needed:
        return f"No deltas: {full} to download."
    waits = "Waiting for deltas: " if view["deltas_until"] is not None else ""
    refused = f", {sums['refused']} not to be had" if sums["refused"] else ""
    return f"{waits}{sums['made']} of {needed} deltas made{refused}; {expected} to download instead of {full}."


def _sentence(view: dict[str, Any]) -> str:
    why = f": {view['reason']}" if view["reason"] else ""
    release = view["release"]
    if view["proposal"]:
        why += f" {applied(view)}"
    if view["owed_approvals"]:
        owed = "1 approval" if view["owed_approvals"] == 1 else f"{view['owed_approvals']} approvals"
        why += "" if why.endswith(".") or not why else "."
        again = f" (asked for again {view['reminders']} times)" if view["reminders"] > 1 else ""
        why += f" It still owes {owed}{again}: otaria campaign approve {view['id']}"
    for one in view["declined"]:
        reason = f": {one['reason']}" if one["reason"] else ""
        why += f" Declined by {one['by']}{reason}."
    return f"{view['name']} ({view['id']}) → {release['product']} {release['version']} is {view['state'].replace('_', ' ')}{why}"


def _cohort_table(view: dict[str, Any]) -> Table:
    out = table(("cohort", "gate", "targets", "states", "verdict"), ())
    for cohort in view["cohorts"]:
        states = Text(", ").join(
            Text(f"{number} {state.replace('_', ' ')}", style=_COLOURS.get(state, ""))
            for state, number in cohort["counts"].items()
        )
        state = Text(cohort["state"], style=_COLOURS.get(cohort["state"], "dim"))
        out.add_row(cohort["name"], state, str(cohort["size"]), states, cohort["verdict_text"])
    return out


def _count(view: dict[str, Any], state: str) -> int:
    return sum(cohort["counts"].get(state, 0) for cohort in view["cohorts"])


def _size(view: dict[str, Any]) -> int:
    return sum(cohort["size"] for cohort in view["cohorts"])


def _time(view: dict[str, Any]) -> str:
    return datetime.fromtimestamp(view["created_at"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
