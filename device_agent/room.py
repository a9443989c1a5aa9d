"""How much room a device has for what it stages and keeps, as a label that strategies ask for."""

import os
from collections.abc import Iterable
from pathlib import Path

LABEL = "free-bytes"
DIGITS = 2
MAX_LABELS = 64


def with_room(labels: dict[str, str], folders: Iterable[Path]) -> dict[str, str]:
    """The labels with the bytes that are free in the fullest of these folders, rounded down to two digits, so that it isn't a new
    fact with every file. A label of that name that the operator gave stays, and so do 64 others."""
    free = [size for folder in folders if (size := _free(folder)) is not None]
    if not free or LABEL in labels or len(labels) >= MAX_LABELS:
        return labels
    digits = str(min(free))
    return {**labels, LABEL: digits[:DIGITS].ljust(len(digits), "0")}


def _free(folder: Path) -> int | None:
    """What an unprivileged process could still write there; None where there is no such folder."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
