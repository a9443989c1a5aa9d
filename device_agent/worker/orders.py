"""The worker's own look at an order, before it writes anything: it takes nobody's word for what was signed.

Whether the catalogue is fresh, whether the order is newer than the last, and whether the release is above the floor, is what
the resident process keeps and has decided.
"""

from collections.abc import Callable

from device_agent import inbound, verify
from device_agent.core import events as ev
from device_agent.identity import Identity
from device_agent.ports import Catalogue, Verifier
from firmware.errors import RefusedError
from firmware.manifest import Manifest
from firmware.protocol.order import Order
from firmware.protocol.report import Reason
from firmware.protocol.words import ReasonKind

_NO_RELEASE = Reason(
    kind=ReasonKind.MALFORMED, text="An install order must name a release with an image for the slots."
)
_NOT_LISTED = Reason(
    kind=ReasonKind.CATALOGUE_MISMATCH, text="The catalogue doesn't list the release that the order names."
)
Recheck = Callable[[bytes], tuple[Order, Manifest]]


def recheck(envelope: bytes, verifier: Verifier, catalogue: Catalogue, identity: Identity) -> tuple[Order, Manifest]:
    """The order in the envelope and the manifest of its release, both verified: the order is for this target and hardware, and
    names what the catalogue lists and the manifest says.

    Raises `RefusedError` (`bad-signature`, `wrong-target`, `wrong-hardware`, `stale-counter`, `catalogue-mismatch`, …) or
    `UnavailableError`.
    """
    opened = inbound.open_order(envelope, verifier, identity)
    if isinstance(opened, ev.OrderForeign):
        raise _refused(opened.reason)
    held = opened.held
    release = held.order.release
    if opened.reject is not None or release is None:
        raise _refused(opened.reject or _NO_RELEASE)
    if catalogue.file(release.manifest.path) != release.manifest:
        raise _refused(_NOT_LISTED)
    manifest = catalogue.manifest(release.manifest)
    reason = verify.contradicts_manifest(held.order, manifest, identity.hardware, {})
    if reason is not None:
        raise _refused(reason)
    return held.order, manifest


def _refused(reason: Reason) -> RefusedError:
    return RefusedError(reason.kind, reason.text)
