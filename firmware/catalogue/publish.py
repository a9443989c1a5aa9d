"""Makes and changes a catalogue: a directory of TUF metadata with consistent snapshots, in which every root is kept.

What is current is what `timestamp.json` leads to, and that file is written last: a crash between two files leaves a valid
older catalogue and some files that nothing names, which the next change overwrites. Offline roles (root, targets, products)
are signed where their keys are; a server holds the online keys only and takes product metadata that was signed elsewhere.
Times are POSIX seconds and always given.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import DelegatedRole, Metadata, MetaFile, Role, Root, Snapshot, TargetFile, Targets, Timestamp

from firmware.atomic import atomic_output
from firmware.catalogue.client import DIRECTOR, director_epoch, file_ref
from firmware.catalogue.keyfiles import Keyring
from firmware.catalogue.metadata import Parsed, S, matches, parse, refused, require_threshold
from firmware.catalogue.releases import adds, check_successor
from firmware.catalogue.releases import release_targets as release_targets
from firmware.catalogue.signers import add_signature
from firmware.catalogue.trust import TOP, Limits
from firmware.errors import RefusedError
from firmware.manifest import parse_manifest
from firmware.protocol.order import FileRef

DELTAS = "deltas"


@dataclass(frozen=True, kw_only=True)
class Lifetimes:
    """How long each role's signature is good for, in seconds. Online roles are renewed by the server at half of it."""

    offline_s: int = 365 * 86400
    snapshot_s: int = 30 * 86400
    deltas_s: int = 30 * 86400
    timestamp_s: int = 7 * 86400


