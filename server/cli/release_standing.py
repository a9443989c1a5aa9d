"""`otaria release suspect` and `clear`: what people say of a release once it is out."""

from pathlib import Path

import click

from server.cli.output import emit, json_option
from server.cli.rest import connect, segment, server_options


@click.command()
@click.argument("product")
@click.argument("version")
@click.option("--reason", required=True, help="Why, for the trail.")
@server_options
@json_option
def suspect(
    product: str,
    version: str,
    reason: str,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Mark a release suspect: campaigns that hold for that order and permit it no more.

    Example: otaria release suspect gateway 2.0.0 --reason 'two sites report heat'
    """
    _judge("suspect", product, version, reason, (server, token_file, state), as_json)


@click.command()
@click.argument("product")
@click.argument("version")
@click.option("--reason", required=True, help="Why, for the trail.")
@server_options
@json_option
def clear(
    product: str,
    version: str,
    reason: str,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Take a suspicion back. Campaigns that it paused wait for `otaria campaign resume`.

    Example: otaria release clear gateway 2.0.0 --reason 'the fan was broken'
    """
    _judge("clear", product, version, reason, (server, token_file, state), as_json)


def _judge(
    step: str,
    product: str,
    version: str,
    reason: str,
    where: tuple[str | None, Path | None, Path | None],
    as_json: bool,
) -> None:
    path = f"/releases/{segment(product)}/{segment(version)}/{step}"
    release = connect(*where).post(path, {"reason": reason})
    emit(release, as_json=as_json, text=f"{product} {version} is {release['state']}.")
