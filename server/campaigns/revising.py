"""A file under the name of a campaign that is there already: what it would change, and the revision that changes it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from msgspec import structs

from firmware.errors import OtariaError, RefusedError
from server.campaigns import grouping
from server.campaigns.expecting import expected, kept
from server.campaigns.members import Membership, labelled, membership, release_of
from server.campaigns.orders import key_of
from server.planner import approvals, power, revising
from server.planner.calendar import check_feasible
from server.planner.differences import Difference, differences
from server.planner.events import Revised
from server.planner.revision_rows import RevisionRow, RevisionState
from server.planner.selection import Selection
from server.planner.states import WAITING
from server.planner.strategy import Strategy
from server.planner.words import AssignmentState, CampaignState, CohortState
from server.ports import CampaignSpec, CampaignView, Unit


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What applying a file would do. `view`: the campaign as it is (None: there is none). `refused`: why it can't be applied.
    `effects`: whom the changes meet, in sentences. `needed`: how many must agree first."""

    name: str
    view: CampaignView | None = None
    number: int = 1
    differences: Sequence[Difference] = ()
    selection: Difference | None = None
    members: Membership = field(default_factory=Membership)
    effects: Sequence[str] = ()
    strategy: Strategy | None = None
    """The file's, with what was chosen for it where the file leaves that open (None: nothing is there to compare with)."""
    needed: int = 0
    refused: str = ""
    warnings: Sequence[str] = ()

    @property
    def is_same(self) -> bool:
        """Whether the file says what the campaign's newest revision says."""
        return self.view is not None and not self.differences and self.selection is None and not self.refused


def plan(unit: Unit, spec: CampaignSpec, now: float) -> Plan:
    """What the file would do to the campaign of its name; raises `RefusedError` for a release that can't be had."""
    release = release_of(unit, spec)
    view = unit.campaigns.view(spec.name)
    if view is None:
        return Plan(name=spec.name)
    before = _newest(unit.campaigns.revisions(spec.name))
    spec, notes = _settled(unit, kept(spec, before.strategy), before.strategy, now)
    found = Plan(
        name=spec.name,
        view=view,
        strategy=spec.strategy,
        warnings=notes,
        number=before.number + 1,
        differences=differences(before.strategy, spec.strategy),
        selection=_selection(before.selection, spec.selection),
    )
    is_draft = view.row.state is CampaignState.DRAFT
    if view.row.release != key_of(release):
        brings = f"{view.row.release.product} {view.row.release.version}"
        text = f"Campaign {spec.name} brings {brings}; another release is another campaign: give it a name of its own."
        changed = Difference(where="version", before=brings, after=f"{spec.product} {spec.version}")
        found = replace(found, differences=(changed, *found.differences), refused="" if is_draft else text)
    if view.row.start_at != spec.start_at and is_draft:
        changed = Difference(where="start_at", before=str(view.row.start_at), after=str(spec.start_at))
        found = replace(found, differences=(*found.differences, changed))
    if found.is_same or found.refused:
        return found
    return _of_draft(found) if is_draft else _weighed(unit, spec, found, now)


def revision(spec: CampaignSpec, found: Plan, *, by: str, at: float) -> Revised:
    """The event that makes the file a revision of its campaign; raises `RefusedError` (`campaign-exists`,
    `revision-refused`) when it can't be."""
    if found.refused:
        is_other = found.view is not None and any(one.where == "version" for one in found.differences)
        raise RefusedError("campaign-exists" if is_other else revising.KIND, found.refused)
    changes = [one.text for one in found.differences] + ([found.selection.text] if found.selection else [])
    row = RevisionRow(
        campaign=spec.name,
        number=found.number,
        state=RevisionState.PROPOSED,
        strategy=found.strategy or spec.strategy,
        selection=spec.selection,
        needed=found.needed,
        by=by,
        at=at,
        changes=tuple(change[:300] for change in changes[:100]),
    )
    return Revised(campaign=spec.name, revision=row, gained=found.members.comes_in, at=at)


def _newest(rows: Sequence[RevisionRow]) -> RevisionRow:
    """What the file is compared with: the newest that is in force or proposed; numbers go on after any."""
    last = [row for row in rows if row.state in (RevisionState.ACCEPTED, RevisionState.PROPOSED)][-1]
    return structs.replace(last, number=rows[-1].number)


