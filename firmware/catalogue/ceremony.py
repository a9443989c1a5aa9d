"""The first ceremony: makes every key that is wanted here and the first version of every role, in a directory that appears
whole or not at all.

`DIR/metadata/` is what the world sees, `DIR/keys/online/` goes to the server, `DIR/keys/offline/` stays away from it. A role
whose keys were made elsewhere, on a signer's own machine or in a token, comes as public keys; what they have to sign then
waits as a proposal in `DIR/first.proposal.json`.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Snapshot, Targets, Timestamp

from firmware.catalogue.adopt import adopt
from firmware.catalogue.client import DIRECTOR, EPOCH
from firmware.catalogue.keyfiles import ECDSA, SUFFIX, Keyring, generate
from firmware.catalogue.proposal import Proposal, ordered
from firmware.catalogue.publish import DELTAS, Lifetimes, Repository, product_role
from firmware.catalogue.signers import NAME
from firmware.catalogue.trust import TOP
from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN

FIRST = "first.proposal.json"
ONLINE = (Snapshot.type, Timestamp.type, DIRECTOR, DELTAS)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who signs what in a new catalogue. `public` gives keys that exist elsewhere, by role; all others are made here, with
    `scheme`, and the offline ones are encrypted when there is a `passphrase`."""

    products: Sequence[str]
    root_keys: int = 3
    root_threshold: int = 2
    public: Mapping[str, Sequence[SSlibKey]] = field(default_factory=dict)
    scheme: str = ECDSA
    passphrase: str | None = None


def initialise(
    directory: Path, *, products: Sequence[str], now: float, lifetimes: Lifetimes | None = None
) -> Repository:
    """Make a catalogue workspace with every key in it: 2-of-3 root, offline targets and products, online the rest.

    `now` is POSIX seconds. Raises `RefusedError`: `directory-not-empty`, `bad-product`.
    """
    return begin(directory, Plan(products=products), now=now, lifetimes=lifetimes)[0]


def begin(
    directory: Path, plan: Plan, *, now: float, lifetimes: Lifetimes | None = None
) -> tuple[Repository, Proposal | None]:
    """Make a catalogue workspace as planned; the second value is what still has to be signed elsewhere, None when nothing.

    Raises `RefusedError`: `directory-not-empty`, `bad-product`, `bad-threshold`, `unknown-role`, `key-in-use`.
    """
    _check(directory, plan.products)
    _check_keys(plan)
    lifetimes = lifetimes or Lifetimes()
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name[:64]}."))
    try:
        waiting = _fill(draft, plan, now, lifetimes)
        draft.rename(directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync(directory.parent)
    return Repository.workspace(directory, lifetimes=lifetimes), waiting


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


def _check_keys(plan: Plan) -> None:
    roles = {Root.type, TOP, *ONLINE, *map(product_role, plan.products)}
    for role, keys in plan.public.items():
        if role not in roles:
            raise RefusedError(
                "unknown-role", f"There is no role {role} in this plan; it has {', '.join(sorted(roles))}."
            )
        if role != Root.type and len(keys) != 1:
            raise RefusedError("bad-threshold", f"{role} begins with one key; `otaria keys add` gives it more.")
    ids = [key.keyid for keys in plan.public.values() for key in keys]
    if len(set(ids)) != len(ids):
        raise RefusedError(
            "key-in-use", "One public key was given twice; every role and signer needs a key of its own."
        )
    count = len(plan.public.get(Root.type, ())) or plan.root_keys
    if not 1 <= plan.root_threshold <= count:
        text = f"{plan.root_threshold} of {count} root keys cannot sign; give another threshold."
        raise RefusedError("bad-threshold", text)


def _fill(directory: Path, plan: Plan, now: float, lifetimes: Lifetimes) -> Proposal | None:
    """Keys, metadata and perhaps the waiting proposal."""
    offline, online, metadata = directory / "keys" / "offline", directory / "keys" / "online", directory / "metadata"
    for path in (offline, online):
        path.mkdir(parents=True, mode=0o700)
    metadata.mkdir()
    keys = _keys(plan, offline, online)
    proposal = _proposal(plan, keys, now, lifetimes)
    repository = Repository.workspace(directory, lifetimes=lifetimes)
    if plan.passphrase is not None:
        secret = plan.passphrase
        keyring = Keyring([offline, online], secrets=lambda _kind, _of: secret)
        repository = Repository.workspace(directory, lifetimes=lifetimes, keyring=keyring)
    proposal.sign(repository.keyring)
    waiting = bool(proposal.missing())
    if waiting:
        _write(directory / FIRST, proposal.encode())
    else:
        adopt(repository, proposal, now=now)
    for path in (offline, online, metadata, directory / "keys", directory):
        _sync(path)
    return proposal if waiting else None


def _keys(plan: Plan, offline: Path, online: Path) -> dict[str, list[SSlibKey]]:
    out: dict[str, list[SSlibKey]] = {}
    for role in (Root.type, TOP, *ONLINE, *map(product_role, plan.products)):
        names = [f"{Root.type}-{n}" for n in range(1, plan.root_keys + 1)] if role == Root.type else [role]
        where, secret = (online, None) if role in ONLINE else (offline, plan.passphrase)
        made = (
            {}
            if plan.public.get(role)
            else {
                name: generate(where / f"{name}{SUFFIX}", scheme=plan.scheme, passphrase=secret).public_key
                for name in names
            }
        )
        several = len(made) > 1
        out[role] = [*plan.public.get(role, ()), *(named(key, name) if several else key for name, key in made.items())]
    return out


def named(key: SSlibKey, name: str) -> SSlibKey:
    """The same key with a name for people."""
    key.unrecognized_fields[NAME] = name
    return key


def _proposal(plan: Plan, keys: Mapping[str, Sequence[SSlibKey]], now: float, lifetimes: Lifetimes) -> Proposal:
    far = _after(now, lifetimes.offline_s)
    products = [product_role(product) for product in plan.products]
    bodies: dict[str, Root | Targets] = {
        Root.type: _root(keys, plan.root_threshold, far),
        TOP: Targets(1, None, far, {}, _delegations(plan.products, keys), {EPOCH: 1}),
    }
    bodies |= {role: Targets(1, None, far) for role in products}
    return Proposal(title="begin the catalogue", roles=ordered({r: Metadata(b) for r, b in bodies.items()}), base={})


def _root(keys: Mapping[str, Sequence[SSlibKey]], threshold: int, expires: datetime) -> Root:
    top = (Root.type, TOP, Snapshot.type, Timestamp.type)
    roles = {name: Role([key.keyid for key in keys[name]], 1) for name in top}
    roles[Root.type].threshold = threshold
    return Root(1, None, expires, {key.keyid: key for name in top for key in keys[name]}, roles, True)


def _delegations(products: Sequence[str], keys: Mapping[str, Sequence[SSlibKey]]) -> Delegations:
    def role(name: str, paths: list[str]) -> DelegatedRole:
        return DelegatedRole(name, [key.keyid for key in keys[name]], 1, terminating=True, paths=paths)

    roles = [role(product_role(product), [f"releases/{product}/*/*"]) for product in products]
    roles += [role(DELTAS, [f"{DELTAS}/*"]), role(DIRECTOR, [])]
    known = {key.keyid: key for entry in roles for key in keys[entry.name]}
    return Delegations(dict(known), {entry.name: entry for entry in roles})


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
