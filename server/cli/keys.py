"""`otaria keys`: the keys of a catalogue, and the first version of everything they sign."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from tuf.api.metadata import Role, Signed

from firmware.catalogue.ceremony import initialise
from firmware.catalogue.keyfiles import Keyring
from firmware.catalogue.publish import Repository
from server.cli.output import emit, json_option, table

DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.group()
def keys() -> None:
    """Make and show the keys of a catalogue.

    Example: otaria keys init acme --product pump
    """


@keys.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option("--product", "products", multiple=True, required=True, help="A product; repeat for more.")
@json_option
def init(directory: Path, products: tuple[str, ...], as_json: bool) -> None:
    """Make a catalogue in the new directory DIR: all keys, and the first metadata of every role.

    Afterwards move DIR/keys/offline to where the server cannot reach it, and the three root keys apart from each other.

    Example: otaria keys init acme --product pump --product valve
    """
    repository = initialise(directory, products=products, now=time.time())
    facts = describe(repository, directory)
    text = (
        f"Made a catalogue in {directory}. Give metadata/ and keys/online/ to the server; keep keys/offline/ away from it. "
        f"sha256 of the root: {facts['root_sha256']}"
    )
    emit(facts, as_json=as_json, text=text)


@keys.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@json_option
def show(directory: Path, as_json: bool) -> None:
    """Show the roles of the catalogue in DIR: keys, thresholds, versions, expiry, and which keys are here.

    Example: otaria keys show acme
    """
    facts = describe(Repository.workspace(directory), directory)
    emit(facts, as_json=as_json, text=_shown(facts))


def describe(repository: Repository, directory: Path) -> dict[str, Any]:
    """The roles of a catalogue and the keys of them in DIR/keys, as JSON values."""
    root, targets = repository.root(), repository.targets()
    signed: dict[str, Signed | None] = {"root": root, "targets": targets}
    signed |= {"snapshot": repository.snapshot(), "timestamp": repository.timestamp()}
    roles: dict[str, Role] = dict(root.roles)
    delegated = targets.delegations.roles if targets.delegations else None
    for name, role in (delegated or {}).items():
        roles[name] = role
        listed = f"{name}.json" in repository.snapshot().meta
        signed[name] = repository.targets(name) if listed else None
    held = Keyring([directory / "keys" / "offline", directory / "keys" / "online"])
    return {
        "directory": str(directory),
        "root_sha256": repository.root_sha256(),
        "products": repository.products(),
        "director_epoch": repository.director_epoch(),
        "roles": [_role(name, roles[name], entry, held) for name, entry in signed.items()],
    }


def _role(name: str, role: Role, signed: Signed | None, held: Keyring) -> dict[str, Any]:
    here = {signer.public_key.keyid for signer in held.signers(role)}
    return {
        "role": name,
        "threshold": role.threshold,
        "keys": [{"keyid": keyid, "here": keyid in here} for keyid in role.keyids],
        "version": signed.version if signed else None,
        "expires": int(signed.expires.timestamp()) if signed else None,
    }


def _shown(facts: dict[str, Any]) -> Table:
    rows = [
        (
            role["role"],
            f"{role['threshold']} of {len(role['keys'])}",
            role["version"],
            f"{datetime.fromtimestamp(role['expires'], UTC):%Y-%m-%d %H:%M}" if role["expires"] else None,
            ", ".join(key["keyid"][:12] + ("" if key["here"] else " (elsewhere)") for key in role["keys"]),
        )
        for role in facts["roles"]
    ]
    title = f"{facts['directory']}: root sha256 {facts['root_sha256'][:16]}…, director epoch {facts['director_epoch']}"
    return table(("role", "keys needed", "version", "expires (UTC)", "key ids"), rows, title=title)
