"""Who belongs to a campaign: by its file's release and selection, and by what it has already; and how the planner is told when
that changes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from firmware.errors import RefusedError
from server.planner.approvals import labels_of
from server.planner.events import Deselected, Enlisted, Event, Reselected
from server.planner.rows import CampaignRow
from server.planner.selection import Selection, narrowed
from server.ports import CampaignSpec, ReleaseRecord, ReleaseState, Unit

ALL = 1 << 31
LOOK_EVERY_S = 60.0
"""How often live selections are brought up to date."""
PAGES = 100
"""So many for one campaign in a round, then it is the next one's turn."""
ENLIST_PAGE = 250
"""Most that come in, come back, and drop out in one transaction."""


class Roll(Protocol):
    """Who could come into a campaign, and who drops out of it; as `server.ports.Campaigns` has it."""

    def newcomers(
        self, campaign_id: str, hardware: Sequence[str], selection: Selection, limit: int
    ) -> Sequence[str]: ...
    def returners(
        self, campaign_id: str, hardware: Sequence[str], selection: Selection, limit: int
    ) -> Sequence[str]: ...
    def leavers(self, campaign_id: str, selection: Selection, limit: int) -> Sequence[str]: ...


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
    each."""
    release = unit.releases.get(campaign.release.product, campaign.release.version)
    return Membership() if release is None else change_of(unit.campaigns, campaign, release.hardware, selection, most)


def change_of(
    roll: Roll, campaign: CampaignRow, hardware: Sequence[str], selection: Selection, most: int = ALL
) -> Membership:
    """The same by a roll, for a release that is for this hardware. A campaign whose groups go whole takes nobody else."""
    is_whole = campaign.strategy.together is not None
    return Membership(
        back=() if is_whole else roll.returners(campaign.id, hardware, selection, most),
        gained=() if is_whole else roll.newcomers(campaign.id, hardware, selection, most),
        lost=roll.leavers(campaign.id, selection, most),
    )


def told(campaign: str, change: Membership, *, revision: int, at: float) -> Iterator[Event]:
    """What the planner is told of it; `revision`: 0 when it is because the selection is live."""
    if change.gained:
        yield Enlisted(campaign=campaign, targets=tuple(change.gained), at=at)
    for target in change.back:
        yield Reselected(campaign=campaign, target=target, at=at)
    for target in change.lost:
        yield Deselected(campaign=campaign, target=target, revision=revision, at=at)
