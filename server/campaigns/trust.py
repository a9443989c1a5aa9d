"""The catalogue's trust as people see it: each role with its keys, until when it is signed, and which keys are here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import Role, Root

from firmware.catalogue.describe import key_text
from firmware.catalogue.publish import Repository

TOP = "targets"


@dataclass(frozen=True, kw_only=True)
class RoleFacts:
    """A role of the catalogue. `held`: how many of its keys this server has. `expires_at` None: it signs no metadata itself."""

    name: str
    version: int | None
    expires_at: float | None
    threshold: int
    keys: tuple[str, ...]
    held: int

    @property
    def is_online(self) -> bool:
        """Whether this server can sign for it by itself."""
        return self.held >= self.threshold


def roles_of(repository: Repository) -> tuple[RoleFacts, ...]:
    """Every role, as its newest metadata has it. Reads files; raises `RefusedError` when they don't verify."""
    return tuple(_roles(repository))


def _roles(repository: Repository) -> Iterator[RoleFacts]:
    root, targets = repository.root(), repository.targets()
    signed: dict[str, Any] = {
        Root.type: root,
        TOP: targets,
        "snapshot": repository.snapshot(),
        "timestamp": repository.timestamp(),
    }
    for name, one in signed.items():
        yield _facts(repository, name, root.roles[name], root.keys, one)
    delegations = targets.delegations
    for name, role in (delegations.roles or {} if delegations else {}).items():
        has_metadata = bool(role.paths or role.path_hash_prefixes)
        one = repository.targets(name) if has_metadata else None
        yield _facts(repository, name, role, delegations.keys if delegations else {}, one)


def _facts(repository: Repository, name: str, role: Role, keys: dict[str, Any], signed: Any) -> RoleFacts:
    return RoleFacts(
        name=name,
        version=signed.version if signed else None,
        expires_at=signed.expires.timestamp() if signed else None,
        threshold=role.threshold,
        keys=tuple(key_text(keyid, keys[keyid]) for keyid in role.keyids if keyid in keys),
        held=len(repository.keyring.held(role)),
    )
