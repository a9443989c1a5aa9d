"""The report key: signs reports and asks, apart from the TLS key. PEM (PKCS #8) on disk, made by enrolment."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer

from firmware.errors import RefusedError


def report_signer(pem: bytes) -> Signer:
    """A signer for the key; its `public_key` has the key id the server knows. Raises `RefusedError` (`bad-key`)."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError("bad-key", "The report key is not an unencrypted PEM private key; enrol again.") from error
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise RefusedError("bad-key", "The report key is neither an EC nor an Ed25519 key; enrol again.")
    return CryptoSigner(key)
