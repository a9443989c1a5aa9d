"""Who may open a backup, as options: keys in PEM files, and a passphrase from the environment or a prompt."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from firmware.encryption.content_key import private_from_pem
from firmware.errors import RefusedError
from server.backup import sealed

VARIABLE = "OTARIA_BACKUP_PASSPHRASE"
MIN_PASSPHRASE = 12


@contextmanager
def locked(out: IO[bytes], *, with_passphrase: bool, to: Sequence[Path]) -> Iterator[IO[bytes]]:
    """The file to write a backup into: `out`, encrypted if anybody is named who may open it."""
    if not with_passphrase and not to:
        yield out
        return
    recipients = [_public(path) for path in to]
    passphrase = _passphrase(new=True) if with_passphrase else None
    with sealed.sealing(out, passphrase=passphrase, recipients=recipients) as file:
        yield file


@contextmanager
def unlocked(path: Path, keys: Sequence[Path]) -> Iterator[IO[bytes]]:
    """A backup's archive, decrypted if it is encrypted. Raises `RefusedError` (`backup-locked`, `backup-damaged`)."""
    with path.open("rb") as file:
        if not sealed.is_sealed(file):
            yield file
            return
        held = [private_from_pem(key.read_bytes()) for key in keys]
        yield sealed.opened(file, passphrase=lambda: _passphrase(new=False), keys=held)


def _public(path: Path) -> X25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad(path) from error
    if not isinstance(key, X25519PublicKey):
        raise _bad(path)
    return key


def _passphrase(*, new: bool) -> str:
    """Raises `RefusedError`: `backup-locked` where nobody can be asked, `weak-passphrase`."""
    given = os.environ.get(VARIABLE)
    if not given:
        if not sys.stdin.isatty():
            text = f"The backup's passphrase is needed; set {VARIABLE}, or run this where it can ask you."
            raise RefusedError("backup-locked", text)
        given = click.prompt("Passphrase of the backup", hide_input=True, confirmation_prompt=new, err=True)
    if new and len(given) < MIN_PASSPHRASE:
        text = f"A backup's passphrase has {MIN_PASSPHRASE} characters or more, since whoever finds the file can guess for ever."
        raise RefusedError("weak-passphrase", text)
    return given


def _bad(path: Path) -> RefusedError:
    text = f"{path} is no X25519 public key in PEM; make a pair with `openssl genpkey -algorithm X25519`."
    return RefusedError("bad-encryption-key", text)
