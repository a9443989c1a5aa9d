"""What people do with campaigns: write one, look at it, and tell it what to do.

A campaign's id is its name. Its targets are chosen, and dealt into cohorts, once, when it is made.
"""

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from msgspec import structs

from firmware.errors import RefusedError
from server.campaigns import grouping
from server.campaigns.comparing import comparison_of, unmeasured
from server.campaigns.engine import Engine
from server.campaigns.expecting import expected
from server.campaigns.members import labelled, release_of
from server.campaigns.orders import key_of
from server.campaigns.revising import Plan, plan, revision
from server.campaigns.strategy_file import parse_campaign
from server.campaigns.way_back import way_back, why_undone
from server.errors import NotFoundError
from server.planner import power, strata
from server.planner.approvals import with_needed
from server.planner.calendar import check_feasible
from server.planner.cohorts import split
from server.planner.dealing import Traits, deal
from server.planner.decision import Decision, Put
from server.planner.events import Commanded, Compared, GateAnswered, LeftOut, TakenBack
from server.planner.explain import Explanation, explain
from server.planner.presence_words import usually
from server.planner.revision_rows import RevisionRow
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow
from server.planner.selection import Selection
from server.planner.slices import Footprint, Slice
from server.planner.words import AssignmentState, CampaignState, GateVerdict, Verb
from server.ports import CampaignSpec, CampaignView, Clock, Database, Page, ReleaseRecord, ReleaseState, Unit

SEED_BITS = 52
CHANGE_BITS = 64
WAITS_FOR_PRESENCE = ("unreached", "staging", "ask")
"""Kinds of explanations of targets that have to come before anything moves."""
SHOWN_HOLDERS = 20
PROPOSALS_AT_ONCE = 4


