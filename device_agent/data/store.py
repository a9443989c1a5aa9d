"""The data partition: a folder for each schema (`v3`), the one that is being made (`v4.partial`), and what goes (`v3.gone`).

`v4` is there whole or not at all: it is copied and migrated as `v4.partial`, flushed, and then renamed. Whatever a cut left is
removed, and made anew from the old folder, which nobody wrote meanwhile. What runs finds its folder by a link in a place that a
reboot empties: no link is ever changed under the other slot.
"""

import errno
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from device_agent.core.values import Migration
from device_agent.ports import Trees
from firmware.errors import UnavailableError
from firmware.protocol.report import Reason
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
PARTIAL, GONE = ".partial", ".gone"
MOST_AT_ONCE = 256
POLL_S = 0.1
SPARE_BYTES = 1 << 20
"""Left free beside what a migration needs: the journal and others write there, too."""


class DataStore:
    """The data of one device, in `directory`; `link` leads to what runs."""

    def __init__(
        self, trees: Trees, directory: Path, link: Path, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._trees, self._directory, self._link, self._monotonic = trees, directory, link, monotonic

    def has(self, schema: int) -> bool:
        """Whether the data of this schema is there. Raises `OSError`."""
        return self._trees.exists(self._folder(schema))

    def lacks_room(self, source: int, room_bytes: int) -> Reason | None:
        """Why the data of `source` can't be copied, with `room_bytes` beside it. Raises `OSError`."""
        folder = self._folder(source)
        needed = (self._trees.bytes_in(folder) if self._trees.exists(folder) else 0) + room_bytes + SPARE_BYTES
        free = self._trees.free_bytes(self._directory)
        if free >= needed:
            return None
        text = f"{self._directory} has {free} bytes free; to migrate the data of schema {source} takes {needed}. Make room there."
        return Reason(kind=ReasonKind.DATA_NO_ROOM, text=text)

    def migrate(self, migration: Migration, facts: Mapping[str, str], stop: Callable[[], bool]) -> Reason | None:
        """Make the new data from the old; why that failed, or None. A stop is a failure, too: whoever stops is restarting."""
        end = self._monotonic() + migration.timeout_s
        try:
            return self._migrate(migration, facts, lambda: stop() or self._monotonic() >= end)
        except OSError as error:
            kind = (
                ReasonKind.DATA_NO_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else ReasonKind.MIGRATION_FAILED
            )
            what = f"the data of schema {migration.source} into schema {migration.schema}"
            text = f"The medium did not let the agent make {what}: {error.strerror or error}."
            return Reason(kind=kind, text=text[:1024])

    def show(self, schema: int) -> None:
        """Point the link at the data of this schema. Where there is no data at all yet, its folder is made. Raises `OSError`."""
        folder = self._folder(schema)
        if not self._trees.exists(folder):
            others = [name for name in self._trees.names(self._directory) if _is_data(name)]
            if others:
                self._trees.unlink(self._link)
                log.error("the data of what runs is not there", extra={"schema": schema, "there": ",".join(others)})
                return
            self._trees.make(folder)
        self._trees.link(self._link, folder)

    def remove(self, schema: int, stop: Callable[[], bool]) -> None:
        """Remove the data of this schema, bit by bit, until it is gone or `stop()`. Raises `OSError`."""
        folder = self._folder(schema)
        for leftover in (folder.with_name(folder.name + PARTIAL), folder.with_name(folder.name + GONE)):
            self._remove(leftover, stop)
        gone = folder.with_name(folder.name + GONE)
        if self._trees.exists(folder) and not stop():
            self._trees.rename(folder, gone)
            self._remove(gone, stop)

    def _migrate(self, migration: Migration, facts: Mapping[str, str], is_over: Callable[[], bool]) -> Reason | None:
        self._trees.unlink(self._link)
        source, target = self._folder(migration.source), self._folder(migration.schema)
        partial = target.with_name(target.name + PARTIAL)
        self.remove(migration.schema, is_over)
        if not self._trees.exists(source):
            return Reason(
                kind=ReasonKind.MIGRATION_FAILED, text=f"{source} isn't there, so there is nothing to migrate."
            )
        lacking = self.lacks_room(migration.source, migration.room_bytes)
        if lacking is not None:
            return lacking
        self._trees.copy(source, partial, is_over=is_over)
        failed = self._run(migration, partial, facts, is_over)
        if failed is None:
            self._trees.sync(partial)
            self._trees.rename(partial, target)
        return failed

    def _run(
        self, migration: Migration, folder: Path, facts: Mapping[str, str], is_over: Callable[[], bool]
    ) -> Reason | None:
        environment = {
            **{f"OTARIA_{name.upper()}": value for name, value in facts.items()},
            "OTARIA_DATA": str(folder),
            "OTARIA_DATA_FROM": str(migration.source),
            "OTARIA_DATA_SCHEMA": str(migration.schema),
        }
        ended = self._trees.run(migration.argv, folder, environment, is_over=is_over)
        if ended.code == 0:
            return None
        why = f"ended with {ended.code}" if ended.code is not None else "was stopped for its time"
        why = ended.error or why
        text = f"The migration from schema {migration.source} to {migration.schema} ({migration.argv[0]}) {why}{ended.said}."
        return Reason(kind=ReasonKind.MIGRATION_FAILED, text=text[:1024])

    def _remove(self, folder: Path, stop: Callable[[], bool]) -> None:
        while self._trees.exists(folder) and not stop():
            self._trees.remove(folder, most=MOST_AT_ONCE)

    def _folder(self, schema: int) -> Path:
        return self._directory / f"v{schema}"


def shown(link: Path, *, wait_s: float = 0.0) -> Path:
    """The folder that what runs finds its data in, at the latest after `wait_s`. Raises `UnavailableError` (`data-not-ready`)."""
    end = time.monotonic() + wait_s
    while True:
        try:
            return link.readlink()
        except OSError as error:
            if time.monotonic() >= end:
                text = f"{link} isn't there: the agent hasn't shown the data yet, or it is being migrated. Wait for it."
                raise UnavailableError("data-not-ready", text) from error
        time.sleep(POLL_S)


def _is_data(name: str) -> bool:
    return name[:1] == "v" and name[1:].isascii() and name[1:].isdigit()
