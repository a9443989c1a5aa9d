"""What the resident process keeps of what a worker knows, so that it can connect without one: `known.json`.

It is as good as the journal beside it: written by this process, checked for damage, and worth nothing more. Whatever is wrong
with it, the first worker says what is right.
"""

import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from device_agent.ports import Effects
from device_agent.worker.wire import Facts
from firmware.protocol.codec import canonical

log = logging.getLogger(__name__)
KNOWN_FILE = "known.json"
MAX_BYTES = 1 << 20


class _Sealed(Struct, frozen=True, kw_only=True):
    checksum: str
    facts: msgspec.Raw


class KnownFacts:
    """The newest facts. `tell` is called on a worker's thread, everything else by any."""

    def __init__(self, effects: Effects, directory: Path) -> None:
        self._effects, self._path = effects, directory / KNOWN_FILE
        self._listeners: list[Callable[[Facts], None]] = []
        self._lock = threading.Lock()
        self._facts = self._stored()
        self.knows_director = False

    @property
    def is_empty(self) -> bool:
        """Whether no worker has ever told anything."""
        return self._facts is None

    @property
    def facts(self) -> Facts:
        return self._facts or Facts()

    def on_told(self, listener: Callable[[Facts], None]) -> None:
        """Call this whenever a worker tells its facts."""
        self._listeners.append(listener)

    def tell(self, facts: Facts) -> None:
        """A worker said this."""
        with self._lock:
            self.knows_director = facts.knows_director
            kept = msgspec.structs.replace(facts, knows_director=False)
            is_new, self._facts = kept != self._facts, kept
            if is_new:
                self._store(kept)
        for listener in self._listeners:
            listener(facts)

    def _store(self, facts: Facts) -> None:
        body = canonical(facts)
        sealed = canonical(_Sealed(checksum=hashlib.sha256(body).hexdigest(), facts=msgspec.Raw(body)))
        try:
            self._effects.replace(self._path, sealed)
        except OSError as error:  # the next process asks a worker again
            log.warning("what is known can't be kept", extra={"reason": str(error)})

    def _stored(self) -> Facts | None:
        try:
            data = self._effects.read(self._path)
            if data is None or len(data) > MAX_BYTES:
                return None
            sealed = msgspec.json.decode(data, type=_Sealed)
            if hashlib.sha256(bytes(sealed.facts)).hexdigest() != sealed.checksum:
                return None
            return msgspec.json.decode(sealed.facts, type=Facts)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            log.warning("what was known is damaged; a worker is asked", extra={"reason": str(error)})
            return None
