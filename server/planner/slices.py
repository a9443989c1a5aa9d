"""What a step is shown: the rows that an event touches, whose number does not grow with the fleet."""

from msgspec import Struct

from server.planner.gate_rows import BlockRow
from server.planner.revision_rows import RevisionRow
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow, GroupRow, TargetRow, TokenRow
from server.planner.surroundings import NOWHERE, Surroundings


class Footprint(Struct, frozen=True, kw_only=True, gc=False):
    """What to load for an event: the target with its groups and tokens, the campaign with its cohorts, the assignment.

    `campaign` None with a `target` means: the campaign that holds the target. The groups to load are the target's own, the
    campaign's (`campaign_group`), those of its path (`gateways.path_groups`), and those of the tokens that the target holds; a
    group that isn't stored yet is left out.
    """

    campaign: str | None = None
    target: str | None = None


class Slice(Struct, frozen=True, kw_only=True, gc=False):
    """The rows an event touches. Their number does not grow with the fleet."""

    campaign: CampaignRow | None = None
    cohorts: tuple[CohortRow, ...] = ()
    target: TargetRow | None = None
    assignment: AssignmentRow | None = None
    groups: tuple[GroupRow, ...] = ()
    tokens: tuple[TokenRow, ...] = ()
    """Tokens held by this target, whichever campaign took them."""
    blocks: tuple[BlockRow, ...] = ()
    """The target's sites in its cohort and in the open one (`strata.keys`), as far as they are stored."""
    proposal: RevisionRow | None = None
    """The campaign's revision that waits for approvals, for events about no target."""
    holders: tuple[TokenRow, ...] = ()
    """Some tokens of the groups, whoever holds them. Only `explain` looks here; a shell may leave it empty."""
    around: Surroundings = NOWHERE
