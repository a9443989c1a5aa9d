"""Signers by URI, through securesystemslib: `file:PATH`, `hsm:KEYID?label=TOKEN` (PKCS#11) and the KMS that it speaks to:
`awskms:`, `gcpkms:`, `azurekms:`, `hv:` (HashiCorp Vault). Its `gnupg:` and `tkey:` make signatures that no device counts.

A *key file* (`NAME.key.json`) is the public half of a key and says where the private half is: it is what people hand to each
other, and what a key directory may hold in place of a private key. Secrets come from the environment or a prompt, never from
a command line. Foreign exceptions end here as one `RefusedError`.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    AWSSigner,
    AzureSigner,
    CryptoSigner,
    GCPSigner,
    HSMSigner,
    Signer,
    SSlibKey,
    VaultSigner,
)
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from firmware.errors import RefusedError
from firmware.protocol.codec import parse_json

PRIVATE = ".pem"
PUBLIC = ".key.json"
NAME = "x-otaria-name"
"""Field of a key that says to people whose it is; signed with the metadata that carries it, and no part of the key id."""
MAX_KEY_BYTES = 65_536
T = TypeVar("T")
_PUBLIC_BEGINS = b"-----BEGIN PUBLIC KEY-----"
_EXTRAS = {HSMSigner.SCHEME: "otaria[hsm]", VaultSigner.SCHEME: "securesystemslib[vault]"}
"""What to install where the name of securesystemslib's extra is not the scheme."""

_PLACES = "file:PATH, hsm:KEYID?label=TOKEN, an awskms:, gcpkms:, azurekms: or hv: URI"
_PIN_TROUBLE = {
    "PinIncorrect": "the PIN is wrong; too many wrong ones lock the token",
    "PinLocked": "the token is locked after too many wrong PINs; its security officer can set a new one",
    "PinLenRange": "the PIN has a length that the token does not take",
}
_SECRETS = {"passphrase": "OTARIA_KEY_PASSPHRASE", "pin": "OTARIA_HSM_PIN"}

Secrets = Callable[[str, str], str]
"""`secrets(kind, of)`: the `passphrase` of a file or the `pin` of a token; raises `RefusedError` (`key-locked`)."""


def secrets_from_environment(kind: str, of: str) -> str:
    """`OTARIA_KEY_PASSPHRASE` or `OTARIA_HSM_PIN`; raises `RefusedError` (`key-locked`) when it is not set."""
    variable = _SECRETS[kind]
    value = os.environ.get(variable)
    if not value:
        raise RefusedError("key-locked", f"{of} needs its {kind}; set {variable}, or run this where it can ask you.")
    return value


def open_signer(source: str, secrets: Secrets = secrets_from_environment) -> Signer:
    """The signer of a URI, or of a key file that names one. Raises `RefusedError`: `key-unreadable`, `key-locked`,
    `signer-library-missing`, `signer-unavailable`, `key-mismatch`."""
    key: SSlibKey | None = None
    uri, base = source, Path()
    if source.endswith(PUBLIC):
        key, found = read_key_file(Path(source))
        uri, base = found or "", Path(source).parent
    scheme, _, rest = uri.partition(":")
    if scheme == "file":
        return _matching(open_file(base / rest, secrets), key, source)
    if scheme not in SIGNER_FOR_URI_SCHEME or scheme == CryptoSigner.SCHEME:
        text = f"{source} names no private key; give {_PLACES}, or a key file with one."
        raise RefusedError("key-unreadable", text)
    return _guarded(uri, lambda: Signer.from_priv_key_uri(uri, key or public_key(uri, secrets), _handler(uri, secrets)))


def public_key(uri: str, secrets: Secrets = secrets_from_environment) -> SSlibKey:
    """The public key of a private key's URI, asked from whatever holds it. Raises as `open_signer`."""
    scheme, _, rest = uri.partition(":")
    if scheme == "file":
        return file_public_key(Path(rest)) or _sslib(open_file(Path(rest), secrets))
    importers: dict[str, Callable[[str], SSlibKey]] = {
        HSMSigner.SCHEME: lambda _: _hsm_public_key(uri, secrets),
        AWSSigner.SCHEME: lambda keyid: AWSSigner.import_(keyid)[1],
        GCPSigner.SCHEME: lambda keyid: GCPSigner.import_(keyid)[1],
        AzureSigner.SCHEME: _azure_public_key,
        VaultSigner.SCHEME: _vault_public_key,
    }
    if scheme not in importers:
        raise RefusedError("key-unreadable", f"{uri} names no key that can sign here; give {_PLACES}.")
    return _guarded(uri, lambda: importers[scheme](rest))


def open_file(path: Path, secrets: Secrets = secrets_from_environment) -> CryptoSigner:
    """The signer of a PKCS#8 PEM file, encrypted or not."""
    data = _read(path)
    password = secrets("passphrase", str(path)).encode() if b"ENCRYPTED PRIVATE KEY" in data else None
    try:
        return CryptoSigner(load_pem_private_key(data, password=password))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if password is not None:
            raise RefusedError("key-locked", f"The passphrase does not open {path}.") from error
        raise RefusedError("key-unreadable", f"{path} is no PEM private key that Otaria can use.") from error


