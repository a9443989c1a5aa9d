"""Campaigns, and the planner's rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from firmware.contents import ROOT_SET
from firmware.protocol.words import Action
from server.planner.comparing import Pair
from server.planner.decision import Decision
from server.planner.revision_rows import RevisionRow
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow, TokenRow
from server.planner.selection import EVERYBODY, Selection
from server.planner.slices import Footprint, Slice
from server.planner.strategy import Strategy
from server.planner.surroundings import BehindRow
from server.planner.words import AssignmentState
from server.ports.fleet import Page
from server.ports.messages import StoredOrder


@dataclass(frozen=True, kw_only=True)
class CampaignSpec:
    """A parsed campaign file."""

    name: str
    product: str
    version: str
    strategy: Strategy
    selection: Selection = EVERYBODY
    start_at: float | None = None
    """POSIX seconds; once started and approved it waits for this time."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a target sets out from: its hardware, what it runs (as it says), and what it can do."""

    hardware: str
    sha256: str | None
    product: str | None
    counter: int | None
    capabilities: tuple[str, ...]


class DeltaNeed(StrEnum):
    """What became of a delta that a campaign needs: still to be made, made, not to be had, or not worth making (beyond the
    strategy's number, or nobody could apply it)."""

    WANTED = "wanted"
    MADE = "made"
    REFUSED = "refused"
    LEFT_OUT = "left_out"


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One image that targets of a campaign need, planned when it was started: from what a slot set holds to a release's. `rank`
    orders the deltas to be made; `capable` of the `targets` can apply one. `source_sha256` is empty for images that no release
    has. `delta_bytes` is the length of the delta that is there by now."""

    campaign: str
    rank: int
    slot: str = ROOT_SET
    source_sha256: str
    source_version: str
    target_sha256: str
    target_version: str
    image_bytes: int
    targets: int
    capable: int
    need: DeltaNeed
    reason: str = ""
    delta_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class CampaignView:
    """A campaign as people see it, with its cohorts and their counters; `legs` only where one campaign is looked at."""

    row: CampaignRow
    name: str
    cohorts: Sequence[CohortRow]
    created_at: float
    created_by: str
    selection: Selection = EVERYBODY
    legs: Sequence[Leg] = ()
    proposal: RevisionRow | None = None
    """The revision that waits for approvals; only where one campaign is looked at."""
    warnings: Sequence[str] = ()
    """What of it can never come to an end, what is left out, and what its gates lack power for; told when it is made."""


@dataclass(frozen=True, kw_only=True)
class Before:
    """What a target had before its campaign's release: the version in its other slot (None: nothing that could run), and the
    sha256 of what it ran when it got its permit."""

    version: str | None
    sha256: str | None = None


class Campaigns(Protocol):
    def create(
        self,
        campaign: CampaignRow,
        name: str,
        cohorts: Sequence[CohortRow],
        *,
        created_at: float,
        created_by: str,
        selection: Selection | None = None,
    ) -> None:
        """Store the campaign, its cohorts and its revision, and no assignments yet. Raises `RefusedError`
        (`campaign-exists`)."""
        ...

    def redraft(
        self,
        campaign: CampaignRow,
        name: str,
        cohorts: Sequence[CohortRow],
        *,
        created_at: float,
        created_by: str,
        selection: Selection | None = None,
    ) -> None:
        """Put a new draft in the place of one that never began: its revisions stay, all else is replaced. Raises
        `ConflictError` when the draft changed since it was loaded."""
        ...

    def revisions(self, campaign_id: str, after: int = 0, limit: int | None = None) -> Sequence[RevisionRow]:
        """A campaign's revisions after that number, oldest first."""
        ...

    def set_selection(self, campaign_id: str, selection: Selection) -> None:
        """Note whom the campaign selects since its newest revision."""
        ...

    def add_assignments(self, rows: Iterable[AssignmentRow], *, page: int = 2_000) -> None:
        """Store new assignments, so many at a time: a million of them are never in memory as values."""
        ...

    def add_behind(self, rows: Sequence[BehindRow]) -> None:
        """Store the counters of the campaign's gateways."""
        ...

    def eligible(self, product: str, hardware: Sequence[str], selection: Selection) -> Sequence[str]:
        """Ids of the active targets that fit, sorted."""
        ...

    def newcomers(self, campaign_id: str, hardware: Sequence[str], selection: Selection, limit: int) -> Sequence[str]:
        """Ids of active targets that fit and aren't the campaign's, sorted."""
        ...

    def returners(self, campaign_id: str, hardware: Sequence[str], selection: Selection, limit: int) -> Sequence[str]:
        """Ids of active targets that fit and dropped out of the campaign because they didn't, sorted."""
        ...

    def leavers(self, campaign_id: str, selection: Selection, limit: int) -> Sequence[str]:
        """Ids of the campaign's planned targets that don't fit, sorted."""
        ...

    def traits(
        self, hardware: Sequence[str], selection: Selection, names: Sequence[str]
    ) -> Mapping[str, dict[str, str]]:
        """Of each target that `eligible` finds: `hardware`, `version`, and its labels of these names."""
        ...

    def origins(self, campaign_id: str) -> Mapping[Origin, int]:
        """From where the campaign's targets that are still planned set out, and how many from each."""
        ...

    def set_legs(self, campaign_id: str, legs: Sequence[Leg]) -> None:
        """Replace the campaign's legs."""
        ...

    def legs(self, campaign_id: str) -> Sequence[Leg]:
        """The campaign's legs by rank, with the deltas that are there."""
        ...

    def settle_leg(self, leg: Leg, need: DeltaNeed, reason: str = "") -> None:
        """Note what became of the delta of one leg."""
        ...

    def next_leg(self) -> Leg | None:
        """The next delta to make: the first that is wanted of the oldest campaign that is not over."""
        ...

    def awaiting_deltas(self) -> Sequence[str]:
        """Campaigns that wait for deltas and want none any more."""
        ...

    def list(self) -> Sequence[CampaignView]: ...
    def page(self, *, limit: int = 100, after: tuple[float, str] | None = None) -> Sequence[CampaignView]:
        """Campaigns, newest first; `after`: (`created_at`, `id`) of the one before."""
        ...

    def view(self, campaign_id: str) -> CampaignView | None: ...
    def assignments(
        self,
        campaign_id: str,
        *,
        states: Sequence[AssignmentState] | None = None,
        cohort: int | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Assignments by (cohort, rank)."""
        ...

    def reasons(
        self, campaign_id: str, states: Sequence[AssignmentState], limit: int
    ) -> Mapping[tuple[AssignmentState, str], int]:
        """Why assignments are in these states: how many by state and kind of reason, of so many at most."""
        ...

    def candidates(self, campaign_id: str, cohort: int, limit: int) -> Sequence[AssignmentRow]:
        """The first planned assignments of a cohort that wait for nothing (no `wake_at`), by rank."""
        ...

    def in_states(
        self,
        campaign_id: str,
        states: Sequence[AssignmentState],
        limit: int,
        *,
        cohort: int | None = None,
        action: Action | None = None,
    ) -> Sequence[AssignmentRow]:
        """Some assignments in these states, of this cohort and with this action if given, in no promised order."""
        ...

    def with_release(self, product: str, version: str) -> Sequence[CampaignRow]:
        """The campaigns of this release, by id."""
        ...

    def to_undo(self, limit: int) -> Sequence[CampaignRow]:
        """Some campaigns for which nothing was proposed yet: completed or aborted ones of a suspect release, and those that were
        rolled back and have targets that couldn't go back."""
        ...

    def to_rouse(self) -> CampaignRow | None:
        """A campaign under way of which targets are to be told to ask again (`rouse`)."""
        ...

    def waiting_for_windows(self, campaign_id: str, after: str, limit: int) -> Sequence[AssignmentRow]:
        """Its assignments, by target after this one, that were told to wait for a window or the end of a freeze."""
        ...

    def to_remind(self, now: float, limit: int) -> Sequence[str]:
        """Some campaigns whose owed approvals are to be asked for again (`remind_at`)."""
        ...

    def running_release(self, campaign_id: str) -> Mapping[str, Before]:
        """The campaign's targets that run its release and are not shut out, with what they had before."""
        ...

    def holders(self, groups: Sequence[str], limit: int) -> Sequence[TokenRow]:
        """Some tokens of these groups, oldest first, whoever holds them."""
        ...

    def first_in_line(self, group: str) -> TokenRow | None:
        """Who comes next in the line of a group (`download_line`), of the campaigns that admit; None when nobody waits."""
        ...

    def assigned(self, campaign_id: str, selection: Selection) -> Sequence[str]:
        """Ids of the campaign's targets that fit, sorted."""
        ...

    def given_out(self, campaign_id: str, now: float, after: str, limit: int) -> Sequence["StoredOrder"]:
        """The current orders of the campaign that are given out for unattended use and may still be followed, by target."""
        ...

    def pairs(
        self, campaign_id: str, cohort: int, release_sha256: str, after: int, limit: int, *, target: str | None = None
    ) -> Sequence[Pair]:
        """Verified targets of a cohort that have a control and were not compared yet, with it, by rank above `after`; only this
        target if given."""
        ...

    def waiting_for(self, target: str) -> str | None:
        """The oldest live campaign that has planned this target and not admitted it; else the newest one that ended before
        the target's turn came and is younger than the campaign that holds it."""
        ...

    def open_for(self, target: str) -> Sequence[str]:
        """Ids of the campaigns in which this target's part is not over: undecided, or missing."""
        ...

    def due(self, now: float, limit: int) -> tuple[Sequence[CampaignRow], Sequence[AssignmentRow]]:
        """Rows whose `wake_at` has passed, oldest first."""
        ...

    def next_wake(self) -> float | None: ...
    def expect(self, targets: Sequence[str], *, campaign: str | None = None) -> None:
        """Fetch at once what `load` gives of these targets in the campaigns that hold them, and in the one that admits them."""
        ...

    def load(self, footprint: Footprint) -> Slice: ...
    def commit(self, decision: Decision) -> None:
        """Apply the changes by compare-and-set. Raises `ConflictError` when a row did not match; nothing is kept then."""
        ...
