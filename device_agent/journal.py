"""The agent's one durable record: standing, outbox, trusted time. One file, replaced atomically: old or new, never between.

A power cut can't damage it; a failing medium can. A damaged journal never stops the agent: it starts a new one with a new
id, says so in its first report, and the server sees a new sequence.
"""

import errno
import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from device_agent.core.states import Asking, Deferred, Staged, Standing, Trial
from device_agent.outbox import Outbox
from device_agent.ports import Effects
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical
from firmware.protocol.words import ReasonKind

JOURNAL_FILE = "journal.json"
SCHEMA = 1
MAX_BYTES = 32 << 20


class Record(Struct, frozen=True, kw_only=True):
    """`trusted_time`: POSIX seconds, never falls. `inventory_hash`: sha256 of the inventory last reported."""

    schema: int = SCHEMA
    standing: Standing = Standing()
    outbox: Outbox
    trusted_time: float = 0.0
    inventory_hash: str = ""


class _Sealed(Struct, frozen=True, kw_only=True):
    checksum: str
    record: msgspec.Raw


class Journal:
    """Loads and stores the record. Everything durable goes through `effects`."""

    def __init__(self, effects: Effects, directory: Path) -> None:
        self._effects = effects
        self._path = directory / JOURNAL_FILE

    def load(self) -> Record | None:
        """The stored record, None when there never was one. Raises `RefusedError` (`journal-damaged`), also when the medium
        lost it, and `UnavailableError` (`storage-fault`) when it may be had later."""
        try:
            data = self._effects.read(self._path)
        except OSError as error:
            if error.errno == errno.EIO:
                raise RefusedError(
                    "journal-damaged", "The medium gives the journal back no more; a new one is begun."
                ) from error
            raise UnavailableError(
                ReasonKind.STORAGE_FAULT,
                f"The journal {self._path} cannot be read: {error.strerror or error}; check its owner and its kind.",
            ) from error
        return None if data is None else decode(data)

    def store(self, record: Record) -> None:
        """Durably replace the record; raises `UnavailableError` (`storage-fault`), after which the old one still counts."""
        try:
            self._effects.replace(self._path, encode(record))
        except OSError as error:
            raise UnavailableError(
                ReasonKind.STORAGE_FAULT,
                f"The journal cannot be written: {error.strerror or error}; check the storage's space and health.",
            ) from error


def encode(record: Record) -> bytes:
    """The file's bytes: canonical JSON with the sha256 of the record before it."""
    body = canonical(durable(record))
    return canonical(_Sealed(checksum=hashlib.sha256(body).hexdigest(), record=msgspec.Raw(body)))


def decode(data: bytes) -> Record:
    """The record in the file's bytes; raises `RefusedError` (`journal-damaged`) for anything that `encode` did not make."""
    try:
        sealed = msgspec.json.decode(data[: MAX_BYTES + 1], type=_Sealed)
        if hashlib.sha256(bytes(sealed.record)).hexdigest() != sealed.checksum:
            raise RefusedError("journal-damaged", "The journal's checksum is wrong; a new one is begun.")
        record = msgspec.json.decode(sealed.record, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError("journal-damaged", "The journal cannot be read; a new one is begun.") from error
    if record.schema != SCHEMA:
        raise RefusedError(
            "journal-damaged", f"The journal has schema {record.schema}, not {SCHEMA}; a new one is begun."
        )
    return record


def durable(record: Record) -> Record:
    """The record as it may be found after a power cut: an open ask does not outlive its process, nor does the time of the
    next check. What changes at every check is not worth a write to flash each."""
    standing = record.standing
    state, vigil = standing.state, standing.vigil
    if isinstance(state, Asking):
        state = Staged(held=state.held, goal=state.goal, boot_id=state.boot_id)
    elif isinstance(state, Trial):
        state = replace(state, check_at=None)
    elif isinstance(state, Deferred):
        state = replace(state, retry_at=0.0)
    if vigil is not None:
        vigil = replace(vigil, beat_at=None, failures=0, retreat=None)
    local = replace(standing.local, clearance=None)
    return replace(record, standing=replace(standing, state=state, vigil=vigil, local=local))
