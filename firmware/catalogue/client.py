"""The device's catalogue client: carries metadata between the network, the store and `trust`, which decides.

The store holds `root.json`, `timestamp.json`, `snapshot.json`, `targets.json` and delegated roles under their URL-quoted
names (the sha256 of a name that is too long for a file). Each is written as soon as it was verified, as the specification
orders, so that a power cut between two writes costs a download and no protection against rollback. `refresh` is strict;
using what is held is the separate `load_cached`.
"""

import hashlib
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import quote

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

from firmware.catalogue.metadata import refused
from firmware.catalogue.store import Store
from firmware.catalogue.trust import TOP, Limits, Trust
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind

Fetch = Callable[[str, int], bytes | None]
"""`fetch(name, max_bytes)`: the bytes of a metadata file by its URL-quoted name; None when the server says that there is
none. Reads no further than `max_bytes + 1` bytes. Raises `UnavailableError` (`unreachable`)."""

DIRECTOR = "director"
EPOCH = "x-otaria-director-epoch"
MAX_FILE_NAME = 200
RESET_MARK = "recovering"
"""Store file: the root version with which stored timestamp and snapshot became void. It makes dropping them crash-safe."""


class CatalogueClient:
    """One device's view of one catalogue. Not for use by two threads at once."""

    def __init__(
        self,
        store: Store,
        fetch: Fetch | None = None,
        *,
        limits: Limits | None = None,
        prefetch: Collection[str] | None = None,
    ) -> None:
        """`prefetch` names the delegated roles that a refresh also brings in, so that `file` works offline afterwards;
        None means all that `targets` delegates, an empty collection means each only when it is looked up."""
        self._store = store
        self._fetch = fetch
        self._limits = limits or Limits()
        self._prefetch = prefetch
        self._trust: Trust | None = None
        self._online = False

    @staticmethod
    def initialise(store: Store, root: bytes, *, limits: Limits | None = None) -> None:
        """Trust this root from now on. Raises `RefusedError` when it is not signed by its own keys; keeps nothing then."""
        Trust(root, now=0, limits=limits, cached=True)
        store.replace(_file(Root.type), root)

    # Steps

    def refresh(self, now: float) -> None:
        """Fetch and verify what is new, at trusted time `now` (POSIX seconds): TUF's client workflow, strictly.

        Raises `RefusedError` (`catalogue-refused`, `catalogue-expired`) or `UnavailableError` (`unreachable`,
        `storage-fault`). What the store holds afterwards is what is used, as after a restart.
        """
        self._online = True
        try:
            self._trust = self._refreshed(now)
            self._prefetch_delegated()
        except OtariaError:
            self._trust = self._still_trusted(now)
            raise

    def load_cached(self, now: float, *, allow_expired: bool = False) -> None:
        """Use what the store holds, without the network. Strict unless `allow_expired`, which also takes the last verified
        state when a refresh was cut short. Raises `RefusedError` (`catalogue-refused`, `catalogue-expired`)."""
        self._online = False
        self._trust = None
        self._trust = self._cached(now) if allow_expired else self._held(now)

    # Questions

    def director_keys(self) -> dict[str, dict[str, object]]:
        """Key ids and TUF key dicts of who may sign orders, permits and acks."""
        delegations = self._trusted().targets.delegations
        role = delegations.roles.get(DIRECTOR) if delegations and delegations.roles else None
        if delegations is None or role is None:
            raise refused("The catalogue names no director, so no order can be trusted.")
        if role.threshold != 1:
            raise refused(
                f"The catalogue wants {role.threshold} signatures of the director; this version checks only one."
            )
        known = {keyid: delegations.keys.get(keyid) for keyid in role.keyids}
        return {keyid: key.to_dict() for keyid, key in known.items() if isinstance(key, SSlibKey)}

    def director_epoch(self) -> int:
        """The signed director epoch: the first part of every order's counter."""
        return director_epoch(self._trusted().targets)

    def ends_at(self) -> float:
        """POSIX seconds at which the first of the top-level roles that are trusted now expires."""
        trust = self._trusted()
        held = (trust.root, trust.timestamp, trust.snapshot, trust.held())
        return min(signed.expires.timestamp() for signed in held if signed is not None)

    def file(self, path: str) -> FileRef | None:
        """Length and sha256 of a catalogue path, from the role that may sign it; None when no trusted role lists it."""
        return file_ref(self.find(path))

    def custom(self, path: str) -> dict[str, Any] | None:
        """The signed `custom` object beside a catalogue path, or None."""
        target = self.find(path)
        return target.custom if target and isinstance(target.custom, dict) else None

    def find(self, path: str) -> TargetFile | None:
        """As `file`, with all hashes. Fetches delegated roles that are not held, after a refresh."""
        return self._trusted().find(path, self._load_targets)

    def versions(self) -> dict[str, int]:
        """Versions of the top-level roles that are trusted now."""
        trust = self._trusted()
        signed = (trust.root, trust.timestamp, trust.snapshot, trust.targets)
        return {entry.type: entry.version for entry in signed if entry is not None}

    def address(self, target: TargetFile) -> str:
        """The path to fetch a target under: with its hash before its name where snapshots are consistent."""
        if not self._trusted().root.consistent_snapshot:
            return target.path
        digest = target.hashes.get("sha256") or next(iter(target.hashes.values()))
        directory, slash, name = target.path.rpartition("/")
        return f"{directory}{slash}{digest}.{name}"

    def _trusted(self) -> Trust:
        if self._trust is None:
            raise refused("No catalogue is loaded; refresh it, or load the stored one.")
        return self._trust

    # The workflow

    def _refreshed(self, now: float) -> Trust:
        trust = self._begin(now)
        self._follow_roots(trust)
        self._apply_reset(trust)
        trust.finish_root()
        self._refresh_timestamp(trust)
        self._refresh_snapshot(trust)
        self._take_targets(trust, TOP, Root.type)
        return trust

    def _begin(self, now: float, *, cached: bool = False) -> Trust:
        root = self._store.read(_file(Root.type))
        if root is None:
            raise refused("There is no trusted root here; begin with one that you got from a source you trust.")
        trust = Trust(root, now=now, limits=self._limits, cached=cached)
        self._apply_reset(trust)
        return trust

    def _follow_roots(self, trust: Trust) -> None:
        for _ in range(self._limits.roots):
            version = trust.root.version + 1
            data = self._download(f"{version}.root.json", self._limits.root_bytes)
            if data is None:
                return
            trust.add_root(data)
            if trust.reset:
                self._store.replace(RESET_MARK, f"{version}".encode())
            self._store.replace(_file(Root.type), data)

    def _apply_reset(self, trust: Trust) -> None:
        mark = self._store.read(RESET_MARK)
        if mark is None or (mark.isdigit() and int(mark) > trust.root.version):
            return
        for name in (_file(Timestamp.type), _file(Snapshot.type), RESET_MARK):
            self._store.unlink(name)

    def _refresh_timestamp(self, trust: Trust) -> None:
        stored = self._store.read(_file(Timestamp.type))
        if stored is not None:
            _believed(lambda: trust.add_timestamp(stored, stored=True))
        data = self._required(f"{Timestamp.type}.json", self._limits.timestamp_bytes)
        if trust.add_timestamp(data):
            self._store.replace(_file(Timestamp.type), data)

    def _refresh_snapshot(self, trust: Trust) -> None:
        meta = trust.snapshot_meta()
        stored = self._store.read(_file(Snapshot.type))
        if stored is not None and _believed(lambda: trust.offer_stored_snapshot(stored)):
            return
        name = _address(Snapshot.type, meta.version, consistent=trust.root.consistent_snapshot)
        data = self._required(name, _bound(meta.length, self._limits.snapshot_bytes))
        trust.add_snapshot(data)
        self._store.replace(_file(Snapshot.type), data)

    def _load_targets(self, role: str, delegator: str) -> Targets:
        return self._take_targets(self._trusted(), role, delegator)

    def _take_targets(self, trust: Trust, role: str, delegator: str) -> Targets:
        """From the store when that is current, else from the network."""
        stored = self._store.read(_file(role))
        if stored is not None:
            _believed(lambda: trust.add_targets(stored, role, delegator))
        held = trust.held(role, delegator)
        if held is not None:
            return held
        if not self._online:
            raise UnavailableError(
                ReasonKind.UNREACHABLE, f"The catalogue's {role} is not stored; refresh to fetch it."
            )
        meta = trust.targets_meta(role)
        name = _address(role, meta.version, consistent=trust.root.consistent_snapshot)
        data = self._required(name, _bound(meta.length, self._limits.targets_bytes))
        targets = trust.add_targets(data, role, delegator)
        self._store.replace(_file(role), data)
        return targets

    def _prefetch_delegated(self) -> None:
        """Bring in first-level delegated roles. One that is refused now is refused again when it is looked up, so that a
        broken role of one product does not keep the others from their updates."""
        trust = self._trusted()
        listed = trust.snapshot.meta if trust.snapshot else {}
        roles = trust.targets.delegations.roles if trust.targets.delegations else None
        wanted = [name for name in roles or () if self._prefetch is None or name in self._prefetch]
        for name in [name for name in wanted if f"{name}.json" in listed][: self._limits.visits]:
            self._warm(trust, name)

    def _warm(self, trust: Trust, role: str) -> None:
        _believed(lambda: self._take_targets(trust, role, TOP))

    # What is held

    def _held(self, now: float) -> Trust:
        trust = self._begin(now)
        trust.finish_root()
        trust.add_timestamp(self._stored(Timestamp.type))
        if not trust.offer_stored_snapshot(self._stored(Snapshot.type)):
            trust.add_snapshot(self._stored(Snapshot.type))
        trust.add_targets(self._stored(TOP))
        return trust

    def _cached(self, now: float) -> Trust:
        trust = self._begin(now, cached=True)
        timestamp, snapshot = self._store.read(_file(Timestamp.type)), self._store.read(_file(Snapshot.type))
        if timestamp is not None:
            _believed(lambda: trust.add_timestamp(timestamp, stored=True))
        if snapshot is not None:
            _believed(lambda: trust.offer_stored_snapshot(snapshot))
        trust.add_targets(self._stored(TOP))
        return trust

    def _still_trusted(self, now: float) -> Trust | None:
        self._online = False
        try:
            return self._cached(now)
        except OtariaError:
            return None

    def _stored(self, role: str) -> bytes:
        data = self._store.read(_file(role))
        if data is None:
            raise refused(f"The stored catalogue has no {role}; refresh it.")
        return data

    # Network

    def _required(self, name: str, max_bytes: int) -> bytes:
        data = self._download(name, max_bytes)
        if data is None:
            raise UnavailableError(
                ReasonKind.UNREACHABLE, f"The catalogue's server has no {name} now; try again later."
            )
        return data

    def _download(self, name: str, max_bytes: int) -> bytes | None:
        if self._fetch is None:
            raise UnavailableError(ReasonKind.UNREACHABLE, "This catalogue client has no server to ask.")
        data = self._fetch(name, max_bytes)
        if data is not None and len(data) > max_bytes:
            raise refused(f"The catalogue's {name} is longer than the {max_bytes} bytes it may have.")
        return data


