"""Tells the server a host's packages: the whole, and from then on what changed.

What was told last is kept, in a file that is replaced before the report that tells it is durable. So the file may be ahead of the
reports, never behind; whenever the two don't fit, or the file is gone or damaged, the whole is told again.
"""

import logging
from pathlib import Path

from device_agent.ports import Effects
from firmware.errors import RefusedError
from firmware.host_packages import HostState, Telling, applied, pack, telling, unpack
from firmware.protocol.packages import MAX_PARTS, PART_BYTES, PackagesPart

log = logging.getLogger(__name__)
TOLD_FILE = "told"
SAY_AGAIN_S = 86400.0
"""After so long without news it is said what is held, so that a server that lost it can say so."""


class Teller:
    """Called from one thread. `folder` is there."""

    def __init__(self, effects: Effects, folder: Path) -> None:
        self._effects, self._path = effects, folder / TOLD_FILE
        self._told: HostState | None = None
        self._said_at: float | None = None

    def next(self, now_is: HostState, told: str, now: float) -> list[PackagesPart]:
        """What to tell somebody who was told `told` (empty: nothing) last; nothing when he knows it. What is told becomes what is
        kept. Raises `UnavailableError` or `OSError` when it can't be kept."""
        digest = now_is.digest
        if digest == told and self._said_at is not None and now - self._said_at < SAY_AGAIN_S:
            return []
        if digest == told:
            parts = [PackagesPart(base=told, now=digest)]
        else:
            before = self._kept(told)
            parts = in_parts(telling(before, now_is), told if before is not None else "", digest)
            self._effects.replace(self._path, pack(telling(None, now_is)))
            self._told = now_is
        self._said_at = now
        return parts

    def _kept(self, told: str) -> HostState | None:
        """What was told last, if it is at hand."""
        if not told:
            return None
        if self._told is None or self._told.digest != told:
            self._told = self._read()
        return self._told if self._told is not None and self._told.digest == told else None

    def _read(self) -> HostState | None:
        try:
            data = self._effects.read(self._path)
            return None if data is None else _state(unpack(data))
        except (RefusedError, OSError) as error:
            log.warning("what was told of the packages is lost; all is told again", extra={"reason": str(error)})
            return None


def in_parts(told: Telling, base: str, now: str) -> list[PackagesPart]:
    """A telling as it travels. Raises `RefusedError` (`too-large`)."""
    data = pack(told)
    pieces = [data[place : place + PART_BYTES] for place in range(0, len(data), PART_BYTES)]
    if len(pieces) > MAX_PARTS:
        raise RefusedError("too-large", f"The package list takes {len(data)} bytes, which is more than can be told.")
    return [
        PackagesPart(base=base, now=now, index=index, count=len(pieces), data=piece)
        for index, piece in enumerate(pieces)
    ]


def _state(told: Telling) -> HostState:
    return HostState(facts=told.facts, chunks=applied({}, told))
