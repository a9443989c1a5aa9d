"""The device's decryption key, and the keys of encrypted releases that are opened with it.

The key pair is made on the device when it is first needed; its private half never leaves it. The public half goes out in the
signed inventory, so that nobody in between can put another in its place. A key file that is damaged is as good as none: a new
pair is made and announced, and the server wraps for that.
"""

import logging
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from device_agent.ports import Effects
from firmware.bundle import code as typed
from firmware.encryption import content_key
from firmware.encryption.content_key import ContentKey, Purpose
from firmware.errors import RefusedError
from firmware.manifest import Manifest
from firmware.protocol.order import Order
from firmware.protocol.report import EncryptionKey
from firmware.protocol.words import AgentState, ReasonKind

DECRYPTION_KEY_FILE = "decryption.key"
_log = logging.getLogger(__name__)


class DecryptionKey:
    """This device's key; a `ContentKeys` of the installer."""

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self._public = content_key.public_text(private.public_key())

    @classmethod
    def load_or_make(cls, effects: Effects, path: Path) -> "DecryptionKey":
        """The key in a file (PEM, 0600), made there when there is none. Raises `OSError`."""
        pem = effects.read(path)
        if pem is not None:
            try:
                return cls(content_key.private_from_pem(pem))
            except RefusedError as error:
                _log.error("the decryption key is damaged; a new one takes its place", extra={"reason": error.text})
        made = X25519PrivateKey.generate()
        effects.replace(path, content_key.private_pem(made))
        return cls(made)

    @property
    def announced(self) -> EncryptionKey:
        """What the inventory says."""
        return EncryptionKey(suite=content_key.SUITE, public=self._public)

    def open(self, order: Order, manifest: Manifest) -> ContentKey:
        """The key of the order's release; see `ContentKeys.open`."""
        release, wrapped = order.release, order.wrapped_key
        if release is None or wrapped is None or not manifest.encrypted:
            raise _cannot("The release is encrypted and the order brings no key to it; issue a new order.")
        if wrapped.suite != content_key.SUITE:
            raise _cannot(
                f"The release's key is wrapped by {wrapped.suite}, which this agent does not know; update it."
            )
        if wrapped.key_id != content_key.key_id(self._public):
            raise _cannot(
                "The release's key was wrapped for another key than this device's; a new order brings the right one."
            )
        purpose = Purpose(
            recipient="device",
            product=release.product,
            version=release.version,
            counter=release.counter,
            artifact=manifest.encrypted_sha256,
            target=order.target,
            hardware=order.hardware,
        )
        try:
            data = content_key.from_text(wrapped.data)
        except ValueError as error:
            raise _cannot("The release's key is damaged; issue a new order.") from error
        return content_key.unwrap(data, self._private, purpose, check=manifest.encrypted[0].key_check)

    def code(self, order: Order, order_hash: str, outcome: AgentState) -> str:
        """The typed code about how this order ended. Raises `RefusedError` (`no-code`)."""
        wanted = order.code_key
        if wanted is None or wanted.suite != typed.SUITE or wanted.key_id != content_key.key_id(self._public):
            raise RefusedError(
                "no-code",
                "The order's key for a code is for another key than this device's; use --text or --qr instead.",
            )
        try:
            public = content_key.public_from_text(wanted.public)
            return typed.make_code(typed.code_key(self._private, public, order_hash), order.target, order_hash, outcome)
        except ValueError as error:
            raise RefusedError("no-code", f"There is no code for {outcome}.") from error


def _cannot(text: str) -> RefusedError:
    return RefusedError(ReasonKind.CANNOT_DECRYPT, text)