def _of_draft(found: Plan) -> Plan:
    return replace(found, effects=("It is a draft: its targets are chosen and dealt anew.",))


def _weighed(unit: Unit, spec: CampaignSpec, found: Plan, now: float) -> Plan:
    """With whom it meets, what it takes, and why it can't be, if so."""
    view = found.view
    if view is None:
        return found
    row, cohorts = view.row, {cohort.index: cohort for cohort in view.cohorts}
    try:
        revising.check_state(row.state)
        after = revising.effective(row.strategy, spec.strategy, cohorts)
        check_feasible(spec.strategy.calendar, now, needs_s=spec.strategy.away_s)
        grouping.check_after(unit, spec)
        closed = [cohort for cohort in view.cohorts if cohort.state is CohortState.CLOSED]
        warnings = [
            *power.check(after, closed),
            *grouping.warn(unit, spec, release_of(unit, spec), _all(unit, spec)),
        ]
    except OtariaError as error:
        return replace(found, refused=error.text)
    change = membership(unit, row, spec.selection)
    warnings = [*found.warnings, *warnings]
    found = replace(found, members=change, warnings=warnings, needed=_needed(unit, spec, found, row.strategy))
    riskier = bool(change.comes_in) or revising.grows(row.strategy, spec.strategy)
    needed = found.needed if riskier else 0
    return replace(found, needed=needed, effects=tuple(_effects(found, after, spec.strategy, needed)))


def _settled(unit: Unit, spec: CampaignSpec, before: Strategy, now: float) -> tuple[CampaignSpec, Sequence[str]]:
    """With the expiry of orders that a revision newly leaves open; sizes are not dealt anew."""
    if not spec.strategy.order_ttl_auto or before.order_ttl_auto:
        return spec, ()
    unsized = replace(spec.strategy, cohorts=tuple(replace(one, reachable=False) for one in spec.strategy.cohorts))
    chosen = expected(unit, replace(spec, strategy=unsized), _all(unit, spec), now)
    return replace(spec, strategy=replace(spec.strategy, order_ttl_s=chosen.strategy.order_ttl_s)), chosen.notes


def _all(unit: Unit, spec: CampaignSpec) -> Sequence[str]:
    return unit.campaigns.assigned(spec.name, Selection())


def _needed(unit: Unit, spec: CampaignSpec, found: Plan, before: Strategy) -> int:
    """The strictest of what the old and the new rules ask for."""
    view = found.view
    inside = sum(cohort.size for cohort in view.cohorts) if view else 0
    size = inside + found.members.comes_in - len(found.members.lost)
    release = release_of(unit, spec)
    return max(
        approvals.needed(one.approvals, size=size, labelled=labelled(unit, replace(spec, strategy=one), release))
        for one in (before, spec.strategy)
    )


def _effects(found: Plan, after: Strategy, wanted: Strategy, needed: int) -> list[str]:
    view = found.view
    cohorts = view.cohorts if view else ()
    planned, waits = (
        sum(cohort.counts.get(state, 0) for cohort in cohorts for state in states)
        for states in ((AssignmentState.PLANNED,), WAITING)
    )
    size = sum(cohort.size for cohort in cohorts)
    said = [
        f"{planned} targets not ordered yet and {waits} that wait for a permit go by the new rules; "
        f"{size - planned - waits} are past that."
    ]
    kept = [one.name for one, new in zip(after.cohorts, wanted.cohorts, strict=True) if one != new]
    if kept:
        said.append(f"The gates of {', '.join(kept)} stay as they were: a cohort that was opened is not decided anew.")
    if found.members.comes_in:
        where = "the last cohort while that is closed and tells no strata apart, or else into late"
        said.append(f"{found.members.comes_in} targets come in: into {where}.")
    if found.members.lost:
        said.append(f"{len(found.members.lost)} targets without an order drop out.")
    if found.selection and not found.members.lost:
        said.append("Targets that have an order stay, selected or not.")
    said.append(f"It takes effect when {needed} more agree." if needed else "It takes effect at once.")
    return said


def _selection(before: Selection, after: Selection) -> Difference | None:
    if before == after:
        return None
    return Difference(where="selection", before=before.text, after=after.text)
