"""Campaigns, their cohorts and assignments; slices for the planner, and its decisions by compare-and-set."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    delete,
    exists,
    func,
    insert,
    not_,
    or_,
    select,
    true,
    tuple_,
    update,
)

from firmware.errors import RefusedError
from firmware.protocol.codec import ready
from firmware.protocol.words import Action
from server.planner.comparing import Pair
from server.planner.decision import Decision, Put
from server.planner.download_line import line_of
from server.planner.revising import DESELECTED
from server.planner.revision_rows import RevisionRow, RevisionState
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow, TokenRow
from server.planner.selection import Selection
from server.planner.slices import Footprint, Slice
from server.planner.states import LIVE, UNDECIDED
from server.planner.surroundings import BehindRow
from server.planner.waits import WINDOW_KINDS
from server.planner.words import NO_PREVIOUS, AssignmentState, CampaignState
from server.ports import AgentStatus, Before, CampaignView, DeltaNeed, Leg, Origin, Page, StoredOrder
from server.storage import bulk, choosing, legs, pairs, revisions, slices, traits
from server.storage.desk import Desk
from server.storage.engines import roomy
from server.storage.messages import stored_order
from server.storage.rows import (
    ASSIGNMENT_COLUMNS,
    CAMPAIGN_COLUMNS,
    assignment_row,
    campaign_row,
    key_of,
    token_row,
    values_of,
)
from server.storage.tables import AGENT, ASSIGNMENT, BEHIND, BLOCK, CAMPAIGN, COHORT, LEG, ORDER, TARGET, TOKEN

_OVER = (CampaignState.COMPLETED, CampaignState.ABORTED, CampaignState.ROLLING_BACK, CampaignState.ROLLED_BACK)
_CURSOR = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([a-z0-9-]{1,63})\Z")


class SqlCampaigns:
    """`server.ports.Campaigns` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def create(
        self,
        campaign: CampaignRow,
        name: str,
        cohorts: Sequence[CohortRow],
        *,
        created_at: float,
        created_by: str,
        selection: Selection | None = None,
    ) -> None:
        """Store the campaign, its cohorts and its revision, and no assignments yet. Raises `RefusedError`
        (`campaign-exists`)."""
        taken = select(CAMPAIGN.c.id).where((CAMPAIGN.c.id == campaign.id) | (CAMPAIGN.c.name == name))
        if self._db.execute(taken).first() is not None:
            raise RefusedError("campaign-exists", f"There is a campaign {name} already; choose another name.")
        chosen = selection or Selection()
        extra = {
            "name": name,
            "created_at": created_at,
            "created_by": created_by,
            "selection": msgspec.to_builtins(chosen),
        }
        self._db.execute(insert(CAMPAIGN).values(id=campaign.id, **values_of(campaign), **extra, version=1))
        self._begin(campaign, cohorts, chosen, created_at, created_by)

    def redraft(
        self,
        campaign: CampaignRow,
        name: str,
        cohorts: Sequence[CohortRow],
        *,
        created_at: float,
        created_by: str,
        selection: Selection | None = None,
    ) -> None:
        """Put a new draft in the place of one that never began: its revisions stay, all else is replaced. Raises
        `ConflictError` when the draft changed since it was loaded."""
        slices.commit(self._db, Decision(changes=(Put(row=campaign),)))
        for table in (ASSIGNMENT, BEHIND, BLOCK, LEG, COHORT):
            self._db.execute(delete(table).where(table.c.campaign == campaign.id))
        chosen = selection or Selection()
        self.set_selection(campaign.id, chosen)
        self._begin(campaign, cohorts, chosen, created_at, created_by)

    def _begin(
        self,
        campaign: CampaignRow,
        cohorts: Sequence[CohortRow],
        selection: Selection,
        created_at: float,
        created_by: str,
    ) -> None:
        """Store the cohorts and the revision that a draft starts with."""
        for cohort in cohorts:
            slices.add(self._db, cohort)
        revision = RevisionRow(
            campaign=campaign.id,
            number=campaign.revision,
            state=RevisionState.ACCEPTED,
            strategy=campaign.strategy,
            selection=selection,
            by=created_by,
            at=created_at,
        )
        slices.add(self._db, revision)

    def revisions(self, campaign_id: str, after: int = 0, limit: int | None = None) -> Sequence[RevisionRow]:
        """A campaign's revisions after that number, oldest first."""
        return revisions.of(self._db, campaign_id, after, limit)

    def set_selection(self, campaign_id: str, selection: Selection) -> None:
        """Note whom the campaign selects since its newest revision."""
        plain = msgspec.to_builtins(selection)
        self._db.execute(update(CAMPAIGN).where(CAMPAIGN.c.id == campaign_id).values(selection=plain))

    def add_assignments(self, rows: Iterable[AssignmentRow], *, page: int = 2_000) -> None:
        """Store new assignments, so many at a time: a million of them are never in memory as values."""
        desk = Desk.of(self._db)
        desk.flush()
        with roomy(self._db):
            bulk.add_assignments(self._db, rows, page)
        desk.forget(ASSIGNMENT)

    def add_behind(self, rows: Sequence[BehindRow]) -> None:
        """Store the counters of the campaign's gateways."""
        values = [{**key_of(row)[1], **values_of(row), "version": 1} for row in rows]
        if values:
            self._db.execute(insert(BEHIND), values)

    def eligible(self, product: str, hardware: Sequence[str], selection: Selection) -> Sequence[str]:
        """Ids of the active targets that fit, sorted. Hardware ids are the product's own, so `product` needs no column."""
        statement = select(TARGET.c.id).where(*_fitting(hardware, selection)).order_by(TARGET.c.id)
        return self._db.execute(statement).scalars().all()

    def newcomers(self, campaign_id: str, hardware: Sequence[str], selection: Selection, limit: int) -> Sequence[str]:
        """Ids of active targets that fit and aren't the campaign's, sorted."""
        inside = select(ASSIGNMENT.c.target).where(
            ASSIGNMENT.c.campaign == campaign_id, ASSIGNMENT.c.target == TARGET.c.id
        )
        statement = select(TARGET.c.id).where(*_fitting(hardware, selection), not_(inside.exists()))
        return self._db.execute(statement.order_by(TARGET.c.id).limit(limit)).scalars().all()

    def returners(self, campaign_id: str, hardware: Sequence[str], selection: Selection, limit: int) -> Sequence[str]:
        """Ids of active targets that fit and dropped out of the campaign because they didn't, sorted."""
        out = (ASSIGNMENT.c.state == str(AssignmentState.SKIPPED), ASSIGNMENT.c.reason_kind == DESELECTED)
        inside = select(ASSIGNMENT.c.target).where(
            ASSIGNMENT.c.campaign == campaign_id, ASSIGNMENT.c.target == TARGET.c.id, *out
        )
        statement = select(TARGET.c.id).where(*_fitting(hardware, selection), inside.exists())
        return self._db.execute(statement.order_by(TARGET.c.id).limit(limit)).scalars().all()

    def leavers(self, campaign_id: str, selection: Selection, limit: int) -> Sequence[str]:
        """Ids of the campaign's planned targets that don't fit, sorted."""
        planned = ASSIGNMENT.c.state == str(AssignmentState.PLANNED)
        statement = (
            select(TARGET.c.id)
            .join(ASSIGNMENT, ASSIGNMENT.c.target == TARGET.c.id)
            .where(ASSIGNMENT.c.campaign == campaign_id, planned, not_(and_(true(), *choosing.selected(selection))))
        )
        return self._db.execute(statement.order_by(TARGET.c.id).limit(limit)).scalars().all()

    def traits(
        self, hardware: Sequence[str], selection: Selection, names: Sequence[str]
    ) -> Mapping[str, dict[str, str]]:
        """Of each target that `eligible` finds: `hardware`, `version`, and its labels of these names."""
        return traits.of(self._db, _fitting(hardware, selection), names)

    def origins(self, campaign_id: str) -> Mapping[Origin, int]:
        """From where the campaign's targets that are still planned set out, and how many from each."""
        return legs.origins(self._db, campaign_id)

    def set_legs(self, campaign_id: str, rows: Sequence[Leg]) -> None:
        """Replace the campaign's legs."""
        legs.put(self._db, campaign_id, rows)

    def legs(self, campaign_id: str) -> Sequence[Leg]:
        """The campaign's legs by rank, with the deltas that are there."""
        return legs.of(self._db, campaign_id)

    def settle_leg(self, leg: Leg, need: DeltaNeed, reason: str = "") -> None:
        """Note what became of the delta of one leg."""
        legs.settle(self._db, leg, need, reason)

    def next_leg(self) -> Leg | None:
        """The next delta to make: the first that is wanted of the oldest campaign that is not over."""
        return legs.wanted(self._db)

    def awaiting_deltas(self) -> Sequence[str]:
        """Campaigns that wait for deltas and want none any more."""
        return legs.awaiting(self._db)

    def list(self) -> Sequence[CampaignView]:
        """All campaigns, newest first."""
        rows = self._db.execute(select(CAMPAIGN).order_by(CAMPAIGN.c.created_at.desc(), CAMPAIGN.c.id)).mappings()
        return [self._view(row) for row in rows]

    def page(self, *, limit: int = 100, after: tuple[float, str] | None = None) -> Sequence[CampaignView]:
        """Campaigns, newest first; `after`: (`created_at`, `id`) of the one before."""
        query = select(CAMPAIGN).order_by(CAMPAIGN.c.created_at.desc(), CAMPAIGN.c.id).limit(limit)
        if after is not None:
            at, same = CAMPAIGN.c.created_at, CAMPAIGN.c.id
            query = query.where((at < after[0]) | ((at == after[0]) & (same > after[1])))
        return [self._view(row) for row in self._db.execute(query).mappings()]

    def view(self, campaign_id: str) -> CampaignView | None:
        """One campaign."""
        row = self._db.execute(select(CAMPAIGN).where(CAMPAIGN.c.id == campaign_id)).mappings().first()
        if row is None:
            return None
        return replace(self._view(row), legs=self.legs(campaign_id), proposal=revisions.proposal(self._db, campaign_id))

    def assignments(
        self,
        campaign_id: str,
        *,
        states: Sequence[AssignmentState] | None = None,
        cohort: int | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Assignments by (cohort, rank); raises `RefusedError` (`bad-cursor`) for a cursor that no page gave."""
        statement = select(*ASSIGNMENT_COLUMNS).where(ASSIGNMENT.c.campaign == campaign_id)
        if states is not None:
            statement = statement.where(ASSIGNMENT.c.state.in_([str(state) for state in states]))
        if cohort is not None:
            statement = statement.where(ASSIGNMENT.c.cohort == cohort)
        place = tuple_(ASSIGNMENT.c.cohort, ASSIGNMENT.c.rank, ASSIGNMENT.c.target)
        if cursor is not None:
            statement = statement.where(place > tuple_(*_cursor(cursor)))
        order = (ASSIGNMENT.c.cohort, ASSIGNMENT.c.rank, ASSIGNMENT.c.target)
        rows = [assignment_row(row) for row in self._db.execute(statement.order_by(*order).limit(limit)).mappings()]
        last = f"{rows[-1].cohort}.{rows[-1].rank}.{rows[-1].target}" if len(rows) == limit else None
        return Page(rows=rows, next=last)

    def candidates(self, campaign_id: str, cohort: int, limit: int) -> Sequence[AssignmentRow]:
        """The first planned assignments of a cohort that wait for nothing (no `wake_at`), by rank."""
        where = (
            ASSIGNMENT.c.campaign == campaign_id,
            ASSIGNMENT.c.cohort == cohort,
            ASSIGNMENT.c.state == str(AssignmentState.PLANNED),
            ASSIGNMENT.c.wake_at.is_(None),
        )
        statement = select(*ASSIGNMENT_COLUMNS).where(*where).order_by(ASSIGNMENT.c.rank).limit(limit)
        return [assignment_row(row) for row in self._db.execute(statement).mappings()]

    def in_states(
        self,
        campaign_id: str,
        states: Sequence[AssignmentState],
        limit: int,
        *,
        cohort: int | None = None,
        action: Action | None = None,
    ) -> Sequence[AssignmentRow]:
        """Some assignments in these states, of this cohort and with this action if given, in no promised order."""
        where = [ASSIGNMENT.c.campaign == campaign_id, ASSIGNMENT.c.state.in_([str(state) for state in states])]
        where += [] if cohort is None else [ASSIGNMENT.c.cohort == cohort]
        where += [] if action is None else [ASSIGNMENT.c.action == str(action)]
        statement = select(*ASSIGNMENT_COLUMNS).where(*where).limit(limit)
        return [assignment_row(row) for row in self._db.execute(statement).mappings()]

    def reasons(
        self, campaign_id: str, states: Sequence[AssignmentState], limit: int
    ) -> Mapping[tuple[AssignmentState, str], int]:
        """Why assignments are in these states: how many by state and kind of reason, of so many at most."""
        where = (ASSIGNMENT.c.campaign == campaign_id, ASSIGNMENT.c.state.in_([str(state) for state in states]))
        some = select(ASSIGNMENT.c.state, ASSIGNMENT.c.reason_kind).where(*where).limit(limit).subquery()
        statement = select(some.c.state, some.c.reason_kind, func.count()).group_by(some.c.state, some.c.reason_kind)
        return {(AssignmentState(state), kind): number for state, kind, number in self._db.execute(statement)}

    def assigned(self, campaign_id: str, selection: Selection) -> Sequence[str]:
        """Ids of the campaign's targets that fit, sorted."""
        statement = (
            select(TARGET.c.id)
            .join(ASSIGNMENT, ASSIGNMENT.c.target == TARGET.c.id)
            .where(ASSIGNMENT.c.campaign == campaign_id, *choosing.selected(selection))
            .order_by(TARGET.c.id)
        )
        return self._db.execute(statement).scalars().all()

    def given_out(self, campaign_id: str, now: float, after: str, limit: int) -> Sequence[StoredOrder]:
        """The current orders of the campaign that are given out for unattended use and may still be followed, by target."""
        statement = (
            select(ORDER)
            .join(ASSIGNMENT, (ASSIGNMENT.c.target == ORDER.c.target) & (ASSIGNMENT.c.order_hash == ORDER.c.hash))
            .where(ASSIGNMENT.c.campaign == campaign_id, ASSIGNMENT.c.out_until > now, ORDER.c.target > after)
            .order_by(ORDER.c.target)
            .limit(limit)
        )
        return [stored_order(dict(row)) for row in self._db.execute(statement).mappings()]

    def with_release(self, product: str, version: str) -> Sequence[CampaignRow]:
        """The campaigns of this release, by id."""
        columns = (CAMPAIGN.c.release["product"].as_string(), CAMPAIGN.c.release["version"].as_string())
        which = (columns[0] == product, columns[1] == version)
        rows = self._db.execute(select(*CAMPAIGN_COLUMNS).where(*which).order_by(CAMPAIGN.c.id)).mappings()
        return [campaign_row(row) for row in rows]

    def to_undo(self, limit: int) -> Sequence[CampaignRow]:
        """Some campaigns for which nothing was proposed yet: completed or aborted ones of a suspect release, and those that were
        rolled back and have targets that couldn't go back."""
        ended = CAMPAIGN.c.state.in_([str(state) for state in (CampaignState.COMPLETED, CampaignState.ABORTED)])
        stranded = exists().where(
            ASSIGNMENT.c.campaign == CAMPAIGN.c.id,
            ASSIGNMENT.c.state == str(AssignmentState.FAILED),
            ASSIGNMENT.c.reason_kind == NO_PREVIOUS,
        )
        which = or_(
            and_(ended, CAMPAIGN.c.suspect != ""), and_(CAMPAIGN.c.state == str(CampaignState.ROLLED_BACK), stranded)
        )
        wanted = CAMPAIGN.c.proposed.is_(None)
        rows = self._db.execute(select(*CAMPAIGN_COLUMNS).where(which, wanted).order_by(CAMPAIGN.c.id).limit(limit))
        return [campaign_row(row) for row in rows.mappings()]

    def to_rouse(self) -> CampaignRow | None:
        """A campaign under way of which targets are to be told to ask again (`rouse`)."""
        live = CAMPAIGN.c.state.in_([str(state) for state in LIVE])
        query = select(*CAMPAIGN_COLUMNS).where(CAMPAIGN.c.rouse.is_not(None), live).order_by(CAMPAIGN.c.id).limit(1)
        row = self._db.execute(query).mappings().first()
        return None if row is None else campaign_row(row)

    def waiting_for_windows(self, campaign_id: str, after: str, limit: int) -> Sequence[AssignmentRow]:
        """Its assignments, by target after this one, that were told to wait for a window or the end of a freeze."""
        which = (
            ASSIGNMENT.c.campaign == campaign_id,
            ASSIGNMENT.c.target > after,
            ASSIGNMENT.c.state == str(AssignmentState.ASKING),
            ASSIGNMENT.c.reason_kind.in_(WINDOW_KINDS),
        )
        query = select(*ASSIGNMENT_COLUMNS).where(*which).order_by(ASSIGNMENT.c.target).limit(limit)
        return [assignment_row(row) for row in self._db.execute(query).mappings()]

    def to_remind(self, now: float, limit: int) -> Sequence[str]:
        """Some campaigns whose owed approvals are to be asked for again."""
        which = CAMPAIGN.c.remind_at <= now
        return self._db.execute(select(CAMPAIGN.c.id).where(which).order_by(CAMPAIGN.c.id).limit(limit)).scalars().all()

    def running_release(self, campaign_id: str) -> Mapping[str, Before]:
        """The campaign's targets that run its release and are not shut out, with what they had before."""
        release = select(CAMPAIGN.c.release["sha256"].as_string()).where(CAMPAIGN.c.id == campaign_id)
        active = select(AGENT.c.id).where(AGENT.c.status == str(AgentStatus.ACTIVE))
        statement = (
            select(TARGET.c.id, TARGET.c.previous_version, ASSIGNMENT.c.came_from)
            .join(ASSIGNMENT, ASSIGNMENT.c.target == TARGET.c.id)
            .where(
                ASSIGNMENT.c.campaign == campaign_id,
                TARGET.c.running_sha256 == release.scalar_subquery(),
                TARGET.c.agent.in_(active),
            )
            .order_by(TARGET.c.id)
        )
        rows = self._db.execute(statement)
        return {row.id: Before(version=row.previous_version, sha256=row.came_from) for row in rows}

    def holders(self, groups: Sequence[str], limit: int) -> Sequence[TokenRow]:
        """Some tokens of these groups, oldest first, whoever holds them."""
        statement = select(TOKEN).where(TOKEN.c.group.in_(list(groups))).order_by(TOKEN.c.since).limit(limit)
        return [token_row(row) for row in self._db.execute(statement).mappings()]

    def first_in_line(self, group: str) -> TokenRow | None:
        """Who comes next in the line of a group, of the campaigns that admit; None when nobody waits."""
        admitting = CAMPAIGN.c.state.in_([str(state) for state in (CampaignState.RUNNING, CampaignState.WATCHING)])
        statement = select(TOKEN).join(CAMPAIGN, CAMPAIGN.c.id == TOKEN.c.campaign)
        statement = statement.where(TOKEN.c.group == line_of(group), admitting)
        row = self._db.execute(statement.order_by(TOKEN.c.since, TOKEN.c.target).limit(1)).mappings().first()
        return None if row is None else token_row(row)

    def open_for(self, target: str) -> Sequence[str]:
        """Ids of the campaigns in which this target's part is not over: undecided, or missing."""
        open_states = [str(state) for state in (*UNDECIDED, AssignmentState.MISSING)]
        query = select(ASSIGNMENT.c.campaign).where(ASSIGNMENT.c.target == target, ASSIGNMENT.c.state.in_(open_states))
        return [row.campaign for row in self._db.execute(query.order_by(ASSIGNMENT.c.campaign))]

    def pairs(
        self, campaign_id: str, cohort: int, release_sha256: str, after: int, limit: int, *, target: str | None = None
    ) -> Sequence[Pair]:
        """Verified targets of a cohort that have a control and were not compared yet, with it, by rank above `after`."""
        return pairs.of(self._db, campaign_id, cohort, release_sha256, after, limit, target)

    def waiting_for(self, target: str) -> str | None:
        """The oldest live campaign that has planned this target and not admitted it; else the newest one that ended before
        the target's turn came and is younger than the campaign that holds it."""
        planned = (
            select(CAMPAIGN.c.id)
            .join(ASSIGNMENT, ASSIGNMENT.c.campaign == CAMPAIGN.c.id)
            .where(ASSIGNMENT.c.target == target, ASSIGNMENT.c.state == str(AssignmentState.PLANNED))
        )
        over = CAMPAIGN.c.state.in_([str(state) for state in _OVER])
        live = self._db.execute(planned.where(~over).order_by(CAMPAIGN.c.created_at).limit(1)).scalar()
        if live is not None:
            return str(live)
        held = CAMPAIGN.alias("held")
        held_since = select(held.c.created_at).join(TARGET, TARGET.c.holder == held.c.id).where(TARGET.c.id == target)
        younger = CAMPAIGN.c.created_at > func.coalesce(held_since.scalar_subquery(), 0.0)
        return self._db.execute(planned.where(over, younger).order_by(CAMPAIGN.c.created_at.desc()).limit(1)).scalar()

    def due(self, now: float, limit: int) -> tuple[Sequence[CampaignRow], Sequence[AssignmentRow]]:
        """Rows whose `wake_at` has passed, oldest first."""
        campaigns = select(*CAMPAIGN_COLUMNS).where(CAMPAIGN.c.wake_at <= now)
        assignments = select(*ASSIGNMENT_COLUMNS).where(ASSIGNMENT.c.wake_at <= now)
        first = self._db.execute(campaigns.order_by(CAMPAIGN.c.wake_at).limit(limit)).mappings()
        second = self._db.execute(assignments.order_by(ASSIGNMENT.c.wake_at).limit(limit)).mappings()
        return [campaign_row(row) for row in first], [assignment_row(row) for row in second]

    def next_wake(self) -> float | None:
        """The earliest `wake_at` of any campaign or assignment."""
        times = [self._db.execute(select(func.min(table.c.wake_at))).scalar() for table in (CAMPAIGN, ASSIGNMENT)]
        return min((time for time in times if time is not None), default=None)

    def expect(self, targets: Sequence[str], *, campaign: str | None = None) -> None:
        """Fetch at once what `load` gives of these targets in the campaigns that hold them, and in the one that admits them."""
        slices.fetch(self._db, targets, campaign)

    def load(self, footprint: Footprint) -> Slice:
        """The rows an event touches; `campaign` None with a `target` means the campaign that holds the target."""
        return slices.load(self._db, footprint)

    def commit(self, decision: Decision) -> None:
        """Apply the changes by compare-and-set. Raises `ConflictError` when a row did not match; nothing is kept then."""
        slices.commit(self._db, decision)

    def _view(self, row: RowMapping) -> CampaignView:
        return CampaignView(
            row=campaign_row(row),
            name=row["name"],
            cohorts=slices.cohorts_of(self._db, row["id"]),
            created_at=row["created_at"],
            created_by=row["created_by"],
            selection=msgspec.convert(row["selection"], ready(Selection)),
        )


def _fitting(hardware: Sequence[str], selection: Selection) -> list[ColumnElement[bool]]:
    active = select(AGENT.c.id).where(AGENT.c.status == str(AgentStatus.ACTIVE))
    return [TARGET.c.agent.in_(active), TARGET.c.hardware.in_(list(hardware)), *choosing.selected(selection)]


def _cursor(cursor: str) -> tuple[int, int, str]:
    found = _CURSOR.match(cursor)
    if found is None:
        raise RefusedError("bad-cursor", "The cursor is not one that a page of assignments gave; start without one.")
    return int(found[1]), int(found[2]), found[3]
