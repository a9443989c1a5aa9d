"""Bytes to TUF metadata, strictly: bounded JSON without duplicate keys, and signatures over the object as it was received.

Whatever is wrong with the bytes ends as one `RefusedError` (`catalogue-refused`), never another exception.
"""

from dataclasses import dataclass
from typing import IO, Any, Generic, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, Key, Signature, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)

from firmware.errors import RefusedError
from firmware.protocol.codec import parse_json
from firmware.protocol.words import ReasonKind

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)
MAX_SIGNATURES = 256
_BROKEN = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    OverflowError,
    SecureSystemsError,
    RepositoryError,
)


@dataclass(frozen=True, kw_only=True)
class Parsed(Generic[S]):
    """Metadata that was parsed and *not* yet verified: its body, the canonical bytes that are signed, the signatures."""

    signed: S
    payload: bytes
    signatures: dict[str, Signature]


class ForeignKey(Key):
    """A key of a type or scheme that is not understood here: kept as it was signed, and good for no signature."""

    @classmethod
    def from_dict(cls, keyid: str, key_dict: dict[str, Any]) -> "ForeignKey":
        """Raises `KeyError`, `TypeError` or `ValueError` for what is no key at all."""
        rest = dict(key_dict)
        return cls(keyid, rest.pop("keytype"), rest.pop("scheme"), rest.pop("keyval"), rest)

    def to_dict(self) -> dict[str, Any]:
        """As it was read."""
        return {
            "keytype": self.keytype,
            "scheme": self.scheme,
            "keyval": self.keyval,
            **self.unrecognized_fields,
        }

    def verify_signature(self, signature: Signature, data: bytes) -> None:
        """Never succeeds."""
        raise UnverifiedSignatureError(f"{self.keytype}/{self.scheme} is not understood here")


def refused(text: str) -> RefusedError:
    """The error of this package: `catalogue-refused` with a sentence."""
    return RefusedError(ReasonKind.CATALOGUE_REFUSED, text)


def parse(data: bytes, kind: type[S], name: str, *, max_bytes: int) -> Parsed[S]:
    """Parse `data` as metadata of `kind`; `name` is the role, for people. Raises `RefusedError` (`catalogue-refused`)."""
    try:
        value = parse_json(data, max_bytes=max_bytes)
    except RefusedError as error:
        raise refused(f"The catalogue's {name} cannot be read. {error.text}") from error
    try:
        return _parsed(value, kind)
    except _BROKEN as error:
        raise refused(f"The catalogue's {name} is not valid TUF metadata: {str(error)[:200]}.") from error


def _parsed(value: dict[str, Any], kind: type[S]) -> Parsed[S]:
    if len(value["signatures"]) > MAX_SIGNATURES:
        raise ValueError(f"more than {MAX_SIGNATURES} signatures")
    # Canonical form of what was received: tuf's parse keeps unknown fields, but takes the dict apart while it reads.
    payload = encode_canonical(value["signed"])
    foreign = _foreign_keys(value["signed"])
    metadata = Metadata[S].from_dict(value)
    if not isinstance(metadata.signed, kind) or payload is None:
        raise ValueError(f"this is not {kind.type} metadata")
    holder = metadata.signed.delegations if isinstance(metadata.signed, Targets) else metadata.signed
    if foreign and isinstance(holder, Root | Delegations):
        holder.keys.update(foreign)
    _check_shape(metadata.signed)
    return Parsed(signed=metadata.signed, payload=payload.encode(), signatures=metadata.signatures)


def _foreign_keys(signed: dict[str, Any]) -> dict[str, ForeignKey]:
    """Take keys of types that are not understood out of what tuf is to read, since it would refuse the whole file."""
    holder = signed.get("delegations") if signed["_type"] == Targets.type else signed
    keys = holder.get("keys") if isinstance(holder, dict) else None
    if not isinstance(keys, dict):
        return {}
    return {keyid: ForeignKey.from_dict(keyid, keys.pop(keyid)) for keyid in [*keys] if not _understood(keys[keyid])}


def _understood(key: dict[str, Any]) -> bool:
    return KEY_FOR_TYPE_AND_SCHEME.get((key["keytype"], key["scheme"])) is SSlibKey


def _check_shape(signed: Root | Timestamp | Snapshot | Targets) -> None:
    """What tuf leaves unchecked: integers must be integers, lists must be lists (text would be taken letter by letter)."""
    roles = _roles(signed)
    numbers: list[object] = [signed.version, *(role.threshold for role in roles)]
    lists: list[object] = [role.keyids for role in roles]
    if isinstance(signed, Timestamp):
        numbers += _numbers(signed.snapshot_meta)
    elif isinstance(signed, Snapshot):
        numbers += [number for meta in signed.meta.values() for number in _numbers(meta)]
    elif isinstance(signed, Targets):
        numbers += [target.length for target in signed.targets.values()]
        numbers += [role.bit_length for role in roles if isinstance(role, SuccinctRoles)]
        lists += [paths for role in roles if isinstance(role, DelegatedRole) for paths in _paths(role)]
    if any(type(number) is not int for number in numbers):
        raise ValueError("a version, threshold or length is not an integer")
    if any(not isinstance(entry, list) for entry in lists):
        raise ValueError("key ids, paths or hash prefixes are not a list")
    if any(type(role.terminating) is not bool for role in roles if isinstance(role, DelegatedRole)):
        raise ValueError("terminating is neither true nor false")


def _roles(signed: Root | Timestamp | Snapshot | Targets) -> list[Role]:
    """Whatever the metadata delegates to."""
    if isinstance(signed, Root):
        return [*signed.roles.values()]
    delegations = signed.delegations if isinstance(signed, Targets) else None
    if delegations is None:
        return []
    return [*(delegations.roles or {}).values(), *filter(None, [delegations.succinct_roles])]


def _paths(role: DelegatedRole) -> list[object]:
    return [paths for paths in (role.paths, role.path_hash_prefixes) if paths is not None]


def _numbers(meta: MetaFile) -> list[object]:
    return [meta.version, *([] if meta.length is None else [meta.length])]


def require_threshold(delegator: Root | Targets, role: str, parsed: Parsed[S]) -> None:
    """Raise `RefusedError` unless the delegator's threshold of *different keys* signed; one key under several ids is one."""
    try:
        result = delegator.get_verification_result(role, parsed.payload, parsed.signatures)
        distinct = {_material(key) for key in result.signed.values() if isinstance(key, SSlibKey)}
    except _BROKEN as error:
        raise refused(f"The catalogue delegates nothing to {role}.") from error
    if len(distinct) < result.threshold:
        raise refused(
            f"The catalogue's {role} is signed by {len(distinct)} of the {result.threshold} keys it needs; "
            "it was changed on the way or signed with keys that are not trusted."
        )


def _material(key: Key) -> bytes:
    """The key itself, however it is labelled or wrapped."""
    public: str = key.keyval["public"]
    if "-----BEGIN" not in public:
        return bytes.fromhex(public)
    return load_pem_public_key(public.encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def matches(file: MetaFile | TargetFile, data: bytes | IO[bytes]) -> bool:
    """Whether bytes, or a binary file, have the length and all the hashes that are listed (metadata may list none)."""
    try:
        file.verify_length_and_hashes(data)
    except _BROKEN:
        return False
    return True
