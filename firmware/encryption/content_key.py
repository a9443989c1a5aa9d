"""Content keys: the one random key of an encrypted release, and how it is handed to who may have it.

A content key travels only wrapped to a recipient's public key by HPKE (RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256),
HKDF-SHA256, AES-256-GCM). What it is for is HPKE's `info`: a key wrapped for one recipient, release or artifact opens for
no other. Two recipients: the server, for whom the maker wraps it offline, and a device, for which the server wraps it in an
order. HPKE's base mode does not say who wrapped it: the order's signature does, and a key that is not the release's is noticed
by its check value.
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Literal

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct, to_builtins

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical
from firmware.protocol.words import ReasonKind

SUITE = "hpke-x25519-hkdf-sha256-aes-256-gcm"
KEY_BYTES = 32
WRAPPED_BYTES = 32 + KEY_BYTES + 16
"""The ephemeral public key, the content key, the tag."""
_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_CHECK_INFO = b"otaria content key check v1"


class ContentKey:
    """The secret of one release. Never shown by `repr`, so that no log line or traceback gives it away."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"A content key has {KEY_BYTES} bytes.")
        self._secret = secret

    @classmethod
    def new(cls) -> "ContentKey":
        """A fresh random key."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def reveal(self) -> bytes:
        """The secret itself."""
        return self._secret

    def check(self) -> str:
        """The key's check value (hex): says which key it is, and gives nothing of it away."""
        return HKDF(hashes.SHA256(), 32, None, _CHECK_INFO).derive(self._secret).hex()

    def __repr__(self) -> str:
        return "ContentKey(…)"


class Purpose(Struct, frozen=True, kw_only=True):
    """What a wrapped key is for. `artifact`: sha256 of the encrypted image, or of all of them
    together (`firmware.contents`). `target` and `hardware` for a device only."""

    recipient: Literal["server", "device"]
    product: str
    version: str
    counter: int
    artifact: str
    target: str = ""
    hardware: str = ""

    def info(self) -> bytes:
        """As HPKE's `info`."""
        return b"otaria content key v1 " + canonical(to_builtins(self))


def wrap(key: ContentKey, public: X25519PublicKey, purpose: Purpose) -> bytes:
    """The key for the holder of a public key, `WRAPPED_BYTES` long. Raises `RefusedError` (`bad-encryption-key`) for a public
    key that nobody can hold."""
    try:
        return _HPKE.encrypt(key.reveal(), public, purpose.info())
    except ValueError as error:
        raise _bad_public() from error


def unwrap(data: bytes, private: X25519PrivateKey, purpose: Purpose, *, check: str) -> ContentKey:
    """The key again, which must have this check value. Raises `RefusedError` (`cannot-decrypt`)."""
    try:
        key = ContentKey(_HPKE.decrypt(data, private, purpose.info()))
    except (InvalidTag, ValueError) as error:
        raise _cannot("it was wrapped for another key, release or recipient, or was changed") from error
    if not hmac.compare_digest(key.check(), check):
        raise _cannot("it is not the key that the release was encrypted with")
    return key


def public_text(public: X25519PublicKey) -> str:
    """A public key as 43 URL-safe characters."""
    return to_text(public.public_bytes_raw())


def public_from_text(text: str) -> X25519PublicKey:
    """The reverse of `public_text`; raises `RefusedError` (`bad-encryption-key`) for anything that is not its result."""
    try:
        public = X25519PublicKey.from_public_bytes(from_text(text))
    except ValueError as error:
        raise _bad_public() from error
    if public_text(public) != text:
        raise _bad_public()
    return public


def key_id(text: str) -> str:
    """How a public key, as text, is named: its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()


def to_text(data: bytes) -> str:
    """Bytes as URL-safe characters without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    """The reverse of `to_text`; raises `ValueError`."""
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))


def private_pem(private: X25519PrivateKey) -> bytes:
    """A private key for a file (PKCS #8, not encrypted)."""
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def private_from_pem(pem: bytes) -> X25519PrivateKey:
    """The reverse of `private_pem`; raises `RefusedError` (`bad-encryption-key`)."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError("bad-encryption-key", "This is not an X25519 private key in PEM.") from error
    if not isinstance(key, X25519PrivateKey):
        raise RefusedError("bad-encryption-key", "This is another key than an X25519 private key.")
    return key


def _cannot(why: str) -> RefusedError:
    return RefusedError(ReasonKind.CANNOT_DECRYPT, f"The release's key can't be opened: {why}. Issue a new order.")


def _bad_public() -> RefusedError:
    return RefusedError("bad-encryption-key", "This is not an X25519 public key that can be encrypted to.")
