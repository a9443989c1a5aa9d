"""`otaria keys add|remove|rotate|renew|raise-epoch|bins`: change who signs what, at once
where all keys are, else as a proposal."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root

from firmware.catalogue import changes
from firmware.catalogue.ceremony import ONLINE, named
from firmware.catalogue.keyfiles import SUFFIX
from firmware.catalogue.keyfiles import generate as generate_file
from firmware.catalogue.proposal import Proposal
from firmware.catalogue.publish import Repository
from firmware.catalogue.signers import read_key_file
from firmware.errors import OtariaError
from server.cli.keys.asking import (
    FILE,
    NEW_FILE,
    ask,
    key_option,
    new_passphrase,
    repository_option,
    require_free,
    workspace,
    yes_option,
)
from server.cli.keys.making import scheme_option
from server.cli.keys.showing import describe_proposal
from server.cli.keys.signing import put_in_force, save
from server.cli.output import emit, json_option

_output = click.option("-o", "--output", metavar="PROPOSAL", type=NEW_FILE, help="Write a proposal for others to sign.")
_public = click.option(
    "--public", "public", metavar="FILE", type=FILE, help="The new key's key file; else one is made here."
)
_threshold = click.option(
    "--threshold", type=click.IntRange(1, 32), help="How many keys of the role have to sign from now on."
)
_encrypt = click.option("--encrypt", is_flag=True, help="Encrypt a key that is made here with a passphrase.")


@dataclass(frozen=True, kw_only=True)
class How:
    """The options that every change has."""

    directory: Path
    uris: tuple[str, ...]
    output: Path | None
    yes: bool
    as_json: bool


def change_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that every change has; they make a `How`."""
    for option in (json_option, yes_option, _output, key_option, repository_option):
        command = option(command)
    return command


@click.command()
@click.argument("role")
@_public
@_threshold
@scheme_option
@_encrypt
@change_options
def add(role: str, public: Path | None, threshold: int | None, scheme: str, encrypt: bool, **how: Any) -> None:
    """Give ROLE one more key. A ROLE named product-NAME that does not exist yet begins a product.

    Example: otaria keys add root --public dora.key.json --repository acme -o add-dora.proposal
    """
    _with_new_key(
        role,
        public,
        lambda repository, key: changes.add(repository, role, key, threshold=threshold, now=time.time()),
        How(**how),
        scheme=scheme,
        encrypt=encrypt,
    )


@click.command()
@click.argument("role")
@click.argument("old", metavar="[KEY]", required=False)
@_public
@scheme_option
@_encrypt
@change_options
def rotate(role: str, old: str | None, public: Path | None, scheme: str, encrypt: bool, **how: Any) -> None:
    """Put a new key in the place of KEY (the beginning of its id, or its owner's name) in ROLE.

    Rotating `director` also raises the director epoch, so that orders signed with the old key are stale.

    Example: otaria keys rotate director --repository acme -o director.proposal
    """
    _with_new_key(
        role,
        public,
        lambda repository, key: changes.rotate(repository, role, key, old=old, now=time.time()),
        How(**how),
        scheme=scheme,
        encrypt=encrypt,
    )


@click.command()
@click.argument("role")
@click.argument("key")
@_threshold
@change_options
def remove(role: str, key: str, threshold: int | None, **how: Any) -> None:
    """Take KEY (the beginning of its id, or its owner's name) away from ROLE.

    Example: otaria keys remove root bob --repository acme -o without-bob.proposal
    """
    given = How(**how)
    repository = workspace(given.directory, given.uris)
    carry_out(repository, changes.remove(repository, role, key, threshold=threshold, now=time.time()), given)


@click.command()
@click.argument("roles", metavar="ROLE…", nargs=-1, required=True)
@change_options
def renew(roles: tuple[str, ...], **how: Any) -> None:
    """Sign roles again before they expire, otherwise unchanged. Online roles are renewed by the server; where it is down,
    naming one of them does what it would do, with the online keys in DIR.

    Example: otaria keys renew root targets product-pump --repository acme
    """
    given = How(**how)
    repository = workspace(given.directory, given.uris)
    if set(roles) <= set(ONLINE):
        renewed = repository.renew(time.time())
        text = f"Renewed {', '.join(renewed)}." if renewed else "No online role has used up half of its time yet."
        emit({"renewed": renewed}, as_json=given.as_json, text=text)
        return
    carry_out(repository, changes.renew(repository, roles, now=time.time()), given)


@click.command("raise-epoch")
@change_options
def raise_epoch(**how: Any) -> None:
    """Raise the director epoch, which makes every order signed before stale: after `otaria restore`.

    Example: otaria keys raise-epoch --repository acme -o epoch.proposal
    """
    given = How(**how)
    repository = workspace(given.directory, given.uris)
    carry_out(repository, changes.raise_epoch(repository, now=time.time()), given)


@click.command()
@click.argument("product")
@click.option(
    "--bits", type=click.IntRange(1, changes.MAX_BITS), required=True, help="2 to this power is the number of bins."
)
@change_options
def bins(product: str, bits: int, **how: Any) -> None:
    """Move the files of a PRODUCT with many releases into hash bins, so that devices fetch only a small part of them.

    New releases are listed by the product itself; the same again moves those too.

    Example: otaria keys bins pump --bits 6 --repository acme
    """
    given = How(**how)
    repository = workspace(given.directory, given.uris)
    carry_out(repository, changes.bins(repository, product, bits, now=time.time()), given)


def _with_new_key(
    role: str,
    public: Path | None,
    propose: Callable[[Repository, SSlibKey], Proposal],
    how: How,
    *,
    scheme: str,
    encrypt: bool,
) -> None:
    """Propose with a key from a key file, or with one that is made here and goes away again unless the change comes about."""
    if public is not None:
        repository = workspace(how.directory, how.uris)
        carry_out(repository, propose(repository, read_key_file(public)[0]), how)
        return
    workspace(how.directory, how.uris).root()  # no key is made beside a catalogue that is not there
    path = _free_name(how.directory, role)
    key = generate_file(path, scheme=scheme, passphrase=new_passphrase() if encrypt else None).public_key
    try:
        repository = workspace(how.directory, how.uris)
        carry_out(repository, propose(repository, named(key, path.stem) if role == Root.type else key), how)
    except (OtariaError, click.Abort):  # raised before anything is written; after that the key may be in force
        path.unlink()
        raise


def _free_name(directory: Path, role: str) -> Path:
    folder = directory / "keys" / ("online" if role in ONLINE else "offline")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    number = 1
    while (
        path := folder / (f"{role}-{number}{SUFFIX}" if number > 1 or role == Root.type else f"{role}{SUFFIX}")
    ).exists():
        number += 1
    return path


def carry_out(repository: Repository, proposal: Proposal, how: How) -> None:
    """Show the proposal and ask; then put it in force, or write it for others to sign."""
    if how.output is not None:
        require_free(how.output)
    question = "Propose this?" if how.output else "Put this in force?"
    lines = ask(proposal, question, yes=how.yes, as_json=how.as_json)
    signed = proposal.sign(repository.keyring)
    if how.output is None:
        put_in_force(how.directory, repository, proposal, lines, as_json=how.as_json)
        return
    save(proposal, how.output)
    facts = {**describe_proposal(proposal), "file": str(how.output), "signed": signed}
    missing = "; ".join(proposal.missing())
    text = f"Wrote {how.output}. " + (f"Still missing: {missing}." if missing else "It has all its signatures.")
    emit(facts, as_json=how.as_json, text=text)
