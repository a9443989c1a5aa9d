"""`otaria keys fleet-ca`: the CA that signs devices, made before the server's first start."""

import time
from pathlib import Path

import click

from server.cli.output import emit, json_option
from server.config import load_settings
from server.identity.authority import FLEET, FLEET_NAME
from server.identity.authority_files import AuthorityFiles
from server.identity.authority_keys import keys_at
from server.identity.private_files import locked_directory
from server.identity.token_key import TokenKey
from server.premises import make_state


@click.command("fleet-ca")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default="otaria.toml",
    show_default=True,
    help="The server's settings; `identity.fleet_key` names the token.",
)
@json_option
def fleet_ca(config: Path, as_json: bool) -> None:
    """Make the CA that signs the certificates of devices where `identity.fleet_key` says, or show the one that is there.

    A server without one makes it at its first start; this is for a ceremony beforehand. The key of one in a token is made there
    and never leaves it. `otaria fleet ca rotate fleet` replaces the CA of a server that runs.

    Example: otaria keys fleet-ca --config otaria.toml
    """
    settings, now = load_settings(config), time.time()
    make_state(settings.state)
    directory = settings.state / "identity"
    with locked_directory(directory):
        files = AuthorityFiles(directory=directory, stem=FLEET, keys=keys_at(settings.fleet_key))
        is_new = not files.exists()
        authority, _ = files.open_or_make(FLEET_NAME, now)
    place = authority.key.uri if isinstance(authority.key, TokenKey) else str(files.key_file)
    facts = {
        "made": is_new,
        "fingerprint": authority.fingerprint,
        "key": place,
        "certificate": str(files.certificates_file),
    }
    verb = "Made" if is_new else "There is already"
    text = f"{verb} a fleet CA with the fingerprint {authority.fingerprint}. Its key is at {place}."
    emit(facts, as_json=as_json, text=text)
