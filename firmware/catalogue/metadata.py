"""Bytes to TUF metadata, strictly: bounded JSON without duplicate keys, and signatures over the object as it was received.

Whatever is wrong with the bytes ends as one `RefusedError` (`catalogue-refused`), never another exception.
"""

from dataclasses import dataclass
from typing import IO, Any, Generic, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key, Signature, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from firmware.errors import RefusedError
from firmware.protocol.codec import parse_json
from firmware.protocol.words import ReasonKind

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)
MAX_SIGNATURES = 256
MAX_ROLE_NAME = 128
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
    metadata = Metadata[S].from_dict(value)
    if not isinstance(metadata.signed, kind) or payload is None:
        raise ValueError(f"this is not {kind.type} metadata")
    _check_shape(metadata.signed)
    return Parsed(signed=metadata.signed, payload=payload.encode(), signatures=metadata.signatures)


def _check_shape(signed: Root | Timestamp | Snapshot | Targets) -> None:
    """What tuf leaves unchecked: integers must be integers, names must be usable as file names."""
    numbers: list[object] = [signed.version]
    names: list[str] = []
    if isinstance(signed, Root):
        numbers += [role.threshold for role in signed.roles.values()]
    elif isinstance(signed, Timestamp):
        numbers += _numbers(signed.snapshot_meta)
    elif isinstance(signed, Snapshot):
        numbers += [number for meta in signed.meta.values() for number in _numbers(meta)]
    else:
        numbers += [target.length for target in signed.targets.values()]
        names = list(signed.delegations.roles or ()) if signed.delegations else []
    if any(type(number) is not int for number in numbers):
        raise ValueError("a version, threshold or length is not an integer")
    if any(len(name) > MAX_ROLE_NAME for name in names):
        raise ValueError(f"a role's name is longer than {MAX_ROLE_NAME} characters")


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
