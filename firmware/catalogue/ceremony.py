"""The first ceremony: makes every key and the first version of every role, in a directory that appears whole or not at all.

`DIR/metadata/` is what the world sees, `DIR/keys/online/` goes to the server, `DIR/keys/offline/` stays away from it.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, Role, Root, Snapshot, Targets, Timestamp

from firmware.catalogue.client import DIRECTOR, EPOCH
from firmware.catalogue.keyfiles import SUFFIX, generate
from firmware.catalogue.publish import DELTAS, Lifetimes, Repository, product_role, sign
from firmware.catalogue.trust import TOP
from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN

ROOT_KEYS = 3
ROOT_THRESHOLD = 2


def initialise(
    directory: Path, *, products: Sequence[str], now: float, lifetimes: Lifetimes | None = None
) -> Repository:
    """Make a catalogue workspace: 2-of-3 root, offline targets and products, online director, deltas, snapshot, timestamp.

    `now` is POSIX seconds. Raises `RefusedError`: `directory-not-empty`, `bad-product`.
    """
    _check(directory, products)
    lifetimes = lifetimes or Lifetimes()
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name[:64]}."))
    try:
        _fill(draft, products, now, lifetimes)
        draft.rename(directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync(directory.parent)
    return Repository.workspace(directory, lifetimes=lifetimes)


def _check(directory: Path, products: Sequence[str]) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RefusedError("directory-not-empty", f"{directory} is not an empty directory; name a new one.")
    if not products or len(set(products)) != len(products):
        raise RefusedError("bad-product", "Name at least one product, each once.")
    for product in products:
        if not re.match(ID_PATTERN, product):
            raise RefusedError(
                "bad-product", f"{product!r} is no product name: use lower-case letters, digits and inner hyphens."
            )


def _fill(directory: Path, products: Sequence[str], now: float, lifetimes: Lifetimes) -> None:
    offline, online, metadata = directory / "keys" / "offline", directory / "keys" / "online", directory / "metadata"
    for path in (offline, online):
        path.mkdir(parents=True, mode=0o700)
    metadata.mkdir()
    roots = [generate(offline / f"root-{n}{SUFFIX}") for n in range(1, ROOT_KEYS + 1)]
    top = {TOP: generate(offline / f"{TOP}{SUFFIX}")}
    top |= {name: generate(online / f"{name}{SUFFIX}") for name in (Snapshot.type, Timestamp.type)}
    below = {name: generate(online / f"{name}{SUFFIX}") for name in (DIRECTOR, DELTAS)}
    below |= {name: generate(offline / f"{name}{SUFFIX}") for name in map(product_role, products)}

    far = _after(now, lifetimes.offline_s)
    files = {f"1.{Root.type}.json": sign(_root(roots, top, far), list(roots))}
    targets = Targets(1, None, far, {}, _delegations(products, below), {EPOCH: 1})
    listed = {TOP: sign(targets, [top[TOP]])}
    for name in (DELTAS, *map(product_role, products)):
        expires = _after(now, lifetimes.deltas_s) if name == DELTAS else far
        listed[name] = sign(Targets(1, None, expires), [below[name]])
    files |= {f"1.{name}.json": data for name, data in listed.items()}
    metas = {f"{name}.json": MetaFile.from_data(1, data, ["sha256"]) for name, data in listed.items()}
    snapshot = sign(Snapshot(1, None, _after(now, lifetimes.snapshot_s), metas), [top[Snapshot.type]])
    meta = MetaFile.from_data(1, snapshot, ["sha256"])
    files[f"1.{Snapshot.type}.json"] = snapshot
    timestamp = Timestamp(1, None, _after(now, lifetimes.timestamp_s), meta)
    files[f"{Timestamp.type}.json"] = sign(timestamp, [top[Timestamp.type]])
    for name, data in files.items():
        _write(metadata / name, data)
    for path in (offline, online, metadata, directory / "keys", directory):
        _sync(path)


def _root(roots: Sequence[CryptoSigner], top: dict[str, CryptoSigner], expires: datetime) -> Root:
    keys = {signer.public_key.keyid: signer.public_key for signer in (*roots, *top.values())}
    roles = {name: Role([signer.public_key.keyid], 1) for name, signer in top.items()}
    roles[Root.type] = Role([signer.public_key.keyid for signer in roots], ROOT_THRESHOLD)
    return Root(1, None, expires, dict(keys), roles, True)


def _delegations(products: Sequence[str], signers: dict[str, CryptoSigner]) -> Delegations:
    def role(name: str, paths: list[str]) -> DelegatedRole:
        return DelegatedRole(name, [signers[name].public_key.keyid], 1, terminating=True, paths=paths)

    roles = [role(product_role(product), [f"releases/{product}/*/*"]) for product in products]
    roles += [role(DELTAS, [f"{DELTAS}/*"]), role(DIRECTOR, [])]
    keys = {signer.public_key.keyid: signer.public_key for signer in signers.values()}
    return Delegations(dict(keys), {entry.name: entry for entry in roles})


def _after(now: float, lifetime_s: int) -> datetime:
    return datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=lifetime_s)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
