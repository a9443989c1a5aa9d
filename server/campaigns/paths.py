"""The way from what a target runs to a release: which releases are installed in between, and whether by delta or in full.

Rules
- Fewest installations first, fewest bytes among those. Each installation is a restart, a trial and a chance to fall back, and
  has to be healthy for a while; bytes are only time. So nothing is installed on the way that the manifests don't ask for.
- Every hop is one that the agent accepts: the running release's counter is at least the next one's `min_counter`, and every
  counter that it lists in `through`, and that is newer than where the target set out, was installed on the way.
- In between come only active releases of the same product for the same hardware, rising; a suspect or withdrawn one never.
- A delta is taken, image by image, when it starts from exactly what runs then, the target can apply its format, declares no less
  memory than the delta asks for, and it saves enough of the full image. An image that runs already is not fetched at all: the
  target has it in its other slot.

No I/O, no clock: the same arguments give the same way.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from firmware.contents import ROOT_SET
from firmware.delta.format import CAPABILITY
from firmware.errors import RefusedError
from server.ports import DeltaRecord, Origin, ReleaseImage, ReleaseRecord, ReleaseState, Requirements

NO_PATH = "no-path"
MEMORY_CAPABILITY = "delta-memory-"
"""Followed by a number of bytes: what a target can spare to apply a delta. Without it the format's own bound holds."""
UNKNOWN = -1
"""The counter of content that no release of the product has: below all."""
MAX_HOPS = 16
MAX_WAYS = 256
"""So many ways of one length are followed, the cheapest first."""

Deltas = Mapping[tuple[str, str], DeltaRecord]
"""By sha256 of the image that a delta starts from and of the one that it makes."""


