"""The agent's one durable record: standing, outbox, trusted time. One file, replaced atomically: old or new, never between.

A power cut can't damage it; a failing medium can. A damaged journal never stops the agent: it starts a new one with a new
id, says so in its first report, and the server sees a new sequence.

The other slot's agent may be older or newer (`device_agent.lineage`). The file holds the record in the oldest schema that may
still be read, and beside it (`later`) what differs in the writer's own. Both are of the same moment, so whoever comes back finds
every counter, floor and report number where they were left: a copy kept from the commit would make it number reports twice.
"""

import errno
import hashlib
import json
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from device_agent.core.states import Asking, Deferred, Staged, Standing, Trial
from device_agent.lineage import OWN, SCHEMA, Body, Lineage, Reader, forms_of, readers_of
from device_agent.outbox import Outbox
from device_agent.ports import Effects, Slot
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical
from firmware.protocol.order import Counter
from firmware.protocol.words import ReasonKind

JOURNAL_FILE = "journal.json"
MAX_BYTES = 32 << 20


class MetricsTold(Struct, frozen=True, kw_only=True):
    """The last report of metrics: its number, and the last hour in it."""

    seq: int
    through: int


class PackagesTold(Struct, frozen=True, kw_only=True):
    """The last report of a host's packages: its number, and the hash of what it led to."""

    seq: int
    sha256: str


class Record(Struct, frozen=True, kw_only=True):
    """`trusted_time`: POSIX seconds, never falls. `inventory_hash`: sha256 of the inventory last reported. `readers`: who may
    come to read this, by slot. `logs_taken`: the highest counter of any request for logs that was taken. `metrics_told`: what was
    last told of health metrics. `packages_told`: of a host's packages; None: the whole is to be told."""

    schema: int = SCHEMA
    standing: Standing = Standing()
    outbox: Outbox
    trusted_time: float = 0.0
    inventory_hash: str = ""
    readers: dict[Slot, Reader] = {}
    logs_taken: Counter | None = None
    metrics_told: MetricsTold | None = None
    packages_told: PackagesTold | None = None


class _Later(Struct, frozen=True, kw_only=True):
    """What is different in a later schema. `checksum`: of the whole file's two parts, so that they belong together."""

    schema: int
    checksum: str
    changes: msgspec.Raw


class _Sealed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    checksum: str
    record: msgspec.Raw
    later: _Later | None = None


class Journal:
    """Loads and stores the record. Everything durable goes through `effects`."""

    def __init__(self, effects: Effects, directory: Path, lineage: Lineage = OWN) -> None:
        self._effects = effects
        self._path = directory / JOURNAL_FILE
        self._lineage = lineage
        self._found = lineage.schema

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
        if data is None:
            return None
        record, self._found = _decode(data, self._lineage)
        return record

    def store(self, record: Record) -> None:
        """Durably replace the record; raises `UnavailableError` (`storage-fault`), after which the old one still counts."""
        try:
            self._effects.replace(self._path, encode(record, self._lineage, self._found))
        except OSError as error:
            raise UnavailableError(
                ReasonKind.STORAGE_FAULT,
                f"The journal cannot be written: {error.strerror or error}; check the storage's space and health.",
            ) from error


def encode(record: Record, lineage: Lineage = OWN, found: int | None = None) -> bytes:
    """The file's bytes: canonical JSON with the sha256 of the record before it, in the schemas that its readers need."""
    standing, own = record.standing, lineage.schema
    readers = readers_of(record.readers, standing, own)
    body = canonical(durable(replace(record, readers=readers, schema=own)))
    forms = forms_of(readers, standing, own, own if found is None else found)
    if forms == (own,):
        return canonical(_Sealed(checksum=_sha256(body), record=msgspec.Raw(body)))
    newest: Body = json.loads(body)
    oldest = lineage.down(newest, forms[0])
    old = canonical(oldest)
    later = None if len(forms) == 1 else _later(oldest, newest, old, own)
    return canonical(_Sealed(checksum=_sha256(old), record=msgspec.Raw(old), later=later))


def decode(data: bytes, lineage: Lineage = OWN) -> Record:
    """The record in the file's bytes, in the latest schema we know that it has; raises `RefusedError` (`journal-damaged`) for
    anything that `encode` did not make."""
    return _decode(data, lineage)[0]


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
    local, data = replace(standing.local, clearance=None), replace(standing.data, look_at=None)
    return replace(record, standing=replace(standing, state=state, vigil=vigil, local=local, data=data))


def _later(oldest: Body, newest: Body, old: bytes, schema: int) -> _Later:
    lacking = object()
    changes = canonical({name: value for name, value in newest.items() if oldest.get(name, lacking) != value})
    return _Later(schema=schema, checksum=_sha256(old + changes), changes=msgspec.Raw(changes))


def _decode(data: bytes, lineage: Lineage) -> tuple[Record, int]:
    """The record, and the oldest schema that the file has it in."""
    try:
        sealed = msgspec.json.decode(data[: MAX_BYTES + 1], type=_Sealed)
        record = bytes(sealed.record)
        if _sha256(record) != sealed.checksum:
            raise RefusedError("journal-damaged", "The journal's checksum is wrong; a new one is begun.")
        schema = msgspec.json.decode(record, type=_Schema).schema
        if schema > lineage.schema or schema < 1:
            text = f"The journal has schema {schema}, and this agent reads up to {lineage.schema}; a new one is begun."
            raise RefusedError("journal-damaged", text)
        return msgspec.json.decode(_newest(sealed, record, schema, lineage), type=Record), schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError("journal-damaged", "The journal cannot be read; a new one is begun.") from error


def _newest(sealed: _Sealed, record: bytes, schema: int, lineage: Lineage) -> bytes:
    """The record in our own schema, as JSON."""
    if schema == lineage.schema:
        return record
    body: Body = msgspec.json.decode(record)
    later = sealed.later
    if later is not None and schema < later.schema <= lineage.schema:
        changes = bytes(later.changes)
        if _sha256(record + changes) != later.checksum:
            raise RefusedError("journal-damaged", "The journal's two parts don't belong together; a new one is begun.")
        body, schema = {**body, **msgspec.json.decode(changes, type=dict)}, later.schema
    return canonical(lineage.up(body, schema))


class _Schema(Struct, frozen=True, kw_only=True):
    schema: int


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
