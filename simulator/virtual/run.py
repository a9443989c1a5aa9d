"""One run of a world: the fleet and its campaigns, from the beginning until all of them rest, or the world's days are over.

Rules
- Two queues, of what devices do and of the planner's deadlines; the earlier goes first, and what was put in first of equals.
- A run rests when every campaign is over or paused with nobody left to act; then it goes on until what is under way has ended and
  what a release does late has been done, so that the end can be held against the devices' own truth.
- Everything that is decided is hashed (`digest`): the same world, seed and code give the same digest.
"""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import blake2b
from itertools import chain
from typing import Any

from msgspec.structs import replace

from firmware.errors import RefusedError
from server.planner.ask_events import CHECKS, Check
from server.planner.commands import GrantPermit, SendOrder
from server.planner.decision import Decision, Put
from server.planner.events import Commanded, Decommissioned, Event, GateAnswered
from server.planner.gateways import Path
from server.planner.grouping import paths_of
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow, ReleaseKey, Row, TargetRow
from server.planner.selection import Selection
from server.planner.slices import Slice
from server.planner.states import FAILURES
from server.planner.words import AssignmentState, CampaignState, CohortState, GateVerdict, Verb
from simulator.virtual.agenda import Agenda
from simulator.virtual.approving import Approvers
from simulator.virtual.around import Neighbourhood
from simulator.virtual.chances import seeded
from simulator.virtual.churn import Happening, happenings, successor
from simulator.virtual.cut_device import cuts_of
from simulator.virtual.defects import Defects
from simulator.virtual.device import USUAL_TIMING, Device, Image, Order, Timing
from simulator.virtual.enlisting import Enlisting
from simulator.virtual.enrolment import Enrolment
from simulator.virtual.hostility import counted
from simulator.virtual.invariants import Books
from simulator.virtual.making import make, selects
from simulator.virtual.outcome import CampaignOutcome, CohortOutcome, Outcome
from simulator.virtual.rows import RowStore
from simulator.virtual.shell import Shell
from simulator.virtual.world import FACTORY, Act, Member, Release, Start, World

ENDED = (CampaignState.COMPLETED, CampaignState.ABORTED, CampaignState.ROLLED_BACK)
SETTLE_S = 3600.0
"""How long a run goes on after everything rests, beside what its strategies and releases take."""
ANSWER_S = 600.0
"""After how long people answer an external gate: pass, since nothing here says otherwise."""
UNREACHED = (AssignmentState.PLANNED, AssignmentState.EXPIRED, AssignmentState.ORDERED, AssignmentState.DOWNLOADING)


