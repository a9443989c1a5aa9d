"""The planner's rows in memory: loads slices, commits decisions by compare-and-set, and counts the rows it touches.

Every look-up is by key, as it is in SQL, so that what grows with the fleet would show.
"""

from collections import defaultdict, deque
from collections.abc import Iterable

from msgspec.structs import replace

from server.errors import ConflictError
from server.planner import strata
from server.planner.decision import Decision, Delete
from server.planner.gate_rows import BlockRow
from server.planner.revision_rows import RevisionRow
from server.planner.rows import (
    AssignmentRow,
    CampaignRow,
    CohortRow,
    GroupRow,
    Row,
    TargetRow,
    TokenRow,
    campaign_group,
)
from server.planner.slices import Footprint, Slice
from server.planner.surroundings import BehindRow
from server.planner.words import AssignmentState

Key = tuple[str, ...]


class RowStore:
    """Rows by key. `touched` is the number of rows that the latest `load` gave plus those that `commit` changed."""

    def __init__(self) -> None:
        self.touched = 0
        self._rows: dict[Key, Row] = {}
        self._cohorts: defaultdict[str, list[Key]] = defaultdict(list)
        self._tokens: defaultdict[str, dict[Key, None]] = defaultdict(dict)
        self._planned: defaultdict[tuple[str, int], deque[Key]] = defaultdict(deque)

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

    def candidates(self, campaign: str, cohort: int, limit: int) -> list[AssignmentRow]:
        """Up to `limit` planned assignments of a cohort, by rank; none is given twice."""
        waiting, found = self._planned[campaign, cohort], list[AssignmentRow]()
        while waiting and len(found) < limit:
            row = self._rows[waiting.popleft()]
            if isinstance(row, AssignmentRow) and row.state is AssignmentState.PLANNED:
                found.append(row)
        return found

    def load(self, wanted: Footprint) -> Slice:
        """The rows an event touches."""
        target = self.target(wanted.target or "")
        name = wanted.campaign or (target.holder if target else None) or ""
        tokens = [self._rows[key] for key in self._tokens.get(wanted.target or "", ())]
        held = tuple(row for row in tokens if isinstance(row, TokenRow))
        cohorts = [self._rows[key] for key in self._cohorts.get(name, ())]
        loaded = Slice(
            campaign=self.campaign(name),
            cohorts=tuple(row for row in cohorts if isinstance(row, CohortRow)),
            target=target,
            assignment=self.assignment(name, target.id) if target else None,
            groups=self._groups(target, held, name) if target else (),
            tokens=held,
        )
        blocks = self._blocks(loaded)
        loaded = replace(loaded, blocks=blocks) if blocks else loaded
        single = (loaded.campaign, loaded.target, loaded.assignment)
        several = len(loaded.cohorts) + len(loaded.groups) + len(loaded.tokens) + len(blocks)
        self.touched = several + sum(row is not None for row in single)
        return loaded

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
                self._rows[key] = replace(change.row, version=change.row.version + 1)

    def _blocks(self, loaded: Slice) -> tuple[BlockRow, ...]:
        campaign, assignment = loaded.campaign, loaded.assignment
        if campaign is None or assignment is None:
            return ()
        wanted = strata.keys(campaign.strategy, assignment, campaign.cohort)
        rows = [self._rows.get(("block", campaign.id, str(cohort), *where)) for cohort, *where in wanted]
        return tuple(row for row in rows if isinstance(row, BlockRow))

    def _groups(self, target: TargetRow, tokens: tuple[TokenRow, ...], campaign: str) -> tuple[GroupRow, ...]:
        keys = {*target.groups, campaign_group(campaign), *(token.group for token in tokens)}
        rows = [self._rows.get(("group", key)) for key in sorted(keys)]
        return tuple(row for row in rows if isinstance(row, GroupRow))

    def _insert(self, key: Key, row: Row) -> None:
        self._rows[key] = row
        match row:
            case CohortRow():
                self._cohorts[row.campaign].append(key)
            case TokenRow():
                self._tokens[row.target][key] = None
            case AssignmentRow():
                self._planned[row.campaign, row.cohort].append(key)

    def _remove(self, key: Key, row: Row) -> None:
        del self._rows[key]
        if isinstance(row, TokenRow):
            del self._tokens[row.target][key]


def key_of(row: Row) -> Key:
    """The kind and primary key of a row."""
    match row:
        case AssignmentRow():
            return ("assignment", row.campaign, row.target)
        case CohortRow():
            return ("cohort", row.campaign, str(row.index))
        case TargetRow():
            return ("target", row.id)
        case CampaignRow():
            return ("campaign", row.id)
        case GroupRow():
            return ("group", row.key)
        case TokenRow():
            return ("token", row.group, row.target)
        case BlockRow():
            return ("block", row.campaign, str(row.cohort), row.stratum, row.site)
        case BehindRow():
            return ("behind", row.campaign, row.gateway)
        case RevisionRow():
            return ("revision", row.campaign, str(row.number))
