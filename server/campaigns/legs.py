"""Ways for real targets: what the records say is handed to `paths`, one target at a time or a campaign's whole fleet at once.

A campaign's fleet is planned by what its targets have in common, so that the work does not grow with their number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from firmware.errors import RefusedError
from server.campaigns.paths import (
    Hop,
    as_deltas,
    can_apply,
    find_path,
    is_straight,
    running_images,
    saves_enough,
)
from server.planner.rows import CampaignRow, TargetRow
from server.ports import MAX_DELTA_MEMORY, DeltaNeed, DeltaRecord, Leg, Origin, ReleaseImage, ReleaseRecord, Unit

MAX_FAULTS = 20
"""So many kinds of targets without a way are told apart on the trail."""
UNKNOWN_IMAGE = ""


@dataclass(frozen=True, kw_only=True)
class LegPlan:
    """What a campaign's targets have to install, and a sentence for each kind of targets that can't get there."""

    legs: Sequence[Leg]
    faults: Sequence[str]


@dataclass
class _Count:
    """How many targets need one image."""

    source: ReleaseRecord | None
    release: ReleaseRecord
    image: ReleaseImage
    targets: int = 0
    capable: int = 0

    @property
    def source_sha256(self) -> str:
        """What the image's slot set holds before."""
        held = self.source.image(self.image.slot) if self.source else None
        return held.file.sha256 if held else UNKNOWN_IMAGE


@dataclass
class _Counts:
    images: dict[tuple[str, str, str], _Count] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, source: ReleaseRecord | None, hop: Hop, number: int, origin: Origin) -> None:
        """Count what so many targets fetch in one installation."""
        for fetch in hop.fetches:
            if fetch.runs:
                continue
            key = (source.sha256 if source else UNKNOWN_IMAGE, hop.release.sha256, fetch.image.slot)
            count = self.images.setdefault(key, _Count(source=source, release=hop.release, image=fetch.image))
            memory_bytes = fetch.delta.memory_bytes if fetch.delta else MAX_DELTA_MEMORY
            count.targets += number
            count.capable += number if source and can_apply(origin, memory_bytes) else 0


def next_hop(unit: Unit, target: TargetRow, release: ReleaseRecord, *, min_saving: float) -> Hop:
    """The first hop of the way from what a target runs now to a release; raises `RefusedError` (`no-path`)."""
    origin = _origin(unit, target)
    if is_straight(release):
        known = _running(unit, origin, release)
        runs = running_images(origin, known)
        found = (unit.releases.delta(runs.get(one.slot, UNKNOWN_IMAGE), one.file.sha256) for one in release.images)
        deltas = as_deltas([delta for delta in found if delta])
        return find_path(origin, release, known, deltas, min_saving=min_saving)[0]
    deltas = as_deltas(unit.releases.deltas())
    return find_path(origin, release, unit.releases.list(), deltas, min_saving=min_saving)[0]


def _running(unit: Unit, origin: Origin, release: ReleaseRecord) -> list[ReleaseRecord]:
    """The release that a target runs, where it has to be known: to tell the images of several apart."""
    if len(release.images) == 1 or origin.sha256 is None:
        return []
    held = unit.releases.holding(origin.sha256)
    return [held] if held and held.product == release.product else []


def plan_legs(unit: Unit, campaign: CampaignRow) -> LegPlan:
    """What the campaign's targets that are still planned have to install. Wanted are at most as many deltas as its strategy
    says, those that most targets can use."""
    key, policy = campaign.release, campaign.strategy.deltas
    destination = unit.releases.get(key.product, key.version)
    if destination is None:
        return LegPlan(legs=(), faults=())
    releases = [release for release in unit.releases.list() if release.product == key.product]
    deltas = as_deltas(unit.releases.deltas())
    counts = _counted(unit.campaigns.origins(campaign.id), destination, releases, deltas, policy.min_saving)
    ordered = sorted(counts.images.values(), key=lambda count: (-count.capable, -count.targets, -count.release.counter))
    legs, room = [], policy.at_most
    for rank, count in enumerate(ordered):
        leg = _leg(campaign.id, rank, count, deltas, policy.min_saving)
        if leg.need is DeltaNeed.WANTED and not room:
            leg = replace(leg, need=DeltaNeed.LEFT_OUT, reason="The strategy wants no more deltas than others need.")
        room -= leg.need in (DeltaNeed.WANTED, DeltaNeed.MADE) and room > 0
        legs.append(leg)
    return LegPlan(legs=legs, faults=counts.faults[:MAX_FAULTS])


def _counted(
    origins: Mapping[Origin, int],
    destination: ReleaseRecord,
    releases: Sequence[ReleaseRecord],
    deltas: Mapping[tuple[str, str], DeltaRecord],
    min_saving: float,
) -> _Counts:
    counts, by_content = _Counts(), {release.sha256: release for release in releases}
    for origin, number in origins.items():
        if origin.sha256 == destination.sha256:
            continue
        try:
            hops = find_path(origin, destination, releases, deltas, min_saving=min_saving)
        except RefusedError as error:
            counts.faults.append(f"{number} targets can't get there. {error.text}")
            continue
        source = by_content.get(origin.sha256 or UNKNOWN_IMAGE)
        for hop in hops:
            counts.add(source, hop, number, origin)
            source = hop.release
    return counts


def _leg(
    campaign: str,
    rank: int,
    count: _Count,
    deltas: Mapping[tuple[str, str], DeltaRecord],
    min_saving: float,
) -> Leg:
    source, release, image = count.source, count.release, count.image
    made = deltas.get((count.source_sha256, image.file.sha256))
    need, reason = DeltaNeed.WANTED, ""
    if count.source_sha256 == UNKNOWN_IMAGE:
        need, reason = DeltaNeed.LEFT_OUT, "No release has the image that these targets run."
    elif not count.capable:
        need, reason = DeltaNeed.LEFT_OUT, "None of these targets can apply a delta."
    elif made is not None and not saves_enough(made.file.length, image.file.length, min_saving):
        need, reason = DeltaNeed.REFUSED, "The delta that there is saves too little."
    elif made is not None:
        need = DeltaNeed.MADE
    return Leg(
        campaign=campaign,
        rank=rank,
        slot=image.slot,
        source_sha256=count.source_sha256,
        source_version=source.version if source else "",
        target_sha256=image.file.sha256,
        target_version=release.version,
        image_bytes=image.file.length,
        targets=count.targets,
        capable=count.capable,
        need=need,
        reason=reason,
    )


def _origin(unit: Unit, target: TargetRow) -> Origin:
    said = unit.fleet.announced(target.id)
    return Origin(
        hardware=target.hardware,
        sha256=target.running_sha256,
        product=said.product if said else None,
        counter=said.counter if said else None,
        capabilities=said.capabilities if said else (),
    )
