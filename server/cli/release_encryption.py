"""Encrypted releases, as their maker builds them: offline, with nothing but the server's public release key.

The release's key is made here, wrapped for that server, and forgotten. No file ever holds it, and of the images only the
encrypted form is written. One key is for all images of a release, each under a salt of its own.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from firmware.atomic import atomic_output
from firmware.encryption import content_key
from firmware.encryption.chunked import Encryption
from firmware.encryption.content_key import ContentKey, Purpose
from firmware.errors import RefusedError
from firmware.manifest import WINDOW_BYTES, Encrypted, Manifest, WindowHasher
from server.cli.progress import watched

CONTENT_KEY = "content-key.bin"
SUFFIX = ".enc"
MAX_KEY_FILE_BYTES = 256


def read_release_key(path: Path) -> X25519PublicKey:
    """A server's release key from the file that `otaria release key` writes; raises `RefusedError` (`bad-encryption-key`)."""
    with path.open("rb") as file:
        text = file.read(MAX_KEY_FILE_BYTES).decode("ascii", "replace").strip()
    try:
        return content_key.public_from_text(text)
    except RefusedError as error:
        raise RefusedError(
            error.kind, f"{path} is not a server's release key; `otaria release key` writes one."
        ) from error


def encrypt_image(key: ContentKey, image: Path, catalogue_path: str, output: Path) -> tuple[WindowHasher, Encrypted]:
    """Write the image encrypted into `output`. Returns what the plain image is, and what the manifest says about the encrypted
    one."""
    hasher, encryption = WindowHasher(), Encryption(key)
    destination, digest, length = output / (image.name + SUFFIX), hashlib.sha256(), 0
    with atomic_output(destination) as out:
        for chunk in encryption.encrypt(_hashed(image, hasher)):
            digest.update(chunk)
            length += len(chunk)
            out.write(chunk)
    encrypted = Encrypted(
        image=catalogue_path,
        path=catalogue_path + SUFFIX,
        length=length,
        sha256=digest.hexdigest(),
        salt=encryption.salt,
        key_check=key.check(),
    )
    return hasher, encrypted


def write_content_key(key: ContentKey, manifest: Manifest, output: Path, to: X25519PublicKey) -> None:
    """Write the release's key, wrapped for the server, beside what it opens."""
    purpose = Purpose(
        recipient="server",
        product=manifest.product,
        version=manifest.version,
        counter=manifest.counter,
        artifact=manifest.encrypted_sha256,
    )
    with atomic_output(output / CONTENT_KEY) as out:
        out.write(content_key.wrap(key, to, purpose))


def read_content_key(built: Path) -> bytes:
    """The wrapped key of a built release; raises `RefusedError` (`content-key-missing`)."""
    try:
        with (built / CONTENT_KEY).open("rb") as file:
            return file.read(content_key.WRAPPED_BYTES + 1)
    except FileNotFoundError as error:
        raise RefusedError("content-key-missing", f"{built} lacks {CONTENT_KEY}; build the release again.") from error


def _hashed(image: Path, hasher: WindowHasher) -> Iterator[bytes]:
    with image.open("rb") as file, watched(file, image.stat().st_size, f"Encrypting {image.name}") as reader:
        while chunk := reader.read(WINDOW_BYTES):
            hasher.update(chunk)
            yield chunk
