"""`otaria fleet ca …` and `otaria fleet endpoints`: the CAs, and by which way the fleet comes."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from firmware.atomic import atomic_output
from server.cli.output import emit, json_option, table
from server.cli.rest import connect, server_options

KINDS = click.Choice(["fleet", "services"])
RESTART = "Restart `otaria serve` (and before it a broker of your own) to put this in force."
_yes = click.option("--yes", is_flag=True, help="Do it although targets depend on what it ends.")


@click.group()
def ca() -> None:
    """The CAs: `fleet` signs the agents' certificates, `services` the server's, and is what devices pin.

    Example: otaria fleet ca show
    """


@ca.command()
@click.option(
    "--pem", "directory", type=click.Path(path_type=Path), help="Write their certificates into this directory."
)
@server_options
@json_option
def show(
    server: str | None, token_file: Path | None, state: Path | None, directory: Path | None, as_json: bool
) -> None:
    """Show the CAs, and how many targets still depend on each.

    Example: otaria fleet ca show
    """
    found = connect(server, token_file, state).get("/authorities")
    if directory is not None:
        _write(found, directory)
    _shown(found, as_json)


@ca.command()
@click.argument("kind", type=KINDS)
@server_options
@json_option
def rotate(kind: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Make a new CA. A new fleet CA signs from the next start on, beside the old one; a new services CA waits until the
    catalogue has told devices of it.

    Example: otaria fleet ca rotate fleet
    """
    _step(kind, "rotate", False, server, token_file, state, as_json)


@ca.command()
@click.argument("kind", type=KINDS)
@_yes
@server_options
@json_option
def switch(
    kind: str, yes: bool, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Let the next services CA sign the server's certificates, once devices trust it.

    Example: otaria fleet ca switch services
    """
    _step(kind, "switch", yes, server, token_file, state, as_json)


@ca.command()
@click.argument("kind", type=KINDS)
@_yes
@server_options
@json_option
def retire(
    kind: str, yes: bool, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """End the CAs that were replaced.

    Example: otaria fleet ca retire fleet
    """
    _step(kind, "retire", yes, server, token_file, state, as_json)


@click.command()
@server_options
@json_option
def endpoints(server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Show by which server address the targets come.

    Example: otaria fleet endpoints
    """
    found = connect(server, token_file, state).get("/endpoints")
    rows = [*sorted(found["endpoints"].items()), ("not said yet", found["unknown"])]
    emit(found, as_json=as_json, text=table(("server", "targets"), rows))


def _step(
    kind: str, step: str, yes: bool, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    found = connect(server, token_file, state).post(f"/authorities/{kind}/{step}", {"force": yes})
    _shown(found, as_json)


def _shown(found: dict[str, Any], as_json: bool) -> None:
    rows = [
        (one["kind"], one["fingerprint"][:16], one["standing"], _day(one["made_at"]), _day(one["ends_at"]), _who(one))
        for one in found["cas"]
    ]
    emit(found, as_json=as_json, text=table(("CA", "sha256", "it", "made", "ends", "targets"), rows))
    if found["restart_needed"] and not as_json:
        click.echo(RESTART)


def _who(one: dict[str, Any]) -> str:
    return f"{one['targets']} {'have its certificates' if one['kind'] == 'fleet' else 'trust it'}"


def _write(found: dict[str, Any], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for one in found["cas"]:
        name = f"{one['kind']}-{one['standing']}-{one['fingerprint'][:16]}.pem"
        with atomic_output(directory / name) as file:
            file.write(one["pem"].encode())


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
