"""The reports' way back: what waits in the outbox, written beside the bundle, or as text for people to carry.

Nothing depends on it. The outbox keeps every report until a signed ack, so what is written here is a copy: made anew whenever
something is reported (or a while after it failed), and gone without harm when the stick is.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from device_agent.bundle.shelf import Shelf
from device_agent.outbox import Outbox
from device_agent.ports import Effects
from firmware.bundle.evidence import to_line, to_text
from firmware.errors import OtariaError, RefusedError

log = logging.getLogger(__name__)
FOLDER = "otaria-reports"
JOURNAL_CHARS = 16


def make_folder(folder: Path) -> None:
    """The folder, made if it isn't there. Raises `OSError`, also for a link: it is on somebody's stick."""
    folder.mkdir(exist_ok=True)
    if folder.is_symlink():
        raise NotADirectoryError(20, "It is a link", str(folder))


class Returns:
    """Writes reports beside the bundle in use."""

    def __init__(
        self, effects: Effects, shelf: Shelf, target: str, prepare: Callable[[Path], None] = make_folder
    ) -> None:
        self._effects, self._shelf, self._target, self._prepare = effects, shelf, target, prepare
        self._trouble = ""

    def write(self, outbox: Outbox) -> bool:
        """Write what waits, when a bundle is in use, beside it; False when its stick is not there, or doesn't take it."""
        try:
            noted = self._shelf.noted() if outbox.entries and self._shelf.current() is not None else None
            if noted is not None:
                write_reports(self._effects, Path(noted.path).parent / FOLDER, self._target, outbox, self._prepare)
        except (OSError, OtariaError) as error:
            if str(error) != self._trouble:  # a stick may be away for long, and is looked for again and again
                log.info("reports not written beside the bundle", extra={"reason": str(error)})
            self._trouble = str(error)
            return False
        self._trouble = ""
        return True


def write_reports(
    effects: Effects, folder: Path, target: str, outbox: Outbox, prepare: Callable[[Path], None] = make_folder
) -> Path:
    """Write what waits in the outbox into a folder, atomically; the file. Raises `RefusedError` (`no-reports`), `OSError`."""
    _require(outbox)
    prepare(folder)
    path = folder / f"{target}-{outbox.journal[:JOURNAL_CHARS]}.jsonl"
    data = b"".join(to_line(entry.leaf, entry.envelope) for entry in outbox.entries)
    if effects.read(path) != data:
        effects.replace(path, data)
    return path


def text_of(outbox: Outbox) -> list[str]:
    """What waits in the outbox as the parts of a text. Raises `RefusedError` (`no-reports`, `too-large`)."""
    _require(outbox)
    return to_text([(entry.leaf, entry.envelope) for entry in outbox.entries])


def _require(outbox: Outbox) -> None:
    if not outbox.entries:
        raise RefusedError("no-reports", "No report waits here; the server has them all.")
