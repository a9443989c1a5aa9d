"""What shows a receiver who tells it something, as Standard Webhooks has it: https://www.standardwebhooks.com/.

A webhook's secret isn't kept: it is made of the server's own key, in a file among the online keys, and of the webhook's salt. Who
reads the database can't sign, and who lost a secret asks for a new one.
"""

import base64
import hashlib
import hmac
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

from firmware.errors import RefusedError
from server.identity.private_files import write_private

KEY_FILE = "webhook-key"
KEY_BYTES = 32
PREFIX = "whsec_"
_LABEL = b"otaria webhook secret 1\0"


class WebhookSecrets:
    """The key in a directory, made when it is first needed. May be used by several threads."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / KEY_FILE
        self._lock = threading.Lock()
        self._key: bytes | None = None

    def secret(self, salt: str) -> bytes:
        """The 32 bytes that sign for the webhook with this salt. Raises `RefusedError` (`webhook-key-unusable`)."""
        with self._lock:
            if self._key is None:
                self._key = self._load_or_make()
        return hmac.new(self._key, _LABEL + salt.encode(), hashlib.sha256).digest()

    def _load_or_make(self) -> bytes:
        try:
            if not self._path.exists():
                write_private(self._path, secrets.token_bytes(KEY_BYTES))
            key = self._path.read_bytes()
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        if len(key) != KEY_BYTES:
            raise self._unusable(f"it has {len(key)} bytes, not {KEY_BYTES}")
        return key

    def _unusable(self, why: str) -> RefusedError:
        text = f"The key of the webhooks, {self._path}, can't be used: {why}. Restore it from a backup."
        return RefusedError("webhook-key-unusable", text)


def shown(secret: bytes) -> str:
    """A secret as receivers are given it."""
    return PREFIX + base64.b64encode(secret).decode()


def headers(secrets: Sequence[bytes], *, event: str, at: int, body: bytes) -> dict[str, str]:
    """The three headers of an attempt at `at` (POSIX seconds): HMAC-SHA256 over `ID.SECONDS.BODY`, by each of the secrets."""
    signed = f"{event}.{at}.".encode() + body
    digests = [base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode() for secret in secrets]
    signatures = " ".join(f"v1,{digest}" for digest in digests)
    return {"webhook-id": event, "webhook-timestamp": str(at), "webhook-signature": signatures}
