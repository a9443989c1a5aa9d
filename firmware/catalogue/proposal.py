"""A proposal: the next version of some offline roles, on its way from signer to signer as one file.

It carries what it replaces, so that a signer without a network sees a diff; what is about to be trusted is always shown whole,
because only a signer's own copy of the catalogue (`--against`) says whether the "before" is true. Signatures gather in the
file, or in several copies of it that are merged.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Role, Root, Targets

from firmware.catalogue.keyfiles import Keyring
from firmware.catalogue.metadata import parse, refused
from firmware.catalogue.signers import add_signature, own_id
from firmware.catalogue.trust import TOP
from firmware.errors import RefusedError
from firmware.protocol.codec import parse_json

KIND = "otaria-proposal"
MAX_BYTES = 64_000_000
MAX_ROLE_BYTES = 5_000_000
Body = Root | Targets


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """`roles` are the new versions, in the order of trust (root, targets, delegated); `base` what is current, where it is."""

    title: str
    roles: Mapping[str, Metadata[Any]]
    base: Mapping[str, Metadata[Any]]

    def body(self, role: str) -> Body:
        """The proposed content of a role."""
        body: Body = self.roles[role].signed
        return body

    def root(self) -> Root:
        """The root that is in force once this is applied."""
        root: Root = (self.roles.get(Root.type) or self.base[Root.type]).signed
        return root

    def needs(self) -> Iterator[tuple[str, str, Role]]:
        """(role, who authorises it, role with keys and threshold) for every threshold of signatures that this needs."""
        for role in self.roles:
            if role == Root.type and Root.type in self.base:
                yield role, "the root before", self.base[Root.type].signed.roles[Root.type]
            yield role, "the new root" if role == Root.type else "", self.authority(role)

    def authority(self, role: str) -> Role:
        """Keys and threshold of a role, as they are once this is applied."""
        if role in (Root.type, TOP):
            return self.root().roles[role]
        for holder in (TOP, *(name for name in (*self.roles, *self.base) if name not in (Root.type, TOP))):
            found = delegated((self.roles.get(holder) or self.base.get(holder)), role)
            if found is not None:
                return found
        raise refused(f"Nothing in this proposal delegates to {role}.")

    def signed_by(self, role: str, authority: Role) -> list[str]:
        """Ids of the keys of `authority` whose signature on `role` is there and good."""
        metadata = self.roles[role]
        payload = canonical_payload(metadata)
        keys = self.keys()
        found = []
        for keyid in authority.keyids:
            signature = metadata.signatures.get(keyid)
            if signature is not None and keyid in keys and _good(keys[keyid], signature, payload):
                found.append(keyid)
        return found

    def missing(self) -> list[str]:
        """A sentence for every threshold that is not reached yet."""
        out = []
        for role, who, authority in self.needs():
            have = len(self.signed_by(role, authority))
            if have < authority.threshold:
                whom = f" ({who})" if who else ""
                out.append(f"{role}{whom} has {have} of {authority.threshold} signatures")
        return out

    def expired(self, now: float) -> list[str]:
        """The proposed roles that have expired at `now`, in POSIX seconds."""
        moment = datetime.fromtimestamp(now, UTC)
        return [role for role in self.roles if self.body(role).is_expired(moment)]

    def keys(self) -> dict[str, Any]:
        """All keys that this proposal and what it replaces know, by id."""
        out: dict[str, Any] = {}
        for metadata in (*self.base.values(), *self.roles.values()):
            signed = metadata.signed
            holder = signed if isinstance(signed, Root) else signed.delegations
            out |= holder.keys if holder else {}
        return out

    def sign(self, keyring: Keyring) -> dict[str, list[str]]:
        """Add the signatures of every key in `keyring` that may sign; returns the key ids used, by role."""
        done: dict[str, list[str]] = {}
        for role, _, authority in self.needs():
            for keyid in keyring.held(authority):
                if keyid not in done.setdefault(role, []):
                    add_signature(self.roles[role], keyring.signer(keyid))
                    done[role].append(keyid)
        return {role: keyids for role, keyids in done.items() if keyids}

    def merge(self, other: "Proposal") -> None:
        """Take over the signatures of another copy; raises `RefusedError` (`other-proposal`) when it proposes something else."""
        mine = {role: canonical_payload(metadata) for role, metadata in self.roles.items()}
        if mine != {role: canonical_payload(metadata) for role, metadata in other.roles.items()}:
            raise RefusedError("other-proposal", "These files are not copies of one proposal; sign the same one.")
        for role, metadata in other.roles.items():
            for _, _, authority in (need for need in other.needs() if need[0] == role):
                for keyid in other.signed_by(role, authority):
                    self.roles[role].signatures[keyid] = metadata.signatures[keyid]

    def encode(self) -> bytes:
        """The file's bytes."""
        value = {
            "kind": KIND,
            "format": 1,
            "title": self.title,
            "base": {role: metadata.to_dict() for role, metadata in self.base.items()},
            "roles": {role: metadata.to_dict() for role, metadata in self.roles.items()},
        }
        return json.dumps(value, indent=1, sort_keys=False).encode() + b"\n"


