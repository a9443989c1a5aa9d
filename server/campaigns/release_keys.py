"""The server's release key: opens the keys of encrypted releases, which makers wrap for it, and wraps them for devices.

A content key is kept as the maker wrapped it: whoever has only the database, a backup of it, or the artifact store can read
no release. The private key is an `ExchangeKey`; without it the encrypted releases that are published can't be handed to
anybody any more.
"""

from pathlib import Path

from firmware.encryption import content_key
from firmware.encryption.content_key import ContentKey, Purpose
from firmware.errors import RefusedError
from firmware.protocol.order import WrappedKey
from server.campaigns.exchange_key import ExchangeKey
from server.ports import AgentStatus, ReleaseRecord, Unit

RELEASE_KEY_FILE = "release-key.x25519"


class ReleaseKeys:
    """The release key in a directory. May be used by several threads."""

    def __init__(self, directory: Path) -> None:
        self._key = ExchangeKey(directory / RELEASE_KEY_FILE, _unusable)

    def public(self) -> str:
        """The public key as text, for makers. Raises `RefusedError` (`release-key-unusable`)."""
        return content_key.public_text(self._key.private().public_key())

    def open(self, release: ReleaseRecord, wrapped: bytes) -> ContentKey:
        """The content key that a maker wrapped. Raises `RefusedError` (`cannot-decrypt`, `release-key-unusable`)."""
        return content_key.unwrap(wrapped, self._key.private(), _purpose(release), check=_key_check(release))

    def wrap_for(self, unit: Unit, release: ReleaseRecord, *, target: str, hardware: str) -> WrappedKey:
        """The release's key for one target, as it announced its own.

        Raises `RefusedError`: `quarantined` for whoever is not trusted now, `no-encryption-key`, `bad-encryption-key`,
        `content-key-missing`, or as `open`.
        """
        view, wrapped = unit.fleet.target(target), unit.releases.content_key(release.product, release.version)
        if view is None or view.status is not AgentStatus.ACTIVE:
            raise RefusedError("quarantined", f"{target} is quarantined or revoked; it gets no key to a release.")
        if view.encryption_key is None:
            raise RefusedError(
                "no-encryption-key",
                f"{target} has announced no encryption key; update its agent, or let it report first.",
            )
        if wrapped is None:
            raise RefusedError(
                "content-key-missing", f"The key to {release.product} {release.version} is not here; publish it again."
            )
        public = content_key.public_from_text(view.encryption_key)
        key = self.open(release, wrapped)
        data = content_key.wrap(key, public, _purpose(release, target=target, hardware=hardware))
        return WrappedKey(
            suite=content_key.SUITE, key_id=content_key.key_id(view.encryption_key), data=content_key.to_text(data)
        )


def _key_check(release: ReleaseRecord) -> str:
    """Its key's check value; all that is encrypted of a release is so by one key."""
    encrypted = next((image.encrypted for image in release.images if image.encrypted), None)
    if encrypted is None:
        raise _not_encrypted(release)
    return encrypted.key_check


def _not_encrypted(release: ReleaseRecord) -> RefusedError:
    return RefusedError("not-encrypted", f"{release.product} {release.version} is not encrypted.")


def _purpose(release: ReleaseRecord, *, target: str = "", hardware: str = "") -> Purpose:
    artifact = release.encrypted_sha256
    if artifact is None:
        raise _not_encrypted(release)
    return Purpose(
        recipient="device" if target else "server",
        product=release.product,
        version=release.version,
        counter=release.counter,
        artifact=artifact,
        target=target,
        hardware=hardware,
    )


def _unusable(path: Path, why: str) -> RefusedError:
    return RefusedError(
        "release-key-unusable",
        f"The server's release key {path} can't be used: {why}. "
        "Restore it from a backup, or let the server write into its directory of online keys.",
    )
