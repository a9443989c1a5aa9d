"""Signed envelopes: DSSE (https://github.com/secure-systems-lab/dsse) around canonical JSON.

A message's *hash* is the sha256 of its payload, so that two signatures over the same words count as the same message.
"""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from msgspec import Struct
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError as DsseError
from securesystemslib.signer import Key, Signer, SSlibKey

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import ReasonKind

M = TypeVar("M", bound=Struct)
MAX_SIGNATURES = 8
DEFAULT_MAX_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Opened(Generic[M]):
    """A message whose signature was checked: what it says, its payload hash (hex), and the key that signed it."""

    message: M
    hash: str
    keyid: str


def payload_type(kind: str) -> str:
    """The DSSE payload type of a message kind, such as `order`."""
    return f"application/vnd.otaria.{kind}.v1+json"


def payload_hash(message: Struct) -> str:
    """sha256 (hex) of the canonical payload, as `Opened.hash` will say at the other end."""
    return hashlib.sha256(canonical(message)).hexdigest()


def seal(message: Struct, kind: str, *signers: Signer) -> bytes:
    """Sign a message with each signer; returns the DSSE envelope as JSON bytes."""
    envelope = Envelope(canonical(message), payload_type(kind), {})
    for signer in signers:
        envelope.sign(signer)
    return canonical(envelope.to_dict())


def claimed(data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> tuple[str, dict[str, Any]]:
    """The payload type and payload an envelope *claims*, unverified: only for choosing which key to verify with."""
    envelope = _envelope(data, max_bytes)
    return envelope.payload_type, parse_json(envelope.payload, max_bytes=max_bytes)


def open_envelope(
    data: bytes, kind: str, model: type[M], keys: Mapping[str, Key], *, max_bytes: int = DEFAULT_MAX_BYTES
) -> Opened[M]:
    """Verify an envelope with any one of `keys` (by key id) and parse its payload into `model`.

    Raises `RefusedError`: `too-large`, `malformed`, or `bad-signature` when the type differs, no given key signed it, or
    the signature does not verify.
    """
    envelope = _envelope(data, max_bytes)
    if envelope.payload_type != payload_type(kind):
        raise RefusedError(ReasonKind.BAD_SIGNATURE, f"The envelope does not hold a message of kind {kind}.")
    try:
        accepted = envelope.verify(list(keys.values()), 1)
    except (DsseError, ValueError) as error:
        raise RefusedError(ReasonKind.BAD_SIGNATURE, f"No trusted key signed this {kind}.") from error
    message = convert(parse_json(envelope.payload, max_bytes=max_bytes), model)
    digest = hashlib.sha256(envelope.payload).hexdigest()
    return Opened(message=message, hash=digest, keyid=next(iter(accepted)))


def key_from_dict(keyid: str, value: dict[str, Any]) -> Key:
    """A public key from its TUF form `{keytype, scheme, keyval}`; raises `RefusedError` (`malformed`)."""
    try:
        return SSlibKey.from_dict(keyid, dict(value))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefusedError(ReasonKind.MALFORMED, "The public key is malformed or of an unknown type.") from error


def _envelope(data: bytes, max_bytes: int) -> Envelope:
    value = parse_json(data, max_bytes=max_bytes)
    signatures = value.get("signatures")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise RefusedError(ReasonKind.MALFORMED, f"An envelope carries 1 to {MAX_SIGNATURES} signatures.")
    try:
        envelope = Envelope.from_dict(value)
    except Exception as error:
        raise RefusedError(ReasonKind.MALFORMED, "The envelope is not DSSE.") from error
    if b64encode(envelope.payload).decode() != value.get("payload"):
        raise RefusedError(ReasonKind.MALFORMED, "The envelope's payload is not canonical base64.")
    return envelope
