"""`otaria fleet word`: say that a backup is verified, or that a check elsewhere passed."""

from pathlib import Path

import click

from server.cli.output import emit, json_option
from server.cli.params import Duration, KeyValue
from server.cli.rest import connect, server_options


@click.command()
@click.argument("name")
@click.argument("verdict", type=click.Choice(("good", "bad")))
@click.option("--target", help="The target that it is about.")
@click.option("--label", type=KeyValue(), help="Or all targets with this label.")
@click.option("--expires", type=Duration(), default="1d", show_default=True, help="For how long it holds.")
@click.option("--reason", default="", help="Why, for the trail.")
@server_options
@json_option
def word(
    name: str,
    verdict: str,
    target: str | None,
    label: tuple[str, str] | None,
    expires: int,
    reason: str,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Say that what a strategy's precondition waits for is good, or bad.

    Example: otaria fleet word backup good --target db-1 --expires 12h
    """
    if (target is None) == (label is None):
        raise click.UsageError("Say whom it is about: --target or --label.")
    about = {"target": target} if target else {"label": "=".join(label or ())}
    body = {"name": name, "verdict": verdict, "expires_s": expires, "reason": reason, **about}
    said = connect(server, token_file, state).post("/words", body)
    emit(said, as_json=as_json, text=f"{name} of {said['key']} is {verdict}.")
