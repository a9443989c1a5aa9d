"""A private X25519 key of the server in a file of its own (0600) among the online keys, made when it is first needed.

Its name must not end in `.pem`: it signs nothing, and must not be offered where signing keys are looked for.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from firmware.encryption import content_key
from firmware.errors import RefusedError
from server.identity.private_files import write_private


class ExchangeKey:
    """The key in a file. May be used by several threads."""

    def __init__(self, path: Path, unusable: Callable[[Path, str], RefusedError]) -> None:
        """`unusable`: the error for a file that can't be used, given the reason."""
        self._path, self._unusable = path, unusable
        self._lock = threading.Lock()
        self._private: X25519PrivateKey | None = None

    def private(self) -> X25519PrivateKey:
        """The key. Raises what `unusable` makes."""
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
        except OSError as error:
            raise self._unusable(self._path, error.strerror or str(error)) from error
        except RefusedError as error:
            raise self._unusable(self._path, error.text) from error
        return made
