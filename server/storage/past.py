"""What former campaigns left behind: reports of downloads while they are kept, and how assignments ended."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Integer, case, func, select

from firmware.protocol.words import AgentState
from server.planner.lessons import Staging, Tally
from server.planner.words import AssignmentState, CampaignState
from server.storage.availability import pages
from server.storage.tables import ASSIGNMENT, CAMPAIGN, COHORT, INBOX, TARGET, TARGET_LABEL

SITE = "site"
NOT_A_LINK = ("bundle",)
"""Sources of bytes that came over no line."""
_CARRIED_ON = (CampaignState.RUNNING, CampaignState.WATCHING, CampaignState.COMPLETED)
_BEFORE = (AssignmentState.FAILED, AssignmentState.REFUSED)
_AFTER = (AssignmentState.FELL_BACK, AssignmentState.REGRESSED)
_SILENT = (AssignmentState.MISSING,)
_WELL = (AssignmentState.VERIFIED, AssignmentState.COMMITTED)


class SqlPast:
    """`server.ports.Past` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def stagings(self, targets: Sequence[str], most: int) -> Sequence[Staging]:
        """Downloads of these targets that were carried through."""
        state = INBOX.c.body["state"].as_string()
        wanted = (AgentState.DOWNLOADING.value, AgentState.STAGED.value)
        query = select(INBOX.c.target, INBOX.c.body).where(INBOX.c.kind == "report", state.in_(wanted))
        found: list[Staging] = []
        for page in pages(targets):
            rows = self._db.execute(query.where(INBOX.c.target.in_(page)).order_by(INBOX.c.id.desc()).limit(most)).all()
            found += _paired((row.target, row.body) for row in reversed(rows))
        return found

    def tallies(self, product: str, campaigns: int, most: int) -> Sequence[Tally]:
        """How attempts ended in the newest campaigns."""
        whose = CAMPAIGN.c.release["product"].as_string() == product
        states = [str(state) for state in _CARRIED_ON]
        some = (
            select(CAMPAIGN.c.id)
            .where(whose, CAMPAIGN.c.state.in_(states), CAMPAIGN.c.suspect == "")
            .order_by(CAMPAIGN.c.created_at.desc())
            .limit(campaigns)
        )
        cohorts = select(COHORT.c.campaign, COHORT.c.index).where(COHORT.c.campaign.in_(some.scalar_subquery()))
        sums: dict[tuple[str, str], list[int]] = {}
        for campaign, cohort in self._db.execute(cohorts).all():
            for hardware, site, *numbers in self._ended(campaign, cohort, most):
                known = sums.setdefault((hardware, site), [0, 0, 0, 0])
                known[:] = [one + more for one, more in zip(known, numbers, strict=True)]
        return [
            Tally(
                hardware=hardware,
                site=site,
                attempts=sum(numbers),
                failed=numbers[1],
                fell_back=numbers[2],
                silent=numbers[3],
            )
            for (hardware, site), numbers in sorted(sums.items())
        ]

    def _ended(self, campaign: str, cohort: int, most: int) -> Iterator[tuple[Any, ...]]:
        """By hardware and site, how many of the first by rank, which is random, went well, failed, fell back and went silent."""
        first = (
            select(ASSIGNMENT.c.target, ASSIGNMENT.c.state)
            .where(ASSIGNMENT.c.campaign == campaign, ASSIGNMENT.c.cohort == cohort)
            .order_by(ASSIGNMENT.c.rank)
            .limit(most)
            .subquery()
        )
        counts = [_number(first.c.state, states) for states in (_WELL, _BEFORE, _AFTER, _SILENT)]
        site = func.coalesce(TARGET_LABEL.c.value, TARGET.c.id)
        rows = self._db.execute(
            select(TARGET.c.hardware, site, *counts)
            .select_from(first)
            .join(TARGET, TARGET.c.id == first.c.target)
            .outerjoin(TARGET_LABEL, (TARGET_LABEL.c.target == TARGET.c.id) & (TARGET_LABEL.c.name == SITE))
            .group_by(TARGET.c.hardware, site)
        )
        return (tuple(row) for row in rows)


def _number(state: Any, states: Iterable[AssignmentState]) -> Any:
    return func.sum(case((state.in_([str(one) for one in states]), 1), else_=0), type_=Integer)


def _paired(reports: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Staging]:
    """Each `staged` with the `downloading` of the same order before it; the last, as a download that was taken up again counts
    its bytes from there."""
    begun: dict[tuple[str, str], int] = {}
    for target, body in reports:
        order, at = (target, str(body.get("order_hash"))), int(body["at"])
        if body["state"] == AgentState.DOWNLOADING:
            begun[order] = at
            continue
        fetched = (body.get("evidence") or {}).get("fetched_bytes")
        size = _size(fetched)
        if size > 0 and order in begun and at >= begun[order]:
            yield Staging(target=target, size_bytes=size, seconds=float(at - begun.pop(order)))


def _size(fetched: object) -> int:
    """What came over lines; 0 for what isn't as agents say it."""
    if not isinstance(fetched, dict):
        return 0
    return sum(number for name, number in fetched.items() if name not in NOT_A_LINK and isinstance(number, int))
