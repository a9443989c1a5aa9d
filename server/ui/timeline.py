"""A timeline for people: the same thing said of many targets in a row is one entry."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from server.planner.model import AssignmentRow, Explanation
from server.ports import AuditRecord


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that happened: when it last did, in words, by whom, and to which targets."""

    at: float
    kind: str
    text: str
    actor: str
    campaign: str | None
    targets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Held:
    """Targets that stand still in the same state for the same reason."""

    rows: tuple[AssignmentRow, ...]
    why: Explanation


def entries(records: Sequence[AuditRecord]) -> list[Entry]:
    """Records, newest first, with neighbours that say the same taken together."""
    return [_entry(list(run)) for _, run in groupby(records, lambda one: (one.kind, one.text, one.actor, one.campaign))]


def held(explained: Sequence[tuple[AssignmentRow, Explanation]]) -> list[Held]:
    """Assignments by what is said about them, in the order of their first."""
    alike: dict[tuple[str, str], list[tuple[AssignmentRow, Explanation]]] = {}
    for row, why in explained:
        alike.setdefault((row.state, why.text), []).append((row, why))
    return [Held(rows=tuple(row for row, _ in group), why=group[0][1]) for group in alike.values()]


def _entry(run: list[AuditRecord]) -> Entry:
    newest = run[0]
    return Entry(
        at=newest.at,
        kind=newest.kind,
        text=newest.text,
        actor=newest.actor,
        campaign=newest.campaign,
        targets=tuple(dict.fromkeys(record.target for record in run if record.target)),
    )
