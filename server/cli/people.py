"""`otaria people`: who has access to the server, and as what."""

from pathlib import Path
from typing import Any

import click

from server.cli.output import emit, json_option, stamp, table
from server.cli.params import Duration
from server.cli.rest import connect, segment, server_options
from server.ports import Role


@click.group()
def people() -> None:
    """Give people and scripts access, and take it away.

    Example: otaria people add bob --role approver
    """


@people.command()
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What they may do.")
@click.option("--expires", type=Duration(), help="How long it is good for; without it, until it is removed.")
@server_options
@json_option
def add(
    name: str,
    role: str,
    expires: int | None,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Make somebody's token. It is printed once and kept nowhere.

    Example: otaria people add bob --role approver --expires 90d > bob.token
    """
    body = {"name": name, "role": role, "expires_s": expires}
    made = connect(server, token_file, state).post("/people", body)
    emit(made, as_json=as_json, text=made["token"])


@people.command("list")
@server_options
@json_option
def list_(server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """List who has access, without their secrets.

    Example: otaria people list
    """
    answer = {"people": connect(server, token_file, state).whole("/people", "people")}
    rows = [(one["name"], one["role"], _until(one["expires_at"]), one["id"]) for one in answer["people"]]
    emit(answer, as_json=as_json, text=table(("name", "role", "until", "token"), rows))


@people.command()
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What they may do.")
@server_options
@json_option
def change(
    name: str, role: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Give somebody another role, which all tokens of theirs have at once.

    Example: otaria people change bob --role operator
    """
    answer = connect(server, token_file, state).patch("/people", {"name": name, "role": role})
    emit(answer, as_json=as_json, text=f"{name} has the role {role} now.")


@people.command()
@click.argument("name")
@server_options
@json_option
def deactivate(name: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """End all tokens of somebody, with their sessions, and keep them in the list.

    Example: otaria people deactivate bob
    """
    answer = connect(server, token_file, state).patch("/people", {"name": name, "active": False})
    emit(answer, as_json=as_json, text=f"The access of {name} has ended.")


@people.command()
@click.argument("token")
@server_options
@json_option
def expire(token: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """End one token now, by its id in `otaria people list`.

    Example: otaria people expire p-abcdefghij
    """
    ended = connect(server, token_file, state).post(f"/people/{segment(token)}/expire")
    emit(ended, as_json=as_json, text=f"The token {token} of {ended['name']} has ended.")


@people.command()
@click.argument("name")
@server_options
@json_option
def remove(name: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Take all of somebody's tokens away; their sessions end at once.

    Example: otaria people remove bob
    """
    answer = connect(server, token_file, state).delete("/people", {"name": name})
    emit(answer, as_json=as_json, text=f"{name} has no access any more.")


def _until(at: Any) -> str:
    return "removed" if at is None else stamp(at)
