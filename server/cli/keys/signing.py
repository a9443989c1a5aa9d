"""`otaria keys sign|apply`: each signer signs a proposal alone; where the online keys are, the result is put in force."""

import time
from pathlib import Path

import click
from tuf.api.metadata import Root

from firmware.atomic import atomic_output
from firmware.catalogue.adopt import adopt
from firmware.catalogue.ceremony import ONLINE
from firmware.catalogue.keyfiles import Keyring
from firmware.catalogue.proposal import MAX_BYTES, Proposal, canonical_payload, decode
from firmware.catalogue.publish import Repository
from firmware.errors import RefusedError
from server.cli.keys.asking import (
    DIRECTORY,
    FILE,
    NEW_FILE,
    ask,
    key_option,
    require_free,
    secrets,
    workspace,
    yes_option,
)
from server.cli.keys.showing import describe_proposal
from server.cli.output import emit, json_option

RESTART = "Restart `otaria serve`: it holds the keys it started with."


@click.command()
@click.argument("path", metavar="PROPOSAL", type=FILE)
@click.option(
    "--key", "uris", metavar="URI", multiple=True, required=True, help="file:PATH, hsm:ID?label=TOKEN, a KMS URI."
)
@click.option(
    "--against",
    metavar="DIR",
    type=DIRECTORY,
    help="Your own copy of the catalogue, or of its metadata: what it replaces must be this.",
)
@click.option("-o", "--output", metavar="FILE", type=NEW_FILE, help="Write here instead of into PROPOSAL.")
@yes_option
@json_option
def sign(
    path: Path, uris: tuple[str, ...], against: Path | None, output: Path | None, yes: bool, as_json: bool
) -> None:
    """Sign a proposal with your key. Needs no network and nothing but the file.

    Example: otaria keys sign rotate.proposal --key file:alice.pem --against acme
    """
    if output is not None and output != path:
        require_free(output)
    proposal = load(path)
    if against is not None:
        _require_base(proposal, _own_copy(against))
    elif proposal.base:
        click.echo("Only --against DIR checks what this replaces; without it, believe the lines as a whole.", err=True)
    for role in proposal.expired(time.time()):
        click.echo(f"By this machine's clock the proposed {role} has expired, and no device will take it.", err=True)
    ask(proposal, "Sign this?", yes=yes, as_json=as_json)
    signed = proposal.sign(Keyring([], uris=uris, secrets=secrets))
    if not signed:
        raise RefusedError("key-not-wanted", "None of these keys may sign anything in this proposal.")
    target = output or path
    save(proposal, target)
    missing = proposal.missing()
    rest = f"Still missing: {'; '.join(missing)}." if missing else "It has all its signatures."
    facts = {**describe_proposal(proposal), "file": str(target), "signed": signed}
    emit(facts, as_json=as_json, text=f"Signed {', '.join(signed)} in {target}. {rest}")


@click.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.argument("paths", metavar="PROPOSAL…", type=FILE, nargs=-1, required=True)
@key_option
@yes_option
@json_option
def apply(directory: Path, paths: tuple[Path, ...], uris: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Put a proposal in force in the catalogue DIR, where the online keys are. Several copies, signed apart, are merged.

    Example: otaria keys apply acme from-alice.proposal from-bob.proposal
    """
    if not (directory / "metadata").is_dir():
        raise RefusedError("no-catalogue", f"There is no catalogue in {directory}; name what `otaria keys init` made.")
    proposal = load(paths[0])
    for path in paths[1:]:
        proposal.merge(load(path))
    lines = ask(proposal, "Put this in force?", yes=yes, as_json=as_json)
    put_in_force(directory, workspace(directory, uris), proposal, lines, as_json=as_json)


def put_in_force(
    directory: Path, repository: Repository, proposal: Proposal, lines: list[dict[str, str]], *, as_json: bool
) -> None:
    """Apply and say so."""
    changed = adopt(repository, proposal, now=time.time())
    facts = {"directory": str(directory), "title": proposal.title, "changed": changed, "changes": lines}
    if not changed:
        emit(facts, as_json=as_json, text=f"All of this is in force already in {directory}.")
        return
    versions = ", ".join(f"{role} {proposal.body(role).version}" for role in changed)
    restart = f" {RESTART}" if any(online in proposal.title for online in ONLINE) else ""
    emit(facts, as_json=as_json, text=f"In force in {directory}: {versions}.{restart}")


def load(path: Path) -> Proposal:
    """Read a proposal file; raises `RefusedError` (`not-a-proposal`)."""
    if path.stat().st_size > MAX_BYTES:
        raise RefusedError("not-a-proposal", f"{path} is too long to be a proposal.")
    return decode(path.read_bytes())


def save(proposal: Proposal, path: Path) -> None:
    """Write a proposal file, whole or not at all."""
    with atomic_output(path) as file:
        file.write(proposal.encode())


def _own_copy(directory: Path) -> Repository:
    """People copy the catalogue's directory or only the `metadata` in it; both are meant."""
    within = directory / "metadata"
    return Repository(within if within.is_dir() else directory)


def _require_base(proposal: Proposal, repository: Repository) -> None:
    for role, metadata in proposal.base.items():
        if canonical_payload(repository.metadata_of(role)) != canonical_payload(metadata):
            raise RefusedError(
                "other-base",
                f"Your copy of the catalogue has another {role} than this proposal says it replaces; "
                "bring your copy up to date, or ask who made the proposal. Nothing was signed.",
            )
    if Root.type not in proposal.base:
        raise RefusedError("other-base", "This proposal begins a new catalogue, and you have one. Nothing was signed.")