def director_epoch(targets: Targets) -> int:
    """The director epoch that top-level targets carry; raises `RefusedError` without one."""
    epoch = targets.unrecognized_fields.get(EPOCH)
    if type(epoch) is not int or not 0 <= epoch < 1 << 53:
        raise refused("The catalogue carries no director epoch, so no order can be trusted.")
    return epoch


def file_ref(target: TargetFile | None) -> FileRef | None:
    """A target as path, length and sha256; raises `RefusedError` when it is listed without a sha256."""
    if target is None:
        return None
    if "sha256" not in target.hashes:
        raise refused(f"The catalogue lists {target.path} without a sha256.")
    return FileRef(path=target.path, length=target.length, sha256=target.hashes["sha256"])


def _believed(take: Callable[[], object]) -> bool:
    """Whether something held locally is still good. What is not is fetched again, so the refusal itself is no news."""
    try:
        return take() is not False
    except RefusedError:
        return False


def _file(role: str) -> str:
    """The store's name for a role: URL-quoted, or its hash where a file system might not take that."""
    quoted = quote(role, safe="")
    if len(quoted) > MAX_FILE_NAME:
        return f"{hashlib.sha256(role.encode()).hexdigest()}.json"
    return f"{quoted}.json"


def _address(role: str, version: int, *, consistent: bool | None) -> str:
    name = f"{quote(role, safe='')}.json"
    return f"{version}.{name}" if consistent else name


def _bound(length: int | None, limit: int) -> int:
    """How many bytes to read at most: what the parent signed, within our own limit."""
    return limit if length is None else min(length, limit)
