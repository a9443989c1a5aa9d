"""What an order must agree with before it is followed: its address, this hardware, the catalogue, the manifest, the floor.

Pure functions over verified facts. They return a `Reason` to refuse with, or None.
"""

from collections.abc import Callable, Collection, Iterable

from msgspec.structs import replace

from device_agent.core.unattended import has_windows
from device_agent.core.values import Content, Held, Part, content_of_parts
from device_agent.identity import Identity
from firmware.checks import Watch
from firmware.contents import MAX_IMAGES, ROOT_SET, twice
from firmware.errors import RefusedError
from firmware.manifest import Encrypted, Image, Manifest
from firmware.protocol.order import FileRef, Order, OrderedImage, check_crit, files_of
from firmware.protocol.report import Reason
from firmware.protocol.words import Action, ReasonKind

Lookup = Callable[[str], FileRef | None]
"""Length and hash of a path in the verified catalogue, or None when no trusted role lists it."""


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
    if order.action is Action.INSTALL and (order.release is None or not order.images):
        return Reason(kind=ReasonKind.MALFORMED, text="An install order must name a release and its images.")
    return _badly_listed(order)


def _badly_listed(order: Order) -> Reason | None:
    """Whether the order lists too many images, or a slot set twice: then nobody can say what it wants."""
    if len(order.images) > MAX_IMAGES:
        text = f"The order lists {len(order.images)} images; at most {MAX_IMAGES} are allowed."
        return Reason(kind=ReasonKind.TOO_LARGE, text=text)
    name = twice(image.slot for image in order.images)
    if name is None:
        return None
    return Reason(
        kind=ReasonKind.MALFORMED, text=f"The order lists two images for the slot set {name}; order it again."
    )


def contradicts_catalogue(order: Order, lookup: Lookup) -> Reason | None:
    """Whether a path, length or hash of an install order differs from what the catalogue signed."""
    for file in files_of(order):
        listed = lookup(file.path)
        if listed != file:
            how = "does not list" if listed is None else "lists other bytes for"
            text = f"The catalogue {how} {file.path}; the order can't be trusted with it."
            return Reason(kind=ReasonKind.CATALOGUE_MISMATCH, text=text)
    return None


def contradicts_manifest(order: Order, manifest: Manifest, hardware: str, floors: dict[str, int]) -> Reason | None:
    """Whether the signed manifest is of another release or images, excludes this hardware, or lies below the floor."""
    release = order.release
    if release is None or (release.product, release.version, release.counter) != (
        manifest.product,
        manifest.version,
        manifest.counter,
    ):
        text = f"The manifest is of {manifest.product} {manifest.version}, not of the release the order names."
        return Reason(kind=ReasonKind.CATALOGUE_MISMATCH, text=text)
    wrong = _wrong_image(order, manifest)
    if wrong is not None:
        return Reason(kind=ReasonKind.CATALOGUE_MISMATCH, text=wrong)
    if hardware not in manifest.hardware:
        text = f"{manifest.product} {manifest.version} is for {', '.join(manifest.hardware)[:200]}; this is {hardware}."
        return Reason(kind=ReasonKind.WRONG_HARDWARE, text=text)
    floor = floors.get(manifest.product, 0)
    if manifest.counter < floor:
        text = f"The release has counter {manifest.counter}, below this target's floor {floor}."
        return Reason(kind=ReasonKind.BELOW_FLOOR, text=text)
    return None


def wrong_kind(manifest: Manifest, kind: str) -> Reason | None:
    """Whether the release is of another kind than this target takes."""
    if manifest.kind == kind:
        return None
    text = f"{manifest.product} {manifest.version} is of kind {manifest.kind}; this target takes {kind}."
    return Reason(kind=ReasonKind.WRONG_KIND, text=text)


def ordered_images(order: Order, manifest: Manifest) -> list[tuple[Image, OrderedImage]]:
    """Each image of the manifest with what the order says about it, `root` first. Raises `RefusedError` (`catalogue-mismatch`)
    unless the order names exactly the manifest's images."""
    wrong = _wrong_image(order, manifest)
    if wrong is not None:
        raise RefusedError(ReasonKind.CATALOGUE_MISMATCH, wrong)
    said = {one.slot: one for one in order.images}
    images = sorted(manifest.images, key=lambda image: (image.slot != ROOT_SET, image.slot))
    return [(image, said[image.slot]) for image in images]


def _wrong_image(order: Order, manifest: Manifest) -> str | None:
    """How the order's images differ from the manifest's."""
    said = {one.slot: one.file for one in order.images}
    signed = {image.slot: _file_of(manifest.encryption_of(image) or image) for image in manifest.images}
    if len(said) != len(order.images) or set(said) != set(signed):
        return (
            f"The order has images for {_listed(one.slot for one in order.images)} and the release's manifest for "
            f"{_listed(signed)}; order it again."
        )
    wrong = next((name for name, file in said.items() if file != signed[name]), None)
    return None if wrong is None else f"The order names another image for {wrong} than the release's manifest."


def _file_of(stored: Image | Encrypted) -> FileRef:
    return FileRef(path=stored.path, length=stored.length, sha256=stored.sha256)


def misfits(manifest: Manifest, slot_sets: Collection[str]) -> Reason | None:
    """Whether the release has an image for a slot set that is not here, or none for one that is. A set that is left out would
    keep what it held before, and the slot would be half of one release and half of another."""
    brought = {image.slot for image in manifest.images}
    lacking, extra = sorted(set(slot_sets) - brought), sorted(brought - set(slot_sets))
    name = f"{manifest.product} {manifest.version}"
    if extra:
        text = f"{name} has an image for {_listed(extra)}, and this device has no such slots; correct agent.toml or the release."
        return Reason(kind=ReasonKind.SLOT_MISSING, text=text)
    if lacking:
        text = f"{name} has no image for {_listed(lacking)}; build a release with an image for every slot set."
        return Reason(kind=ReasonKind.IMAGE_MISSING, text=text)
    return None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))[:300] or "nothing"


def lacks_key(order: Order, manifest: Manifest) -> Reason | None:
    """Whether the release is encrypted and the order brings no key, or the other way round; whose key it is turns out later."""
    is_encrypted = bool(manifest.encrypted)
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


def content_of(held: Held, manifest: Manifest) -> Content | None:
    """What a slot will hold once the order's release is in it."""
    release = held.order.release
    if release is None:
        return None
    parts = [Part(slot_set=one.slot, sha256=one.sha256, length=one.length) for one in manifest.images]
    content = content_of_parts(
        sorted(parts, key=lambda part: part.slot_set),
        product=manifest.product,
        version=manifest.version,
        counter=manifest.counter,
    )
    return replace(content, manifest=release.manifest, watch=manifest.watch or Watch())
