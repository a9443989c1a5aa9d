"""The agent's own folder of a host: the ledger, and the package files that its ways need.

The ledger is replaced whole. A package file is believed by the hash that the ledger has of it, each time it is used.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from device_agent.packages.ladder import Ledger, Move, files_kept
from device_agent.ports import Effects
from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json

LEDGER_FILE, FILES_FOLDER, WORK_FOLDER = "ledger.json", "debs", "work"
MAX_LEDGER_BYTES = 32 << 20
READ_BYTES = 1 << 20


class PackageStore:
    """Over `Effects`. `folder` is made when it isn't there."""

    def __init__(self, effects: Effects, folder: Path) -> None:
        self._effects, self._folder = effects, folder
        for name in (FILES_FOLDER, WORK_FOLDER):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def files(self) -> Path:
        """Where package files are."""
        return self._folder / FILES_FOLDER

    @property
    def work(self) -> Path:
        """What a back end may use as it likes."""
        return self._folder / WORK_FOLDER

    def load(self) -> Ledger:
        """The ledger; a fresh one where there is none. Raises `RefusedError` (`malformed`) for a damaged one."""
        data = self._effects.read(self._folder / LEDGER_FILE)
        return Ledger() if data is None else convert(parse_json(data, max_bytes=MAX_LEDGER_BYTES), Ledger)

    def save(self, ledger: Ledger) -> None:
        """Durable when it returns."""
        self._effects.replace(self._folder / LEDGER_FILE, canonical(ledger))

    def names(self) -> list[str]:
        return self._effects.names(self.files)

    def sha256(self, name: str) -> str | None:
        """The hash of a file's bytes; None when it isn't there."""
        path, digest, offset = self.files / name, hashlib.sha256(), 0
        if self._effects.size(path) is None:
            return None
        while chunk := self._effects.read_at(path, offset, READ_BYTES):
            digest.update(chunk)
            offset += len(chunk)
        return digest.hexdigest()

    def keep(self, names: Iterable[str]) -> None:
        """Make files durable that somebody else wrote."""
        for name in names:
            self._effects.fsync(self.files / name)

    def remove(self, name: str) -> None:
        self._effects.unlink(self.files / name)

    def prune(self, ledger: Ledger) -> None:
        """Remove what no way needs any more."""
        needed = files_kept(ledger)
        for name in self.names():
            if name not in needed:
                self.remove(name)

    def damaged(self, moves: Iterable[Move]) -> str | None:
        """The first of the moves' files that isn't what it was; None when all are."""
        for move in moves:
            for side in (move.new, move.old):
                if side.file is not None and self.sha256(side.file) != side.sha256:
                    return side.file
        return None

    def path(self, name: str | None) -> Path:
        """Raises `RefusedError` (`malformed`) for a name that would lead elsewhere."""
        if not name or "/" in name or name.startswith("."):
            raise RefusedError("malformed", f"The ledger names {name!r}, which is no package file.")
        return self.files / name
