"""The planner's rows in memory: loads slices, commits decisions by compare-and-set, and counts the rows it touches.

Every look-up is by key, as it is in SQL, so that what grows with the fleet would show.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator

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
    Key,
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
        self._rows: dict[Key, Row] = {}
        self._cohorts: defaultdict[str, list[Key]] = defaultdict(list)
        self._tokens: defaultdict[str, dict[Key, None]] = defaultdict(dict)
        self._planned: defaultdict[tuple[str, int], deque[Key]] = defaultdict(deque)
        self._in_state: defaultdict[tuple[str, AssignmentState], dict[Key, None]] = defaultdict(dict)
        self._lines: defaultdict[str, dict[Key, None]] = defaultdict(dict)
        self._has_places = False

    def add(self, rows: Iterable[Row]) -> None:
        """Store new rows; assignments in the order of their ranks."""
        for row in rows:
            self._insert(key_of(row), replace(row, version=1))

    def campaign(self, name: str) -> CampaignRow | None:
        row = self._rows.get(("campaign", name))
        return row if isinstance(row, CampaignRow) else None

    def assignment(self, campaign: str, target: str) -> AssignmentRow | None:
        row = self._rows.get(("assignment", campaign, target))
        return row if isinstance(row, AssignmentRow) else None

    def target(self, name: str) -> TargetRow | None:
        row = self._rows.get(("target", name))
        return row if isinstance(row, TargetRow) else None

    def cohorts(self, campaign: str) -> tuple[CohortRow, ...]:
        """A campaign's cohorts by their index."""
        rows = [self._rows[key] for key in self._cohorts.get(campaign, ())]
        return tuple(row for row in rows if isinstance(row, CohortRow))

    def group(self, key: str) -> GroupRow | None:
        row = self._rows.get(("group", key))
        return row if isinstance(row, GroupRow) else None

    def behind(self, campaign: str, gateways: Iterable[str]) -> tuple[BehindRow, ...]:
        """What is counted behind these gateways."""
        rows = [self._rows.get(("behind", campaign, gateway)) for gateway in gateways]
        return tuple(row for row in rows if isinstance(row, BehindRow))

    def tokens_of(self, target: str) -> tuple[TokenRow, ...]:
        """All tokens that a target holds."""
        rows = [self._rows[key] for key in self._tokens.get(target, ())]
        return tuple(row for row in rows if isinstance(row, TokenRow))

    def candidates(self, campaign: str, cohort: int, limit: int) -> list[AssignmentRow]:
        """Up to `limit` planned assignments of a cohort, by rank; none is given twice while it stays as it is."""
        waiting, found = self._planned[campaign, cohort], list[AssignmentRow]()
        while waiting and len(found) < limit:
            row = self._rows[waiting.popleft()]
            if isinstance(row, AssignmentRow) and row.state is AssignmentState.PLANNED and row.cohort == cohort:
                found.append(row)
        return found

    def in_states(self, campaign: str, states: Iterable[AssignmentState]) -> Iterator[AssignmentRow]:
        """The assignments of a campaign that are in one of `states`; no row may change meanwhile."""
        for state in states:
            for key in self._in_state.get((campaign, state), ()):
                row = self._rows[key]
                if isinstance(row, AssignmentRow):
                    yield row

    def line(self, group: str) -> Iterator[TokenRow]:
        """Who waits for a place to download in `group`."""
        for key in self._lines.get(line_of(group), ()):
            row = self._rows[key]
            if isinstance(row, TokenRow):
                yield row

    def load(self, wanted: Footprint) -> Slice:
        """The rows an event touches."""
        target = self.target(wanted.target or "")
        if target is not None and self.is_offline is not None:
            target = replace(target, offline=self.is_offline(target.id))
        name = wanted.campaign or (target.holder if target else None) or ""
        campaign = self.campaign(name)
        assignment = self.assignment(name, target.id) if target else None
        cohorts = self.cohorts(name)
        held = self.tokens_of(target.id) if target else ()
        groups = self._groups(target, held, name) if target else ()
        blocks = self._blocks(campaign, assignment)
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
            key = key_of(change.row)
            stored = self._rows.get(key)
            if (stored.version if stored else 0) != change.row.version:
                raise ConflictError(f"{key} is at another version.")
            if isinstance(change, Delete):
                self._remove(key, change.row)
            elif stored is None:
                self._insert(key, replace(change.row, version=1))
            else:
                self._replace(key, stored, replace(change.row, version=change.row.version + 1))

    def _blocks(self, campaign: CampaignRow | None, assignment: AssignmentRow | None) -> tuple[BlockRow, ...]:
        if campaign is None or assignment is None:
            return ()
        wanted = strata.keys(campaign.strategy, assignment, campaign.cohort)
        rows = [self._rows.get(("block", campaign.id, str(cohort), *where)) for cohort, *where in wanted]
        return tuple(row for row in rows if isinstance(row, BlockRow))

    def _groups(self, target: TargetRow, tokens: tuple[TokenRow, ...], campaign: str) -> tuple[GroupRow, ...]:
        keys = {*target.groups, campaign_group(campaign), *(token.group for token in tokens)}
        if target.gateways or target.is_gateway:
            keys.update(path_groups(target))
        if self._has_places:
            keys.update(groups_of(target, campaign))
        rows = [self._rows.get(("group", key)) for key in sorted(keys)]
        return tuple(row for row in rows if isinstance(row, GroupRow))

    def _insert(self, key: Key, row: Row) -> None:
        self._rows[key] = row
        match row:
            case TokenRow():
                self._tokens[row.target][key] = None
                if row.kind is TokenKind.IN_LINE:
                    self._lines[row.group][key] = None
            case AssignmentRow():
                self._in_state[row.campaign, row.state][key] = None
                if row.state is AssignmentState.PLANNED:
                    self._planned[row.campaign, row.cohort].append(key)
            case GroupRow():
                self._has_places = self._has_places or row.key.startswith("download:")
            case CohortRow():
                self._cohorts[row.campaign].append(key)

    def _replace(self, key: Key, before: Row, after: Row) -> None:
        self._rows[key] = after
        if not (isinstance(after, AssignmentRow) and isinstance(before, AssignmentRow)):
            return
        if before.state is not after.state:
            del self._in_state[before.campaign, before.state][key]
            self._in_state[after.campaign, after.state][key] = None
        if after.state is AssignmentState.PLANNED and after.wake_at is None:
            self._planned[after.campaign, after.cohort].append(key)

    def _remove(self, key: Key, row: Row) -> None:
        del self._rows[key]
        if isinstance(row, TokenRow):
            del self._tokens[row.target][key]
            self._lines[row.group].pop(key, None)
