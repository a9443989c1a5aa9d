"""Proposals for changes of who may sign what: each gives the next version of the offline roles that it touches.

Nothing is written here. A role is signed again only where the signatures it has would no longer reach its threshold, so that
adding a key costs its delegator's signature alone. Replacing or removing a director key raises the director epoch, which makes
every order that was signed before it stale.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    Role,
    Root,
    Snapshot,
    SuccinctRoles,
    Targets,
    Timestamp,
)

from firmware.catalogue.client import DIRECTOR, EPOCH, director_epoch
from firmware.catalogue.proposal import Proposal, ordered
from firmware.catalogue.publish import DELTAS, Repository, product_role
from firmware.catalogue.signers import key_name
from firmware.catalogue.trust import TOP
from firmware.errors import RefusedError
from firmware.protocol.endpoints import FIELD, Endpoints, checked
from firmware.protocol.words import ID_PATTERN

TOP_ROLES = (Root.type, TOP, Snapshot.type, Timestamp.type)
ONLINE = (Snapshot.type, Timestamp.type, DELTAS, DIRECTOR)
MAX_BITS = 12
"""More bins would make a snapshot that devices find too long."""


class Change:
    """The next versions of root and of targets roles, as copies to be changed; `proposal` gives those that were touched."""

    def __init__(self, repository: Repository, now: float) -> None:
        self.repository = repository
        self._expires = datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=repository.lifetimes.offline_s)
        self.roles: dict[str, Metadata[Any]] = {}

    def root(self) -> Root:
        root: Root = self._next(Root.type)
        return root

    def targets(self, role: str = TOP) -> Targets:
        targets: Targets = self._next(role)
        return targets

    def add(self, role: str, body: Targets) -> None:
        """A role that is new."""
        body.expires = self._expires
        self.roles[role] = Metadata(body)

    def proposal(self, title: str) -> Proposal:
        base = {Root.type: self.repository.metadata_of(Root.type), TOP: self.repository.metadata_of(TOP)}
        listed = self.repository.snapshot().meta
        base |= {role: self.repository.metadata_of(role) for role in self.roles if f"{role}.json" in listed}
        return Proposal(title=title, roles=ordered(self.roles), base=ordered(base))

    def _next(self, role: str) -> Any:
        if role not in self.roles:
            signed = self.repository.metadata_of(role).signed
            signed.version += 1
            signed.expires = self._expires
            self.roles[role] = Metadata(signed)
        return self.roles[role].signed


def rotate(repository: Repository, role: str, new: SSlibKey, *, old: str | None = None, now: float) -> Proposal:
    """Put the key `new` in the place of `old` (a key id's first digits or a name; may be left out where there is one key).

    Raises `RefusedError`: `unknown-role`, `unknown-key`, `key-in-use`, `catalogue-refused`.
    """
    holder, delegation = _find(repository, role)
    gone = key_id(holder, delegation, role, old)
    change = Change(repository, now)
    _replace(change, role, [gone], [new], delegation.threshold)
    return change.proposal(f"rotate a key of {role}")


def add(repository: Repository, role: str, new: SSlibKey, *, threshold: int | None = None, now: float) -> Proposal:
    """Give a role one more key, and perhaps another threshold; a product that does not exist yet begins with this key.

    Raises `RefusedError`: `unknown-role`, `key-in-use`, `bad-threshold`.
    """
    change = Change(repository, now)
    if role.startswith(product_role("")) and role.removeprefix(product_role("")) not in repository.products():
        _begin_product(change, role, new)
        return change.proposal(f"begin {role}")
    _, delegation = _find(repository, role)
    _replace(change, role, [], [new], delegation.threshold if threshold is None else threshold)
    return change.proposal(f"add a key to {role}")


def remove(repository: Repository, role: str, old: str, *, threshold: int | None = None, now: float) -> Proposal:
    """Take a key away from a role. Raises `RefusedError`: `unknown-role`, `unknown-key`, `bad-threshold`."""
    holder, delegation = _find(repository, role)
    change = Change(repository, now)
    gone = key_id(holder, delegation, role, old)
    _replace(change, role, [gone], [], delegation.threshold if threshold is None else threshold)
    return change.proposal(f"remove a key of {role}")


def renew(repository: Repository, roles: Sequence[str], *, now: float) -> Proposal:
    """Sign offline roles again, unchanged, before they expire. Raises `RefusedError` (`unknown-role`)."""
    change = Change(repository, now)
    for role in roles:
        _find(repository, role)
        if role in ONLINE:
            raise RefusedError("unknown-role", f"{role} is an online role: the server renews it by itself.")
        _renew(change, role)
    return change.proposal(f"renew {', '.join(roles)}")


def raise_epoch(repository: Repository, *, now: float) -> Proposal:
    """Make every order that was signed before stale, although no key is replaced: after a backup was restored, those given since
    are unknown."""
    change = Change(repository, now)
    targets = change.targets()
    targets.unrecognized_fields[EPOCH] = director_epoch(targets) + 1
    return change.proposal("raise the director epoch")


def endpoints(repository: Repository, wanted: Endpoints | None, *, now: float) -> Proposal:
    """Tell devices where their server is and which CAs to trust there; None: what they were told at enrolment counts again.

    Raises `RefusedError` (`malformed`, `no-change`).
    """
    change = Change(repository, now)
    fields = change.targets().unrecognized_fields
    value = None if wanted is None else msgspec.to_builtins(checked(wanted))
    if fields.get(FIELD) == value:
        raise RefusedError("no-change", "The catalogue says that already.")
    if value is None:
        del fields[FIELD]
    else:
        fields[FIELD] = value
    return change.proposal("tell devices where their server is")


def bins(repository: Repository, product: str, bits: int, *, now: float) -> Proposal:
    """Move a product's files into 2^`bits` hash bins, which the product's keys sign. New releases are listed by the product
    itself; the same again moves those too.

    Raises `RefusedError`: `unknown-role`, `bad-bins`.
    """
    role = product_role(product)
    _, delegation = _find(repository, role)
    if not 1 <= bits <= MAX_BITS:
        raise RefusedError("bad-bins", f"Give between 1 and {MAX_BITS} bits; 8 make 256 bins.")
    change = Change(repository, now)
    body = change.targets(role)
    if body.delegations is None:
        held = repository.targets().delegations
        keys = {keyid: held.keys[keyid] for keyid in delegation.keyids} if held else {}
        succinct = SuccinctRoles(list(delegation.keyids), delegation.threshold, bits, bin_prefix(product))
        body.delegations = Delegations(keys, succinct_roles=succinct)
        for name in succinct.get_roles():
            change.add(name, Targets(1))
    _fill_bins(change, role, body, bits)
    return change.proposal(f"move the files of {role} into {1 << bits} hash bins")


def _fill_bins(change: Change, role: str, body: Targets, bits: int) -> None:
    succinct = body.delegations.succinct_roles if body.delegations else None
    if succinct is None or succinct.bit_length != bits:
        raise RefusedError("bad-bins", f"{role} delegates already, and not to {1 << bits} hash bins.")
    if not body.targets and len(change.roles) == 1:
        raise RefusedError("bad-bins", f"All files of {role} are in its hash bins.")
    for path, target in body.targets.items():
        change.targets(succinct.get_role_for_target(path)).targets[path] = target
    body.targets = {}


def bin_prefix(product: str) -> str:
    """The name that a product's hash bins begin with."""
    return f"bin-{product}"


def key_id(holder: Root | Delegations, role: Role, name: str, wanted: str | None) -> str:
    """The one key of a role that `wanted` means: by the beginning of its id, or its owner's name."""
    if wanted is None and len(role.keyids) == 1:
        return role.keyids[0]
    if wanted is None:
        raise RefusedError("unknown-key", f"{name} has {len(role.keyids)} keys; say which one (`otaria keys show`).")
    found = [
        keyid
        for keyid in role.keyids
        if (len(wanted) >= 6 and keyid.startswith(wanted)) or key_name(holder.keys.get(keyid)) == wanted
    ]
    if len(found) != 1:
        raise RefusedError("unknown-key", f"{wanted} means {len(found)} keys of {name}; `otaria keys show` lists them.")
    return found[0]


def _find(repository: Repository, role: str) -> tuple[Root | Delegations, Role]:
    """Who delegates to a role, and how."""
    root = repository.root()
    if role in root.roles:
        return root, root.roles[role]
    delegations = repository.targets().delegations
    found = (delegations.roles or {}).get(role) if delegations else None
    if delegations is None or found is None:
        raise RefusedError("unknown-role", f"There is no role {role}; `otaria keys show` lists those there are.")
    return delegations, found


def _replace(change: Change, role: str, gone: Sequence[str], new: Sequence[SSlibKey], threshold: int) -> None:
    holder: Root | Targets = change.root() if role in TOP_ROLES else change.targets()
    delegation = _delegation(holder, role)
    for key in new:
        _require_new(change, key)
        holder.add_key(key, role)
    for keyid in gone:
        holder.revoke_key(keyid, role)
    if not delegation.keyids:
        text = f"{role} has no other key; `otaria keys rotate {role}` puts a new one in its place."
        raise RefusedError("bad-threshold", text)
    if not 1 <= threshold <= len(delegation.keyids):
        text = f"{role} would need {threshold} of {len(delegation.keyids)} keys; give another --threshold."
        raise RefusedError("bad-threshold", text)
    if role == DIRECTOR and threshold != 1:
        raise RefusedError("bad-threshold", "Devices check one signature of the director; its threshold stays 1.")
    delegation.threshold = threshold
    if role == DIRECTOR and gone:
        targets = change.targets()
        targets.unrecognized_fields[EPOCH] = director_epoch(targets) + 1
    _sign_again(change, role, delegation)


def _sign_again(change: Change, role: str, delegation: Role) -> None:
    if role in ONLINE or role == Root.type:
        return
    good = set(change.repository.metadata_of(role).signatures) & set(delegation.keyids)
    if role != TOP:
        _hand_bins(change, role, delegation)
    if len(good) < delegation.threshold:
        change.targets(role)


def _hand_bins(change: Change, role: str, delegation: Role) -> None:
    """The hash bins of a product are signed by whoever signs the product."""
    held = change.repository.targets(role).delegations
    if held is None or held.succinct_roles is None:
        return
    body = change.targets(role)
    if body.delegations is None or body.delegations.succinct_roles is None:
        return
    above = change.targets().delegations
    succinct = body.delegations.succinct_roles
    succinct.keyids, succinct.threshold = list(delegation.keyids), delegation.threshold
    body.delegations.keys = {keyid: above.keys[keyid] for keyid in delegation.keyids} if above else {}
    for name in succinct.get_roles():
        change.targets(name)


def _renew(change: Change, role: str) -> None:
    if role == Root.type:
        change.root()
        return
    delegations = change.targets(role).delegations
    if delegations is not None and delegations.succinct_roles is not None:
        for name in delegations.succinct_roles.get_roles():
            change.targets(name)


def _delegation(holder: Root | Targets, role: str) -> Role:
    if isinstance(holder, Root):
        return holder.roles[role]
    return holder.get_delegated_role(role)


def _require_new(change: Change, key: SSlibKey) -> None:
    """One key in two roles would make one theft two, and one key twice in a role is no second key."""
    root, delegations = change.repository.root(), change.repository.targets().delegations
    used = [name for name, role in root.roles.items() if key.keyid in role.keyids]
    used += (
        [name for name, role in (delegations.roles or {}).items() if key.keyid in role.keyids] if delegations else []
    )
    if used:
        raise RefusedError("key-in-use", f"The key {key.keyid[:16]} is a key of {used[0]} already; make another one.")


def _begin_product(change: Change, role: str, new: SSlibKey) -> None:
    product = role.removeprefix(product_role(""))
    if not re.match(ID_PATTERN, product):
        raise RefusedError(
            "bad-product", f"{product!r} is no product name: use lower-case letters, digits and hyphens."
        )
    _require_new(change, new)
    targets = change.targets()
    if targets.delegations is None or targets.delegations.roles is None:
        raise RefusedError("unknown-role", "This catalogue delegates nothing; make a new one with `otaria keys init`.")
    paths = [f"releases/{product}/*/*"]
    targets.delegations.roles[role] = DelegatedRole(role, [], 1, terminating=True, paths=paths)
    targets.add_key(new, role)
    change.add(role, Targets(1))
