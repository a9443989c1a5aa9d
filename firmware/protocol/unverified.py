"""What an envelope looks like and claims, without any cryptography: for whoever has somebody else verify it.

Nothing from here may be believed before the same bytes were verified (`firmware.protocol.envelope`); both read them alike.
"""

import binascii
import hashlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from msgspec import Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import ReasonKind

M = TypeVar("M", bound=Struct)
MAX_SIGNATURES = 8
DEFAULT_MAX_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Unverified(Generic[M]):
    """What an envelope claims to say, and its payload hash (hex)."""

    message: M
    hash: str


def payload_type(kind: str) -> str:
    """The DSSE payload type of a message kind, such as `order`."""
    return f"application/vnd.otaria.{kind}.v1+json"


def payload_hash(message: Struct) -> str:
    """sha256 (hex) of the canonical payload, as `Unverified.hash` will say at the other end."""
    return hashlib.sha256(canonical(message)).hexdigest()


def read_envelope(data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> tuple[dict[str, Any], bytes]:
    """The envelope as JSON and its payload's bytes. Raises `RefusedError` (`too-large`, `malformed`)."""
    value = parse_json(data, max_bytes=max_bytes)
    signatures = value.get("signatures")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise RefusedError(ReasonKind.MALFORMED, f"An envelope carries 1 to {MAX_SIGNATURES} signatures.")
    encoded = value.get("payload")
    try:
        payload = b64decode(encoded if isinstance(encoded, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(ReasonKind.MALFORMED, "The envelope is not DSSE.") from error
    if not isinstance(encoded, str) or b64encode(payload).decode() != encoded:
        raise RefusedError(ReasonKind.MALFORMED, "The envelope's payload is not canonical base64.")
    return value, payload


def read_unverified(data: bytes, kind: str, model: type[M], *, max_bytes: int = DEFAULT_MAX_BYTES) -> Unverified[M]:
    """What the envelope claims to say. Raises `RefusedError`: `too-large`, `malformed`, or `bad-signature` for another kind."""
    value, payload = read_envelope(data, max_bytes=max_bytes)
    if value.get("payloadType") != payload_type(kind):
        raise RefusedError(ReasonKind.BAD_SIGNATURE, f"The envelope does not hold a message of kind {kind}.")
    message = convert(parse_json(payload, max_bytes=max_bytes), model)
    return Unverified(message=message, hash=hashlib.sha256(payload).hexdigest())