def file_public_key(path: Path) -> SSlibKey | None:
    """The public key that stands behind an encrypted private key in its file, or None."""
    _, begins, rest = _read(path).partition(_PUBLIC_BEGINS)
    if not begins:
        return None
    try:
        return SSlibKey.from_crypto(load_pem_public_key(begins + rest))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RefusedError("key-unreadable", f"{path} ends in a public key that cannot be read.") from error


def key_file(key: SSlibKey, *, uri: str | None = None, name: str | None = None) -> bytes:
    """The bytes of a key file."""
    fields = {**key.to_dict(), **({NAME: name} if name else {})}
    value = {"keyid": key.keyid, "key": fields, **({"uri": uri} if uri else {})}
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def read_key_file(path: Path) -> tuple[SSlibKey, str | None]:
    """The public key of a key file and the URI of its private half, if it says. Raises `RefusedError` (`key-unreadable`)."""
    try:
        value: dict[str, Any] = parse_json(_read(path), max_bytes=MAX_KEY_BYTES)
        key = SSlibKey.from_dict(value["keyid"], dict(value["key"]))
        own = own_id(key)
        uri = value.get("uri")
    except (RefusedError, KeyError, TypeError, ValueError, AttributeError, SecureSystemsError) as error:
        raise RefusedError("key-unreadable", f"{path} is no key file; `otaria keys public` writes one.") from error
    if own != key.keyid or not isinstance(uri, str | None):
        raise RefusedError("key-mismatch", f"{path} holds a key id that does not belong to its key.")
    return key, uri


def add_signature(metadata: Metadata[Any], signer: Signer) -> None:
    """Sign metadata with one more key; raises `RefusedError` (`signing-failed`) whatever the token or cloud raised."""
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        cause = error.__cause__
        if isinstance(cause, RefusedError):
            raise cause from error
        text = _trouble(cause or error)
        keyid = signer.public_key.keyid[:16]
        raise RefusedError("signing-failed", f"The key {keyid} did not sign: {text.rstrip('.')}.") from error


def own_id(key: SSlibKey) -> str:
    """The id that belongs to a public key: the hash of what signs, whatever id it came under. Raises `ValueError` or
    `UnsupportedAlgorithm` for a key that cannot be read."""
    return SSlibKey.from_crypto(_loaded(key), scheme=key.scheme).keyid


def key_name(key: Any) -> str:
    """Whose key it is, as its file said, or an empty string."""
    name = key.unrecognized_fields.get(NAME, "") if key is not None else ""
    return name if isinstance(name, str) and name.isprintable() else ""


def _loaded(key: SSlibKey) -> Any:
    public = key.keyval["public"]
    if "-----BEGIN" in public:
        return load_pem_public_key(public.encode())
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))


def _matching(signer: Signer, key: SSlibKey | None, source: str) -> Signer:
    if key is not None and signer.public_key.keyid != key.keyid:
        raise RefusedError("key-mismatch", f"The private key that {source} names is another one than it describes.")
    return signer


def _sslib(signer: CryptoSigner) -> SSlibKey:
    return signer.public_key


def _hsm_public_key(uri: str, secrets: Secrets) -> SSlibKey:
    parts = urlsplit(uri)
    if parts.path and not parts.path.isdecimal():
        raise RefusedError("key-unreadable", f"{uri} has no number after hsm:, such as the 2 in hsm:2?label=otaria.")
    keyid = int(parts.path) if parts.path else None
    return HSMSigner.import_(keyid, dict(parse_qsl(parts.query)).get("label"), _handler(uri, secrets))[1]


def _azure_public_key(address: str) -> SSlibKey:
    """Out of `//VAULT.vault.azure.net/keys/NAME[/VERSION]`."""
    parts = urlsplit(address)
    return AzureSigner.import_(parts.netloc.partition(".")[0], parts.path.split("/")[2])[1]


def _vault_public_key(name: str) -> SSlibKey:
    """Out of `NAME/VERSION`, the newest version."""
    newest, key = VaultSigner.import_(name.partition("/")[0])
    if newest != f"{VaultSigner.SCHEME}:{name}":
        raise RefusedError("key-unreadable", f"hv:{name} is not the newest version of that key; give {newest}.")
    return key


def _handler(uri: str, secrets: Secrets) -> Callable[[str], str]:
    return lambda kind: secrets("pin" if kind == "pin" else "passphrase", uri)


def _guarded(uri: str, work: Callable[[], T]) -> T:
    """Run what talks to a token or a cloud; whatever it raises becomes a sentence."""
    scheme = uri.partition(":")[0]
    try:
        return work()
    except RefusedError:
        raise
    except UnsupportedLibraryError as error:
        extra = _EXTRAS.get(scheme, f"securesystemslib[{scheme}]")
        raise RefusedError("signer-library-missing", f"{uri} needs: pip install '{extra}'.") from error
    except Exception as error:
        raise RefusedError("signer-unavailable", f"{uri} cannot be used: {_trouble(error).rstrip('.')}.") from error


def _trouble(error: BaseException) -> str:
    name = type(error).__name__
    return _PIN_TROUBLE.get(name) or str(error) or name


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RefusedError("key-unreadable", f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_KEY_BYTES:
        raise RefusedError("key-unreadable", f"{path} is too long to be a key.")
    return data
