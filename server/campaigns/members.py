"""Who belongs to a campaign: by its file's release and selection, and by what it has already."""

from collections.abc import Sequence
from dataclasses import dataclass

from firmware.errors import RefusedError
from server.planner.approvals import labels_of
from server.planner.rows import CampaignRow
from server.planner.selection import Selection, narrowed
from server.ports import CampaignSpec, ReleaseRecord, ReleaseState, Unit

ALL = 1 << 31


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What another selection would change: who comes in, who dropped out before and comes back, and who has no order yet and
    drops out."""

    gained: Sequence[str] = ()
    back: Sequence[str] = ()
    lost: Sequence[str] = ()

    @property
    def comes_in(self) -> int:
        """How many come in, for the first time or again."""
        return len(self.gained) + len(self.back)


def release_of(unit: Unit, spec: CampaignSpec) -> ReleaseRecord:
    """The file's release; raises `RefusedError` (`release-unknown`, `release-withdrawn`)."""
    release = unit.releases.get(spec.product, spec.version)
    if release is None:
        raise RefusedError(
            "release-unknown",
            f"There is no release {spec.product} {spec.version}; publish it, or name one that is there.",
        )
    if release.state is ReleaseState.WITHDRAWN:
        raise RefusedError("release-withdrawn", f"{spec.product} {spec.version} was withdrawn; choose another release.")
    return release


def labelled(unit: Unit, spec: CampaignSpec, release: ReleaseRecord) -> set[int]:
    """The rules of approval whose labels some of the campaign's targets have."""
    return {
        index
        for index, labels in labels_of(spec.strategy).items()
        if (found := narrowed(spec.selection, labels)) is not None
        and unit.campaigns.eligible(release.product, release.hardware, found)
    }


def membership(unit: Unit, campaign: CampaignRow, selection: Selection, most: int = ALL) -> Membership:
    """Who would come into a campaign that is there, and who would drop out of it, with this selection: at most so many of
    each. A campaign whose groups go whole takes nobody else."""
    release = unit.releases.get(campaign.release.product, campaign.release.version)
    if release is None:
        return Membership()
    is_whole = campaign.strategy.together is not None
    return Membership(
        back=() if is_whole else unit.campaigns.returners(campaign.id, release.hardware, selection, most),
        gained=() if is_whole else unit.campaigns.newcomers(campaign.id, release.hardware, selection, most),
        lost=unit.campaigns.leavers(campaign.id, selection, most),
    )
