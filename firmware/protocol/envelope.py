"""Signed envelopes: DSSE (https://github.com/secure-systems-lab/dsse) around canonical JSON.

A message's *hash* is the sha256 of its payload, so that two signatures over the same words count as the same message.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Struct
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError as DsseError
from securesystemslib.signer import Key, Signer, SSlibKey

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.unverified import DEFAULT_MAX_BYTES, payload_type, read_envelope
from firmware.protocol.words import ReasonKind

M = TypeVar("M", bound=Struct)
P256_SCHEME = "ecdsa-sha2-nistp256"
KEYS_KEPT = 16_384
"""Parsed public keys; about 1 KiB each."""
_P256 = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, kw_only=True)
class Opened(Generic[M]):
    """A message whose signature was checked: what it says, its payload hash (hex), and the key that signed it."""

    message: M
    hash: str
    keyid: str


def seal(message: Struct, kind: str, *signers: Signer) -> bytes:
    """Sign a message with each signer; returns the DSSE envelope as JSON bytes."""
    return seal_payload(canonical(message), kind, *signers)


def seal_payload(payload: bytes, kind: str, *signers: Signer) -> bytes:
    """As `seal`, for a message that was encoded already."""
    envelope = Envelope(payload, payload_type(kind), {})
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
    payload, keyid = verify_envelope(data, kind, keys, max_bytes=max_bytes)
    message = convert(parse_json(payload, max_bytes=max_bytes), model)
    return Opened(message=message, hash=hashlib.sha256(payload).hexdigest(), keyid=keyid)


def verify_envelope(
    data: bytes, kind: str, keys: Mapping[str, Key], *, max_bytes: int = DEFAULT_MAX_BYTES
) -> tuple[bytes, str]:
    """Verify an envelope as `open_envelope` does; its payload, and the id of the key that signed it."""
    envelope = _envelope(data, max_bytes)
    if envelope.payload_type != payload_type(kind):
        raise RefusedError(ReasonKind.BAD_SIGNATURE, f"The envelope does not hold a message of kind {kind}.")
    accepted = _by_known_curve(envelope, keys)
    if accepted is not None:
        return envelope.payload, accepted
    try:
        accepted = next(iter(envelope.verify(list(keys.values()), 1)))
    except (DsseError, ValueError) as error:
        raise RefusedError(ReasonKind.BAD_SIGNATURE, f"No trusted key signed this {kind}.") from error
    return envelope.payload, accepted


def _by_known_curve(envelope: Envelope, keys: Mapping[str, Key]) -> str | None:
    """The id of the key on the curve of nearly all our keys that signed this; None leaves the answer to the library, which parses
    a key anew for each message."""
    for keyid, signature in envelope.signatures.items():
        key = keys.get(keyid)
        if not isinstance(key, SSlibKey) or (key.keyid, key.keytype, key.scheme) != (keyid, "ecdsa", P256_SCHEME):
            continue
        try:
            _curve_key(key.keyval["public"]).verify(bytes.fromhex(signature.signature), envelope.pae(), _P256)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return keyid
    return None


@lru_cache(maxsize=KEYS_KEPT)
def _curve_key(pem: str) -> ec.EllipticCurvePublicKey:
    """A parsed key. Raises `TypeError` for one that is not on P-256."""
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TypeError("The key is not on the curve that its scheme names.")
    return key


def key_from_dict(keyid: str, value: dict[str, Any]) -> Key:
    """A public key from its TUF form `{keytype, scheme, keyval}`; raises `RefusedError` (`malformed`)."""
    try:
        return SSlibKey.from_dict(keyid, dict(value))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefusedError(ReasonKind.MALFORMED, "The public key is malformed or of an unknown type.") from error


def _envelope(data: bytes, max_bytes: int) -> Envelope:
    value, payload = read_envelope(data, max_bytes=max_bytes)
    try:
        envelope = Envelope.from_dict(value)
    except Exception as error:
        raise RefusedError(ReasonKind.MALFORMED, "The envelope is not DSSE.") from error
    if envelope.payload != payload:
        raise RefusedError(ReasonKind.MALFORMED, "The envelope's payload is not canonical base64.")
    return envelope
