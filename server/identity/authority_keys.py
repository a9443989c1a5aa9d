"""Where the private keys of a CA are made and kept: in files, or in a PKCS#11 token that a file points to.

Whatever holds it, a key is an `EllipticCurvePrivateKey` to whoever signs with it; all that differs is here.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from firmware.errors import UnavailableError
from server.identity.certificates import new_key
from server.identity.pkcs11_uri import Pkcs11Uri
from server.identity.private_files import key_pem, load_key
from server.identity.token_key import TokenKey, TokenKeys, is_reference

_log = logging.getLogger(__name__)


MakeKey = Callable[[], ec.EllipticCurvePrivateKey]
"""Makes the key of a CA that doesn't exist yet. Blocking; raises `UnavailableError` (`authority-unavailable`)."""


def keys_at(uri: str | None) -> MakeKey:
    """What makes keys where the setting `identity.fleet_key` says; raises `RefusedError` (`bad-pkcs11-uri`)."""
    return new_key if uri is None else TokenKeys(Pkcs11Uri.parse(uri)).make


def key_file_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """What a CA's key file holds: the key, or where it is."""
    return key.reference if isinstance(key, TokenKey) else key_pem(key)


def load_authority_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key of a key file; needs no token yet. Raises `RefusedError` (`bad-key-file`, `bad-pkcs11-uri`)."""
    data = path.read_bytes()
    return TokenKey.read(data) if is_reference(data) else load_key(path)


def forget_key(path: Path) -> None:
    """Destroy the key of a key file. One in a token that can't be reached stays there, and that is logged."""
    key = load_authority_key(path)
    if isinstance(key, TokenKey):
        try:
            key.destroy()
        except UnavailableError as error:
            _log.error("the key of a retired CA is still in its token, destroy it there: %s", error)
    path.unlink()
