"""A timeline for people: the same thing said of many targets at about the same time is one entry."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from server.planner.explain import Explanation
from server.planner.rows import AssignmentRow
from server.ports import AuditRecord

TOGETHER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that happened: when it first and last did, in words, by whom, and to which targets."""

    since: float
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
    """One entry for each of these records, newest first."""
    return [_entry([record]) for record in records]


def gathered(records: Sequence[AuditRecord]) -> list[Entry]:
    """Records, newest first, with those that say the same of different targets taken together.

    Only within `TOGETHER_S` seconds, and never across a record about a whole campaign or the server.
    """
    found: list[Entry] = []
    for about_targets, stretch in groupby(records, lambda record: record.target is not None):
        run = list(stretch)
        found += _alike(run) if about_targets else entries(run)
    return found


def held(explained: Sequence[tuple[AssignmentRow, Explanation]]) -> list[Held]:
    """Assignments by what is said about them, in the order of their first."""
    alike: dict[tuple[str, str], list[tuple[AssignmentRow, Explanation]]] = {}
    for row, why in explained:
        alike.setdefault((row.state, why.text), []).append((row, why))
    return [Held(rows=tuple(row for row, _ in group), why=group[0][1]) for group in alike.values()]


def _alike(stretch: Sequence[AuditRecord]) -> list[Entry]:
    groups: list[list[AuditRecord]] = []
    latest: dict[tuple[str, str, str, str | None], list[AuditRecord]] = {}
    for record in stretch:
        said = (record.kind, record.text, record.actor, record.campaign)
        group = latest.get(said)
        if group is None or group[0].at - record.at > TOGETHER_S:
            group = latest[said] = []
            groups.append(group)
        group.append(record)
    return [_entry(group) for group in groups]


def _entry(run: list[AuditRecord]) -> Entry:
    newest = run[0]
    return Entry(
        since=run[-1].at,
        at=newest.at,
        kind=newest.kind,
        text=newest.text,
        actor=newest.actor,
        campaign=newest.campaign,
        targets=tuple(dict.fromkeys(record.target for record in run if record.target)),
    )
