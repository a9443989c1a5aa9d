"""`otaria keys init|generate|public`: new catalogues and new keys."""

import time
from pathlib import Path

import click
from securesystemslib.signer import SSlibKey

from firmware.atomic import atomic_output
from firmware.catalogue.ceremony import FIRST, Plan, begin
from firmware.catalogue.keyfiles import ECDSA, SCHEMES
from firmware.catalogue.keyfiles import generate as generate_file
from firmware.catalogue.publish import Repository
from firmware.catalogue.signers import PRIVATE, PUBLIC, key_file, key_name, public_key, read_key_file
from firmware.errors import RefusedError
from server.cli.keys.asking import DIRECTORY, NEW_FILE, new_passphrase, require_free, secrets
from server.cli.keys.showing import describe, describe_proposal
from server.cli.output import emit, json_option

scheme_option = click.option("--scheme", type=click.Choice(sorted(SCHEMES)), default=ECDSA, show_default=True)


@click.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option("--product", "products", multiple=True, required=True, help="A product; repeat for more.")
@click.option(
    "--root-keys", type=click.IntRange(1, 32), default=3, show_default=True, help="How many root keys to make."
)
@click.option(
    "--root-threshold", type=click.IntRange(1, 32), default=2, show_default=True, help="How many have to sign."
)
@click.option("--public", "publics", metavar="ROLE=FILE", multiple=True, help="A key made elsewhere: its key file.")
@scheme_option
@click.option("--encrypt", is_flag=True, help="Encrypt the offline keys that are made here with a passphrase.")
@json_option
def init(
    directory: Path,
    products: tuple[str, ...],
    root_keys: int,
    root_threshold: int,
    publics: tuple[str, ...],
    scheme: str,
    encrypt: bool,
    as_json: bool,
) -> None:
    """Make a catalogue in the new directory DIR: keys, and the first metadata of every role.

    Without --public all keys are made here: afterwards move DIR/keys/offline to where the server cannot reach it, and the
    root keys apart from each other. With it, what those keys have to sign waits in DIR/first.proposal.json.

    Example: otaria keys init acme --product pump --public root=alice.key.json --public root=bob.key.json
    """
    plan = Plan(
        products=products,
        root_keys=root_keys,
        root_threshold=root_threshold,
        public=_publics(publics),
        scheme=scheme,
        passphrase=new_passphrase() if encrypt else None,
    )
    repository, waiting = begin(directory, plan, now=time.time())
    if waiting is not None:
        facts = {"directory": str(directory), "proposal": str(directory / FIRST), **describe_proposal(waiting)}
        text = (
            f"Made {directory}. Let the signers sign {directory / FIRST} (`otaria keys sign`), then put the catalogue in "
            f"force: otaria keys apply {directory} SIGNED…\nStill missing: {'; '.join(waiting.missing())}."
        )
        emit(facts, as_json=as_json, text=text)
        return
    _say_made(repository, directory, as_json)


def _say_made(repository: Repository, directory: Path, as_json: bool) -> None:
    facts = describe(repository, directory)
    text = (
        f"Made a catalogue in {directory}. Give metadata/ and keys/online/ to the server; keep keys/offline/ away from it. "
        f"sha256 of the root: {facts['root_sha256']}"
    )
    emit(facts, as_json=as_json, text=text)


@click.command()
@click.argument("path", metavar="NAME.pem", type=NEW_FILE)
@scheme_option
@click.option("--encrypt", is_flag=True, help="With a passphrase, from OTARIA_KEY_PASSPHRASE or asked for.")
@click.option("--name", help="Whose key it is, for people; otherwise the file's name.")
@json_option
def generate(path: Path, scheme: str, encrypt: bool, name: str | None, as_json: bool) -> None:
    """Make a key pair on a signer's own machine: NAME.pem stays there, NAME.key.json is public and is handed on.

    Example: otaria keys generate alice.pem --encrypt
    """
    if path.suffix != PRIVATE:
        raise click.UsageError(f"Name the file NAME{PRIVATE}, not {path.name}.")
    public = path.with_suffix(PUBLIC)
    if public.exists():
        raise RefusedError("key-exists", f"{public} exists already; a key is never overwritten.")
    secret = new_passphrase() if encrypt else None
    key = generate_file(path, scheme=scheme, passphrase=secret).public_key
    _write_key_file(public, key, f"file:{path.name}", name or path.stem)
    facts = {"private": str(path), "public": str(public), "keyid": key.keyid, "scheme": key.scheme}
    text = f"Made {path}, which never leaves this machine, and {public}, which you hand on. Key id: {key.keyid}"
    emit(facts, as_json=as_json, text=text)


@click.command()
@click.argument("uri")
@click.option("-o", "--output", metavar=f"NAME{PUBLIC}", type=NEW_FILE, required=True)
@click.option("--name", help="Whose key it is, for people; otherwise the file's name.")
@json_option
def public(uri: str, output: Path, name: str | None, as_json: bool) -> None:
    """Write the key file of a key that exists: in a file, a PKCS#11 token or a cloud's KMS.

    Example: otaria keys public 'hsm:2?label=root' -o alice.key.json
    """
    if not output.name.endswith(PUBLIC):
        raise click.UsageError(f"Name the file NAME{PUBLIC}, not {output.name}.")
    require_free(output)
    key = public_key(uri, secrets)
    place = f"file:{Path(uri.removeprefix('file:')).resolve()}" if uri.startswith("file:") else uri
    _write_key_file(output, key, place, name or output.name.removesuffix(PUBLIC))
    facts = {"public": str(output), "keyid": key.keyid, "scheme": key.scheme}
    emit(facts, as_json=as_json, text=f"Wrote {output}. Key id: {key.keyid}")


def _write_key_file(path: Path, key: SSlibKey, uri: str, name: str) -> None:
    with atomic_output(path) as file:
        file.write(key_file(key, uri=uri, name=name))


def _publics(given: tuple[str, ...]) -> dict[str, list[SSlibKey]]:
    out: dict[str, list[SSlibKey]] = {}
    for entry in given:
        role, equals, path = entry.partition("=")
        if not equals:
            raise click.UsageError(f"--public wants ROLE=FILE, not {entry}.")
        key = read_key_file(Path(path))[0]
        if role == "root" and key_name(key) in {key_name(other) for other in out.get(role, [])} - {""}:
            raise click.UsageError(f"Two root keys are named {key_name(key)}; give them different names.")
        out.setdefault(role, []).append(key)
    return out