Sources = Mapping[str, str]
"""What runs: the sha256 of each slot set's image."""


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """How an image comes to a target: by a delta, in full (None), or not at all because it `runs` already."""

    image: ReleaseImage
    delta: DeltaRecord | None = None
    runs: bool = False

    @property
    def length(self) -> int:
        """How many bytes that are."""
        if self.runs:
            return 0
        return self.delta.file.length if self.delta else self.image.file.length


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One installation: the release, and how each of its images is fetched."""

    release: ReleaseRecord
    fetches: tuple[Fetch, ...]

    @property
    def length(self) -> int:
        """How many bytes it fetches."""
        return sum(fetch.length for fetch in self.fetches)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """The end of a way: from `first` on to the destination by `hops`. `owed`: counters that still have to come before it."""

    first: ReleaseRecord
    owed: frozenset[int]
    hops: tuple[Hop, ...] = ()

    @property
    def cost(self) -> tuple[int, tuple[int, ...]]:
        return sum(hop.length for hop in self.hops), tuple(-hop.release.counter for hop in self.hops)


def find_path(
    origin: Origin,
    destination: ReleaseRecord,
    releases: Iterable[ReleaseRecord],
    deltas: Deltas,
    *,
    min_saving: float,
) -> tuple[Hop, ...]:
    """The hops from where a target stands to `destination`, at least one. `releases`: those of the product, with where it
    stands; `min_saving`: the share of the image that a delta must save.

    Raises `RefusedError` (`no-path`) that names the release that is missing, withdrawn, suspect or for other hardware.
    """
    known = [release for release in releases if release.product == destination.product]
    start = counter_of(origin, destination.product, known)
    between = [release for release in known if _serves(release, origin, start, destination)]
    ways = [_Way(first=destination, owed=_owed(destination, frozenset(), start))]
    for _ in range(MAX_HOPS):
        ready = [way for way in ways if not way.owed and start >= _lowest(way.first)]
        if ready:
            runs = running_images(origin, known)
            done = (_longer(way, runs, origin, deltas, min_saving) for way in ready)
            return min(done, key=lambda way: way.cost).hops
        ways = _cheapest(
            _Way(
                first=before,
                owed=_owed(before, way.owed, start),
                hops=_longer(way, images_of(before), origin, deltas, min_saving).hops,
            )
            for way in ways
            for before in between
            if _may_precede(before, way)
        )
    raise RefusedError(NO_PATH, _why_not(origin, destination, known, start))


def is_straight(destination: ReleaseRecord) -> bool:
    """Whether nothing can stand in the way, wherever the target stands; then no other release needs to be known."""
    return not _requires(destination).through and _lowest(destination) == UNKNOWN


def counter_of(origin: Origin, product: str, releases: Iterable[ReleaseRecord]) -> int:
    """The release counter of what a target runs: of the release that has this image, else as the target says; `UNKNOWN` for
    content of another product or none."""
    for release in releases:
        if release.product == product and release.sha256 == origin.sha256:
            return release.counter
    return origin.counter if origin.product == product and origin.counter is not None else UNKNOWN


def images_of(release: ReleaseRecord) -> Sources:
    """The sha256 of its image for each slot set."""
    return {image.slot: image.file.sha256 for image in release.images}


def running_images(origin: Origin, releases: Iterable[ReleaseRecord]) -> Sources:
    """What each slot set of a target holds: by the release that it runs, or for any other content its one image, if it is one."""
    for release in releases:
        if release.sha256 == origin.sha256:
            return images_of(release)
    return {ROOT_SET: origin.sha256} if origin.sha256 else {}


def can_apply(origin: Origin, memory_bytes: int) -> bool:
    """Whether a target can apply a delta that asks for so much memory."""
    declared = [
        int(word.removeprefix(MEMORY_CAPABILITY))
        for word in origin.capabilities
        if re.fullmatch(MEMORY_CAPABILITY + "[0-9]{1,15}", word)
    ]
    return CAPABILITY in origin.capabilities and all(memory_bytes <= most for most in declared)


def saves_enough(delta_bytes: int, image_bytes: int, min_saving: float) -> bool:
    """Whether a delta saves this share of the full image."""
    return delta_bytes <= (1 - min_saving) * image_bytes


def as_deltas(records: Sequence[DeltaRecord]) -> Deltas:
    """Deltas by the images at their ends."""
    return {(delta.source_sha256, delta.target_sha256): delta for delta in records}


def _requires(release: ReleaseRecord) -> Requirements:
    return release.requires or Requirements()


def _lowest(release: ReleaseRecord) -> int:
    """From which counter on a release may be installed; its default, 0, asks for nothing."""
    return _requires(release).min_counter or UNKNOWN


def _serves(release: ReleaseRecord, origin: Origin, start: int, destination: ReleaseRecord) -> bool:
    """Whether a release may come in between."""
    return start < release.counter < destination.counter and _usable(release, origin)


def _owed(release: ReleaseRecord, rest: frozenset[int], start: int) -> frozenset[int]:
    """What has to come before `release` on a way whose later releases ask for `rest`."""
    own = {counter for counter in _requires(release).through if counter > start}
    return frozenset(own | {counter for counter in rest if counter < release.counter})


def _may_precede(before: ReleaseRecord, way: _Way) -> bool:
    """Whether a target on `before` may install the first release of `way`, and jumps over nothing by that."""
    lowest = max((_lowest(way.first), *way.owed))
    return lowest <= before.counter < way.first.counter


def _longer(way: _Way, runs: Sources, origin: Origin, deltas: Deltas, min_saving: float) -> _Way:
    """The way with the hop into its first release, from images that run before it."""
    fetches = tuple(_fetch(image, runs, origin, deltas, min_saving) for image in way.first.images)
    return _Way(first=way.first, owed=way.owed, hops=(Hop(release=way.first, fetches=fetches), *way.hops))


def _fetch(image: ReleaseImage, runs: Sources, origin: Origin, deltas: Deltas, min_saving: float) -> Fetch:
    source = runs.get(image.slot, "")
    if source == image.file.sha256:
        return Fetch(image=image, runs=True)
    delta = deltas.get((source, image.file.sha256))
    if delta is not None and not (
        can_apply(origin, delta.memory_bytes) and saves_enough(delta.file.length, image.file.length, min_saving)
    ):
        delta = None
    return Fetch(image=image, delta=delta)


def _cheapest(ways: Iterable[_Way]) -> list[_Way]:
    """Of the ways that leave from the same release and owe the same the cheapest; at most `MAX_WAYS` of all."""
    best: dict[tuple[int, frozenset[int]], _Way] = {}
    for way in ways:
        key = (way.first.counter, way.owed)
        if key not in best or way.cost < best[key].cost:
            best[key] = way
    return sorted(best.values(), key=lambda way: way.cost)[:MAX_WAYS]


def _why_not(origin: Origin, destination: ReleaseRecord, known: Sequence[ReleaseRecord], start: int) -> str:
    """Which release is missing for a target to come to `destination`."""
    runs = f"counter {start}" if start != UNKNOWN else "content that is no release of the product"
    fault = _fault(origin, destination, known, start, MAX_HOPS)
    return f"No way leads to {destination.version} from {runs}: {fault or 'what the releases ask for excludes itself'}."


def _fault(
    origin: Origin, release: ReleaseRecord, known: Sequence[ReleaseRecord], start: int, depth: int
) -> str | None:
    """The first thing that a release asks for, itself or through what it asks for, and that there is not."""
    needed = []
    for counter in sorted(_owed(release, frozenset(), start)):
        found = next((one for one in known if one.counter == counter), None)
        if found is None or not _usable(found, origin):
            return f"{release.version} asks for the release with counter {counter} first, and {_unfit(found, origin)}"
        needed.append(found)
    lowest = _lowest(release)
    if lowest > start:
        among = [one for one in known if lowest <= one.counter < release.counter and _usable(one, origin)]
        if not among:
            return (
                f"{release.version} asks for a release with counter {lowest} or above first, and {_unfit(None, origin)}"
            )
        needed += among[:1]
    deeper = (_fault(origin, one, known, start, depth - 1) for one in needed if depth)
    return next((fault for fault in deeper if fault is not None), None)


def _usable(release: ReleaseRecord, origin: Origin) -> bool:
    return release.state is ReleaseState.ACTIVE and origin.hardware in release.hardware


def _unfit(release: ReleaseRecord | None, origin: Origin) -> str:
    if release is None:
        return f"none is published for the hardware {origin.hardware}"
    if release.state is not ReleaseState.ACTIVE:
        return f"{release.version} is {release.state}"
    return f"{release.version} is not made for the hardware {origin.hardware}"
