"""Ports of the agent: what the core's commands are carried out with.

Every durable side effect goes through `Effects`, so that a whole update leaves a trace of durable operations and a test
can cut the power before, in and after each. `MonotonicClock` never goes back and stops at a reboot; there is no wall
clock here that anything may be decided by.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from firmware.errors import UnavailableError
from firmware.manifest import HealthCheck, Manifest
from firmware.protocol.order import FileRef, Order

if TYPE_CHECKING:  # the core imports this module, and needs no cryptography
    from firmware.encryption.content_key import ContentKey


class Slot(StrEnum):
    A = "A"
    B = "B"

    @property
    def other(self) -> "Slot":
        return Slot.B if self is Slot.A else Slot.A


class Effects(Protocol):
    """The only way anything durable is changed. Paths are absolute. Each raises `OSError` as the system would."""

    def replace(self, path: Path, data: bytes) -> None:
        """Atomically make the file hold `data`: temp, fsync, rename, fsync of the directory."""
        ...

    def append(self, path: Path, data: bytes) -> None:
        """Append and fsync (creating the file and syncing its directory when it is new)."""
        ...

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Overwrite in place, without fsync."""
        ...

    def fsync(self, path: Path) -> None: ...
    def drop_cache(self, path: Path) -> None:
        """Ask the system to forget its cached pages, so that a read back reads the medium."""
        ...

    def unlink(self, path: Path) -> None: ...
    def read(self, path: Path) -> bytes | None:
        """The whole small file, or None when there is none."""
        ...

    def read_at(self, path: Path, offset: int, size: int) -> bytes: ...
    def size(self, path: Path) -> int | None: ...
    def names(self, folder: Path) -> list[str]:
        """The names of the files in a folder; none when there is no such folder."""
        ...

    def settle(self, folder: Path) -> None:
        """Bring what is in the folder's file system where a reader that does not replay its journal finds it."""
        ...

    def run(self, argv: Sequence[str], *, data: bytes = b"", timeout_s: float) -> bytes:
        """Run a foreign tool with `data` on its standard input; its standard output. Raises `OSError` when it fails, with what
        it said."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended. `code`: its exit code, negative for a signal; None when it was killed for its time, or never started
    (`error` then says why). `output`: the start of what it printed."""

    code: int | None
    output: str = ""
    error: str = ""

    @property
    def said(self) -> str:
        """The output as the end of a sentence."""
        line = " ".join(self.output.split())
        return f": {line!r}" if line else ""


class Trees(Protocol):
    """Folders with what is in them, for data that is kept beside the slots. Paths are absolute. Each raises `OSError` as the
    system would."""

    def exists(self, path: Path) -> bool: ...
    def names(self, folder: Path) -> list[str]:
        """What is in a folder, sorted; nothing when there is no such folder."""
        ...

    def make(self, path: Path) -> None:
        """Durably make a folder, and those above it; one that is there is fine."""
        ...

    def copy(self, source: Path, target: Path, *, is_over: Callable[[], bool]) -> None:
        """Copy a folder with all it holds, owners and times included, to `target`, which must not be there. Durable after
        `sync`. Raises `OSError` (`ETIMEDOUT`) when `is_over()` first."""
        ...

    def sync(self, path: Path) -> None:
        """Everything in the folder is on the medium afterwards; an error is final."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Durably give a folder another name beside it, which must be free."""
        ...

    def remove(self, path: Path, *, most: int) -> bool:
        """Remove up to `most` entries of a folder, the folder last; whether all is gone."""
        ...

    def link(self, path: Path, to: Path) -> None:
        """Atomically make `path` a symbolic link to `to`, or to another place than before. Meant for file systems that forget."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a link; one that isn't there is fine."""
        ...

    def bytes_in(self, path: Path) -> int:
        """Bytes that the folder takes on its medium."""
        ...

    def free_bytes(self, folder: Path) -> int: ...
    def run(
        self, argv: Sequence[str], folder: Path, environment: Mapping[str, str], *, is_over: Callable[[], bool]
    ) -> Ended:
        """Run a program in a folder, in a process group of its own, until it ends or `is_over()`."""
        ...


