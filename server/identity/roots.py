"""The TUF roots a claim token may pin: every version ever published, found by its hash.

A token made before a root rotation still names the old root; the device starts there and follows the chain itself.
"""

import hashlib
import re
from pathlib import Path

from firmware.errors import RefusedError

MAX_ROOT_BYTES = 512 * 1024
_ROOT_NAME = re.compile(r"([1-9][0-9]{0,8})\.root\.json")


class Roots:
    """The `N.root.json` files of a metadata directory; read at every call, so that a rotation needs no restart."""

    def __init__(self, metadata: Path) -> None:
        self._metadata = metadata

    def newest(self) -> bytes:
        """The bytes of the highest version; raises `RefusedError` (`no-root`) when there is none."""
        versions = self._by_version()
        if not versions:
            raise RefusedError(
                "no-root", f"{self._metadata} holds no TUF root; make the catalogue first with `otaria keys init`."
            )
        return versions[max(versions)].read_bytes()

    def with_sha256(self, sha256: str) -> bytes:
        """The bytes of the root with this hash; raises `RefusedError` (`unknown-root`)."""
        for path in self._by_version().values():
            data = path.read_bytes()
            if len(data) <= MAX_ROOT_BYTES and hashlib.sha256(data).hexdigest() == sha256:
                return data
        raise RefusedError(
            "unknown-root", "The claim token pins a catalogue root this server does not have; ask for a new token."
        )

    def _by_version(self) -> dict[int, Path]:
        if not self._metadata.is_dir():
            return {}
        found = ((_ROOT_NAME.fullmatch(path.name), path) for path in self._metadata.iterdir())
        return {int(match[1]): path for match, path in found if match}