class CampaignService:
    """Campaigns for people and scripts."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        engine: Engine,
        *,
        on_started: Callable[[], None] = lambda: None,
        checks: Collection[str] = (),
        draw: Callable[[int], int] = secrets.randbits,
    ) -> None:
        """`on_started` is told when a campaign may need deltas. `checks`: the names of those that are configured. `draw`: gives
        so many bits by chance."""
        self._database = database
        self._clock = clock
        self._engine = engine
        self._on_started = on_started
        self._checks = checks
        self._draw = draw

    def parse(self, text: str) -> CampaignSpec:
        """Parse a campaign file (YAML); raises `RefusedError` (`bad-campaign`, `bad-strategy`)."""
        return parse_campaign(text)

    async def preview(self, spec: CampaignSpec) -> CampaignView:
        """What `create` would make now; changes nothing and raises as it does."""
        found = await self.plan(spec)
        if found.view is None or (found.view.row.state is CampaignState.DRAFT and not found.is_same):
            return await self._database.read(lambda unit: self._make(unit, spec, "", keep=False))
        if not found.is_same:
            revision(spec, found, by="", at=self._clock.now())
        return replace(found.view, warnings=(*found.effects, *found.warnings))

    async def plan(self, spec: CampaignSpec) -> Plan:
        """What applying the file would do; raises `RefusedError` (`release-unknown`, `release-withdrawn`, `check-unknown`)."""
        for policy in spec.strategy.preconditions:
            if policy.per and policy.name not in self._checks:
                known = f"there are: {', '.join(sorted(self._checks))}" if self._checks else "there are none"
                text = f"The server knows no check {policy.name}; {known}. Add it to [checks] urls in otaria.toml, or correct it."
                raise RefusedError("check-unknown", text)
        return await self._database.read(lambda unit: plan(unit, spec, self._clock.now()))

    async def revisions(self, campaign: str, after: int = 0, limit: int | None = None) -> Sequence[RevisionRow]:
        """The revisions of a campaign after that number, oldest first; raises `NotFoundError`."""
        await self.view(campaign)
        return await self._database.read(lambda unit: unit.campaigns.revisions(campaign, after, limit))

    async def create(self, spec: CampaignSpec, *, by: str) -> CampaignView:
        """Make a draft. The same spec under the same name again returns what is there; another one makes a draft anew, and a
        revision of a campaign that runs.

        Raises `RefusedError` (`release-unknown`, `release-withdrawn`, `nothing-selected`, `campaign-exists`,
        `revision-refused`).
        """
        found = await self.plan(spec)
        if found.view is None or (found.view.row.state is CampaignState.DRAFT and not found.is_same):
            return await self._database.write(lambda unit: self._make(unit, spec, by, keep=True))
        if not found.is_same:
            await self._engine.command(revision(spec, found, by=by, at=self._clock.now()))
        return replace(await self.view(spec.name), warnings=tuple(found.warnings))

    async def command(self, campaign: str, verb: Verb, *, by: str, reason: str) -> CampaignView:
        """Start, pause, resume, abort or roll back; raises `NotFoundError`, or `RefusedError` for a verb that its state
        does not allow."""
        await self.view(campaign)
        await self._engine.command(Commanded(campaign=campaign, verb=verb, by=by, reason=reason, at=self._clock.now()))
        if verb is Verb.START:
            self._on_started()
        return await self.view(campaign)

    async def take_back(
        self, campaign: str, *, target: str | None, cohort: str | None, by: str, reason: str
    ) -> CampaignView:
        """Roll back one target, or one cohort; raises `NotFoundError`, or `RefusedError` (`wrong-state`,
        `nothing-to-roll-back`, `superseded`, `no-previous`)."""
        await self.view(campaign)
        at = self._clock.now()
        said = TakenBack(campaign=campaign, target=target, cohort=cohort, by=by, reason=reason, at=at)
        await self._engine.command(said)
        return await self.view(campaign)

    async def skip(self, campaign: str, target: str, *, by: str, reason: str) -> CampaignView:
        """Leave out one target that has no permit yet; raises `NotFoundError`, or `RefusedError` (`wrong-state`)."""
        await self.view(campaign)
        said = LeftOut(campaign=campaign, target=target, by=by, reason=reason, at=self._clock.now())
        await self._engine.command(said)
        return await self.view(campaign)

    async def doubt(self, product: str, version: str, *, by: str, reason: str) -> ReleaseRecord:
        """Mark an active release suspect; raises `NotFoundError`, or `RefusedError` (`release-not-active`)."""
        release = await self._release_named(product, version)
        if release.state is not ReleaseState.ACTIVE:
            raise RefusedError("release-not-active", f"{product} {version} is {release.state} already.")
        await self._engine.write(lambda turn: turn.doubt(product, version, f"{by} says: {reason}", by=by))
        return await self._release_named(product, version)

    async def clear(self, product: str, version: str, *, by: str, reason: str) -> ReleaseRecord:
        """Take a suspicion back; raises `NotFoundError`, or `RefusedError` (`release-not-suspect`)."""
        release = await self._release_named(product, version)
        if release.state is not ReleaseState.SUSPECT:
            raise RefusedError(
                "release-not-suspect", f"{product} {version} is {release.state}, so nothing is to clear."
            )
        await self._engine.write(lambda turn: turn.clear(product, version, by=by, reason=reason))
        return await self._release_named(product, version)

    async def propose(self) -> int:
        """Make a draft that brings targets back by installing what they had: those of each ended campaign whose release became
        suspect, and those of each rolled back one that have no slot to go back to. Returns how many campaigns were looked at. A
        person starts it, or not."""
        return await self._database.write(self._propose)

    def _propose(self, unit: Unit) -> int:
        rows = unit.campaigns.to_undo(PROPOSALS_AT_ONCE)
        for row in rows:
            name, text = self._proposal(unit, row)
            unit.campaigns.commit(Decision(changes=(Put(row=structs.replace(row, proposed=name)),)))
            kind = "rollback-proposed" if name else "rollback-not-proposed"
            unit.audit.add(at=self._clock.now(), kind=kind, text=text, change_id=row.change_id, campaign=row.id)
        return len(rows)

    def _proposal(self, unit: Unit, row: CampaignRow) -> tuple[str, str]:
        """The name of the draft (empty: there is none), and the sentence for the trail."""
        instead = f"`otaria campaign rollback {row.id}` sends back who still has the previous slot."
        release, targets = way_back(unit, row)
        view = unit.campaigns.view(row.id)
        if release is None or view is None:
            return "", f"Nobody knows a release that its targets had before and that can be ordered. {instead}"
        taken = {one.row.id for one in unit.campaigns.list()}
        names = (f"{row.id[:56]}-back", *(f"{row.id[:56]}-back-{number}" for number in range(2, 100)))
        name = next((name for name in names if name not in taken), "")
        strategy = replace(row.strategy, after=(), emergency=False)
        spec = CampaignSpec(
            name=name, product=release.product, version=release.version, strategy=strategy, selection=view.selection
        )
        try:
            self._of(unit, spec, release, targets, "planner", keep=True, undoes=row)
        except RefusedError as error:
            return "", f"No rollback campaign could be made: {error.text} {instead}"
        return name, f"Campaign {name} was proposed: it brings {len(targets)} targets back to {release.version}."

    async def _release_named(self, product: str, version: str) -> ReleaseRecord:
        release = await self._database.read(lambda unit: unit.releases.get(product, version))
        if release is None:
            raise NotFoundError(f"There is no release {version} of {product}.")
        return release

    async def answer_gate(
        self, campaign: str, cohort: str, verdict: GateVerdict, *, gate: str, by: str, reason: str
    ) -> CampaignView:
        """Say whether a cohort passes its external gate (`gate` empty: the only one it has); raises `NotFoundError`, or
        `RefusedError` (`no-such-gate`, `wrong-state`)."""
        await self.view(campaign)
        at = self._clock.now()
        said = GateAnswered(campaign=campaign, cohort=cohort, name=gate, verdict=verdict, by=by, reason=reason, at=at)
        await self._engine.command(said)
        return await self.view(campaign)

    async def compare(
        self, campaign: str, target: str, changes: Mapping[str, tuple[float | None, float]], *, by: str
    ) -> None:
        """Hand in how the metrics of a target and of its control changed, once it is verified; `by` stands on the trail.
        Raises `NotFoundError`, or `RefusedError` (`not-compared`) for a target that this can't be said of."""
        row = await self._database.read(
            lambda unit: unit.campaigns.load(Footprint(campaign=campaign, target=target)).assignment
        )
        if row is None:
            raise NotFoundError(f"{target} isn't part of campaign {campaign}.")
        if row.control is None or row.compared or row.state is not AssignmentState.VERIFIED:
            why = "it was compared already" if row.compared else "it has no control, or isn't verified"
            raise RefusedError("not-compared", f"{target} can't be compared: {why}.")
        at = self._clock.now()
        await self._engine.command(Compared(campaign=campaign, target=target, changes=dict(changes), at=at, by=by))

    async def list(self) -> Sequence[CampaignView]:
        """All campaigns, newest first."""
        return await self._database.read(lambda unit: unit.campaigns.list())

    async def view(self, campaign: str) -> CampaignView:
        """One campaign; raises `NotFoundError`."""
        return await self._database.read(lambda unit: _view(unit, campaign))

    async def assignments(
        self,
        campaign: str,
        *,
        states: Sequence[AssignmentState] | None = None,
        cohort: int | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Assignments by (cohort, rank)."""
        return await self._database.read(
            lambda unit: unit.campaigns.assignments(campaign, states=states, cohort=cohort, cursor=cursor, limit=limit)
        )

    async def explain(self, target: str) -> Explanation:
        """Why a target isn't moving; raises `NotFoundError`."""
        return await self._database.read(lambda unit: _explained(unit, target, self._clock.now()))

    def _make(self, unit: Unit, spec: CampaignSpec, by: str, *, keep: bool) -> CampaignView:
        release = release_of(unit, spec)
        targets = unit.campaigns.eligible(release.product, release.hardware, spec.selection)
        if not targets:
            raise RefusedError(
                "nothing-selected",
                f"No active target fits the selection and {release.product} {release.version}'s hardware; check both.",
            )
        return self._of(unit, spec, release, targets, by, keep=keep)

    def _of(
        self,
        unit: Unit,
        spec: CampaignSpec,
        release: ReleaseRecord,
        targets: Sequence[str],
        by: str,
        *,
        keep: bool,
        undoes: CampaignRow | None = None,
    ) -> CampaignView:
        """The campaign that takes these targets to the release; `undoes`: the one that it was proposed for."""
        targets, warnings = grouping.choose(unit, spec, targets)
        if not targets:
            raise RefusedError("nothing-selected", f"No target is left to take. {' '.join(warnings)}")
        warnings += grouping.warn(unit, spec, release, targets)
        check_feasible(spec.strategy.calendar, self._clock.now(), needs_s=spec.strategy.away_s)
        chosen = expected(unit, spec, targets, self._clock.now())
        spec = replace(spec, strategy=chosen.strategy)
        warnings += chosen.notes
        row = self._row(spec, release, unit.campaigns.view(spec.name))
        if undoes is not None:
            row = structs.replace(row, undoes=undoes.id, **why_undone(undoes, len(targets)))
        row = with_needed(row, size=len(targets), labelled=labelled(unit, spec, release))
        traits = _traits(unit, spec, release)
        cohorts, assignments = split(
            row.id, targets, spec.strategy, row.seed, _firsts(unit, spec, release), chosen.reach
        )
        dealt = grouping.deal(unit, spec, row.id, cohorts, assignments)
        cohorts, rows = deal(spec.strategy, dealt.cohorts, dealt.assignments, traits)
        warnings += power.check(spec.strategy, cohorts)
        warnings += unmeasured(unit, spec.strategy, rows, self._clock.now())
        if not keep:
            return CampaignView(
                row=row,
                name=spec.name,
                cohorts=cohorts,
                created_at=row.changed_at,
                created_by=by,
                selection=spec.selection,
                warnings=tuple(warnings),
            )
        self._store(unit, spec, row, cohorts, rows, by)
        unit.campaigns.add_behind(dealt.behind)
        return replace(_view(unit, row.id), warnings=tuple(warnings))

    def _row(self, spec: CampaignSpec, release: ReleaseRecord, known: CampaignView | None) -> CampaignRow:
        return CampaignRow(
            id=spec.name,
            change_id=known.row.change_id if known else f"chg-{self._draw(CHANGE_BITS):016x}",
            revision=known.row.revision + 1 if known else 1,
            undoes=known.row.undoes if known else None,
            version=known.row.version if known else 0,
            state=CampaignState.DRAFT,
            release=key_of(release),
            strategy=spec.strategy,
            start_at=spec.start_at,
            suspect=_suspect(release),
            seed=self._draw(SEED_BITS),
            changed_at=self._clock.now(),
        )

    def _store(
        self,
        unit: Unit,
        spec: CampaignSpec,
        row: CampaignRow,
        cohorts: Sequence[CohortRow],
        assignments: Iterable[AssignmentRow],
        by: str,
    ) -> None:
        now = self._clock.now()
        what = f"Revision {row.revision} of campaign" if row.version else "Campaign"
        keep = unit.campaigns.redraft if row.version else unit.campaigns.create
        keep(row, spec.name, cohorts, created_at=now, created_by=by, selection=spec.selection)
        unit.campaigns.add_assignments(assignments)
        unit.audit.add(
            at=now,
            kind="campaign-revised" if row.version else "campaign-created",
            text=f"{what} {spec.name} takes {sum(cohort.size for cohort in cohorts)} targets to {spec.product} {spec.version}.",
            actor=by,
            change_id=row.change_id,
            campaign=row.id,
        )


def _suspect(release: ReleaseRecord) -> str:
    name = f"{release.product} {release.version}"
    return f"{name} was suspect when this campaign was made." if release.state is ReleaseState.SUSPECT else ""


def _firsts(unit: Unit, spec: CampaignSpec, release: ReleaseRecord) -> dict[int, frozenset[str]]:
    """By cohort index, the targets that its strategy wants first."""
    return {
        index: frozenset(unit.campaigns.eligible(release.product, release.hardware, Selection(labels=cohort.first)))
        for index, cohort in enumerate(spec.strategy.cohorts)
        if cohort.first
    }


def _traits(unit: Unit, spec: CampaignSpec, release: ReleaseRecord) -> Traits:
    """What its gates need to know of each target."""
    names = strata.names(spec.strategy)
    return unit.campaigns.traits(release.hardware, spec.selection, names) if names else {}


def _view(unit: Unit, campaign: str) -> CampaignView:
    view = unit.campaigns.view(campaign)
    if view is None:
        raise NotFoundError(f"There is no campaign {campaign}; `otaria campaign list` shows those there are.")
    return view


def _explained(unit: Unit, target: str, now: float) -> Explanation:
    loaded = _around(unit, target)
    why = explain(loaded, now)
    if why.state == AssignmentState.VERIFIED and why.campaign is not None:
        waits = comparison_of(unit, why.campaign, target, now)
        return why if waits is None else structs.replace(why, text=f"{why.text} {waits.text}".strip())
    if why.kind not in WAITS_FOR_PRESENCE or loaded.target is None:
        return why
    row = unit.presences.of([loaded.target.agent], now).get(loaded.target.agent)
    habit = usually(row, now) if row is not None else ""
    return structs.replace(why, text=f"{why.text} {habit}") if habit else why


def _around(unit: Unit, target: str) -> Slice:
    """The slice of the campaign that holds the target or, when that is done with it, of the one its operators ask about:
    the next that waits for it, or one that ended before it was this target's turn."""
    loaded = unit.campaigns.load(Footprint(target=target))
    if loaded.target is None:
        raise NotFoundError(f"There is no target {target}; `otaria fleet list` shows those there are.")
    waiting = unit.campaigns.waiting_for(target) if loaded.target.settled else None
    if waiting is not None:
        loaded = unit.campaigns.load(Footprint(campaign=waiting, target=target))
    holders = unit.campaigns.holders([group.key for group in loaded.groups], SHOWN_HOLDERS)
    return Slice(
        campaign=loaded.campaign,
        cohorts=loaded.cohorts,
        target=loaded.target,
        assignment=loaded.assignment,
        groups=loaded.groups,
        tokens=loaded.tokens,
        holders=tuple(holders),
        around=loaded.around,
    )