class Medium(Protocol):
    """An open block device or regular file that holds slots. Each verb raises `OSError` as the system would.

    `store` names it among the places that bytes can be; `number` is a block device's (major, minor).
    """

    is_block: bool
    number: tuple[int, int] | None
    store: str
    size_bytes: int
    sector_bytes: int
    is_read_only: bool

    def write_at(self, offset: int, data: bytes) -> None: ...
    def flush(self) -> None:
        """Everything written is on the medium afterwards; an error is final."""
        ...

    def drop_cache(self) -> None:
        """Make the next reads come from the medium as far as the system can."""
        ...

    @property
    def is_direct(self) -> bool: ...
    def read_at(self, offset: int, size: int) -> bytes: ...
    def close(self) -> None: ...


class Media(Protocol):
    """Opens what slots are on. Nothing is ever created or cut."""

    def open(self, path: Path, *, writing: bool, exclusive: bool = False) -> Medium: ...


class Slots(Protocol):
    """Storage of one slot set: its slots A and B. Never lets the active slot be written."""

    def capacity(self, slot: Slot) -> int: ...
    def claim(self, slot: Slot, length: int) -> None:
        """Make sure, before anything is written, that an image of `length` bytes may go into the slot, and hold it until
        `release`. Raises `RefusedError` (`slot-active`, `slot-too-small`, `slot-in-use`, `slot-missing`, …)."""
        ...

    def release(self, slot: Slot) -> None:
        """Let go of what `claim` and reading opened; harmless when there is nothing."""
        ...

    def unsteady(self, slot: Slot) -> str | None:
        """Why the slot's bytes may change while they are read, so that no delta can start from them; None when they can't."""
        ...

    def write(self, slot: Slot, offset: int, data: bytes) -> None:
        """Write into the inactive slot. Raises `RefusedError` for the active slot or beyond its capacity."""
        ...

    def sync(self, slot: Slot) -> None: ...
    def drop_cache(self, slot: Slot) -> None: ...
    def read(self, slot: Slot, offset: int, size: int) -> bytes: ...


SlotSets = Mapping[str, Slots]
"""All slot sets of a device by name; `root` is always among them. The boot loader switches them together."""


class BootOutcome(StrEnum):
    """How the boot loader came to boot what it booted."""

    NORMAL = "normal"
    TRIAL = "trial"
    FELL_BACK = "fell_back"


@dataclass(frozen=True, kw_only=True)
class BootStatus:
    """What the boot loader says about this boot. `trial_id` names the trial that is running or was last given up;
    `cause` is why it was given up (`attempts-exhausted`, `trial-deadline`, `boot-failed`, `requested`).

    Once its trial is committed, a `trial` boot becomes a `normal` one. `fell_back` with the same trial id and cause is said at
    every boot until another trial is started, so that a power cut before the agent noted it loses nothing. `normal` may carry
    a cause too: `request-refused` (the trial that was asked for is not allowed: its id was used before, or its slot is active),
    `boot-failed` (the active slot did not load and the other one was taken), `loader-state-lost`, `storage-fault` (the trial's
    attempt could not be counted, so it was not booted), `not-selected` (a person chose this slot in a boot menu). `boot-loop`:
    the committed slot was restarted until its count was used up, and the previous one was taken; the trial id is then that of
    its commit. `attempts_left`: how often what runs now may still be booted before it is left. `program_port` changes when the
    program is restarted: read the status afresh. `text`: what else is known of the cause, for people."""

    boot_id: str
    slot: Slot
    outcome: BootOutcome
    trial_id: str | None = None
    cause: str = ""
    program_port: int | None = None
    attempts_left: int | None = None
    text: str = ""


