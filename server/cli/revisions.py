"""`otaria campaign plan`, `revisions` and `evidence`: what a file would change in a campaign that is there, what files
did before, and what its targets were asked for before they went."""

from pathlib import Path
from typing import IO, Any

import click

from firmware.errors import RefusedError
from server.cli.output import emit, json_option, stamp, table
from server.cli.rest import connect, segment, server_options

MAX_FILE_BYTES = 256 * 1024


@click.command()
@click.argument("source", metavar="FILE", type=click.File("rb"))
@server_options
@json_option
def plan(source: IO[bytes], server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Show what applying a file would change in the campaign of its name. Ends with 1 when it can't be applied.

    Example: otaria campaign plan spring.yaml
    """
    found = connect(server, token_file, state).post("/plan", read_file(source))
    emit(found, as_json=as_json, text="\n".join(_lines(found)))
    if found["refused"]:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("campaign_id", metavar="CAMPAIGN")
@server_options
@json_option
def revisions(campaign_id: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """List the revisions of a campaign, with who made each and what it changed.

    Example: otaria campaign revisions spring-1f3a
    """
    path = f"/campaigns/{segment(campaign_id)}/revisions"
    answer = {"revisions": connect(server, token_file, state).whole(path, "revisions")}
    rows = [
        (one["number"], one["state"], one["by"], stamp(one["at"]), ", ".join(one["agreed"]), "\n".join(one["changes"]))
        for one in answer["revisions"]
    ]
    emit(answer, as_json=as_json, text=table(("revision", "state", "by", "made", "approved by", "changes"), rows))


@click.command()
@click.argument("campaign_id", metavar="CAMPAIGN")
@server_options
@json_option
def evidence(campaign_id: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """List the logs that a campaign asked of its targets before they went. `otaria fleet logs --request` shows one.

    Example: otaria campaign evidence spring-1f3a
    """
    client, path = connect(server, token_file, state), f"/campaigns/{segment(campaign_id)}/evidence"
    found = client.whole(path, "evidence")
    rows = [
        (one["target"], one["state"], stamp(one["asked_at"]), one["size_bytes"], one["id"], one["reason"])
        for one in found
    ]
    emit(
        {"evidence": found}, as_json=as_json, text=table(("target", "state", "asked", "bytes", "request", "why"), rows)
    )


def read_file(source: IO[bytes]) -> str:
    """The text of a campaign file; raises `RefusedError` (`too-large`, `malformed`)."""
    data = source.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise RefusedError("too-large", f"The campaign file has more than {MAX_FILE_BYTES} bytes.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RefusedError("malformed", "The campaign file is not UTF-8 text.") from error


def applied(view: dict[str, Any]) -> str:
    """What became of a campaign whose file was applied, in a sentence."""
    name, proposal = view["id"], view["proposal"]
    if proposal:
        left = proposal["needed"] - len(proposal["agreed"])
        who = f"{left} more agree" if left > 1 else "one more agrees"
        return f"Revision {proposal['number']} takes effect when {who}: otaria campaign approve {name}"
    if view["state"] == "draft":
        return f"Campaign {name} is a draft. Start it with: otaria campaign start {name}"
    return f"Campaign {name} is {view['state'].replace('_', ' ')}, at revision {view['revision']}."


def _lines(found: dict[str, Any]) -> list[str]:
    name = found["campaign"]
    if not found["exists"]:
        return [f"There is no campaign {name}; apply makes it."]
    if found["next"] is None:
        return [f"{name}: nothing changes; it is at revision {found['revision']}."]
    lines = [
        f"{name}, revision {found['revision']} → {found['next']}",
        *(f"  {one['text']}" for one in found["changes"]),
    ]
    for sign, which in (("+", "gained"), ("-", "lost")):
        names, count = found[which]["targets"], found[which]["count"]
        more = f" and {count - len(names)} more" if count > len(names) else ""
        lines += [f"  {sign} {', '.join(names)}{more}"] if names else []
    lines += [f"Refused: {found['refused']}"] if found["refused"] else found["effects"]
    return lines + [f"Note: {warning}" for warning in found["warnings"]]
