"""Which metadata is believed: every check of the TUF client workflow (specification 1.0, section 5), without I/O.

Metadata is offered in the order root, timestamp, snapshot, targets, delegated targets, and is kept only when every check
passed. What was stored earlier may be offered first as a reference against rollback. Time is given, never read.

Two modes. Strict: what a refresh and starting an install need. `cached`: what was believed once and is held, expired or
caught halfway through a refresh by a power cut; signatures and thresholds always count, and versions never exceed what
the parent lists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from tuf.api.metadata import MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from firmware.catalogue.metadata import S, matches, parse, refused, require_threshold
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

TOP = Targets.type
ONLINE = (Timestamp.type, Snapshot.type)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what a hostile or broken server can make a client read and walk."""

    root_bytes: int = 512_000
    timestamp_bytes: int = 16_384
    snapshot_bytes: int = 2_000_000
    targets_bytes: int = 5_000_000
    roots: int = 1024
    visits: int = 64


class Trust:
    """The set of metadata believed now. Every method that takes bytes raises `RefusedError` (`catalogue-refused` or
    `catalogue-expired`) and then keeps what it had."""

    def __init__(self, root: bytes, *, now: float, limits: Limits | None = None, cached: bool = False) -> None:
        """Begin with a root that is trusted already; it still has to be signed by its own keys. `now`: POSIX seconds."""
        self.limits = limits or Limits()
        self._now = datetime.fromtimestamp(now, UTC)
        self._cached = cached
        first = parse(root, Root, "root", max_bytes=self.limits.root_bytes)
        require_threshold(first.signed, Root.type, first)
        self.root: Root = first.signed
        self.reset = False
        """Whether the stored timestamp and snapshot must go, because a threshold of the keys of one of them was replaced."""
        self.timestamp: Timestamp | None = None
        self._reference: Snapshot | None = None
        self.snapshot: Snapshot | None = None
        self._targets: dict[tuple[str, str], Targets] = {}

    # Root

    def add_root(self, data: bytes) -> None:
        """Follow one step of the root chain: version N+1, signed by the thresholds of both N and N+1."""
        new = parse(data, Root, "root", max_bytes=self.limits.root_bytes)
        if new.signed.version != self.root.version + 1:
            raise refused(f"The root after version {self.root.version} says it is version {new.signed.version}.")
        require_threshold(self.root, Root.type, new)
        require_threshold(new.signed, Root.type, new)
        self.reset |= any(_rotated(role, self.root, new.signed) for role in ONLINE)
        self.root = new.signed

    def finish_root(self) -> None:
        """No newer root exists; the one held must not be expired."""
        self._require_fresh(self.root, Root.type)

    # Timestamp

    def add_timestamp(self, data: bytes, *, stored: bool = False) -> bool:
        """Take a timestamp; False when it has the version held and is to be discarded. A `stored` one may be expired: it is
        the reference against rollback until a newer one comes."""
        new = self._verified(data, Timestamp, Timestamp.type, self.root, self.limits.timestamp_bytes)
        old = self.timestamp
        if old is not None:
            if new.version == old.version:
                return False
            _require_not_lower(Timestamp.type, old.version, new.version)
            _require_not_lower(Snapshot.type, old.snapshot_meta.version, new.snapshot_meta.version)
        if not stored:
            self._require_fresh(new, Timestamp.type)
        self.timestamp = new
        return True

    # Snapshot

    def offer_stored_snapshot(self, data: bytes) -> bool:
        """Take the stored snapshot as the reference against rollback; True when it is also the current one."""
        new = self._verified(data, Snapshot, Snapshot.type, self.root, self.limits.snapshot_bytes)
        self._reference = new
        current = self._cached or _names(self.snapshot_meta(), new, data)
        self.snapshot = new if current else None
        return current

    def snapshot_meta(self) -> MetaFile:
        """What the (unexpired) timestamp says about the snapshot: version, and perhaps length and hashes."""
        if self.timestamp is None:
            raise refused("The catalogue has no timestamp to tell which snapshot is current.")
        self._require_fresh(self.timestamp, Timestamp.type)
        return self.timestamp.snapshot_meta

    def add_snapshot(self, data: bytes) -> None:
        """Take the snapshot that the timestamp names; no role may vanish from it or go back to a lower version."""
        meta = self.snapshot_meta()
        if not matches(meta, data):
            raise refused("The catalogue's snapshot has another length or hash than its timestamp says.")
        new = self._verified(data, Snapshot, Snapshot.type, self.root, self.limits.snapshot_bytes)
        _require_version(Snapshot.type, meta.version, new.version)
        for name, old in (self._reference.meta if self._reference else {}).items():
            if name not in new.meta:
                raise refused(f"The catalogue's snapshot no longer lists {name}.")
            _require_not_lower(name, old.version, new.meta[name].version)
        self._require_fresh(new, Snapshot.type)
        self.snapshot = self._reference = new

    # Targets and what they delegate

    def targets_meta(self, role: str) -> MetaFile:
        """What the (unexpired) snapshot says about a targets role."""
        if self.snapshot is None:
            raise refused("The catalogue has no snapshot to tell which targets are current.")
        self._require_fresh(self.snapshot, Snapshot.type)
        meta = self.snapshot.meta.get(f"{role}.json")
        if meta is None:
            raise refused(f"The catalogue's snapshot does not list {role}.")
        return meta

    def add_targets(self, data: bytes, role: str = TOP, delegator: str = Root.type) -> Targets:
        """Take the metadata of a targets role as `delegator` delegates it."""
        self._require_listed_bytes(data, role)
        new = self._verified(data, Targets, role, self._delegator(delegator, role), self.limits.targets_bytes)
        self._require_listed_version(data, role, new.version)
        self._require_fresh(new, role)
        self._targets[delegator, role] = new
        return new

    def held(self, role: str = TOP, delegator: str = Root.type) -> Targets | None:
        """The role's metadata as this delegator's delegation verified it, or None."""
        return self._targets.get((delegator, role))

    @property
    def targets(self) -> Targets:
        """The top-level targets; raises `RefusedError` before they were taken."""
        held = self.held()
        if held is None:
            raise refused("The catalogue has no targets yet; refresh it.")
        return held

    def find(self, path: str, load: Callable[[str, str], Targets]) -> TargetFile | None:
        """Search the delegations for `path`: pre-order, depth first, in order of appearance, each role once, at most
        `limits.visits` roles; a terminating delegation ends the search below it. `load(role, delegator)` gives the metadata
        of a role, taking it first where needed."""
        waiting = [(TOP, Root.type)]
        seen: set[str] = set()
        while waiting and len(seen) < self.limits.visits:
            role, delegator = waiting.pop()
            if role in seen:
                continue
            seen.add(role)
            targets = self.held(role, delegator) or load(role, delegator)
            if path in targets.targets:
                return targets.targets[path]
            below, final = _delegated(targets, path)
            waiting = [] if final else waiting
            waiting += [(child, role) for child in reversed(below)]
        return None

    # Checks

    def _verified(self, data: bytes, kind: type[S], role: str, delegator: Root | Targets, max_bytes: int) -> S:
        parsed = parse(data, kind, role, max_bytes=max_bytes)
        require_threshold(delegator, role, parsed)
        return parsed.signed

    def _delegator(self, name: str, role: str) -> Root | Targets:
        if (role == TOP) != (name == Root.type):
            raise refused(f"{name} cannot delegate {role}.")
        if name == Root.type:
            return self.root
        held = [targets for (_, holder), targets in self._targets.items() if holder == name]
        if not held:
            raise refused(f"The catalogue's {name} has to be read before {role}.")
        return held[0]

    def _require_listed_bytes(self, data: bytes, role: str) -> None:
        if not self._cached and not matches(self.targets_meta(role), data):
            raise refused(f"The catalogue's {role} has another length or hash than its snapshot says.")

    def _require_listed_version(self, data: bytes, role: str, version: int) -> None:
        if not self._cached:
            _require_version(role, self.targets_meta(role).version, version)
            return
        listed = self.snapshot.meta.get(f"{role}.json") if self.snapshot else None
        if listed and (version > listed.version or (version == listed.version and not matches(listed, data))):
            raise refused(f"The stored {role} is not what the stored snapshot lists.")

    def _require_fresh(self, signed: Root | Timestamp | Snapshot | Targets, role: str) -> None:
        if self._cached or not signed.is_expired(self._now):
            return
        raise RefusedError(
            ReasonKind.CATALOGUE_EXPIRED,
            f"The catalogue's {role} expired at {signed.expires:%Y-%m-%d %H:%M} UTC and it is {self._now:%Y-%m-%d %H:%M}; "
            "whoever publishes it has to sign a new one.",
        )


def _rotated(role: str, old: Root, new: Root) -> bool:
    """Fast-forward recovery: a role lost a threshold of its keys, so what they signed may have been a thief's."""
    gone = set(old.roles[role].keyids) - set(new.roles[role].keyids)
    return len(gone) >= old.roles[role].threshold


def _delegated(targets: Targets, path: str) -> tuple[list[str], bool]:
    """Names of the roles that `path` is delegated to, in order, and whether the last one ends the search."""
    names: list[str] = []
    if targets.delegations is not None:
        for name, terminating in targets.delegations.get_roles_for_target(path):
            names.append(name)
            if terminating:
                return names, True
    return names, False


def _names(meta: MetaFile, snapshot: Snapshot, data: bytes) -> bool:
    """Whether the timestamp's entry means exactly this snapshot."""
    return snapshot.version == meta.version and matches(meta, data)


def _require_not_lower(name: str, held: int, offered: int) -> None:
    if offered < held:
        raise refused(f"The catalogue went back: {name} has version {offered}, and version {held} was seen before.")


def _require_version(role: str, wanted: int, found: int) -> None:
    if found != wanted:
        raise refused(f"The catalogue's {role} has version {found} where version {wanted} is listed.")