class BootControl(Protocol):
    """The agent's side of the boot loader. It can ask for a trial, commit the trial it runs in, and give it up.

    The boot loader counts every boot, also of a committed system; what it counts down the agent fills up only by
    `stayed_up`. Each verb but `reboot` is one atomic, durable change, and idempotent. Whatever was asked, the boot loader
    boots only a slot that is committed, on trial, or the untouched previous one."""

    def status(self) -> BootStatus: ...
    def try_slot(self, slot: Slot, trial_id: str, *, deadline_s: float) -> None:
        """Durably ask that `slot` be booted on trial. One atomic write; idempotent for the same trial id."""
        ...

    def commit(self, trial_id: str) -> None:
        """Durably declare the running trial good; idempotent. Returns once the boot loader has made it durable; raises
        `UnavailableError` (`commit-pending`) when it does not: the trial is then not committed and may still be taken back."""
        ...

    def committed(self, trial_id: str) -> bool:
        """Whether the boot loader's own durable state says that this, its last committed trial, was committed. True also in
        later boots, for an agent that died between the commit and its journal."""
        ...

    def give_up(self, trial_id: str) -> None:
        """Durably ask for the old slot at the next boot; idempotent."""
        ...

    def retire(self, slot: Slot) -> None:
        """Durably say that `slot` must not be booted, before its first byte is overwritten: from here on there is nothing to
        go back to. Raises `RefusedError` (`slot-active`) for a slot in use, (`boot-environment-split`) when the boot loader
        would not hear of it, or `UnavailableError` (`boot-loader-silent`)."""
        ...

    def stayed_up(self) -> None:
        """The committed system has run for its minimum up time: its boots are counted from the start again. Does nothing in a
        trial."""
        ...

    def shut_down(self) -> None:
        """This boot ends cleanly, by a person's or the system's wish: its attempt may be given back, under the boot loader's
        own cap."""
        ...

    def reboot(self) -> None:
        """Restart the device. Returns; the process is ended from outside soon after."""
        ...


class Switch(Protocol):
    """What a host does in place of a reboot: installing packages, or leading back. Both block; the boot status
    tells what came."""

    def switch(self, on_progress: Callable[[float, str], None]) -> bool:
        """Do what was asked of the boot control. False when the host is being restarted for it, and there is no status yet."""
        ...

    def resume(self) -> bool:
        """Go on with what was under way when the agent or the host ended; False as above."""
        ...


class AbsentError(UnavailableError):
    """A source does not have the file."""


class Fetch(Protocol):
    """One place that artifacts come from."""

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        """Byte chunks of the content-addressed file from `offset`; empty ones while nothing comes. Raises `UnavailableError`
        (`unreachable`), also in mid-stream, `AbsentError` when the file is not there, and `RefusedError` (`artifact-…`) when it
        says itself that its file is another one. The caller checks length and hashes; an over-long body must be noticed by it,
        not read to its end."""
        ...


class Source(Fetch, Protocol):
    """Where artifacts come from: one place or several."""

    def allow(self, bytes_per_s: int | None) -> None:
        """Fetch no faster over the network than this, nor than the operator lets; None: only the operator counts."""
        ...

    def again(self, file: FileRef, *, wrong: bool) -> bool:
        """What was opened last gave `wrong` bytes, or broke off: whether opening the file anew, now, asks somebody else. Raises
        `UnavailableError` (`artifact-changed`) when all gave wrong bytes and none is beyond doubt: a later try may do better."""
        ...

    def evidence(self) -> dict[str, object]:
        """For reports: what came from where."""
        ...


@dataclass(frozen=True, kw_only=True)
class Director:
    """What the catalogue says about who may sign orders: key ids with TUF key dicts, and the epoch. `until`: POSIX seconds at
    which the catalogue that says so ends; what the director says of the time is believed no further."""

    epoch: int
    keys: dict[str, dict[str, object]]
    until: float = float("inf")


class Directed(Protocol):
    def director(self) -> Director:
        """Who may sign orders, from verified metadata held, expired or not (expiry gates only starting an install). Raises
        `UnavailableError` (`unreachable`) while nobody is named."""
        ...


