"""What all `otaria keys` commands share: options, secrets from the environment or a prompt, and the question before a change.

A secret is never an option: command lines are seen by other users and kept in histories.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from firmware.catalogue.describe import diff
from firmware.catalogue.keyfiles import Keyring
from firmware.catalogue.proposal import Proposal
from firmware.catalogue.publish import Repository
from firmware.catalogue.signers import secrets_from_environment
from firmware.errors import RefusedError

DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NEW_FILE = click.Path(path_type=Path, dir_okay=False)
_COLOURS = {"+": "green", "-": "red", " ": None}

repository_option: Callable[[Any], Any] = click.option(
    "--repository", "directory", metavar="DIR", type=DIRECTORY, required=True, help="The catalogue, as `init` made it."
)
key_option: Callable[[Any], Any] = click.option(
    "--key",
    "uris",
    metavar="URI",
    multiple=True,
    help="A private key: file:PATH, hsm:ID?label=TOKEN, a KMS URI, a key file.",
)
yes_option: Callable[[Any], Any] = click.option("--yes", is_flag=True, help="Don't ask.")


def secrets(kind: str, of: str) -> str:
    """A passphrase or PIN: from the environment, else asked for when a person is there."""
    try:
        return secrets_from_environment(kind, of)
    except RefusedError:
        if not sys.stdin.isatty():
            raise
        answer: str = click.prompt(f"{kind.capitalize()} of {of}", hide_input=True, err=True)
        return answer


def new_passphrase() -> str:
    """A passphrase for new keys, asked for twice unless `OTARIA_KEY_PASSPHRASE` has it."""
    if os.environ.get("OTARIA_KEY_PASSPHRASE") or not sys.stdin.isatty():
        return secrets_from_environment("passphrase", "The new key")
    answer: str = click.prompt("Passphrase of the new key", hide_input=True, confirmation_prompt=True, err=True)
    return answer


def workspace(directory: Path, uris: Sequence[str] = ()) -> Repository:
    """A catalogue's directory with the keys in it and those named by URI."""
    places = [directory / "keys" / "offline", directory / "keys" / "online"]
    return Repository.workspace(directory, keyring=Keyring(places, uris=uris, secrets=secrets))


def require_free(path: Path) -> None:
    """Raises `RefusedError` (`file-exists`) rather than write over a file: it may hold signatures, or be a key."""
    if path.exists():
        raise RefusedError("file-exists", f"{path} exists already and is not written over; give another -o.")


def ask(proposal: Proposal, question: str, *, yes: bool, as_json: bool) -> list[dict[str, str]]:
    """Show what is about to be trusted and ask; returns the lines for `--json`. Raises `click.Abort` on a no."""
    lines = diff(proposal)
    if not (yes and as_json):
        click.echo(f"To {proposal.title}:", err=as_json)
        for mark, text in lines:
            click.secho(f"{mark} {text}", fg=_COLOURS[mark], err=as_json)
    if not yes:
        click.confirm(question, abort=True, err=as_json)
    return [{"mark": mark, "text": text} for mark, text in lines]
