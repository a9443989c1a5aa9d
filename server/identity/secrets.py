"""Random names and secrets, and the only form in which secrets are kept: their sha256.

A secret of 256 random bits needs no slow hash: there is nothing to guess.
"""

import base64
import hashlib
import secrets

ID_CHARS = 10
SECRET_BYTES = 32


def new_id(prefix: str) -> str:
    """`prefix-` and ten random characters of lower-case base32: 50 bits, safe in topics, file names and certificates."""
    text = base64.b32encode(secrets.token_bytes(ID_CHARS)).decode().lower()
    return f"{prefix}-{text[:ID_CHARS]}"


def new_secret() -> str:
    """256 random bits in base64url without padding (43 characters)."""
    return secrets.token_urlsafe(SECRET_BYTES)


def hashed(secret: str) -> str:
    """sha256 (hex) of a secret, as stored."""
    return hashlib.sha256(secret.encode()).hexdigest()
