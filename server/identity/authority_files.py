"""Where an authority is kept: `STEM.pem`, whose first certificate signs and whose others are accepted as well, and `STEM.key`,
which holds its key or says in which token it is.

Replacing an authority touches both files. The new key is written aside first and takes its place last, so that a crash in
between leaves what the next start can finish or forget: the certificate file alone decides.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from firmware.errors import RefusedError
from server.identity.authority_keys import MakeKey, forget_key, key_file_of, load_authority_key
from server.identity.certificates import Authority, make_authority, new_key, pem_of
from server.identity.private_files import move_private, write_private

MAX_ACCEPTED = 4
_KEPT = re.compile(r"[0-9a-f]{16}")


def fingerprint_of(certificate: x509.Certificate) -> str:
    """sha256 (hex) of the DER, as claim tokens pin it."""
    return certificate.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True, kw_only=True)
class AuthorityFiles:
    """The files of one authority, and what makes its keys. The caller holds the directory's lock. Blocking."""

    directory: Path
    stem: str
    keys: MakeKey = new_key

    @property
    def certificates_file(self) -> Path:
        return self.directory / f"{self.stem}.pem"

    @property
    def key_file(self) -> Path:
        return self.directory / f"{self.stem}.key"

    @property
    def _next_key_file(self) -> Path:
        return self.directory / f"{self.stem}.key.next"

    def exists(self) -> bool:
        return self.certificates_file.exists()

    def open(self) -> tuple[Authority, tuple[x509.Certificate, ...]]:
        """The authority that signs, and the certificates of those that are accepted beside it.

        Raises `RefusedError` (`bad-key-file`, `bad-certificate-file`) for anything that is damaged or missing.
        """
        certificates = load_certificates(self.certificates_file)
        self._finish(certificates[0])
        if not self.key_file.exists():
            raise RefusedError(
                "bad-key-file", f"{self.key_file} is missing beside its certificate; restore it from a backup."
            )
        key = load_authority_key(self.key_file)
        if certificates[0].public_key() != key.public_key():
            raise RefusedError(
                "bad-certificate-file",
                f"{self.certificates_file} and {self.key_file} do not belong together; restore both.",
            )
        return Authority(certificate=certificates[0], key=key), tuple(certificates[1:])

    def open_or_make(self, name: str, now: float) -> tuple[Authority, tuple[x509.Certificate, ...]]:
        """As `open`; makes the authority when there is none."""
        if not self.exists():
            if not self.key_file.exists():
                write_private(self.key_file, key_file_of(self.keys()))
            authority = make_authority(name, now, load_authority_key(self.key_file))
            write_private(self.certificates_file, authority.pem)
        return self.open()

    def install(self, authority: Authority, accepted: tuple[x509.Certificate, ...]) -> None:
        """Put another authority in its place, which accepts these besides. Crash-safe."""
        write_private(self._next_key_file, key_file_of(authority.key))
        write_private(self.certificates_file, authority.pem + b"".join(map(pem_of, accepted)))
        move_private(self._next_key_file, self.key_file)

    def accept_only(self, accepted: tuple[x509.Certificate, ...]) -> None:
        """Keep the authority that signs, and accept these besides."""
        authority, _ = self.open()
        write_private(self.certificates_file, authority.pem + b"".join(map(pem_of, accepted)))

    def keep_key(self, authority: Authority) -> None:
        """Keep the key of an authority that is about to be replaced, for its revocation lists."""
        write_private(self._kept_key_file(authority.certificate), key_file_of(authority.key))

    def kept(self, certificate: x509.Certificate) -> Authority:
        """An authority that is only accepted, with the key that was kept; raises `RefusedError` (`bad-key-file`)."""
        path = self._kept_key_file(certificate)
        if not path.exists():
            raise RefusedError("bad-key-file", f"{path} is missing; restore it from a backup, or retire that CA.")
        return Authority(certificate=certificate, key=load_authority_key(path))

    def forget_kept(self) -> None:
        """Destroy the keys of authorities that were replaced."""
        for path in self.directory.glob(f"{self.stem}-*.key"):
            if _KEPT.fullmatch(path.stem.removeprefix(f"{self.stem}-")):
                forget_key(path)

    def _kept_key_file(self, certificate: x509.Certificate) -> Path:
        return self.directory / f"{self.stem}-{fingerprint_of(certificate)[:16]}.key"

    def _finish(self, signing: x509.Certificate) -> None:
        """Finish or forget a replacement that a crash cut short."""
        if not self._next_key_file.exists():
            return
        if load_authority_key(self._next_key_file).public_key() == signing.public_key():
            move_private(self._next_key_file, self.key_file)
        else:
            self._next_key_file.unlink()


def load_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, one at least; raises `RefusedError` (`bad-certificate-file`)."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise RefusedError("bad-certificate-file", f"{path} is not a certificate in PEM; restore it.") from error
