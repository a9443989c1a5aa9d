"""Taking a bundle's catalogue over, and the order that it has for this target.

The metadata goes through the device's own client into its store, with every check of an ordinary refresh: older than what is
held, expired, mixed or incomplete is refused. Nothing else of a bundle is believed here: the order comes back as it lies there.
"""

import hashlib
from collections.abc import Callable

from firmware.bundle.read import Bundle
from firmware.catalogue.client import CatalogueClient, Fetch
from firmware.errors import RefusedError
from firmware.manifest import MAX_BYTES as MAX_MANIFEST_BYTES
from firmware.protocol import order as order_message
from firmware.protocol.order import FileRef, Order, files_of
from firmware.protocol.unverified import read_unverified
from firmware.protocol.words import ReasonKind

_NEWER_ROOT = ".root.json"


def fetch_of(bundle: Bundle) -> Fetch:
    """Metadata for a catalogue client. That there is no newer root is an answer; anything else that is missing is not."""

    def fetch(name: str, max_bytes: int) -> bytes | None:
        data = bundle.metadata(name, max_bytes)
        if data is None and not name.endswith(_NEWER_ROOT):
            raise _partial(f"the catalogue's {name}")
        return data

    return fetch


def take_over(
    bundle: Bundle, envelope: bytes, client: CatalogueClient, now: float, keep: Callable[[FileRef, bytes], None]
) -> None:
    """Refresh `client` out of the bundle at trusted time `now`, with all that the order's files need, and `keep` its manifest.

    Raises `RefusedError` (`catalogue-refused`, `catalogue-expired`, `bundle-malformed`, `malformed`) or `UnavailableError`.
    """
    order = read_unverified(envelope, order_message.KIND, Order, max_bytes=order_message.MAX_BYTES).message
    client.refresh(now)
    for file in files_of(order):
        client.file(file.path)
    manifest = order.release.manifest if order.release else None
    if manifest is not None and client.file(manifest.path) == manifest:
        keep(manifest, _manifest(bundle, manifest))


def _manifest(bundle: Bundle, file: FileRef) -> bytes:
    length = bundle.length(file.sha256)
    if length is None:
        raise _partial(file.path)
    if length != file.length or length > MAX_MANIFEST_BYTES:
        raise _partial(f"{file.path} as it was signed")
    data = b"".join(bundle.artifact(file.sha256))
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise _partial(f"{file.path} as it was signed")
    return data


def _partial(what: str) -> RefusedError:
    return RefusedError(ReasonKind.BUNDLE_MALFORMED, f"The bundle lacks {what}. Copy it again, or make another one.")
