"""Key files on disk: private (0600) from their first byte, whole or absent, made by one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from firmware.errors import RefusedError

LOCK_FILE = ".lock"


@contextmanager
def locked_directory(directory: Path) -> Iterator[None]:
    """Create the directory (0700) if need be and hold its lock: two processes never make two authorities."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, data: bytes) -> None:
    """Atomically write a 0600 file: temp, fsync, rename, fsync of the directory."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    move_private(temporary, path)


def move_private(source: Path, path: Path) -> None:
    """Atomically and durably put a file of the same directory in another's place."""
    source.replace(path)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def load_or_make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in a PEM file, made at first use; raises `RefusedError` (`bad-key-file`) for anything else in it."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(path, key_pem(key))
        return key
    return load_key(path)


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in a PEM file that is there; raises `RefusedError` (`bad-key-file`) for anything else in it."""
    try:
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise _bad_key(path) from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise _bad_key(path)
    return loaded


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM (PKCS #8), not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _bad_key(path: Path) -> RefusedError:
    return RefusedError("bad-key-file", f"{path} is not a P-256 private key in PEM; restore it from a backup.")
