"""Signing keys as files: PKCS#8 PEM, ECDSA P-256, mode 0600, made once and never overwritten.

A key is found by its key id, not by its file's name, so that a machine may hold any part of the keys.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Role

from firmware.errors import RefusedError

SUFFIX = ".pem"


def generate(path: Path) -> CryptoSigner:
    """Make a key pair and write the private key; raises `RefusedError` (`key-exists`) rather than overwrite."""
    signer = CryptoSigner.generate_ecdsa()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise RefusedError("key-exists", f"{path} exists already; a key is never overwritten.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(signer.private_bytes)
        file.flush()
        os.fsync(file.fileno())
    return signer


class Keyring:
    """The signing keys in some directories. Reads them when first needed."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._directories = tuple(directories)
        self._signers: dict[str, Signer] | None = None

    def signers(self, role: Role) -> list[Signer]:
        """The keys held here that may sign for `role`, in the role's order."""
        held = self._held()
        return [held[keyid] for keyid in role.keyids if keyid in held]

    def enough(self, role: Role, name: str) -> list[Signer]:
        """As `signers`; raises `RefusedError` (`key-missing`) for fewer than the role's threshold."""
        found = self.signers(role)
        if len(found) < role.threshold:
            places = ", ".join(str(directory) for directory in self._directories) or "no directory"
            raise RefusedError(
                "key-missing",
                f"Signing {name} needs {role.threshold} of its keys and {len(found)} are here ({places}); "
                "sign it on the machine that holds them.",
            )
        return found

    def _held(self) -> dict[str, Signer]:
        if self._signers is None:
            files = [path for directory in self._directories for path in sorted(directory.glob(f"*{SUFFIX}"))]
            signers = [_load(path) for path in files]
            self._signers = {signer.public_key.keyid: signer for signer in signers}
        return self._signers


def _load(path: Path) -> CryptoSigner:
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), password=None))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError("key-unreadable", f"{path} is not a readable, unencrypted PEM private key.") from error
