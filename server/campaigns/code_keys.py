"""The server's key for typed codes: its public half goes out in orders for unattended use, its private half checks what people
type.

A file of its own (0600) among the online keys, made when it is first needed. Without it no code about an order that was given out
can be checked any more; signed reports can.
"""

import threading
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from firmware.bundle import code
from firmware.encryption import content_key
from firmware.errors import RefusedError
from firmware.protocol.order import CodeKey
from server.identity.private_files import write_private

CODE_KEY_FILE = "code-key.x25519"
"""Not `.pem`: it signs nothing, and must not be offered where signing keys are looked for."""


class CodeKeys:
    """The code key in a directory. May be used by several threads."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CODE_KEY_FILE
        self._lock = threading.Lock()
        self._private: X25519PrivateKey | None = None

    def for_device(self, announced: str) -> CodeKey:
        """What an order for the device with this announced encryption key carries. Raises `RefusedError`
        (`code-key-unusable`)."""
        public = content_key.public_text(self._key().public_key())
        return CodeKey(suite=code.SUITE, key_id=content_key.key_id(announced), public=public)

    def shared(self, announced: str, order_hash: str) -> bytes:
        """The MAC key shared with that device for one order. Raises `RefusedError` (`code-key-unusable`,
        `bad-encryption-key`)."""
        return code.code_key(self._key(), content_key.public_from_text(announced), order_hash)

    def _key(self) -> X25519PrivateKey:
        with self._lock:
            if self._private is None:
                self._private = self._load_or_make()
            return self._private

    def _load_or_make(self) -> X25519PrivateKey:
        try:
            if self._path.exists():
                return content_key.private_from_pem(self._path.read_bytes())
            made = X25519PrivateKey.generate()
            write_private(self._path, content_key.private_pem(made))
        except (OSError, RefusedError) as error:
            text = f"The server's code key {self._path} can't be used: {error}. Restore it from a backup."
            raise RefusedError("code-key-unusable", text) from error
        return made