class Catalogue(Protocol):
    """The device's catalogue client, as the agent needs it. All verified by TUF."""

    def refresh(self, now: float) -> None:
        """Fetch and verify new metadata at trusted time `now`. Raises `UnavailableError` or `RefusedError`
        (`catalogue-expired`, `catalogue-refused`); where it did not come from the server itself, the latter is an
        `UnavailableError`."""
        ...

    def use_held(self, now: float) -> None:
        """Go by the metadata held, without fetching any, if it is whole and not expired at trusted time `now`. Raises
        `RefusedError` (`catalogue-expired`, `catalogue-refused`)."""
        ...

    def bring(self, path: Path, envelope: bytes, now: float) -> None:
        """Refresh out of the bundle in this file instead of over the network, and keep the manifest and all metadata that the
        order in `envelope` needs. Raises as `refresh`, and `RefusedError` (`bundle-malformed`)."""
        ...

    def file(self, path: str) -> FileRef | None:
        """The signed length and hash of a catalogue path, or None when no trusted role lists it; then, too, `UnavailableError`
        (`catalogue-mismatch`) where the catalogue did not come from the server itself."""
        ...

    def manifest(self, file: FileRef) -> Manifest:
        """Fetch (or take from cache) and verify a release manifest."""
        ...


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What is known of the director that signed a message: its epoch, and up to when (POSIX seconds) it is believed about the
    time."""

    epoch: int
    until: float


class Verifier(Protocol):
    def verify(self, envelope: bytes, kind: str, *, max_bytes: int) -> Verified:
        """Make sure that the director, as the catalogue held now names it, signed this envelope of a message of this kind.

        Raises `RefusedError` (`too-large`, `malformed`, `bad-signature`), or `UnavailableError` when no director is known, or
        nobody is there to verify it.
        """
        ...


class Notary(Verifier, Protocol):
    """Everything that is done with keys to the agent's messages."""

    def knows_director(self) -> bool:
        """Whether the catalogue held names one."""
        ...

    def seal(self, payload: bytes, kind: str) -> bytes:
        """The envelope of a message (canonical JSON), signed with the report key. Raises `UnavailableError`."""
        ...


@dataclass(frozen=True, kw_only=True)
class HealthResult:
    """Whether all checks passed, and what was seen, for people."""

    healthy: bool
    text: str


class Health(Protocol):
    def run(self, checks: Sequence[HealthCheck], *, program_port: int | None, stop: Callable[[], bool]) -> HealthResult:
        """Run every check with its tries and timeouts; blocking; returns early with unhealthy when `stop()` turns true."""
        ...


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A message from the broker, unverified. `leaf` is the last part of its topic (order, permit, ack, catalogue)."""

    leaf: str
    target: str | None
    payload: bytes


class Link(Protocol):
    """The broker as the agent sees it. Callbacks come on a thread of its own."""

    def start(self, on_message: Callable[[Incoming], None], on_connected: Callable[[bool], None]) -> None: ...
    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Hand a message to the connection; False when there is none now (the caller resends on its own timer)."""
        ...

    def stop(self) -> None: ...


class ContentKeys(Protocol):
    """Opens the keys of encrypted releases for this device."""

    def open(self, order: Order, manifest: Manifest) -> "ContentKey":
        """The key that the order brings to what of its release is encrypted. Raises `RefusedError` (`cannot-decrypt`)."""
        ...


@dataclass(frozen=True, kw_only=True)
class WayTaken:
    """By which server address this agent comes, and the services CAs that it trusts (sha256 of the DER)."""

    endpoint: str = ""
    services_cas: tuple[str, ...] = ()


class Installer(Protocol):
    """Writes a release into the inactive slot, all its slot sets. Blocking; resumable after a kill at any point."""

    def stage(
        self,
        order: Order,
        manifest: Manifest,
        *,
        active: Slot,
        on_progress: Callable[[int, int], None],
        stop: Callable[[], bool],
        envelope: bytes = b"",
    ) -> dict[str, object]:
        """Download all images, check every window before it is written, flush, drop caches, read back. A delta is tried first
        when the order offers one that starts from the verified bytes of the set's active slot; the full image otherwise. Every
        set is claimed before the first byte of any is written. Returns facts for the report. `envelope` is the order as it was
        signed, for whoever takes nobody's word for it.

        Raises `RefusedError` (`artifact-…`, `cannot-decrypt`, `wrong-source`, `read-back-differs`, `slot-…`,
        `storage-fault`) or `UnavailableError` (`unreachable`, `interrupted`): the latter may be tried again and resumes.
        """
        ...

    def verify(self, slot: Slot, manifest: Manifest) -> bool:
        """Whether the slot holds exactly the manifest's images, each in its set, read from the medium."""
        ...


class MonotonicClock(Protocol):
    def seconds(self) -> float: ...
