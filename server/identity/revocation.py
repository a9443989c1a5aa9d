"""Revocation lists as brokers read them: which certificates of agents open nothing any more, though their time is not over."""

import re
from pathlib import Path

from cryptography import x509

from firmware.errors import RefusedError
from server.identity.authority import Authorities
from server.identity.private_files import write_private
from server.ports import Clock, Database

_LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----\n?", re.DOTALL)


class Revocations:
    """Keeps `fleet-crl.pem` at what the database says."""

    def __init__(self, database: Database, authorities: Authorities, *, clock: Clock) -> None:
        self._database, self._authorities, self._clock = database, authorities, clock

    async def write(self) -> bool:
        """Write the lists anew if they don't say who is shut out now; whether they were written."""
        now = self._clock.now()
        shut_out = await self._database.read(lambda unit: unit.identities.shut_out_serials(now))
        serials = [certificate.serial for certificate in shut_out]
        return self._write(serials)

    def _write(self, serials: list[str]) -> bool:
        path, accepted = self._authorities.revocation_file, 1 + len(self._authorities.accepted)
        try:
            held = revoked_in(path)
            same = held == {int(serial, 16) for serial in serials} and len(_lists(path)) == accepted
        except (OSError, RefusedError):
            same = False
        if not same:
            write_private(path, self._authorities.revocation_lists(serials))
        return not same


def revoked_in(path: Path) -> frozenset[int]:
    """The serials that a file's lists revoke; raises `RefusedError` (`bad-certificate-file`)."""
    try:
        return frozenset(entry.serial_number for pem in _lists(path) for entry in x509.load_pem_x509_crl(pem))
    except ValueError as error:
        raise RefusedError("bad-certificate-file", f"{path} holds no revocation lists; restart the server.") from error


def _lists(path: Path) -> list[bytes]:
    return _LIST.findall(path.read_bytes())
