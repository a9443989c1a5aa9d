"""Moments of a campaign in an exact run, in seconds after the world's beginning."""

from collections.abc import Callable
from dataclasses import dataclass, field

from server.planner.rows import CohortRow
from server.planner.words import AssignmentState, CampaignState, CohortState

STOPPED = (CampaignState.PAUSED, CampaignState.ABORTED, CampaignState.ROLLING_BACK, CampaignState.ROLLED_BACK)


@dataclass
class Marks:
    """`admitted`: how many had a permit when it was stopped. `decided_s`: by cohort."""

    stopped_s: float | None = None
    admitted: int = 0
    done_s: float | None = None
    decided_s: dict[int, float] = field(default_factory=dict)

    def cohort_changed(self, before: CohortRow, row: CohortRow, after_s: float) -> bool:
        """Whether it opened."""
        if before.counts.get(AssignmentState.VERIFIED, 0) < row.counts.get(AssignmentState.VERIFIED, 0):
            self.done_s = after_s
        if before.state is row.state:
            return False
        self.decided_s.pop(row.index, None)
        if row.state in (CohortState.PASSED, CohortState.FAILED):
            self.decided_s[row.index] = after_s
        return row.state is CohortState.OPEN

    def campaign_changed(self, state: CampaignState, after_s: float, admitted: Callable[[], int]) -> None:
        """The first that stops it counts, until it is resumed."""
        if state in STOPPED and self.stopped_s is None:
            self.stopped_s, self.admitted = after_s, admitted()
        elif state is CampaignState.RUNNING:
            self.stopped_s = None
