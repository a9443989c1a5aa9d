"""What must hold whatever happens, checked while a run goes on, by books of its own and not by the planner's counters.

Rules
- Who got a permit may be down from then on, until a signed report says that it is up, or it is taken out of the fleet; bricked
  devices are so for ever. No permit
  may bring more of a group down than the strategy's budgets allow, or leave fewer up than they keep.
- After a cohort failed, or a person paused or ended the campaign, nobody gets a permit to install for it.
- In the end every target's state agrees with what its device is, as far as the device could say, and unless it lies.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from firmware.protocol.words import Action, AgentState
from server.planner.budgets import CAMPAIGN, UNLIMITED
from server.planner.commands import GrantPermit
from server.planner.decision import Decision
from server.planner.events import Decommissioned, Event, Reported
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow, campaign_group
from server.planner.slices import Slice
from server.planner.states import IN_FLIGHT
from server.planner.strategy import BudgetPolicy
from server.planner.words import AssignmentState, CampaignState, CohortState
from simulator.virtual.device import Device

MOST_KEPT = 20
GRANTING = (CampaignState.RUNNING, CampaignState.WATCHING)
_UP = frozenset({AgentState.COMMITTED, AgentState.FELL_BACK, AgentState.REFUSED, AgentState.CANCELLED})
_ON_RELEASE = (AssignmentState.VERIFIED, AssignmentState.COMMITTED)
_UNKNOWN = (AssignmentState.MISSING, *IN_FLIGHT)


class Around(Protocol):
    """Groups by key: their members, and who of them is away by the broker's word."""

    @property
    def members(self) -> Mapping[str, Sequence[str]]: ...
    def away(self, key: str) -> Sequence[str]: ...


class Books:
    """Who may be down, group by group; `violations` in words, the first `MOST_KEPT` of `broken` ones."""

    def __init__(self, neighbourhood: Around, sizes: Mapping[str, int]) -> None:
        self.violations: list[str] = []
        self.broken = 0
        self._around = neighbourhood
        self._sizes = sizes
        """How many targets each campaign has."""
        self._down: defaultdict[str, set[str]] = defaultdict(set)
        self._groups: dict[str, tuple[str, ...]] = {}
        self._failed: defaultdict[str, set[int]] = defaultdict(set)

    def observe(self, loaded: Slice, event: Event, decision: Decision) -> None:
        """Look at one decision."""
        if isinstance(event, Reported):
            if event.state in _UP:
                self._is_up(event.target)
            return
        if isinstance(event, Decommissioned):
            self.left(event.target)
        for change in decision.changes:
            if isinstance(change.row, CohortRow):
                self._note(change.row)
        for command in decision.commands:
            if isinstance(command, GrantPermit):
                self._granted(loaded, decision, command, event.at)

    def left(self, target: str) -> None:
        """A target was taken out of the fleet: it is not down in it."""
        self._is_up(target)

    def _note(self, row: CohortRow) -> None:
        if row.state is CohortState.FAILED:
            self._failed[row.campaign].add(row.index)
        elif row.campaign in self._failed:
            self._failed[row.campaign].discard(row.index)

    def _is_up(self, target: str) -> None:
        for key in self._groups.pop(target, ()):
            self._down[key].discard(target)

    def _granted(self, loaded: Slice, decision: Decision, permit: GrantPermit, at: float) -> None:
        assignment, campaign = _after(loaded, decision)
        if assignment is None or campaign is None or loaded.target is None:
            self._broke(at, f"{permit.target} got a permit and is part of no campaign.")
            return
        if assignment.action is Action.INSTALL:
            self._may_go(campaign, permit, at)
        if permit.target in self._groups:
            return  # it may be down already
        keys = (campaign_group(campaign.id), *loaded.target.groups)
        for budget in campaign.strategy.budgets:
            for key in keys:
                if key == campaign_group(campaign.id) if budget.by == CAMPAIGN else key.startswith(f"{budget.by}="):
                    self._fits(budget, key, permit.target, self._members(key, campaign.id), at)
        self._groups[permit.target] = keys
        for key in keys:
            self._down[key].add(permit.target)

    def _may_go(self, campaign: CampaignRow, permit: GrantPermit, at: float) -> None:
        if self._failed.get(campaign.id):
            self._broke(at, f"{permit.target} got a permit of {campaign.id} after a cohort of it had failed.")
        if campaign.state not in GRANTING:
            self._broke(at, f"{permit.target} got a permit of {campaign.id} while that is {campaign.state}.")

    def _members(self, key: str, campaign: str) -> int:
        return self._sizes[campaign] if key == campaign_group(campaign) else len(self._around.members[key])

    def _fits(self, budget: BudgetPolicy, key: str, target: str, members: int, at: float) -> None:
        down = len(self._down[key]) + 1
        if budget.offline_counts:
            away = {name for name in self._around.away(key) if name != target}
            down = len(self._down[key] | away) + 1
        allowed = UNLIMITED if budget.limit is None else budget.limit
        if budget.percent is not None:
            allowed = max(int(budget.percent * members / 100 + 1e-9), budget.at_least)
        if budget.keep is not None:
            allowed = members - budget.keep
        if down > allowed:
            self._broke(
                at, f"{target} got a permit though {down - 1} of {members} in {key} may be down and {allowed} may."
            )

    def _broke(self, at: float, text: str) -> None:
        self.broken += 1
        if len(self.violations) < MOST_KEPT:
            self.violations.append(f"After {at:.0f} s: {text}")

    def end(self, rows: Iterable[tuple[AssignmentRow, str]], devices: Mapping[str, Device], now: float) -> None:
        """Hold every assignment against its device's own truth; `rows` with the sha256 of what each installs."""
        for row, sha256 in rows:
            device = devices[row.target]
            if device.said_until > now or device.is_shut_out or device.is_liar:
                continue  # its last word is still on the way, or nobody listens, or it need not be true
            runs_it = device.image.sha256 == sha256
            if row.state in _ON_RELEASE and not (runs_it and device.is_up):
                self._broke(now, f"{row.target} is {row.state} and runs {device.image.version} ({_how(device)}).")
            elif row.state in _UNKNOWN and runs_it and device.is_up and not row.back_reason:
                self._broke(now, f"{row.target} is {row.state} though it runs the release and said so.")
            elif row.state not in (*_ON_RELEASE, *_UNKNOWN) and device.is_bricked and device.by == row.campaign:
                self._broke(now, f"{row.target} is {row.state} and bricked.")
            elif row.state in (AssignmentState.FELL_BACK, AssignmentState.ROLLED_BACK) and runs_it:
                self._broke(now, f"{row.target} is {row.state} and runs the release.")


def _after(loaded: Slice, decision: Decision) -> tuple[AssignmentRow | None, CampaignRow | None]:
    """The assignment and campaign as the decision leaves them."""
    assignment, campaign = loaded.assignment, loaded.campaign
    for change in decision.changes:
        if isinstance(change.row, AssignmentRow):
            assignment = change.row
        elif isinstance(change.row, CampaignRow):
            campaign = change.row
    return assignment, campaign


def _how(device: Device) -> str:
    return "bricked" if device.is_bricked else "down" if device.is_down else "up"
