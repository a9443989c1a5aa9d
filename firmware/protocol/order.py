"""The order: one retained, signed instruction per target; its current desired state."""

from typing import Annotated

from msgspec import Meta, Struct

from firmware.contents import ROOT_SET
from firmware.errors import RefusedError
from firmware.protocol.words import (
    Action,
    Base64Url,
    Count,
    Id,
    Kind,
    Label,
    Length,
    Path,
    Posix,
    ReasonKind,
    Seconds,
    Sha256,
    Version,
)

KIND = "order"
MAX_BYTES = 65536
"""Room for `firmware.contents.MAX_IMAGES` images, each with a delta and paths as long as paths may be."""
MAX_RATE = 1 << 40
MAX_SPANS = 128
MAX_LISTED = 64
"""So many images are read, to be refused in words; more are not read at all."""


class Counter(Struct, frozen=True, kw_only=True, order=True):
    """Totally ordered position of an order: (director epoch, n). Field order is the comparison order."""

    epoch: Count
    n: Count


class FileRef(Struct, frozen=True, kw_only=True):
    """A file of the catalogue: path, length in bytes, sha256. All three must equal the catalogue's."""

    path: Path
    length: Length
    sha256: Sha256


class DeltaRef(Struct, frozen=True, kw_only=True):
    """A delta (catalogue path under `deltas/`) and the sha256 of the image it starts from. With `salt` the file is encrypted, by
    the key of the order's release."""

    file: FileRef
    source_sha256: Sha256
    source_length: Length
    salt: Sha256 | None = None


class OrderedImage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to put into the slot of one slot set: the file to fetch, and optionally a delta from what the active slot of that set
    holds."""

    slot: Id = ROOT_SET
    file: FileRef
    delta: DeltaRef | None = None


class WrappedKey(Struct, frozen=True, kw_only=True):
    """The key of an encrypted release for one device: `data` opens with the device's key `key_id` (sha256 of its public key as
    the inventory has it) by `suite`, and only for this target, hardware, release and images."""

    suite: Kind
    key_id: Sha256
    data: Base64Url


class ReleaseRef(Struct, frozen=True, kw_only=True):
    """A release of the catalogue; `counter` is its release counter, compared with the target's floor."""

    product: Id
    version: Version
    counter: Count
    manifest: FileRef


class Span(Struct, frozen=True, kw_only=True):
    """From `start` until before `end`, POSIX seconds."""

    start: Posix
    end: Posix


class CodeKey(Struct, frozen=True, kw_only=True):
    """For a typed code (`firmware.bundle.code`): the server's `public` key by `suite`, and the device's key it belongs with
    (`key_id`, as in `WrappedKey`)."""

    suite: Kind
    key_id: Sha256
    public: Base64Url


class Order(Struct, frozen=True, kw_only=True):
    """What the director signs for one target.

    `action` install needs `release` and `images`, one for every image of its manifest; rollback and nothing need neither. A
    release of which anything is encrypted needs `wrapped_key` too, and names it in `crit`.
    An `unattended` order needs no permit: the target activates by itself inside one of its `windows` (rising, apart), never
    outside and never once the order has expired. It names `windows` in `crit`.
    `trial_s`: seconds a trial boot has to commit before the boot loader takes it back. Times are POSIX seconds.
    `max_rate`: bytes per second that are fetched for it at most; None: no limit. It is not critical: an agent that doesn't know
    it fetches as fast as it may by itself.
    """

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    target: Id
    agent: Id
    hardware: Label
    counter: Counter
    action: Action
    change_id: Id
    campaign: Id | None = None
    issued_at: Posix
    expires_at: Posix
    unattended: bool = False
    windows: Annotated[list[Span], Meta(max_length=MAX_SPANS)] = []
    code_key: CodeKey | None = None
    release: ReleaseRef | None = None
    images: Annotated[list[OrderedImage], Meta(max_length=MAX_LISTED)] = []
    wrapped_key: WrappedKey | None = None
    trial_s: Seconds = 600
    max_rate: Annotated[int, Meta(ge=1, le=MAX_RATE)] | None = None
    crit: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=32)] = []


def files_of(order: Order) -> list[FileRef]:
    """The catalogue's files that an order names: its manifest, images and deltas."""
    named = [order.release.manifest] if order.release else []
    for image in order.images:
        named += [image.file] if image.delta is None else [image.file, image.delta.file]
    return named


def check_crit(order: Order) -> None:
    """Raise `RefusedError` (`not-understood`) when the order marks a field critical that this version does not know."""
    unknown = sorted(set(order.crit) - set(Order.__struct_fields__))
    if unknown:
        names = ", ".join(unknown)
        raise RefusedError(
            ReasonKind.NOT_UNDERSTOOD, f"The order needs fields this agent does not know ({names}); update the agent."
        )
