"""Revocation lists as brokers read them: which certificates of agents open nothing any more, though their time is not over."""

import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from firmware.errors import RefusedError
from server.identity.authority import Authorities
from server.identity.private_files import write_private
from server.ports import Clock, Database

RENEW_S = 86_400.0
OLD_S = 2 * RENEW_S
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----\n?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ListState:
    """Of the revocation lists: when they were signed (POSIX seconds; null: they can't be read), how many certificates they
    revoke, and whether they are older than the server lets them become."""

    made_at: float | None
    revoked: int
    is_old: bool


class Revocations:
    """Keeps `fleet-crl.pem` at what the database says, and signs it anew each day: its age tells that somebody still does."""

    def __init__(self, database: Database, authorities: Authorities, *, clock: Clock) -> None:
        self._database, self._authorities, self._clock = database, authorities, clock

    async def write(self) -> bool:
        """Write the lists anew if they are a day old or don't say who is shut out now; whether they were written."""
        now = self._clock.now()
        shut_out = await self._database.read(lambda unit: unit.identities.shut_out_serials(now))
        serials = [certificate.serial for certificate in shut_out]
        return self._write(serials, now)

    def _write(self, serials: list[str], now: float) -> bool:
        path, accepted = self._authorities.revocation_file, 1 + len(self._authorities.accepted)
        try:
            held = revoked_in(path)
            same = held == {int(serial, 16) for serial in serials} and len(_lists(path)) == accepted
            same = same and 0 <= now - made_in(path) < RENEW_S
        except (OSError, RefusedError):
            same = False
        if not same:
            write_private(path, self._authorities.revocation_lists(serials))
        return not same


def list_state(path: Path, now: float) -> ListState:
    """What a file's lists say of themselves; never raises. Blocking."""
    try:
        made_at, revoked = made_in(path), len(revoked_in(path))
    except (OSError, RefusedError):
        return ListState(made_at=None, revoked=0, is_old=True)
    return ListState(made_at=made_at, revoked=revoked, is_old=now - made_at > OLD_S)


def revoked_in(path: Path) -> frozenset[int]:
    """The serials that a file's lists revoke; raises `RefusedError` (`bad-certificate-file`)."""
    try:
        return frozenset(entry.serial_number for pem in _lists(path) for entry in x509.load_pem_x509_crl(pem))
    except ValueError as error:
        raise RefusedError("bad-certificate-file", f"{path} holds no revocation lists; restart the server.") from error


def made_in(path: Path) -> float:
    """When the oldest of a file's lists was signed, POSIX seconds; raises `RefusedError` (`bad-certificate-file`)."""
    try:
        lists = [x509.load_pem_x509_crl(pem) for pem in _lists(path)]
        return min(one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for one in lists) / 1000
    except (ValueError, x509.ExtensionNotFound) as error:
        raise RefusedError("bad-certificate-file", f"{path} holds no revocation lists; restart the server.") from error


def _lists(path: Path) -> list[bytes]:
    return _LIST.findall(path.read_bytes())
