"""Signing keys as files: PKCS#8 PEM, plain or encrypted, mode 0600, made once and never overwritten; and keys elsewhere.

A key is found by its key id, not by its file's name, so that a machine may hold any part of the keys. A directory may also
hold key files (`*.key.json`) that name an HSM's or a cloud's key by URI.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Role

from firmware.catalogue.signers import (
    PRIVATE,
    PUBLIC,
    Secrets,
    file_public_key,
    open_file,
    open_signer,
    read_key_file,
    secrets_from_environment,
)
from firmware.errors import RefusedError

SUFFIX = PRIVATE
ECDSA = "ecdsa"
SCHEMES: dict[str, Callable[[], CryptoSigner]] = {
    ECDSA: CryptoSigner.generate_ecdsa,
    "ed25519": CryptoSigner.generate_ed25519,
}


def generate(path: Path, *, scheme: str = ECDSA, passphrase: str | None = None) -> CryptoSigner:
    """Make a key pair and write the private key, encrypted if there is a passphrase; the file then ends in the public key,
    so that its owner can be told without the passphrase. Raises `RefusedError` (`key-exists`) rather than overwrite."""
    signer = SCHEMES[scheme]()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise RefusedError("key-exists", f"{path} exists already; a key is never overwritten.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(_encrypted(signer, passphrase) if passphrase else signer.private_bytes)
        file.flush()
        os.fsync(file.fileno())
    return signer


def _encrypted(signer: CryptoSigner, passphrase: str) -> bytes:
    key = load_pem_private_key(signer.private_bytes, password=None)
    encryption = BestAvailableEncryption(passphrase.encode())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption) + public


class Keyring:
    """The signing keys in some directories, and those that URIs name. Read when first needed, unlocked when first used."""

    def __init__(
        self, directories: Iterable[Path], *, uris: Iterable[str] = (), secrets: Secrets = secrets_from_environment
    ) -> None:
        self._directories = tuple(directories)
        self._uris = tuple(uris)
        self._secrets = secrets
        self._held: dict[str, Callable[[], Signer]] | None = None
        self._open: dict[str, Signer] = {}

    def holds(self, keyid: str) -> bool:
        """Whether the key is here; needs no passphrase."""
        return keyid in self._sources()

    def held(self, role: Role) -> list[str]:
        """Ids of the keys held here that may sign for `role`, in the role's order; needs no passphrase."""
        return [keyid for keyid in role.keyids if keyid in self._sources()]

    def signers(self, role: Role) -> list[Signer]:
        """The keys held here that may sign for `role`, in the role's order."""
        return [self.signer(keyid) for keyid in self.held(role)]

    def enough(self, role: Role, name: str) -> list[Signer]:
        """As `signers`; raises `RefusedError` (`key-missing`) for fewer than the role's threshold."""
        found = self.held(role)
        if len(found) < role.threshold:
            places = ", ".join(str(place) for place in (*self._directories, *self._uris)) or "no directory"
            raise RefusedError(
                "key-missing",
                f"Signing {name} needs {role.threshold} of its keys and {len(found)} are here ({places}); "
                "sign it on the machine that holds them.",
            )
        return self.signers(role)

    def signer(self, keyid: str) -> Signer:
        """The signer of a key that is held here, unlocked."""
        if keyid not in self._open:
            self._open[keyid] = self._sources()[keyid]()
        return self._open[keyid]

    def _sources(self) -> dict[str, Callable[[], Signer]]:
        if self._held is None:
            held: dict[str, Callable[[], Signer]] = {}
            for directory in self._directories:
                for path in sorted(directory.glob(f"*{PUBLIC}")):
                    key, uri = read_key_file(path)
                    if uri and _present(uri, directory):
                        held[key.keyid] = self._later(str(path))
                for path in sorted(directory.glob(f"*{PRIVATE}")):
                    held |= self._file(path)
            for uri in self._uris:
                held |= self._named(uri)
            self._held = held
        return self._held

    def _file(self, path: Path) -> dict[str, Callable[[], Signer]]:
        public = file_public_key(path)
        if public is not None:
            return {public.keyid: self._later(f"file:{path}")}
        signer = open_file(path, self._secrets)
        return {signer.public_key.keyid: lambda: signer}

    def _named(self, uri: str) -> dict[str, Callable[[], Signer]]:
        signer = open_signer(uri, self._secrets)
        return {signer.public_key.keyid: lambda: signer}

    def _later(self, source: str) -> Callable[[], Signer]:
        return lambda: open_signer(source, self._secrets)


def _present(uri: str, directory: Path) -> bool:
    """Whether the private half that a key file names may be here; a file that is not there is elsewhere."""
    scheme, _, path = uri.partition(":")
    return scheme != "file" or (directory / path).is_file()
