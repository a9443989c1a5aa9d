"""Live selections in virtual time, as `server.campaigns.enlisting` keeps them: who fits by now comes into its campaign, and who
has no order yet and fits no more drops out.

Rules
- Who comes in, comes back and drops out is found, and told to the planner, by the server's own functions
  (`server.campaigns.members`), each minute and in pages of the same size.
- Only those are asked about of whom something may be different: who came, runs another version, or waits for its turn again. So a
  minute in which nothing happened takes nothing, and a world without live selections has no part of this.
"""

from collections.abc import Callable, Sequence

from server.campaigns.members import ENLIST_PAGE, LOOK_EVERY_S, PAGES, change_of, told
from server.planner.decision import Decision
from server.planner.events import Enlisted, Event
from server.planner.revising import DESELECTED
from server.planner.rows import AssignmentRow, CampaignRow, TargetRow
from server.planner.selection import Selection
from server.planner.slices import Slice
from server.planner.states import LIVE
from server.planner.words import AssignmentState
from simulator.virtual.device import Later
from simulator.virtual.making import selects
from simulator.virtual.rows import RowStore
from simulator.virtual.world import Member


class Enlisting:
    """Of all campaigns of a run. `members`: the fleet, to which it adds who comes; `sizes`: how many targets each campaign has,
    to which it adds who comes in; `tell` feeds the planner."""

    def __init__(
        self,
        store: RowStore,
        members: dict[str, Member],
        *,
        sizes: dict[str, int],
        begins: float,
        later: Later,
        tell: Callable[[Sequence[Event]], None],
    ) -> None:
        self._store, self._members, self._sizes = store, members, sizes
        self._begins, self._later, self._tell = begins, later, tell
        self._rolls: dict[str, _Roll] = {}
        self._will_look = False

    def begin(self, campaign: str, selection: Selection, hardware: Sequence[str]) -> None:
        """A campaign was made of all who fit; its release is for this hardware, empty: all."""
        self._rolls[campaign] = roll = _Roll(self._store, self._members, selection, hardware)
        if roll.is_by_version:  # it was made by what they run, and goes on by what they said that they run
            roll.unsure.update(self._members)

    def came(self, member: Member, at: float) -> None:
        """A member is in the fleet from now on."""
        self._members[member.id] = member
        for roll in self._rolls.values():
            self._note(roll, member.id, at)

    def observe(self, loaded: Slice, event: Event, decision: Decision) -> None:
        """Note what a decision makes different."""
        if isinstance(event, Enlisted):
            self._sizes[event.campaign] += len(event.targets)
        for change in decision.changes:
            row = change.row
            if isinstance(row, TargetRow):
                self._see_target(loaded.target, row, event.at)
            elif isinstance(row, AssignmentRow):
                self._see_assignment(loaded.assignment, row, event.at)
            elif isinstance(row, CampaignRow) and row.id in self._rolls and self._rolls[row.id].unsure:
                self._look_soon(event.at)

    def _see_target(self, before: TargetRow | None, row: TargetRow, at: float) -> None:
        if before is not None and before.running_version == row.running_version:
            return
        for roll in self._rolls.values():
            if roll.is_by_version:
                self._note(roll, row.id, at)

    def _see_assignment(self, before: AssignmentRow | None, row: AssignmentRow, at: float) -> None:
        roll = self._rolls.get(row.campaign)
        waits_again = row.state is AssignmentState.PLANNED and before is not None and before.state is not row.state
        if roll is not None and waits_again:
            self._note(roll, row.target, at)

    def _note(self, roll: "_Roll", target: str, at: float) -> None:
        roll.unsure.add(target)
        self._look_soon(at)

    def _look_soon(self, at: float) -> None:
        if not self._will_look:
            self._will_look = True
            self._later(next_look(self._begins, at), self._look)

    def _look(self, now: float) -> None:
        """Bring each campaign up to date, the newest first."""
        self._will_look = False
        for campaign, roll in reversed(self._rolls.items()):
            for _ in range(PAGES):
                row = self._store.campaign(campaign)
                if row is None or row.state not in LIVE:
                    break
                if not self._page(row, roll, now):
                    roll.unsure.clear()
                    break
            else:
                self._look_soon(now)

    def _page(self, row: CampaignRow, roll: "_Roll", now: float) -> bool:
        """One page; whether there was anything to do."""
        change = change_of(roll, row, roll.hardware, roll.selection, ENLIST_PAGE)
        events = tuple(told(row.id, change, revision=0, at=now))
        if events:
            self._tell(events)
        return bool(events)


class _Roll:
    """`server.campaigns.members.Roll` over rows in memory, of those about whom it is unsure."""

    def __init__(
        self, store: RowStore, members: dict[str, Member], selection: Selection, hardware: Sequence[str]
    ) -> None:
        self.selection, self.hardware = selection, hardware
        self.is_by_version = bool(selection.versions or any(match.versions for match in selection.exclude))
        self.unsure: set[str] = set()
        self._store, self._members = store, members

    def newcomers(self, campaign_id: str, hardware: Sequence[str], selection: Selection, limit: int) -> Sequence[str]:
        """Active targets that fit and aren't the campaign's, sorted."""
        fit = self._fitting(hardware, selection)
        return [name for name in fit if self._store.assignment(campaign_id, name) is None][:limit]

    def returners(self, campaign_id: str, hardware: Sequence[str], selection: Selection, limit: int) -> Sequence[str]:
        """Active targets that fit and dropped out because they didn't, sorted."""
        fit = self._fitting(hardware, selection)
        return [name for name in fit if self._dropped_out(self._store.assignment(campaign_id, name))][:limit]

    def leavers(self, campaign_id: str, selection: Selection, limit: int) -> Sequence[str]:
        """The campaign's planned targets that don't fit, sorted."""
        found = []
        for name in sorted(self.unsure):
            row = self._store.assignment(campaign_id, name)
            if row is not None and row.state is AssignmentState.PLANNED and not self._is_selected(selection, name):
                found.append(name)
        return found[:limit]

    def _fitting(self, hardware: Sequence[str], selection: Selection) -> list[str]:
        return [
            name
            for name in sorted(self.unsure)
            if self._is_active(name)
            and (not hardware or self._members[name].hardware in hardware)
            and self._is_selected(selection, name)
        ]

    def _is_active(self, name: str) -> bool:
        row = self._store.target(name)
        return row is not None and not (row.quarantined or row.gone)

    def _is_selected(self, selection: Selection, name: str) -> bool:
        row = self._store.target(name)
        return selects(selection, self._members[name], row.running_version or "" if row else "")

    @staticmethod
    def _dropped_out(row: AssignmentRow | None) -> bool:
        return row is not None and row.state is AssignmentState.SKIPPED and row.reason_kind == DESELECTED


def next_look(begins: float, at: float) -> float:
    """The first full minute of the world after `at`."""
    return begins + LOOK_EVERY_S * ((at - begins) // LOOK_EVERY_S + 1)
