"""The server's key for typed codes: its public half goes out in orders for unattended use, its private half checks what people
type.

It is an `ExchangeKey`. Without it no code about an order that was given out can be checked any more; signed reports can.
"""

from pathlib import Path

from firmware.bundle import code
from firmware.encryption import content_key
from firmware.errors import RefusedError
from firmware.protocol.order import CodeKey
from server.campaigns.exchange_key import ExchangeKey

CODE_KEY_FILE = "code-key.x25519"


class CodeKeys:
    """The code key in a directory. May be used by several threads."""

    def __init__(self, directory: Path) -> None:
        self._key = ExchangeKey(directory / CODE_KEY_FILE, _unusable)

    def for_device(self, announced: str) -> CodeKey:
        """What an order for the device with this announced encryption key carries. Raises `RefusedError`
        (`code-key-unusable`)."""
        public = content_key.public_text(self._key.private().public_key())
        return CodeKey(suite=code.SUITE, key_id=content_key.key_id(announced), public=public)

    def shared(self, announced: str, order_hash: str) -> bytes:
        """The MAC key shared with that device for one order. Raises `RefusedError` (`code-key-unusable`,
        `bad-encryption-key`)."""
        return code.code_key(self._key.private(), content_key.public_from_text(announced), order_hash)


def _unusable(path: Path, why: str) -> RefusedError:
    text = f"The server's code key {path} can't be used: {why}. Restore it from a backup."
    return RefusedError("code-key-unusable", text)
