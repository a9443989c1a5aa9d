"""The planner's rows in memory: loads slices, commits decisions by compare-and-set, and counts the rows it touches.

Every look-up is by key, as it is in SQL, so that what grows with the fleet would show. Each kind of row has a table of its own,
so that a fleet's rows need no keys but the names that they hold anyway.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec.structs import replace

from server.errors import ConflictError
from server.planner import strata
from server.planner.decision import Decision, Delete
from server.planner.download_line import line_of
from server.planner.downloads import groups_of
from server.planner.gate_rows import BlockRow
from server.planner.gateways import path_groups
from server.planner.rows import (
    AssignmentRow,
    CampaignRow,
    CohortRow,
    GroupRow,
    Row,
    TargetRow,
    TokenRow,
    campaign_group,
    key_of,
)
from server.planner.slices import Footprint, Slice
from server.planner.surroundings import NOWHERE, BehindRow, Surroundings
from server.planner.words import AssignmentState, TokenKind

Around = Callable[[TargetRow, CampaignRow | None, AssignmentRow | None], Surroundings]
"""What a target stands among."""


class RowStore:
    """Rows by key. `touched` is the number of rows that the latest `load` gave plus those that `commit` changed. `around` says
    what a target stands among; `is_offline`, whether the broker would say that it is away."""

    def __init__(self) -> None:
        self.touched = 0
        self.around: Around | None = None
        self.is_offline: Callable[[str], bool] | None = None
        self._campaigns: dict[str, CampaignRow] = {}
        self._targets: dict[str, TargetRow] = {}
        self._groups: dict[str, GroupRow] = {}
        self._blocks: defaultdict[str, dict[strata.Key, BlockRow]] = defaultdict(dict)
        """By campaign and what `strata.keys` gives."""
        self._behind: dict[tuple[str, str], BehindRow] = {}
        self._cohorts: defaultdict[str, dict[int, CohortRow]] = defaultdict(dict)
        """By campaign and index."""
        self._assignments: defaultdict[str, dict[str, AssignmentRow]] = defaultdict(dict)
        """By campaign and target."""
        self._tokens: defaultdict[str, dict[str, TokenRow]] = defaultdict(dict)
        """By target and group; a target that holds none has no entry."""
        self._planned: defaultdict[tuple[str, int], deque[str]] = defaultdict(deque)
        self._in_state: defaultdict[tuple[str, AssignmentState], dict[str, None]] = defaultdict(dict)
        self._lines: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._has_places = False
        self._keys: dict[tuple[tuple[str, ...], str], tuple[str, ...]] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Store new rows; assignments in the order of their ranks."""
        for row in rows:
            self._insert(replace(row, version=1))

    def campaign(self, name: str) -> CampaignRow | None:
        return self._campaigns.get(name)

    def assignment(self, campaign: str, target: str) -> AssignmentRow | None:
        rows = self._assignments.get(campaign)
        return rows.get(target) if rows else None

    def target(self, name: str) -> TargetRow | None:
        return self._targets.get(name)

    def cohorts(self, campaign: str) -> tuple[CohortRow, ...]:
        """A campaign's cohorts by their index."""
        rows = self._cohorts.get(campaign)
        return tuple(rows.values()) if rows else ()

    def group(self, key: str) -> GroupRow | None:
        return self._groups.get(key)

    def behind(self, campaign: str, gateways: Iterable[str]) -> tuple[BehindRow, ...]:
        """What is counted behind these gateways."""
        rows = [self._behind.get((campaign, gateway)) for gateway in gateways]
        return tuple(row for row in rows if row is not None)

    def tokens_of(self, target: str) -> tuple[TokenRow, ...]:
        """All tokens that a target holds."""
        rows = self._tokens.get(target)
        return tuple(rows.values()) if rows else ()

    def candidates(self, campaign: str, cohort: int, limit: int) -> list[AssignmentRow]:
        """Up to `limit` planned assignments of a cohort, by rank; none is given twice while it stays as it is."""
        waiting, rows, found = self._planned[campaign, cohort], self._assignments[campaign], list[AssignmentRow]()
        while waiting and len(found) < limit:
            row = rows[waiting.popleft()]
            if row.state is AssignmentState.PLANNED and row.cohort == cohort:
                found.append(row)
        return found

    def in_states(self, campaign: str, states: Iterable[AssignmentState]) -> Iterator[AssignmentRow]:
        """The assignments of a campaign that are in one of `states`; no row may change meanwhile."""
        rows = self._assignments[campaign]
        for state in states:
            for target in self._in_state.get((campaign, state), ()):
                yield rows[target]

    def line(self, group: str) -> Iterator[TokenRow]:
        """Who waits for a place to download in `group`."""
        key = line_of(group)
        for target in self._lines.get(key, ()):
            yield self._tokens[target][key]

    def load(self, wanted: Footprint) -> Slice:
        """The rows an event touches."""
        target = self._targets.get(wanted.target) if wanted.target else None
        if target is not None and self.is_offline is not None:
            target = replace(target, offline=self.is_offline(target.id))
        name = wanted.campaign or (target.holder if target else None) or ""
        campaign = self._campaigns.get(name)
        assignment = self.assignment(name, target.id) if target else None
        cohorts = self.cohorts(name)
        held = self.tokens_of(target.id) if target else ()
        groups = self._groups_of(target, held, name) if target else ()
        blocks = self._blocks_of(campaign, assignment) if campaign and assignment else ()
        around = self.around(target, campaign, assignment) if target and self.around else NOWHERE
        self.touched = len(cohorts) + len(groups) + len(held) + len(blocks)
        self.touched += (campaign is not None) + (target is not None) + (assignment is not None)
        return Slice(
            campaign=campaign,
            cohorts=cohorts,
            target=target,
            assignment=assignment,
            groups=groups,
            tokens=held,
            blocks=blocks,
            around=around,
        )

    def commit(self, decision: Decision) -> None:
        """Apply the changes; raises `ConflictError` when a row is at another version."""
        self.touched += len(decision.changes)
        for change in decision.changes:
            row = change.row
            table, key = self._place(row)
            stored = table.get(key)
            if (0 if stored is None else stored.version) != row.version:
                raise ConflictError(f"{key_of(row)} is at another version.")
            if isinstance(change, Delete):
                self._remove(row)
            elif stored is None:
                self._insert(replace(row, version=1))
            else:
                table[key] = after = replace(row, version=row.version + 1)
                if isinstance(after, AssignmentRow):
                    self._moved(stored, after)

    def _place(self, row: Row) -> tuple[dict[Any, Any], Any]:
        """The table of a row, and its key there."""
        match row:
            case AssignmentRow():
                return self._assignments[row.campaign], row.target
            case CohortRow():
                return self._cohorts[row.campaign], row.index
            case TargetRow():
                return self._targets, row.id
            case GroupRow():
                return self._groups, row.key
            case TokenRow():
                return self._tokens[row.target], row.group
            case CampaignRow():
                return self._campaigns, row.id
            case BlockRow():
                return self._blocks[row.campaign], (row.cohort, row.stratum, row.site)
            case BehindRow():
                return self._behind, (row.campaign, row.gateway)
            case _:
                raise TypeError(f"Worlds keep no {type(row).__name__}.")

    def _blocks_of(self, campaign: CampaignRow, assignment: AssignmentRow) -> tuple[BlockRow, ...]:
        wanted = strata.keys(campaign.strategy, assignment, campaign.cohort)
        known = self._blocks.get(campaign.id, {})
        return tuple([known[key] for key in wanted if key in known]) if wanted and known else ()

    def _groups_of(self, target: TargetRow, tokens: tuple[TokenRow, ...], campaign: str) -> tuple[GroupRow, ...]:
        keys = self._usual_keys(target.groups, campaign)
        is_usual = not (target.gateways or target.is_gateway or self._has_places)
        if not is_usual or (tokens and any(token.group not in keys for token in tokens)):
            more = {*keys, *path_groups(target), *(token.group for token in tokens)}
            keys = tuple(sorted(more.union(groups_of(target, campaign) if self._has_places else ())))
        known = self._groups
        return tuple([known[key] for key in keys if key in known])

    def _usual_keys(self, groups: tuple[str, ...], campaign: str) -> tuple[str, ...]:
        """The keys of a target's own groups and its campaign's, in order; many targets have the same."""
        keys = self._keys.get((groups, campaign))
        if keys is None:
            keys = self._keys[groups, campaign] = tuple(sorted({*groups, campaign_group(campaign)}))
        return keys

    def _insert(self, row: Row) -> None:
        table, key = self._place(row)
        table[key] = row
        match row:
            case TokenRow():
                if row.kind is TokenKind.IN_LINE:
                    self._lines[row.group][row.target] = None
            case AssignmentRow():
                self._in_state[row.campaign, row.state][row.target] = None
                if row.state is AssignmentState.PLANNED and row.wake_at is None:
                    self._planned[row.campaign, row.cohort].append(row.target)
            case GroupRow():
                self._has_places = self._has_places or row.key.startswith("download:")

    def _moved(self, before: AssignmentRow, after: AssignmentRow) -> None:
        if before.state is not after.state:
            del self._in_state[before.campaign, before.state][before.target]
            self._in_state[after.campaign, after.state][after.target] = None
        if after.state is AssignmentState.PLANNED and after.wake_at is None:
            if before.state is AssignmentState.SKIPPED:
                self._plan_again(after)
            else:
                self._planned[after.campaign, after.cohort].append(after.target)

    def _plan_again(self, row: AssignmentRow) -> None:
        """Put one that was selected again where its rank has it, unless it still waits there."""
        waiting, rows = self._planned[row.campaign, row.cohort], self._assignments[row.campaign]
        if row.target not in waiting:
            behind = (place for place, target in enumerate(waiting) if rows[target].rank > row.rank)
            waiting.insert(next(behind, len(waiting)), row.target)

    def _remove(self, row: Row) -> None:
        table, key = self._place(row)
        del table[key]
        if isinstance(row, TokenRow):
            if row.kind is TokenKind.IN_LINE:
                del self._lines[row.group][row.target]
            if not table:
                del self._tokens[row.target]