class Run:
    """`members`: another fleet than the world's own. `checks`: the planner's, or fewer, to see that the books notice. `timing`:
    of its devices. `names`: by member, by which name the world knows it, whose luck it has. `seeds`: of campaigns that were made
    elsewhere. `is_hashed`: somebody wants the digest."""

    def __init__(
        self,
        world: World,
        *,
        seed: int | None = None,
        members: Iterable[Member] | None = None,
        checks: tuple[Check, ...] = CHECKS,
        timing: Timing = USUAL_TIMING,
        names: Mapping[str, str] | None = None,
        seeds: Mapping[str, int] | None = None,
        is_hashed: bool = True,
    ) -> None:
        self.world = world
        self.seed = world.seed if seed is None else seed
        self.admitted: dict[tuple[str, str], None] = {}
        """Campaign and target of each first permit, in their order."""
        self.observers: list[Callable[[Slice, Event, Decision], None]] = []
        """Who is told of each decision, once it was committed and before it is carried out."""
        self._seeds = seeds or {}
        self.devices: dict[str, Device] = {}
        self.now = world.begins
        self._queue = Agenda[tuple[float, int, Any]]()
        self._put = 0
        self._digest = blake2b(digest_size=16) if is_hashed else None
        everybody = list(world.members(self.seed) if members is None else members)
        self._happenings = happenings(world.churn, everybody, self.seed)
        self._happenings_left = len(self._happenings)
        self._hostile = frozenset(one.id for one in everybody if one.does)
        later = {one.member.id for one in self._happenings if one.kind == "join"}
        new = [successor(one.member) for one in self._happenings if one.kind == "replace"]
        self._enrolment = Enrolment(
            [*everybody, *new],
            seed=self.seed,
            begins=world.begins,
            names=names or {},
            timing=timing,
            later=self._later,
            say=self._say,
        )
        self._members: dict[str, Member] = {}
        """Those who are in the fleet now, as long as campaigns are to be made of them."""
        self.store = RowStore()
        is_live = any(start.spec.selection.is_live for start in world.campaigns)
        self.shell = Shell(self.store, on_order=self._order, observe=self._observe, checks=checks)
        self._images = {one.version: self._image(one) for one in world.releases}
        counters = {version: place for place, version in enumerate(self._images, start=1)}
        targets = [self._enrol(one) for one in everybody if one.id not in later]
        self.store.add(targets)
        self._sizes: dict[str, int] = {}
        self._enlisting = Enlisting(
            self.store,
            dict(self._members) if is_live else {},
            sizes=self._sizes,
            begins=world.begins,
            later=self._later,
            tell=self.shell.tell,
        )
        if is_live:
            self.observers.append(self._enlisting.observe)
        self.around = Neighbourhood(
            self.store, targets, campaigns=self.shell.campaigns, counters=counters, is_there=self._is_there
        )
        self.store.around = self.around.around
        self.books = Books(self.around, self._sizes)
        self._counters = counters
        self._marks: dict[str, _Marks] = {}
        self._acts_left = len(world.acts)
        self._approvers = Approvers(world)
        self._rests_at: float | None = None

    def play(self) -> Outcome:
        """Let it go to its end."""
        began = time.perf_counter()
        for start in self.world.campaigns:
            at = self.world.begins + start.after_s
            self._later(at, lambda now, start=start: self._start(start, now))
        for act in self.world.acts:
            self._later(self.world.begins + act.after_s, lambda now, act=act: self._act(act, now))
        for one in self._happenings:
            self._later(self.world.begins + one.at_s, lambda now, one=one: self._happen(one, now))
        end = self.world.begins + self.world.days * 86400
        with _uncollected():
            self._go_on(end)
        return self._outcome(time.perf_counter() - began)

    def _go_on(self, end: float) -> None:
        queue, deadlines, shell = self._queue, self.shell.deadlines, self.shell
        while True:
            due, first = deadlines.next_at(), queue.next_at()
            at = min(due, first)
            if at > end or (self._rests_at is not None and at > self._rests_at):
                break
            self.now = max(self.now, at)
            if due <= first:
                shell.due(self.now)
            else:
                queue.take()[2](self.now)

    # The fleet

    def _enrol(self, one: Member) -> TargetRow:
        image = self._images.get(one.version) or self._factory(one.version)
        self._members[one.id] = one
        self.devices[one.id] = self._enrolment.device(one, image)
        return self._enrolment.target(one, image)

    def _happen(self, one: Happening, now: float) -> None:
        self._happenings_left -= 1
        self._rests_at = None
        name = one.member.id
        if one.kind == "join":
            self._join(one.member, now)
        elif one.kind == "replace":
            self._take_out(name, now)
            self._join(successor(one.member), now)
        elif one.kind == "reflash":
            self.devices[name].reflash(self._images.get(FACTORY) or self._factory(FACTORY), now)
        else:
            self.devices[name].is_shut_out = True
            self._stand(name, quarantined=True)
            self._members.pop(name, None)  # no campaign selects it
        self._look_for_rest(now)

    def _join(self, one: Member, now: float) -> None:
        row = self._enrol(one)
        self.store.add([row])
        self.around.join(row)
        self._enlisting.came(one, now)

    def _take_out(self, name: str, now: float) -> None:
        """A person takes a target out of the fleet, as `server.campaigns.decommission` does."""
        why = "sim took it out of the fleet. It is replaced."
        for campaign in self.shell.campaigns:
            if self.store.assignment(campaign, name) is not None:
                self.shell.feed(Decommissioned(campaign=campaign, target=name, reason=why, at=now))
        self.devices[name].unplug()
        self.around.leave(self._stand(name, quarantined=True, gone=True))
        self._members.pop(name, None)

    def _stand(self, name: str, **values: bool) -> TargetRow:
        before = self.store.target(name)
        if before is None:
            raise RefusedError("not-found", f"There is no target {name}.")
        after = replace(before, **values)
        self.store.commit(Decision(changes=(Put(row=after),)))
        return after

    def _factory(self, version: str) -> Image:
        self._images[version] = image = Image(
            version=version, sha256=_sha(version), product=self._product, size_bytes=0
        )
        return image

    def _image(self, release: Release) -> Image:
        defects = Defects(release, self.seed)
        return Image(
            version=release.version,
            sha256=_sha(release.version),
            product=self._product,
            size_bytes=release.size_bytes,
            defect_of=lambda device: defects.of(device.hardware, device.seed),
        )

    @property
    def _product(self) -> str:
        return self.world.campaigns[0].spec.product

    def _is_there(self, name: str) -> bool:
        device = self.devices[name]
        return device.is_up and not device.is_shut_out and device.presence.is_there(self.now)

    # Campaigns and people

    def _start(self, start: Start, now: float) -> None:
        spec = start.spec
        members = [one for one in self._members.values() if self._fits(spec.selection, one, spec.version)]
        gates = self._gates_of(members) if spec.strategy.leaves_first else {}
        rows = make(spec.strategy, spec.name, members, self._seed_of(spec.name), gates=gates)
        if not rows.targets:
            raise RefusedError(
                "nothing-selected",
                f"Campaign {spec.name} selects no device; look at its selection, and at its product and hardware.",
            )
        image = self._images[spec.version]
        key = ReleaseKey(
            product=spec.product, version=spec.version, counter=self._counters[spec.version], sha256=image.sha256
        )
        row = CampaignRow(
            id=spec.name,
            change_id=f"sim-{spec.name}",
            state=CampaignState.DRAFT,
            release=key,
            strategy=spec.strategy,
            seed=self._seed_of(spec.name),
            start_at=spec.start_at,
            changed_at=now,
        )
        row = self._approvers.asked(row, members)
        self.store.add(chain((row, *rows.cohorts), rows.assignments, rows.behind))
        self._sizes[spec.name] = rows.targets
        self._marks[spec.name] = _Marks()
        self.shell.campaigns.append(spec.name)
        if len(self.shell.campaigns) == len(self.world.campaigns):
            self._members.clear()
        if spec.selection.is_live:
            self._enlisting.begin(spec.name, spec.selection, self.world.hardware_of(spec.version))
        self.around.watch(spec.strategy)
        if self.around.watches:
            self.store.is_offline = lambda name: not self._is_there(name)
        self.shell.feed(Commanded(campaign=spec.name, verb=Verb.START, by="sim", reason="", at=now))

    def _fits(self, selection: Selection, one: Member, version: str) -> bool:
        hardware = self.world.hardware_of(version)
        return (not hardware or one.hardware in hardware) and selects(
            selection, one, self.devices[one.id].image.version
        )

    def _gates_of(self, members: Sequence[Member]) -> dict[str, Path]:
        labels = {one.id: one.labels for one in members}
        return paths_of(labels, labels)

    def _seed_of(self, campaign: str) -> int:
        return self._seeds.get(campaign, seeded(self.seed, f"campaign/{campaign}") >> 1)

    def _act(self, act: Act, now: float) -> None:
        self._acts_left -= 1
        self._rests_at = None
        by = self._approvers.who(act)
        self.shell.feed(Commanded(campaign=act.campaign, verb=act.verb, by=by, reason="as the world says", at=now))
        self._look_for_rest(now)

    # Between devices and planner

    def _later(self, at: float, what: Any) -> None:
        self._put += 1
        self._queue.put((at, self._put, what))

    def _say(self, device: Device, event: Event) -> None:
        if device.is_shut_out:
            return
        answer = self.shell.feed(event)
        if answer is not None:
            device.answered(answer, event.at)

    def _order(self, command: SendOrder, digest: str, at: float) -> None:
        row = self.store.campaign(command.campaign)
        device = self.devices[command.target]
        image = self._images[row.release.version] if row else device.image
        order = Order(
            hash=digest,
            action=command.action,
            image=image,
            campaign=command.campaign,
            max_rate=command.max_rate,
        )
        device.ordered(order, at)

    def _observe(self, loaded: Slice, event: Event, decision: Decision) -> None:
        if self._digest is not None:
            rows = [change.row for change in decision.changes]
            said = ", ".join([_word(type(row), getattr(row, "state", "")) for row in rows])
            target = getattr(event, "target", "")
            told = f"{event.at:.6f}{type(event).__name__}{target}[{said}]{len(decision.commands)}"
            self._digest.update(told.encode())
        self.books.observe(loaded, event, decision)
        for command in decision.commands:
            if isinstance(command, GrantPermit) and loaded.assignment is not None:
                self.admitted.setdefault((loaded.assignment.campaign, loaded.assignment.target))
        for change in decision.changes:
            row = change.row
            if isinstance(row, CohortRow):
                self._mark_cohort(loaded, row, event.at)
            elif (
                isinstance(row, CampaignRow) and loaded.campaign is not None and row.state is not loaded.campaign.state
            ):
                self._marks[row.id].moved(
                    row.state, event.at, sum(one.attempted for one in self._cohorts(loaded, row.id))
                )
                self._look_for_rest(event.at, row)
        for observer in self.observers:
            observer(loaded, event, decision)

    def _cohorts(self, loaded: Slice, campaign: str) -> tuple[CohortRow, ...]:
        return loaded.cohorts or self.store.cohorts(campaign)

    def _mark_cohort(self, loaded: Slice, row: CohortRow, at: float) -> None:
        marks = self._marks.get(row.campaign)
        before = next((one for one in loaded.cohorts if one.index == row.index), None)
        if marks is None or before is None:
            return
        if before.counts.get(AssignmentState.VERIFIED, 0) < row.counts.get(AssignmentState.VERIFIED, 0):
            marks.done_at = at
        if before.state is not row.state:
            marks.decided.pop(row.index, None)
            if row.state in (CohortState.PASSED, CohortState.FAILED):
                marks.decided[row.index] = at
            elif row.state is CohortState.OPEN:
                self._answer_gates(loaded, row, at)

    def _answer_gates(self, loaded: Slice, row: CohortRow, at: float) -> None:
        """People say that a cohort passes its external gates, a while after it opened."""
        campaign = loaded.campaign
        if campaign is None or row.index >= len(campaign.strategy.cohorts):
            return
        for gate in campaign.strategy.cohorts[row.index].gates:
            if gate.kind == "external":
                said = {"campaign": row.campaign, "cohort": row.name, "name": gate.name, "by": "sim", "reason": ""}
                self._later(
                    at + ANSWER_S,
                    lambda now, said=said: self.shell.feed(GateAnswered(**said, verdict=GateVerdict.PASS, at=now)),
                )

    def _look_for_rest(self, now: float, changed: CampaignRow | None = None) -> None:
        """Note when nothing more is to come."""
        if self._acts_left or len(self.shell.campaigns) < len(self.world.campaigns):
            return
        rows = [self.store.campaign(name) for name in self.shell.campaigns]
        states = [changed.state if changed and row and row.id == changed.id else row.state for row in rows if row]
        if self._happenings_left:
            self._rests_at = None
        elif all(state in (*ENDED, CampaignState.PAUSED) for state in states):
            self._rests_at = now + self._settles_s()
        else:
            self._rests_at = None

    def _settles_s(self) -> float:
        strategies = [start.spec.strategy for start in self.world.campaigns]
        late = max((fault.after_s for release in self.world.releases for fault in release.faults), default=0.0)
        return SETTLE_S + 2 * late + max(one.horizon_s + one.healthy_s for one in strategies)

    # The end

    def check_end(self) -> None:
        """Hold every assignment against what its device is, as the run stands."""
        for name in self.shell.campaigns:
            row = self.store.campaign(name)
            if row is not None:
                ours = (one for one in self.store.in_states(name, tuple(AssignmentState)) if self._is_its(one))
                self.books.end(((one, row.release.sha256) for one in ours), self.devices, self.now)

    def _outcome(self, seconds: float) -> Outcome:
        self.check_end()
        return Outcome(
            world=self.world.name,
            seed=self.seed,
            virtual_days=(self.now - self.world.begins) / 86400,
            seconds=seconds,
            events=self.shell.events,
            digest=self._digest.hexdigest() if self._digest else "",
            campaigns=tuple(self._campaign(name) for name in self.shell.campaigns),
            broken=self.books.broken,
            violations=tuple(self.books.violations),
            ignored=dict(sorted(self.shell.ignored.items())),
            hostile=len(self._hostile),
            cuts=cuts_of(self.world, self.devices.values()),
        )

    def _is_its(self, row: AssignmentRow) -> bool:
        """Whether no other campaign took the target since."""
        target = self.store.target(row.target)
        return target is not None and target.holder == row.campaign

    def _campaign(self, name: str) -> CampaignOutcome:
        row, cohorts, marks = self.store.campaign(name), self.store.cohorts(name), self._marks[name]
        if row is None:
            raise RefusedError("not-found", f"There is no campaign {name}.")
        counts: Counter[AssignmentState] = Counter()
        for cohort in cohorts:
            counts.update(cohort.counts)
        targets = self._sizes[name]
        begins = self.world.begins

        def after(at: float | None) -> float | None:
            return None if at is None else at - begins

        return CampaignOutcome(
            campaign=name,
            state=row.state,
            reason=row.reason,
            targets=targets,
            counts={str(state): number for state, number in sorted(counts.items()) if number},
            verified=counts[AssignmentState.VERIFIED],
            fell_back=counts[AssignmentState.FELL_BACK] + counts[AssignmentState.REGRESSED],
            failed=sum(counts[state] for state in FAILURES)
            - counts[AssignmentState.FELL_BACK]
            - counts[AssignmentState.REGRESSED],
            unreached=sum(counts[state] for state in UNREACHED),
            harmed=sum(name in device.harmed_by for device in self.devices.values()),
            admitted=marks.admitted if marks.stopped_at is not None else sum(one.attempted for one in cohorts),
            stopped_s=after(marks.stopped_at),
            done_s=after(marks.done_at),
            cohorts=tuple(
                CohortOutcome(
                    name=one.name,
                    size=one.size,
                    opened_s=after(one.opened_at),
                    decided_s=after(marks.decided.get(one.index)),
                    state=one.state,
                )
                for one in cohorts
            ),
            waits=dict(self.shell.kinds.most_common()),
            hostile=counted(
                one.state for who in self._hostile if (one := self.store.assignment(name, who)) is not None
            ),
        )


class _Marks:
    """Moments of a campaign."""

    def __init__(self) -> None:
        self.stopped_at: float | None = None
        self.done_at: float | None = None
        self.admitted = 0
        self.decided: dict[int, float] = {}

    def moved(self, state: CampaignState, at: float, admitted: int) -> None:
        """It came to a state; the first that stops it counts, until it is resumed."""
        stops = (CampaignState.PAUSED, CampaignState.ABORTED, CampaignState.ROLLING_BACK, CampaignState.ROLLED_BACK)
        if state in stops and self.stopped_at is None:
            self.stopped_at, self.admitted = at, admitted
        elif state is CampaignState.RUNNING:
            self.stopped_at = None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let the collector of cycles rest: a run leaves none behind, and would be gone through again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@cache
def _word(kind: type[Row], state: str) -> str:
    """A kind of row and its state, if it has one, as the digest has them."""
    return repr(f"{kind.__name__}{state}")


def _sha(version: str) -> str:
    return blake2b(version.encode(), digest_size=32).hexdigest()
