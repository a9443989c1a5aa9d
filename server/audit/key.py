"""The key that signs checkpoints: one of its own, which signs neither orders nor the catalogue.

A file among the online keys, made at the first start; or whatever a URI names, through the signers that sign the catalogue.
"""

from pathlib import Path

from securesystemslib.signer import CryptoSigner, Signer

from firmware.catalogue.signers import open_signer
from server.identity.private_files import load_or_make_key

AUDIT_KEY_FILE = "audit-key.p256"
"""Not `.pem`: it must not be offered where signing keys of the catalogue are looked for."""


def audit_signer(online_keys: Path, uri: str | None) -> Signer:
    """The signer. Raises `RefusedError`: `bad-key-file`, or as `open_signer`."""
    if uri is not None:
        return open_signer(uri)
    online_keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    return CryptoSigner(load_or_make_key(online_keys / AUDIT_KEY_FILE))
