"""Replacing the CAs, with an overlap in which the old and the new are both good. Files only; a restart puts them in force.

The *fleet* CA: the new one signs at once, the old one's certificates go on opening the listeners, and agents renew theirs
from the new one. Retiring the old one ends that; what is left of its certificates may still be renewed by proof of possession.

The *services* CA is what devices pin, so the new one is made first, and signs only after the catalogue has told devices
of it. The old one's key is destroyed when the new one takes its place.
"""

from dataclasses import dataclass
from pathlib import Path

from firmware.errors import RefusedError
from server.identity.authority import (
    FLEET,
    FLEET_NAME,
    NEXT_SERVICES,
    RETIRED_FILE,
    SERVICES,
    SERVICES_NAME,
)
from server.identity.authority_files import MAX_ACCEPTED, AuthorityFiles, load_certificates
from server.identity.authority_keys import MakeKey
from server.identity.certificates import make_authority, new_key, pem_of
from server.identity.private_files import locked_directory, write_private

MAX_RETIRED = 64


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """The CAs in one private directory, and what makes the keys of new fleet CAs. Blocking; every method takes the
    directory's lock. Times are POSIX seconds."""

    directory: Path
    fleet_keys: MakeKey = new_key

    def rotate_fleet(self, now: float) -> None:
        """Make a new fleet CA that signs from the next start on. Raises `RefusedError` (`too-many-cas`, `same-key`), and
        `UnavailableError` (`authority-unavailable`)."""
        with locked_directory(self.directory):
            files = self._files(FLEET)
            old, accepted = files.open()
            if len(accepted) >= MAX_ACCEPTED:
                raise RefusedError("too-many-cas", "Too many old fleet CAs are still accepted; retire them first.")
            key = self.fleet_keys()
            if any(key.public_key() == one.public_key() for one in (old.certificate, *accepted)):
                text = (
                    "`identity.fleet_key` names the key of a CA that is there; leave its id out, or name another one."
                )
                raise RefusedError("same-key", text)
            made = make_authority(FLEET_NAME, now, key)
            files.keep_key(old)
            files.install(made, (old.certificate, *accepted))

    def retire_fleet(self) -> None:
        """Accept no fleet CA but the one that signs. Raises `RefusedError` (`nothing-to-retire`)."""
        with locked_directory(self.directory):
            files, retired = self._files(FLEET), self.directory / RETIRED_FILE
            _, accepted = files.open()
            if not accepted:
                raise RefusedError("nothing-to-retire", "Only one fleet CA is accepted; `rotate` makes another one.")
            known = load_certificates(retired) if retired.exists() else []
            write_private(retired, b"".join(map(pem_of, [*accepted, *known][:MAX_RETIRED])))
            files.accept_only(())
            files.forget_kept()

    def prepare_services(self, now: float) -> bytes:
        """Make the next services CA, unless that is done already; returns its certificate as PEM."""
        with locked_directory(self.directory):
            upcoming, _ = self._files(NEXT_SERVICES).open_or_make(SERVICES_NAME, now)
            return upcoming.pem

    def switch_services(self) -> None:
        """Let the next services CA sign our own certificates from the next start on. Raises `RefusedError` (`no-next-ca`)."""
        with locked_directory(self.directory):
            upcoming, files = self._files(NEXT_SERVICES), self._files(SERVICES)
            if not upcoming.exists():
                raise RefusedError("no-next-ca", "There is no next services CA; `rotate services` makes one.")
            old, accepted = files.open()
            chosen, _ = upcoming.open()
            if chosen.certificate != old.certificate:
                files.install(chosen, (old.certificate, *accepted)[:MAX_ACCEPTED])
            upcoming.certificates_file.unlink()
            upcoming.key_file.unlink()

    def retire_services(self) -> None:
        """Forget the services CAs from before. Raises `RefusedError` (`nothing-to-retire`)."""
        with locked_directory(self.directory):
            files = self._files(SERVICES)
            if not files.open()[1]:
                raise RefusedError("nothing-to-retire", "Only one services CA is there; `switch` comes before this.")
            files.accept_only(())

    def _files(self, stem: str) -> AuthorityFiles:
        return AuthorityFiles(directory=self.directory, stem=stem)
