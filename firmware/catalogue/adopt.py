"""Puts a signed proposal in force: checked as a device will check it, online roles signed on top, then written.

Everything is signed and verified before the first file is written. Root comes just before `timestamp.json`, which is last: a
crash leaves the older catalogue, or the new root for as long as it takes to do the same again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from firmware.catalogue.client import director_epoch
from firmware.catalogue.metadata import parse, refused, require_threshold
from firmware.catalogue.proposal import Proposal, canonical_payload, delegated
from firmware.catalogue.publish import DELTAS, Repository, expiry, sign
from firmware.catalogue.releases import check_successor
from firmware.catalogue.trust import TOP, Limits, Trust
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

LIMITS = Limits()
"""Those of a device: what it would not read is not put in force."""


@dataclass(frozen=True, kw_only=True)
class _Now:
    """What is in force; all None and empty before the first ceremony ended."""

    root: Metadata[Any] | None
    snapshot: Snapshot | None
    timestamp: Timestamp | None


def adopt(repository: Repository, proposal: Proposal, *, now: float) -> list[str]:
    """Apply a proposal; returns the roles that changed, none when all of it was in force already. `now` is POSIX seconds.

    Raises `RefusedError`: `signatures-missing`, `proposal-outdated`, `key-missing` (an online key is not here),
    `release-exists`, `signing-failed`, `catalogue-refused`, `catalogue-expired`.
    """
    with repository.locked():
        held = _held(repository)
        todo = [role for role in proposal.roles if not _in_force(repository, held, proposal, role)]
        if not todo:
            return []
        _require_signed(proposal)
        root = proposal.roles[Root.type] if Root.type in todo else held.root
        if root is None:
            raise RefusedError(
                "proposal-outdated", "There is no root here yet; apply the first ceremony's proposal first."
            )
        for role in todo:
            _require_next(repository, held, proposal, role, now)
        files = {role: proposal.roles[role].to_bytes() for role in todo}
        _write(repository, held, proposal, root, files, now)
        return todo


def _held(repository: Repository) -> _Now:
    if not repository.exists():
        roots = any(repository.metadata.glob("*.root.json"))
        return _Now(root=repository.metadata_of(Root.type) if roots else None, snapshot=None, timestamp=None)
    return _Now(
        root=repository.metadata_of(Root.type), snapshot=repository.snapshot(), timestamp=repository.timestamp()
    )


def _in_force(repository: Repository, held: _Now, proposal: Proposal, role: str) -> bool:
    """Whether exactly this version is current; for root also that the online roles follow it."""
    if role == Root.type:
        same = held.root is not None and canonical_payload(held.root) == canonical_payload(proposal.roles[role])
        return same and _online_follows(repository, held)
    if held.snapshot is None or f"{role}.json" not in held.snapshot.meta:
        return False
    return canonical_payload(repository.metadata_of(role)) == canonical_payload(proposal.roles[role])


def _online_follows(repository: Repository, held: _Now) -> bool:
    if held.root is None or held.timestamp is None:
        return False
    names = {Timestamp.type: "timestamp.json", Snapshot.type: f"{held.timestamp.snapshot_meta.version}.snapshot.json"}
    kinds: dict[str, Any] = {Timestamp.type: Timestamp, Snapshot.type: Snapshot}
    try:
        for role, name in names.items():
            parsed: Any = parse(repository.bytes_of(name), kinds[role], role, max_bytes=LIMITS.snapshot_bytes)
            require_threshold(held.root.signed, role, parsed)
    except RefusedError:
        return False
    return True


def _require_signed(proposal: Proposal) -> None:
    missing = proposal.missing()
    if missing:
        raise RefusedError(
            "signatures-missing",
            f"This is not signed by enough keys yet: {'; '.join(missing)}. Let who holds the others sign a proposal "
            "(`-o FILE`, then `otaria keys sign`), and give all signed copies to `otaria keys apply`.",
        )


def _require_next(repository: Repository, held: _Now, proposal: Proposal, role: str, now: float) -> None:
    new = proposal.body(role)
    if role == Root.type:
        _require_next_root(held, proposal)
    elif held.snapshot is None or f"{role}.json" not in held.snapshot.meta:
        _require_version(role, 0, new.version)
    else:
        old = repository.targets(role)
        _require_version(role, old.version, new.version)
        if isinstance(new, Targets):
            _require_kept(repository, proposal, role, old, new, now)


def _require_next_root(held: _Now, proposal: Proposal) -> None:
    new = proposal.roles[Root.type]
    if held.root is None:
        _require_version(Root.type, 0, new.signed.version)
        return
    if canonical_payload(held.root) == canonical_payload(new):
        return
    _require_version(Root.type, held.root.signed.version, new.signed.version)
    base = proposal.base.get(Root.type)
    if base is None or canonical_payload(base) != canonical_payload(held.root):
        raise _outdated("It begins from another root than the one in force here.")


def _require_kept(
    repository: Repository, proposal: Proposal, role: str, old: Targets, new: Targets, now: float
) -> None:
    """What signatures alone do not say: no release vanishes, and a director that was removed stays removed."""
    if role == TOP:
        if director_epoch(new) < director_epoch(old):
            raise refused("The proposal takes the director epoch back; make it again.")
        return
    if new.delegations is not None and new.delegations.succinct_roles:
        _require_moved(proposal, old, new)
        return
    holder = proposal.roles.get(TOP) or repository.metadata_of(TOP)
    named = holder.signed.delegations.roles.get(role)
    if named is not None:
        check_successor(old, new, named, now)
    elif any(new.targets.get(path) != target for path, target in old.targets.items()):
        raise RefusedError("release-exists", f"{role} removes or changes a file; what was published stays as it is.")


def _require_moved(proposal: Proposal, old: Targets, new: Targets) -> None:
    """Every file is still listed, by the product itself or by the bin where devices will look."""
    bins = new.delegations.succinct_roles if new.delegations else None
    for path, target in old.targets.items():
        moved = proposal.roles.get(bins.get_role_for_target(path)) if bins else None
        if target not in (new.targets.get(path), moved.signed.targets.get(path) if moved else None):
            raise RefusedError("release-exists", f"{path} is in no hash bin; what was published stays.")


def _require_version(role: str, held: int, offered: int) -> None:
    if offered != held + 1:
        raise _outdated(f"It has version {offered} of {role}, and version {held} is in force.")


def _outdated(why: str) -> RefusedError:
    return RefusedError("proposal-outdated", f"{why} Make and sign a new proposal.")


def _write(
    repository: Repository,
    held: _Now,
    proposal: Proposal,
    root: Metadata[Any],
    files: dict[str, bytes],
    now: float,
) -> None:
    targets = proposal.roles.get(TOP) or repository.metadata_of(TOP)
    versions = {role: proposal.body(role).version for role in files}
    deltas = _deltas(repository, held, targets, now)
    if deltas is not None:
        files[DELTAS] = sign(deltas, repository.keyring.enough(_role(targets, DELTAS), DELTAS))
        versions[DELTAS] = deltas.version
    root_bytes = files.pop(Root.type, None)
    metas = dict(held.snapshot.meta) if held.snapshot else {}
    metas |= {f"{role}.json": MetaFile.from_data(versions[role], data, ["sha256"]) for role, data in files.items()}
    snapshot = _snapshot(repository, held, root.signed, metas, now)
    stamp = _timestamp(repository, held, root.signed, snapshot, now)
    _verify(repository, held, root, {**files, Snapshot.type: snapshot[1], Timestamp.type: stamp}, now)
    for role, data in files.items():
        repository.write(f"{versions[role]}.{role}.json", data)
    repository.write(f"{snapshot[0]}.snapshot.json", snapshot[1])
    if root_bytes is not None:
        repository.write(f"{root.signed.version}.root.json", root_bytes)
    repository.write("timestamp.json", stamp)


def _deltas(repository: Repository, held: _Now, targets: Metadata[Any], now: float) -> Targets | None:
    """The next version of `deltas` when what is in force would no longer be believed; None when it would."""
    if held.snapshot is None or f"{DELTAS}.json" not in held.snapshot.meta:
        return Targets(1, None, expiry(now, repository.lifetimes.deltas_s))
    current = repository.metadata_of(DELTAS)
    role = _role(targets, DELTAS)
    fresh = current.signed.expires > expiry(now, 0)
    if fresh and len(set(current.signatures) & set(role.keyids)) >= role.threshold:
        return None
    body: Targets = current.signed
    body.version += 1
    body.expires = expiry(now, repository.lifetimes.deltas_s)
    return body


def _role(targets: Metadata[Any], name: str) -> Any:
    role = delegated(targets, name)
    if role is None:
        raise refused(f"The proposed targets do not delegate to {name}.")
    return role


def _snapshot(
    repository: Repository, held: _Now, root: Root, metas: Mapping[str, MetaFile], now: float
) -> tuple[int, bytes]:
    signers = repository.keyring.enough(root.roles[Snapshot.type], Snapshot.type)
    version = held.snapshot.version + 1 if held.snapshot else 1
    body = held.snapshot or Snapshot(1)
    body.version, body.meta, body.expires = version, dict(metas), expiry(now, repository.lifetimes.snapshot_s)
    return version, sign(body, signers)


def _timestamp(repository: Repository, held: _Now, root: Root, snapshot: tuple[int, bytes], now: float) -> bytes:
    signers = repository.keyring.enough(root.roles[Timestamp.type], Timestamp.type)
    body = held.timestamp or Timestamp(1)
    body.version = held.timestamp.version + 1 if held.timestamp else 1
    body.snapshot_meta = MetaFile.from_data(*snapshot, ["sha256"])
    body.expires = expiry(now, repository.lifetimes.timestamp_s)
    return sign(body, signers)


def _verify(repository: Repository, held: _Now, root: Metadata[Any], files: Mapping[str, bytes], now: float) -> None:
    """Walk the result as a device that trusts the root before it; whatever it would refuse is refused here."""
    first = held.root if held.root is not None else root
    trust = Trust(first.to_bytes(), now=now, limits=LIMITS)
    if root.signed.version != first.signed.version:
        trust.add_root(root.to_bytes())
    trust.finish_root()
    trust.add_timestamp(files[Timestamp.type])
    trust.add_snapshot(files[Snapshot.type])
    waiting = [(TOP, Root.type)]
    while waiting:
        waiting += _walk(repository, trust, files, *waiting.pop())


def _walk(
    repository: Repository, trust: Trust, files: Mapping[str, bytes], role: str, delegator: str
) -> list[tuple[str, str]]:
    """Take one role as a device does; returns what it delegates to. An old role that has expired stops nobody else."""
    listed = trust.snapshot.meta if trust.snapshot else {}
    data = files.get(role) or repository.bytes_of(f"{listed[f'{role}.json'].version}.{role}.json")
    try:
        delegations = trust.add_targets(data, role, delegator).delegations
    except RefusedError as error:
        if role in files or error.kind != ReasonKind.CATALOGUE_EXPIRED:
            raise
        return []
    if delegations is None:
        return []
    names = (
        list(delegations.succinct_roles.get_roles()) if delegations.succinct_roles else list(delegations.roles or ())
    )
    return [(name, role) for name in names if f"{name}.json" in listed]
