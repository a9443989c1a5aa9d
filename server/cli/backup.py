"""`otaria backup` and `otaria restore`: a server in one file, and back."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click
import msgspec

from firmware.errors import RefusedError
from server.backup import making, restoring
from server.cli.backup_locks import locked, unlocked
from server.cli.output import emit, json_option, stamp
from server.config import load_settings

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default="otaria.toml",
    show_default=True,
    help="The settings.",
)
PEM = click.Path(path_type=Path, dir_okay=False, exists=True)
ENCRYPT = "It holds private keys and is not encrypted: keep it where they may be, or encrypt it (--to, --passphrase)."
ENCRYPTED = "It is encrypted; without the key or passphrase nobody restores it."


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@CONFIG
@click.option("--artifacts", is_flag=True, help="With the images and deltas that are files, not only the list of them.")
@click.option("--to", "recipients", type=PEM, multiple=True, help="Encrypt it to this X25519 public key (PEM).")
@click.option(
    "--passphrase", is_flag=True, help="Encrypt it under a passphrase: asked for, or OTARIA_BACKUP_PASSPHRASE."
)
@json_option
def backup(
    file: Path, config: Path, artifacts: bool, recipients: tuple[Path, ...], passphrase: bool, as_json: bool
) -> None:
    """Write a backup of the server on this machine, which may run, into the new FILE (`-`: standard output).

    Database, authorities, online keys, catalogue, settings, and the list of artifacts. It holds private keys: encrypt it to a key
    whose private half is kept elsewhere, or under a passphrase.

    Example: otaria backup otaria-monday.backup --to office.pub.pem
    """
    settings = load_settings(config)
    is_locked = passphrase or bool(recipients)
    with _out(file) as raw, locked(raw, with_passphrase=passphrase, to=recipients) as out:
        manifest = making.make_backup(out, settings, config, artifacts=artifacts, now=time.time())
    length = sum(member.length for member in manifest.members)
    lines = [f"Wrote {file}: {len(manifest.members)} files, {length:,} bytes. {ENCRYPTED if is_locked else ENCRYPT}"]
    if manifest.database == "postgresql":
        lines.append("The database is PostgreSQL's own to back up: pg_dump --format=custom -f otaria.pgdump URL.")
    listed, bucket = sum(not one.included for one in manifest.artifacts), settings.artifacts.bucket
    if listed and settings.artifacts.store == "s3":
        lines.append(f"{listed} artifacts are listed, not included: the bucket {bucket} needs a backup of its own.")
    elif listed:
        lines.append(f"{listed} artifacts are listed, not included; copy them, or use --artifacts.")
    lines += [f"Not included: {path}." for path in making.left_out(settings)]
    facts = {
        "file": str(file),
        "made_at": manifest.made_at,
        "files": len(manifest.members),
        "bytes": length,
        "encrypted": is_locked,
        "database": manifest.database,
        "director_epoch": manifest.director_epoch,
        "artifacts": len(manifest.artifacts),
        "not_included": [str(path) for path in making.left_out(settings)],
    }
    if str(file) == "-":
        for line in lines:
            click.echo(line, err=True)
        return
    emit(facts, as_json=as_json, text="\n".join(lines))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@CONFIG
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The newest audit checkpoint that is left: the trail then names it as lost.",
)
@click.option("--key", "keys", type=PEM, multiple=True, help="The private key (PEM) of an encrypted backup.")
@json_option
def restore(file: Path, config: Path, checkpoint: Path | None, keys: tuple[Path, ...], as_json: bool) -> None:
    """Make a server of the backup FILE: its hashes are checked first, and nothing is written over.

    Settings that are not there are taken from the backup; the passphrase of an encrypted one is asked for, or in
    OTARIA_BACKUP_PASSPHRASE. The server starts once the director epoch has risen. For --checkpoint
    take audit-checkpoint.json out of the lost state directory, or one that was kept (`otaria audit checkpoint`).

    Example: otaria restore otaria-monday.tar --config otaria.toml
    """
    if not config.exists():
        _take_settings(file, config, keys)
    settings = load_settings(config)
    with unlocked(file, keys) as archive:
        done = restoring.restore(
            archive, settings, now=time.time(), checkpoint=checkpoint.read_bytes() if checkpoint else None
        )
    lines = [f"Restored the backup of {stamp(done.made_at)} into {settings.state}."]
    if done.database == "postgresql":
        lines.append("Restore the database itself: pg_restore --clean --if-exists -d URL otaria.pgdump.")
    if done.kept_catalogue:
        lines.append(f"Kept the catalogue in {settings.repository}, which is at least as new.")
    else:
        lines.append(
            f"Restored the catalogue into {settings.repository}. If releases were published since, publish them again: devices "
            "refuse the catalogue until it has what they have seen."
        )
    if done.missing:
        where = settings.state / "artifacts" if settings.artifacts.store == "files" else settings.artifacts.bucket
        lines.append(f"{len(done.missing)} artifacts are missing: copy them into {where}, or publish again.")
    if done.unseen:
        lines.append(f"Whether all artifacts are in the bucket could not be seen. {done.unseen}")
    lines.append(
        f"Before the server starts, the director epoch must rise from {done.epoch} to {done.epoch_wanted}, so that no order goes "
        "behind those that were given since. Where the keys of `targets` are:\n  otaria keys raise-epoch --repository DIR"
    )
    emit(msgspec.to_builtins(done), as_json=as_json, text="\n".join(lines))


def _take_settings(file: Path, config: Path, keys: tuple[Path, ...]) -> None:
    with unlocked(file, keys) as archive:
        _, text = restoring.read_settings(archive)
    if not text:
        raise RefusedError("config", f"The backup holds no settings; write {config} first.")
    config.write_bytes(text)


@contextmanager
def _out(file: Path) -> Iterator[IO[bytes]]:
    """A new private file that goes away again unless the block ends well; or standard output."""
    if str(file) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise RefusedError("file-exists", f"{file} is there already; name another file.") from error
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