class Repository:
    """A catalogue on disk. Changes take a lock on the directory, so processes and threads may share it."""

    def __init__(
        self,
        metadata: Path,
        *,
        offline_keys: Path | None = None,
        online_keys: Path | None = None,
        lifetimes: Lifetimes | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        """`metadata` holds the metadata files; give the key directories that this machine has, or the keyring itself."""
        self.metadata = metadata
        self.lifetimes = lifetimes or Lifetimes()
        self._limits = Limits()
        self.keyring = keyring or Keyring([path for path in (offline_keys, online_keys) if path is not None])

    @classmethod
    def workspace(
        cls, directory: Path, *, lifetimes: Lifetimes | None = None, keyring: Keyring | None = None
    ) -> "Repository":
        """The layout of `otaria keys init`: `metadata/`, `keys/offline/`, `keys/online/`; any key may be missing."""
        return cls(
            directory / "metadata",
            offline_keys=directory / "keys" / "offline",
            online_keys=directory / "keys" / "online",
            lifetimes=lifetimes,
            keyring=keyring,
        )

    # Questions

    def exists(self) -> bool:
        """Whether there is a catalogue here that devices could read."""
        return (self.metadata / "timestamp.json").is_file() and any(self.metadata.glob("*.root.json"))

    def metadata_of(self, role: str) -> Metadata[Any]:
        """The metadata in force of root or a targets role, with its signatures."""
        name = self._newest(Root.type) if role == Root.type else f"{self._listed(role).version}.{role}.json"
        kind: type[Root] | type[Targets] = Root if role == Root.type else Targets
        parsed: Parsed[Any] = self._read(name, kind, role)
        return Metadata(parsed.signed, parsed.signatures)

    def bytes_of(self, name: str) -> bytes:
        """The bytes of a metadata file; raises `RefusedError` (`catalogue-refused`) when it is not there."""
        return self._bytes(name)

    def root(self) -> Root:
        """The newest root."""
        return self._read(self._newest(Root.type), Root, Root.type).signed

    def root_bytes(self, version: int = 1) -> bytes:
        """The bytes of a root version; version 1 is what a fleet is given to begin with."""
        return self._bytes(f"{version}.root.json")

    def root_sha256(self) -> str:
        """sha256 (hex) of root version 1, as claim tokens pin it."""
        return hashlib.sha256(self.root_bytes()).hexdigest()

    def snapshot(self) -> Snapshot:
        """The current snapshot."""
        version = self.timestamp().snapshot_meta.version
        return self._read(f"{version}.snapshot.json", Snapshot, Snapshot.type).signed

    def timestamp(self) -> Timestamp:
        """The current timestamp."""
        return self._read("timestamp.json", Timestamp, Timestamp.type).signed

    def targets(self, role: str = TOP) -> Targets:
        """The current metadata of a targets role: `targets`, `product-NAME` or `deltas`."""
        return self._read(f"{self._listed(role).version}.{role}.json", Targets, role).signed

    def products(self) -> list[str]:
        """The products that `targets` delegates to."""
        prefix = product_role("")
        return [name.removeprefix(prefix) for name in self._delegated() if name.startswith(prefix)]

    def files(self, path: str) -> FileRef | None:
        """Length and sha256 of a path in the current catalogue, or None."""
        for role in self._delegated().values():
            if role.name != DIRECTOR and role.is_delegated_path(path):
                return file_ref(self._find(self.targets(role.name), path))
        return None

    def director_keys(self) -> dict[str, dict[str, object]]:
        """Key ids and TUF key dicts of the director."""
        targets = self.targets()
        return {keyid: targets.get_key(keyid).to_dict() for keyid in self._role(DIRECTOR).keyids}

    def director_epoch(self) -> int:
        """The director epoch, signed in `targets`."""
        return director_epoch(self.targets())

    def director_signer(self) -> Signer:
        """What signs orders, permits and acks; raises `RefusedError` (`key-missing`) where its key is not."""
        return self.keyring.enough(self._role(DIRECTOR), DIRECTOR)[0]

    # Offline

    def sign_release(self, product: str, manifest: bytes, *, now: float) -> bytes:
        """Add a release (manifest and images) to its product's role with the product key; returns the role's new metadata.

        The same release again changes nothing. Raises `RefusedError`: `release-exists` for other content under a version that
        was signed before, `counter-not-rising`, `wrong-product`, `key-missing`, and what `parse_manifest` raises.
        """
        wanted = release_targets(product, manifest)
        with self.locked():
            role = product_role(product)
            name = self._newest(role)
            current = self._read(name, Targets, role).signed
            if not adds({**self._binned(current), **current.targets}, wanted, parse_manifest(manifest)):
                return self._bytes(name)
            current.targets.update(wanted)
            current.version += 1
            current.expires = expiry(now, self.lifetimes.offline_s)
            return self._write_signed(current, self._role(role), role)

    def signed_release(self, product: str, manifest: bytes) -> bytes:
        """The newest metadata of the product's role; raises `RefusedError` (`not-signed`) unless it lists this release."""
        wanted = release_targets(product, manifest)
        name = self._newest(product_role(product))
        targets = self._read(name, Targets, product_role(product)).signed
        if any(self._find(targets, path) != target for path, target in wanted.items()):
            raise RefusedError("not-signed", f"This release of {product} is not signed; `otaria release sign` does it.")
        return self._bytes(name)

    # Online

    def accept_product(self, data: bytes, *, product: str, now: float) -> tuple[FileRef, ...]:
        """Take product metadata signed elsewhere: checked against the delegation, no release removed or changed; then
        written and named by a new snapshot and timestamp. Returns the files it adds; none for the bytes held already.

        Raises `RefusedError`: `catalogue-refused`, `catalogue-expired`, `release-exists`.
        """
        with self.locked():
            role = product_role(product)
            delegation, meta = self._role(role), self._listed(role)
            if matches(meta, data):
                return ()
            new = parse(data, Targets, role, max_bytes=self._limits.targets_bytes)
            require_threshold(self.targets(), role, new)
            old = self.targets(role)
            check_successor(old, new.signed, delegation, now)
            self.write(f"{new.signed.version}.{role}.json", data)
            self._resign({f"{role}.json": _meta(new.signed.version, data)}, now)
            added = [target for path, target in sorted(new.signed.targets.items()) if path not in old.targets]
            return tuple(ref for ref in map(file_ref, added) if ref is not None)

    def add_delta(
        self, path: str, *, length: int, sha256: str, now: float, custom: Mapping[str, Any] | None = None
    ) -> None:
        """List a delta, signed with the online deltas key; the same again changes nothing. Raises `RefusedError`
        (`delta-exists`) for other content under a path in use, and `catalogue-refused` for a path outside `deltas/*`."""
        delegation = self._role(DELTAS)
        if not delegation.is_delegated_path(path):
            raise refused(f"A delta's path is deltas/NAME, not {path}.")
        unrecognised = {"custom": dict(custom)} if custom else {}
        target = TargetFile(length, {"sha256": sha256}, path, unrecognised)
        with self.locked():
            current = self.targets(DELTAS)
            held = current.targets.get(path)
            if held == target:
                return
            if held is not None:
                raise RefusedError("delta-exists", f"{path} is in the catalogue with other content.")
            current.targets[path] = target
            self._resign(self._resigned_deltas(current, now), now)

    def renew(self, now: float) -> list[str]:
        """Sign anew the online roles that have used up half of their lifetime, and those signed to last far longer than they
        should (by a clock that was wrong: for so long an old catalogue could be shown as fresh); returns their names."""
        with self.locked():
            deltas, snapshot, timestamp = self.targets(DELTAS), self.snapshot(), self.timestamp()
            due = [
                role
                for role, signed, lifetime_s in (
                    (DELTAS, deltas, self.lifetimes.deltas_s),
                    (Snapshot.type, snapshot, self.lifetimes.snapshot_s),
                    (Timestamp.type, timestamp, self.lifetimes.timestamp_s),
                )
                if not expiry(now, lifetime_s // 2) <= signed.expires <= expiry(now, lifetime_s * 2)
            ]
            if DELTAS in due:
                self._resign(self._resigned_deltas(deltas, now), now)
            elif Snapshot.type in due:
                self._resign({}, now)
            elif due:
                self._sign_timestamp(timestamp.snapshot_meta, now)
            return due

    def leap(self, now: float, *, by: int) -> None:
        """Sign the online roles anew, so many versions ahead: a catalogue out of a backup must not go back behind what devices
        have seen since."""
        with self.locked():
            deltas = self.targets(DELTAS)
            deltas.version += by
            self._resign(self._resigned_deltas(deltas, now), now, by=by)

    # Signing and writing

    def _resigned_deltas(self, signed: Targets, now: float) -> dict[str, MetaFile]:
        signed.version += 1
        signed.expires = expiry(now, self.lifetimes.deltas_s)
        data = self._write_signed(signed, self._role(DELTAS), DELTAS)
        return {f"{DELTAS}.json": _meta(signed.version, data)}

    def _resign(self, changed: dict[str, MetaFile], now: float, *, by: int = 1) -> None:
        snapshot = self.snapshot()
        snapshot.meta.update(changed)
        snapshot.version += by
        snapshot.expires = expiry(now, self.lifetimes.snapshot_s)
        data = self._write_signed(snapshot, self.root().roles[Snapshot.type], Snapshot.type)
        self._sign_timestamp(_meta(snapshot.version, data), now, by=by)

    def _sign_timestamp(self, meta: MetaFile, now: float, *, by: int = 1) -> None:
        timestamp = self.timestamp()
        timestamp.snapshot_meta = meta
        timestamp.version += by
        timestamp.expires = expiry(now, self.lifetimes.timestamp_s)
        role = self.root().roles[Timestamp.type]
        self.write("timestamp.json", sign(timestamp, self.keyring.enough(role, Timestamp.type)))

    def _write_signed(self, signed: S, role: Role, name: str) -> bytes:
        data = sign(signed, self.keyring.enough(role, name))
        self.write(f"{signed.version}.{name}.json", data)
        return data

    def write(self, name: str, data: bytes) -> None:
        with atomic_output(self.metadata / name) as file:
            file.write(data)

    # Reading

    def _delegated(self) -> dict[str, DelegatedRole]:
        delegations = self.targets().delegations
        return delegations.roles or {} if delegations else {}

    def _find(self, targets: Targets, path: str) -> TargetFile | None:
        """A path in a role, or in the hash bin below it that the path belongs to."""
        found = targets.targets.get(path)
        bins = targets.delegations.succinct_roles if targets.delegations else None
        if found is not None or bins is None:
            return found
        return self.targets(bins.get_role_for_target(path)).targets.get(path)

    def _binned(self, targets: Targets) -> dict[str, TargetFile]:
        """All that the hash bins below a role list."""
        bins = targets.delegations.succinct_roles if targets.delegations else None
        names = bins.get_roles() if bins else ()
        return {path: target for name in names for path, target in self.targets(name).targets.items()}

    def _role(self, name: str) -> DelegatedRole:
        role = self._delegated().get(name)
        if role is None:
            raise refused(f"The catalogue does not delegate to {name}; `otaria keys show` lists what it has.")
        return role

    def _listed(self, role: str) -> MetaFile:
        meta = self.snapshot().meta.get(f"{role}.json")
        if meta is None:
            raise refused(f"The catalogue has no {role}; `otaria keys show` lists what it has.")
        return meta

    def _newest(self, role: str) -> str:
        """The highest version on disk. For offline roles only: their signer is the only one who writes them."""
        ending = f".{role}.json"
        found = [path.name.removesuffix(ending) for path in self.metadata.glob(f"*{ending}")]
        versions = [int(name) for name in found if name.isdigit()]
        if not versions:
            raise refused(f"There is no {role} metadata in {self.metadata}; `otaria keys init` makes a catalogue.")
        return f"{max(versions)}{ending}"

    def _read(self, name: str, kind: type[S], role: str) -> Parsed[S]:
        return parse(self._bytes(name), kind, role, max_bytes=self._limits.targets_bytes)

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.metadata / name).read_bytes()
        except FileNotFoundError as error:
            text = f"There is no {name} in {self.metadata}; copy it back from the server, or make a catalogue"
            raise refused(f"{text} (`otaria keys init`).") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        descriptor = os.open(self.metadata, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for part in self.metadata.glob(".*.part"):  # of a process that was killed: the lock is ours now
                part.unlink()
            yield
        finally:
            os.close(descriptor)


def product_role(product: str) -> str:
    """The name of the role that signs a product's releases."""
    return f"product-{product}"


def sign(signed: S, signers: list[Signer]) -> bytes:
    """Metadata bytes with a signature of each signer."""
    metadata = Metadata(signed)
    for signer in signers:
        add_signature(metadata, signer)
    return metadata.to_bytes()


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])


def expiry(now: float, lifetime_s: int) -> datetime:
    return datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=lifetime_s)