def decode(data: bytes) -> Proposal:
    """Read a proposal file. Raises `RefusedError` (`not-a-proposal`, `catalogue-refused`, `key-mismatch`)."""
    try:
        value = parse_json(data, max_bytes=MAX_BYTES)
        if (value.get("kind"), value.get("format")) != (KIND, 1):
            raise RefusedError("not-a-proposal", "no proposal of this version")
        base = {role: _metadata(role, entry) for role, entry in value["base"].items()}
        roles = {role: _metadata(role, entry) for role, entry in value["roles"].items()}
        title = value["title"]
    except (KeyError, TypeError, AttributeError) as error:
        raise RefusedError("not-a-proposal", "This file is no proposal; `otaria keys rotate` makes one.") from error
    except RefusedError as error:
        if error.kind == "catalogue-refused":
            raise
        raise RefusedError("not-a-proposal", f"This file is no proposal: {error.text.rstrip('.')}.") from error
    if (
        not roles
        or not isinstance(title, str)
        or not title.isprintable()
        or (Root.type not in base and Root.type not in roles)
    ):
        raise RefusedError("not-a-proposal", "This proposal has no root, no readable title, or changes nothing.")
    for role, metadata in roles.items():
        _require_own_ids(role, metadata.signed)
    return Proposal(title=title, roles=dict(sorted(roles.items(), key=_by_trust)), base=base)


def canonical_payload(metadata: Metadata[Any]) -> bytes:
    """The bytes that are signed."""
    payload = encode_canonical(metadata.signed.to_dict())
    return (payload or "").encode()


def delegated(holder: Metadata[Any] | None, role: str) -> Role | None:
    """What `holder` delegates to `role`: named, or as one of its hash bins."""
    delegations = holder.signed.delegations if holder is not None and isinstance(holder.signed, Targets) else None
    if delegations is None:
        return None
    if delegations.roles and role in delegations.roles:
        return delegations.roles[role]
    bins = delegations.succinct_roles
    return bins if bins is not None and bins.is_delegated_role(role) else None


def ordered(roles: Mapping[str, Metadata[Any]]) -> dict[str, Metadata[Any]]:
    """Roles in the order in which trust runs: root, targets, products, bins."""
    return dict(sorted(roles.items(), key=_by_trust))


def _by_trust(item: tuple[str, object]) -> tuple[int, str]:
    fixed: Sequence[str] = (Root.type, TOP)
    name = item[0]
    return (fixed.index(name) if name in fixed else 2 if name.startswith("product-") else 3, name)


def _metadata(role: str, value: Any) -> Metadata[Any]:
    data = json.dumps(value).encode()
    kind: Any = Root if role == Root.type else Targets
    parsed = parse(data, kind, role, max_bytes=MAX_ROLE_BYTES)
    metadata: Metadata[Any] = Metadata(parsed.signed, dict(parsed.signatures))
    if canonical_payload(metadata) != parsed.payload:
        raise refused(f"The proposed {role} does not survive being read and written; make it with this version.")
    return metadata


def _require_own_ids(role: str, body: Body) -> None:
    """Ids are what people compare with each other, so behind each must be the key that it is the hash of."""
    holder = body if isinstance(body, Root) else body.delegations
    for keyid, key in (holder.keys if holder else {}).items():
        try:
            own = own_id(key) if isinstance(key, SSlibKey) else ""
        except (ValueError, TypeError, KeyError, UnsupportedAlgorithm):
            own = ""
        if own != keyid:
            raise RefusedError(
                "key-mismatch",
                f"The proposed {role} puts a key under the id {keyid[:16]!r} that does not belong to it. Do not sign this; "
                "ask who made it.",
            )


def _good(key: Any, signature: Any, payload: bytes) -> bool:
    try:
        key.verify_signature(signature, payload)
    except (UnverifiedSignatureError, VerificationError):
        return False
    return True
