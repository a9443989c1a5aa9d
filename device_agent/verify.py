"""What an order must agree with before it is followed: its address, this hardware, the catalogue, the manifest, the floor.

Pure functions over verified facts. They return a `Reason` to refuse with, or None.
"""

from collections.abc import Callable

from device_agent.core.unattended import has_windows
from device_agent.core.values import Content, Held
from device_agent.identity import Identity
from firmware.checks import Watch
from firmware.errors import RefusedError
from firmware.manifest import Image, Manifest
from firmware.protocol.order import FileRef, Order, check_crit
from firmware.protocol.report import Reason
from firmware.protocol.words import Action, ReasonKind

Lookup = Callable[[str], FileRef | None]
"""Length and hash of a path in the verified catalogue, or None when no trusted role lists it."""
SLOT_SET = "root"


def foreign(order: Order, identity: Identity) -> Reason | None:
    """Whether the order is for somebody else: such an order must not even move this target's counter."""
    if (order.target, order.agent) == (identity.target, identity.agent):
        return None
    text = f"The order is for target {order.target} of agent {order.agent}, not for this one; it was ignored."
    return Reason(kind=ReasonKind.WRONG_TARGET, text=text)


def reject(order: Order, identity: Identity) -> Reason | None:
    """Why an order for this target can't be followed, from its own words: hardware, fields that must be understood, shape."""
    try:
        check_crit(order)
    except RefusedError as error:
        return Reason(kind=error.kind, text=error.text)
    if order.hardware != identity.hardware:
        text = f"The order is for hardware {order.hardware}; this is {identity.hardware}."
        return Reason(kind=ReasonKind.WRONG_HARDWARE, text=text)
    if order.unattended and order.action is not Action.NOTHING and not has_windows(order):
        text = "An order for unattended use must list the times at which it may restart the device; issue a new one."
        return Reason(kind=ReasonKind.MALFORMED, text=text)
    if order.action is Action.INSTALL and (order.release is None or order.image is None):
        return Reason(kind=ReasonKind.MALFORMED, text="An install order must name a release and an image.")
    return None


def contradicts_catalogue(order: Order, lookup: Lookup) -> Reason | None:
    """Whether a path, length or hash of an install order differs from what the catalogue signed."""
    named = [order.release.manifest] if order.release else []
    named += [file for file in (order.image, order.delta.file if order.delta else None) if file is not None]
    for file in named:
        listed = lookup(file.path)
        if listed != file:
            how = "does not list" if listed is None else "lists other bytes for"
            text = f"The catalogue {how} {file.path}; the order can't be trusted with it."
            return Reason(kind=ReasonKind.CATALOGUE_MISMATCH, text=text)
    return None


def contradicts_manifest(order: Order, manifest: Manifest, hardware: str, floors: dict[str, int]) -> Reason | None:
    """Whether the signed manifest is of another release or image, excludes this hardware, or lies below the floor."""
    release = order.release
    image = image_of(manifest)
    if release is None or (release.product, release.version, release.counter) != (
        manifest.product,
        manifest.version,
        manifest.counter,
    ):
        text = f"The manifest is of {manifest.product} {manifest.version}, not of the release the order names."
        return Reason(kind=ReasonKind.CATALOGUE_MISMATCH, text=text)
    stored = image and (manifest.encryption_of(image) or image)
    if stored is None or order.image != FileRef(path=stored.path, length=stored.length, sha256=stored.sha256):
        text = "The order names another image than the release's manifest."
        return Reason(kind=ReasonKind.CATALOGUE_MISMATCH, text=text)
    if hardware not in manifest.hardware:
        text = f"{manifest.product} {manifest.version} is for {', '.join(manifest.hardware)[:200]}; this is {hardware}."
        return Reason(kind=ReasonKind.WRONG_HARDWARE, text=text)
    floor = floors.get(manifest.product, 0)
    if manifest.counter < floor:
        text = f"The release has counter {manifest.counter}, below this target's floor {floor}."
        return Reason(kind=ReasonKind.BELOW_FLOOR, text=text)
    return None


def lacks_key(order: Order, manifest: Manifest) -> Reason | None:
    """Whether the release is encrypted and the order brings no key, or the other way round; whose key it is turns out later."""
    image = image_of(manifest)
    is_encrypted = image is not None and manifest.encryption_of(image) is not None
    if is_encrypted == (order.wrapped_key is not None):
        return None
    text = (
        "The release is encrypted and the order brings no key to it; issue a new order."
        if is_encrypted
        else "The order brings a key to a release that is not encrypted; issue a new order."
    )
    return Reason(kind=ReasonKind.CANNOT_DECRYPT, text=text)


def jumps_over(manifest: Manifest, running: Content | None) -> Reason | None:
    """Whether the signed manifest wants another release of its product to run here first. Unknown content is none."""
    if manifest.requires is None:
        return None
    held = running.counter if running is not None and running.product == manifest.product else -1
    first = manifest.requires.first(held)
    if first is None:
        return None
    here = f"{running.product} {running.version} (counter {running.counter})" if running else "unknown"
    text = (
        f"{manifest.product} {manifest.version} can't be installed from what runs here, {here}: "
        f"install the release with counter {first} first."
    )
    return Reason(kind=ReasonKind.MUST_PASS_THROUGH, text=text)


def image_of(manifest: Manifest) -> Image | None:
    """The manifest's image for the A/B slots."""
    return next((image for image in manifest.images if image.slot == SLOT_SET), None)


def content_of(held: Held, manifest: Manifest) -> Content | None:
    """What a slot will hold once the order's release is in it."""
    image, release = image_of(manifest), held.order.release
    if image is None or release is None:
        return None
    return Content(
        product=manifest.product,
        version=manifest.version,
        counter=manifest.counter,
        sha256=image.sha256,
        length=image.length,
        manifest=release.manifest,
        watch=manifest.watch or Watch(),
    )
