"""What one event changes: the slice's rows as they are being changed, and the commands that go with them.

Rules
- Every change of an assignment's state goes through `move`, which keeps its cohort's counters, its deadline and the hold on
  its target in step; so they can't drift apart.
- The decision holds a row only when it differs from the slice, with the version it was loaded with.
"""

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from firmware.protocol.words import Action
from server.errors import NotFoundError
from server.planner import states, strata
from server.planner.commands import Command, Record
from server.planner.deadlines import wake_of
from server.planner.decision import Change, Decision, Delete, Put
from server.planner.gate_rows import BlockRow, Stratum
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow, GroupRow, Row, TargetRow, TokenRow
from server.planner.slices import Slice
from server.planner.surroundings import BehindRow
from server.planner.words import LATE, AssignmentState, CohortState, TokenKind

_NO_DISRUPTION = (TokenKind.DOWNLOADING, TokenKind.IN_LINE)


_NOT_THERE = {
    "campaign": "There is no such campaign.",
    "assignment": "The target isn't part of this campaign.",
    "target": "There is no such target.",
}


class Ledger:
    """The working copy of a slice at time `at`; `decision()` says what became of it. Its `campaign`, `assignment` and `target`
    are the event's; asking for one that the slice doesn't hold raises `NotFoundError`."""

    campaign: CampaignRow
    assignment: AssignmentRow
    target: TargetRow

    def __init__(self, loaded: Slice, at: float) -> None:
        self.at = at
        self.groups: dict[str, GroupRow] = {group.key: group for group in loaded.groups}
        self.places: dict[str, TokenRow] = {}
        self.tokens: dict[str, TokenRow] = {}
        for token in loaded.tokens:
            (self.places if token.kind in _NO_DISRUPTION else self.tokens)[token.group] = token
        self.cohorts: dict[int, CohortRow] = {cohort.index: cohort for cohort in loaded.cohorts}
        self.blocks: dict[strata.Key, BlockRow] = {}
        for block in loaded.blocks:
            self.blocks[block.cohort, block.stratum, block.site] = block
        self.commands: list[Command] = []
        self.around = loaded.around
        self.behind: dict[str, BehindRow] = {}
        for row in loaded.around.behind:
            self.behind[row.gateway] = row
        self.proposal = loaded.proposal
        self.knows_target = loaded.target is not None
        self.known = self.knows_target and loaded.campaign is not None and loaded.assignment is not None
        """Whether the slice holds an assignment with its campaign and target."""
        self._added: list[Row] = []
        self._loaded = loaded
        self._has_new_cohorts = self._has_new_groups = False
        """Whether one of them was changed, so that most events need not look at each."""
        if loaded.campaign is not None:
            self.campaign = loaded.campaign
        if loaded.assignment is not None:
            self.assignment = loaded.assignment
        if loaded.target is not None:
            self.target = loaded.target

    if not TYPE_CHECKING:  # a property that is read forty times an event would cost more than what it reads

        def __getattr__(self, name: str) -> Any:
            if name in _NOT_THERE:
                raise NotFoundError(_NOT_THERE[name])
            raise AttributeError(name)

    # What is there

    @property
    def cohort(self) -> CohortRow:
        """The assignment's cohort."""
        return self.cohorts[self.assignment.cohort]

    @property
    def late(self) -> CohortRow:
        """The cohort of whoever was offline: always the last."""
        return self.cohorts[len(self.cohorts) - 1]

    @property
    def is_late(self) -> bool:
        return self.cohort.name == LATE

    @property
    def back_reason(self) -> str:
        """Why a person took the target or its cohort back; empty when nobody did."""
        return self.assignment.back_reason or self.cohort.back_reason

    def count_to_install(self) -> int:
        """How many of the campaign's assignments have an order to install and no permit for it."""
        return self.count(*states.WAITING) - sum(cohort.going_back for cohort in self.cohorts.values())

    def count(self, *wanted: AssignmentState) -> int:
        """How many of the campaign's assignments are in one of these states."""
        found = 0
        for cohort in self.cohorts.values():
            counts = cohort.counts
            for state in wanted:
                if state in counts:
                    found += counts[state]
        return found

    @property
    def is_settled(self) -> bool:
        """Whether this event has changed neither the campaign nor any of its cohorts, so that nothing follows for them."""
        return not self._has_new_cohorts and self.campaign is self._loaded.campaign

    def changed_cohorts(self) -> list[tuple[CohortRow, CohortRow]]:
        """The cohorts that this event has changed so far: as loaded, and as they are now."""
        return [(before, now) for before in self._loaded.cohorts if (now := self.cohorts[before.index]) is not before]

    # Changes

    def set_campaign(self, **values: Any) -> None:
        self.campaign = replace(self.campaign, **values)

    def set_cohort(self, index: int, **values: Any) -> None:
        self._has_new_cohorts = True
        self.cohorts[index] = replace(self.cohorts[index], **values)

    def set_cohort_state(self, index: int, state: CohortState, **values: Any) -> None:
        """Move a cohort by its table."""
        self.set_cohort(index, state=states.next_cohort(self.cohorts[index].state, state), **values)

    def set_target(self, **values: Any) -> None:
        self.target = replace(self.target, **values)

    def set_assignment(self, **values: Any) -> None:
        """Change anything but state and cohort."""
        self.assignment = replace(self.assignment, **values)

    def move(self, cause: str, *, reason_kind: str = "none", reason: str = "", **values: Any) -> AssignmentState:
        """Move the assignment by its table; returns the new state. `values` are set with it, before its deadline is."""
        before = self.assignment
        state = states.next_assignment(before.state, cause)
        stays = state is before.state
        since = before.state_since if stays and reason_kind == before.reason_kind else self.at
        self.assignment = after = replace(
            before, state=state, state_since=since, reason_kind=reason_kind, reason=reason, **values
        )
        if not stays or after.action is not before.action:
            self._recount(before.cohort, before, after)
        if not stays or values:
            stood, stands = strata.standing(before), strata.standing(after)
            if stood is not stands or (not stays and before.state is AssignmentState.PLANNED):
                self._weigh(before.cohort, after, stood, stands)
        self._count_behind(before)
        self._hold()
        self.rewake()
        return state

    def change_cohort(self, index: int) -> None:
        """Put the assignment into another cohort; `size + moved_to_late` of the one that isn't `late` stays what it was."""
        before, standing = self.assignment, strata.standing(self.assignment)
        self._recount(before.cohort, before, None)
        self._recount(index, None, before)
        self._resize(before.cohort, -1)
        self._resize(index, +1)
        self._weigh(before.cohort, before, standing, None, late=+1)
        self.assignment = replace(before, cohort=index, block_size=0)
        self._weigh(index, self.assignment, None, standing, late=-1)
        self._count_behind(before)
        self.rewake()

    def rewake(self) -> None:
        """Set the assignment's deadline to what its state calls for."""
        wake_at = wake_of(self.campaign.strategy, self.assignment, late=self.is_late, at=self.at)
        if wake_at != self.assignment.wake_at:
            self.assignment = replace(self.assignment, wake_at=wake_at)

    def set_proposal(self, **values: Any) -> None:
        """Change the revision that waits for approvals."""
        if self.proposal is None:
            raise NotFoundError("No revision waits for approval.")
        self.proposal = replace(self.proposal, **values)

    def add(self, row: Row) -> None:
        """Store a row that is new."""
        self._added.append(row)

    def put_group(self, group: GroupRow) -> None:
        self._has_new_groups = True
        self.groups[group.key] = group

    def put_token(self, token: TokenRow) -> None:
        """Keep or take a token; one that this event gave back and takes again stays the row that it was."""
        stored = next((row for row in self._loaded.tokens if row.group == token.group), None)
        kept = self.places if token.kind in _NO_DISRUPTION else self.tokens
        kept[token.group] = token if stored is None else replace(token, version=stored.version)

    def drop_token(self, group: str) -> None:
        del self.tokens[group]

    # Words

    def command(self, command: Command) -> None:
        self.commands.append(command)

    def record(self, kind: str, text: str, *, target: bool = False) -> None:
        """Add a line to the trail, about the campaign or (`target`) about this target in it."""
        campaign = self.campaign.id if self._loaded.campaign is not None else None
        name = self.target.id if target and self.knows_target else None
        self.command(Record(kind=kind, text=text, campaign=campaign, target=name))

    def decision(self) -> Decision:
        """What this event changes and asks for."""
        return Decision(changes=tuple(self._changes()), commands=tuple(self.commands))

    # The rest

    def _changes(self) -> list[Change]:
        loaded, rows = self._loaded, vars(self)
        pairs: list[tuple[Row | None, Row | None]] = [
            (loaded.campaign, rows.get("campaign")),
            (loaded.target, rows.get("target")),
            (loaded.assignment, rows.get("assignment")),
            (loaded.proposal, self.proposal),
        ]
        if self._has_new_cohorts:
            pairs += zip(loaded.cohorts, self.cohorts.values(), strict=True)
        if self._has_new_groups:
            pairs += zip_longest(loaded.groups, self.groups.values())
        if self.blocks:
            pairs += zip_longest(loaded.blocks, self.blocks.values())
        if self.behind:
            pairs += zip(loaded.around.behind, self.behind.values(), strict=True)
        kept = {**self.tokens, **self.places} if self.tokens or self.places else {}
        if kept:
            stored = {token.group: token for token in loaded.tokens}
            pairs += [(stored.get(key), row) for key, row in kept.items()]
        found: list[Change] = [
            Put(row=row) for before, row in pairs if row is not before and row is not None and row != before
        ]
        if self._added:
            found += [Put(row=row) for row in self._added]
        if loaded.tokens:
            found += [Delete(row=row) for row in loaded.tokens if row.group not in kept]
        return found

    def _recount(self, index: int, before: AssignmentRow | None, after: AssignmentRow | None) -> None:
        """Keep a cohort's counters in step with an assignment that leaves it, comes into it, or moves in it."""
        cohort = self.cohorts[index]
        counts, going_back = dict(cohort.counts), cohort.going_back
        if before is not None:
            counts[before.state] -= 1
            going_back -= _returns(before)
            if not counts[before.state]:
                del counts[before.state]
        if after is not None:
            counts[after.state] = counts.get(after.state, 0) + 1
            going_back += _returns(after)
        self.set_cohort(index, counts=counts, going_back=going_back)

    def _resize(self, index: int, by: int) -> None:
        cohort = self.cohorts[index]
        moved = cohort.moved_to_late if cohort.name == LATE else cohort.moved_to_late - by
        self.set_cohort(index, size=cohort.size + by, moved_to_late=moved)

    def _weigh(
        self,
        index: int,
        assignment: AssignmentRow,
        before: strata.Standing | None,
        after: strata.Standing | None,
        late: int = 0,
    ) -> None:
        """Keep the numbers of the assignment's site, and of its stratum, in step with it."""
        policies = self.campaign.strategy.cohorts
        where = strata.place(policies[index], assignment) if index < len(policies) else None
        if where is None:
            return
        name, site = where
        key = (index, name, site)
        row = self.blocks.get(key) or BlockRow(campaign=self.campaign.id, cohort=index, stratum=name, site=site)
        told = self.cohorts[index].strata
        stratum = told.get(name) or Stratum(dealt=0, targets=0, sites=0)
        adopted = strata.adopted(row, assignment)
        if adopted is not row:
            stratum = strata.joined(stratum, row, adopted)
        self.blocks[key] = strata.moved(adopted, assignment, before, after)
        stratum = strata.retold(stratum, adopted, self.blocks[key])
        self.set_cohort(index, strata={**told, name: replace(stratum, late=stratum.late + late)})

    def _count_behind(self, before: AssignmentRow) -> None:
        """Keep the counters of the gateways that it is behind in step."""
        if not before.gateways:
            return
        by = self._holds_gateways(self.assignment) - self._holds_gateways(before)
        for gateway in before.gateways if by else ():
            row = self.behind[gateway]
            self.behind[gateway] = replace(row, waiting=row.waiting + by)

    def _holds_gateways(self, row: AssignmentRow) -> int:
        return int(row.state in states.UNDECIDED and self.cohorts[row.cohort].name != LATE)

    def _hold(self) -> None:
        if self.knows_target and self.target.holder == self.campaign.id:
            settled = self.assignment.state not in states.UNDECIDED
            if settled is not self.target.settled:
                self.set_target(settled=settled)


def _returns(row: AssignmentRow) -> bool:
    return row.action is Action.ROLLBACK and row.state in states.WAITING
