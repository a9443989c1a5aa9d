"""One exact run of a world: devices, broker, server core and people on one timeline, until all campaigns rest.

Rules
- The next moment at which anything is due comes at once; nothing else passes time. What the server hears waits `SERVER_S`
  before it looks, so that what comes together is taken in together, as by a server that is awake.
- Before the world begins all devices are commissioned: powered, connected and heard. Then they follow their habits.
- When all rests, or the days are over, everybody is there until all is said and heard, and what the server has is held against
  what devices are and said (`simulator.exact.ending`).
- All that is drawn by chance comes from the seed, but for the catalogue's keys, whose signatures no decision depends on.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from device_agent.trusted_time import BUILD_TIME
from firmware.catalogue.keyfiles import ECDSA
from firmware.errors import RefusedError
from server.planner.ask_events import CHECKS, Check
from server.planner.commands import GrantPermit, TellWait
from server.planner.decision import Decision
from server.planner.events import Enlisted, Event
from server.planner.rows import CampaignRow, CohortRow
from server.planner.slices import Slice
from server.planner.states import TransitionError
from server.planner.step import step
from server.planner.words import CampaignState, GateVerdict, Verb
from server.ports import CampaignView, TargetView
from simulator.exact.books import DownBooks, Groups, Running
from simulator.exact.broker import Broker
from simulator.exact.catalogue import BLOCKS_BYTES, IMAGE_BYTES, NearFiles, open_catalogue, publish
from simulator.exact.deeds import Deeds
from simulator.exact.ending import hold_against, nobody, quiet_within_s, row_of, unrest
from simulator.exact.fleet import Fleet, make_fleet, usual_tempo
from simulator.exact.loop import TimelineLoop
from simulator.exact.marks import Marks
from simulator.exact.server_core import ServerCore, Standing
from simulator.exact.timeline import Timeline
from simulator.exact.trace import Trace
from simulator.exact.trail import said
from simulator.soak.books import Ledger, Violation
from simulator.soak.evidence import Reports
from simulator.virtual.approving import Approvers
from simulator.virtual.chances import chance, seeded
from simulator.virtual.churn import Happening, Turnover, successor
from simulator.virtual.enlisting import next_look
from simulator.virtual.invariants import Books
from simulator.virtual.world import Act, Member, Start, World
from simulator.wire.hostile_books import HostileBooks
from simulator.wire.plan import Moment, Tempo, Truth
from simulator.wire.site import Site

COMMISSION_S = 600.0
SERVER_S = 0.05
ANSWER_S = 600.0
RENEW_EVERY_S = 6 * 3600.0
SETTLE_S = 3600.0
LOOK_S = 30.0
ENDED = (CampaignState.COMPLETED, CampaignState.ABORTED, CampaignState.ROLLED_BACK)
Job = Callable[[], Awaitable[None]]


class ExactRun:
    """`directory`: empty, for the run's catalogue and database. `checks`: the planner's, or fewer, to see that the books
    notice."""

    def __init__(
        self,
        world: World,
        directory: Path,
        trace: Trace,
        *,
        seed: int | None = None,
        tempo: Tempo | None = None,
        checks: tuple[Check, ...] = CHECKS,
    ) -> None:
        seed = world.seed if seed is None else seed
        if world.begins - COMMISSION_S < BUILD_TIME:
            text = f"{world.name} begins before this agent was built, and no agent believes in such a time; set a later `begins`."
            raise RefusedError("too-early", text)
        self.world, self.seed, self.trace, self._checks = world, seed, trace, checks
        self._turnover = Turnover(world.churn, sorted(world.members(seed), key=lambda one: one.id), seed)
        self._happenings_left = len(self._turnover.happenings)
        self.members = self._turnover.members
        self.marks: dict[str, Marks] = {}
        self.admitted: dict[tuple[str, str], float] = {}
        """When each target got its first permit of a campaign, in their order: seconds after the beginning."""
        self.moments: list[Moment] = []
        self.waits: Counter[str] = Counter()
        self.events, self.ledger = 0, Ledger()
        self.timeline = Timeline(world.begins - COMMISSION_S, self._hear)
        self.broker = Broker(self.timeline, trace, self._look_soon)
        self._product = world.campaigns[0].spec.product
        by_blocks = any(one.is_mqtt_only for one in self.members.values())
        self._image_bytes = BLOCKS_BYTES if by_blocks else IMAGE_BYTES
        repository = open_catalogue(
            directory / "catalogue", self._product, now=self.now(), scheme="ed25519" if by_blocks else ECDSA
        )  # of which all signatures are as long, so that blocks take as long in each run
        self.server = ServerCore(directory, repository, self.broker, self, decide=self._decide, draw=self._draw)
        self.groups = Groups(self._turnover.present, lambda: self.server.offline)
        self._sizes: dict[str, int] = {}
        self._running: dict[str, Running] = {}
        self.books = Books(self.groups, self._sizes)
        self.down = DownBooks(self.members, self.groups, self.ledger, self._running)
        self.site = site = Site(
            NearFiles(repository.metadata, self.server.artifacts), repository.root_bytes(), apart_s=0.0
        )
        self.fleet: Fleet = make_fleet(
            world,
            self.members,
            seed=seed,
            product=self._product,
            timeline=self.timeline,
            broker=self.broker,
            site=site,
            root_sha256=repository.root_sha256(),
            tempo=tempo or usual_tempo(),
            image_bytes=self._image_bytes,
        )
        self.hostile = HostileBooks(self.members.values())
        if self.hostile.does:
            self.broker.listeners.append(self.hostile.hear)
        self.shown: Sequence[TargetView] = ()
        """The fleet as the server shows it in the end."""
        self.audited = 0
        """How many records of the trail were verified in the end."""
        self.states: dict[str, dict[str, str]] = {}
        """By campaign and target, how all stood when it came to rest; `views`: the campaigns, `ends_s` after the beginning."""
        self.views: Sequence[CampaignView] = ()
        self.ends_s = 0.0
        self.is_over = False
        self._todo: list[Job] = []
        self.deeds = Deeds(
            self.server,
            self.broker,
            self.fleet,
            left=len(world.deeds),
            seed=seed,
            trace=trace,
            later=lambda in_s, job: self._at(self.after_s + in_s, job),
            now=self.now,
            clock=self.timeline.now,
        )
        self._looks = self._will_look = False
        self._wakes_at = float("inf")
        self._is_live = any(start.spec.selection.is_live for start in world.campaigns)
        self._will_enlist = False
        self._campaigns: dict[str, CampaignState] = {}
        self._acts_left = len(world.acts)
        self._approvers = Approvers(world)
        self.refused: Counter[str] = Counter()
        """What people said and was refused, by kind."""
        self._rests_at: float | None = None
        self._drawing, self._drawn = "", 0

    # Time and chance

    def now(self) -> float:
        """`server.ports.Clock`."""
        return self.timeline.world_now()

    @property
    def after_s(self) -> float:
        """Seconds since the world began."""
        return self.timeline.now() - COMMISSION_S

    def _draw(self, bits: int) -> int:
        """For the campaign that is being made: its seed as in virtual time, then others."""
        if bits < 64:
            return (seeded(self.seed, f"campaign/{self._drawing}") >> 1) & ((1 << bits) - 1)
        self._drawn += 1
        return int(chance(seeded(self.seed, f"change/{self._drawing}"), self._drawn) * (1 << bits))

    # The fleet

    async def _happen(self, one: Happening) -> None:
        self._happenings_left -= 1
        name = one.member.id
        if one.kind == "reflash":
            self.fleet.devices[name].wipe()
            return
        if one.kind == "clone":
            self._turnover.was_copied(name)
            self.broker.inject(*self.fleet.copied(name, at=self.now()), who="copy")
            return
        if one.kind == "replace":
            self.fleet.devices[name].unplug()
            await self.server.take_out(name)
            self.books.left(name)
            self.down.left(name)
            self.groups.leave(one.member)
            self._turnover.went(name)
        await self._join(one.member if one.kind == "join" else successor(one.member))

    async def _join(self, member: Member) -> None:
        await self.server.enrol(member, self.fleet.signers[member.id])
        self.groups.join(member)
        self._turnover.came(member.id)
        self.fleet.devices[member.id].power_on()
        self._enlist_soon()

    def _enlist_soon(self) -> None:
        """Something may be different about who fits a live selection: the server looks at the next full minute."""
        if self._is_live and not self._will_enlist:
            self._will_enlist = True
            self._ask(next_look(0.0, self.after_s), self._enlist)

    async def _enlist(self) -> None:
        self._will_enlist = False
        await self.server.enlist()

    # Playing

    async def play(self) -> float:
        """All of it; the seconds it took here."""
        began = time.perf_counter()
        try:
            await self._commission()
            await self.server.trail.sign()
            self._plan()
            await self._go_on(COMMISSION_S + self.world.days * 86400, lambda: self._has_rested)
            self.views, self.ends_s = await self.server.desk.list(), self.after_s
            self.states = {view.row.id: await self.server.states(view.row.id) for view in self.views}
            await self._settle()
            self.trace.close()
        finally:
            self.timeline.close()
            await self.server.close()
        return time.perf_counter() - began

    async def _commission(self) -> None:
        hardware = sorted({one.hardware for one in self.members.values()})
        for counter, release in enumerate(self.world.releases, start=2):
            await publish(
                self.server.releases,
                self.server.repository,
                self.server.artifacts,
                release,
                product=self._product,
                counter=counter,
                hardware=hardware,
                now=self.now(),
                size=self._image_bytes,
            )
        for member in self._turnover.present:
            await self.server.enrol(member, self.fleet.signers[member.id])
        await self.server.link()
        self.fleet.each(lambda device: device.gather())
        for member in self._turnover.present:
            self.fleet.devices[member.id].power_on()
        await self._go_on(COMMISSION_S, lambda: False)

    def _plan(self) -> None:
        self.timeline.pass_to(COMMISSION_S)
        self.fleet.each(lambda device: device.disperse())
        for start in self.world.campaigns:
            self._ask(start.after_s, lambda start=start: self._start(start))  # type: ignore[misc]
        for act in self.world.acts:
            self._ask(act.after_s, lambda act=act: self._act(act))  # type: ignore[misc]
        for happening in self._turnover.happenings:
            self._ask(happening.at_s, lambda one=happening: self._happen(one))  # type: ignore[misc]
        for deed in self.world.deeds:
            self._at(deed.after_s, lambda deed=deed: self.deeds.do(deed))  # type: ignore[misc]
        self._renew_again()

    def _at(self, after_s: float, job: Job) -> None:
        self.timeline.later(COMMISSION_S + after_s, lambda: self._todo.append(job))

    def _ask(self, after_s: float, job: Job) -> None:
        """The same for what asks the server for a change."""
        self._at(after_s, lambda: self.deeds.ask(job))

    def _renew_again(self) -> None:
        async def renew() -> None:
            await self.server.renew()
            self._looks = True
            self._renew_again()

        self._ask(self.after_s + RENEW_EVERY_S, renew)

    async def _go_on(self, end: float, is_over: Callable[[], bool]) -> None:
        timeline = self.timeline
        while not is_over():
            at = timeline.next_at
            if at is None or at > end:
                timeline.pass_to(end if end < float("inf") else timeline.now())
                return
            timeline.pass_to(at)
            while (what := timeline.take()) is not None:
                what()
            while self._todo:
                await self._todo.pop(0)()
                self._looks = True
            if self._has_woken():
                await self.server.serve()
            if self._looks:
                self._looks = self._will_look = False
                if (wait_s := self.deeds.server_waits_s()) > 0:
                    timeline.later(timeline.now() + wait_s, self._look)
                else:
                    self._stands(await self.server.settle())

    def _has_woken(self) -> bool:
        loop = asyncio.get_running_loop()
        return isinstance(loop, TimelineLoop) and loop.has_woken

    # The server's moments

    def _look_soon(self) -> None:
        if not self._will_look:
            self._will_look = True
            self.timeline.later(self.timeline.now() + SERVER_S, self._look)

    def _look(self) -> None:
        self._looks = True

    def _stands(self, standing: Standing) -> None:
        self._campaigns = standing.campaigns
        self._look_for_rest()
        if self.broker.heard:
            self._look_soon()
        if standing.wakes_at is not None:
            at = max(standing.wakes_at - self.world.begins + COMMISSION_S, self.timeline.now()) + 1e-3
            if at < self._wakes_at or self._wakes_at <= self.timeline.now():
                self._wakes_at = at
                self.timeline.later(at, self._look)

    def _look_for_rest(self) -> None:
        is_made = len(self._campaigns) >= len(self.world.campaigns)
        rests = all(state in (*ENDED, CampaignState.PAUSED) for state in self._campaigns.values())
        if not (is_made and rests) or self._acts_left or self._happenings_left or self.deeds.left:
            self._rests_at = None
        elif self._rests_at is None:
            self._rests_at = self.timeline.now() + self._settles_s()
            self.timeline.later(self._rests_at, lambda: None)

    @property
    def _has_rested(self) -> bool:
        return self._rests_at is not None and self.timeline.now() >= self._rests_at

    def _settles_s(self) -> float:
        strategies = [start.spec.strategy for start in self.world.campaigns]
        late = max((fault.after_s for release in self.world.releases for fault in release.faults), default=0.0)
        return SETTLE_S + 2 * late + max(one.horizon_s + one.healthy_s for one in strategies)

    # People

    async def _start(self, start: Start) -> None:
        name = start.spec.name
        self._drawing = name
        self.marks[name] = Marks()
        view = await self.server.desk.create(self.server.desk.parse(start.text), by="sim")
        self._sizes[name] = targets = sum(cohort.size for cohort in view.cohorts)
        self._running[view.row.change_id] = Running(name, view.row.strategy.budgets, targets)
        view = await self.server.desk.command(name, Verb.START, by="sim", reason="")
        for number in range(0 if self._approvers.are_late(name) else 8):
            if view.row.state is not CampaignState.AWAITING_APPROVAL:
                break
            view = await self.server.desk.command(name, Verb.APPROVE, by=f"sim-{number}", reason="as the world says")

    async def _act(self, act: Act) -> None:
        self._acts_left -= 1
        by = self._approvers.who(act)
        try:
            await self.server.desk.command(act.campaign, act.verb, by=by, reason="as the world says")
        except TransitionError as error:
            self.refused[f"Commanded: {error.kind}"] += 1

    def _answer_gates(self, loaded: Slice, row: CohortRow) -> None:
        """People say that a cohort passes its external gates, a while after it opened."""
        if loaded.campaign is None or row.index >= len(loaded.campaign.strategy.cohorts):
            return
        for gate in loaded.campaign.strategy.cohorts[row.index].gates:
            if gate.kind == "external":
                said = {"gate": gate.name, "by": "sim", "reason": "as the world says"}

                async def answer(said: dict[str, str] = said) -> None:
                    await self.server.desk.answer_gate(row.campaign, row.name, GateVerdict.PASS, **said)

                self._ask(self.after_s + ANSWER_S, answer)

    # What is seen

    def _decide(self, loaded: Slice, event: Event) -> Decision:
        """The planner's own step, and a look at it."""
        decision = step(loaded, event, checks=(*self._checks, nobody) if self.is_over else self._checks)
        self.server.database.once_kept(lambda: self._see(loaded, event, decision))
        return decision

    def _see(self, loaded: Slice, event: Event, decision: Decision) -> None:
        """Look at a decision that is kept."""
        self.events += 1
        target = getattr(event, "target", "")
        rows = " ".join(f"{type(one.row).__name__}:{getattr(one.row, 'state', '')}" for one in decision.changes)
        self.trace.note(self.timeline.now(), "planner", f"{type(event).__name__} {target}: {rows}")
        self.books.observe(loaded, event, decision)
        self._enlist_soon()
        if isinstance(event, Enlisted) and loaded.campaign is not None:
            self._sizes[event.campaign] += len(event.targets)
            self._running[loaded.campaign.change_id].targets += len(event.targets)
        for command in decision.commands:
            if isinstance(command, GrantPermit) and loaded.assignment is not None:
                self.admitted.setdefault((loaded.assignment.campaign, loaded.assignment.target), self.after_s)
            elif isinstance(command, TellWait) and not self.is_over:
                self.waits[command.reason_kind] += 1
        for change in decision.changes:
            if isinstance(change.row, CohortRow):
                self._mark_cohort(loaded, change.row)
            elif isinstance(change.row, CampaignRow):
                self._mark_campaign(loaded, change.row)

    def _mark_cohort(self, loaded: Slice, row: CohortRow) -> None:
        marks = self.marks.get(row.campaign)
        before = next((one for one in loaded.cohorts if one.index == row.index), None)
        if marks is not None and before is not None and marks.cohort_changed(before, row, self.after_s):
            self._answer_gates(loaded, row)

    def _mark_campaign(self, loaded: Slice, row: CampaignRow) -> None:
        marks = self.marks.get(row.id)
        if marks is not None and (loaded.campaign is None or loaded.campaign.state is not row.state):
            marks.campaign_changed(row.state, self.after_s, lambda: sum(name == row.id for name, _ in self.admitted))

    def _hear(self, moment: Moment) -> None:
        self.moments.append(moment)
        self.trace.note(moment.at, moment.member, f"{moment.kind} {moment.state}", moment.order[:16])
        self.down.hear(moment, self.after_s)

    # The end

    async def _settle(self) -> None:
        """Everybody is there until all is said and heard, and nobody gets a permit any more; then the server's word is held
        against theirs."""
        self.is_over = True
        self.fleet.each(lambda device: device.gather())
        within_s = quiet_within_s(self.members.values())
        until = self.timeline.now() + within_s
        why = "nobody looked"
        while why and self.timeline.now() < until:
            end = self.timeline.now() + LOOK_S
            await self._go_on(end, lambda: False)
            why = unrest(self.hostile.truthful(self._truths()).values(), len(self.broker.heard))
        if why:
            self.ledger.add(
                Violation(kind="not-quiet", at_s=self.after_s, text=f"After {within_s:.0f} s of quiet, {why}.")
            )
        self.shown = await self.server.fleet()
        truths, reports = self._truths(), Reports(self.server.url, self.ledger, liars=self.hostile.liars)
        hold_against(self.world, self.hostile.truthful(truths), self.shown, reports, self.ledger, self.after_s)
        self.hostile.compare(map(row_of, self.shown), truths, reports, self.ledger, self.after_s)
        verdict = await self.server.trail.verify()
        self.audited = verdict.records
        if not verdict.is_whole:
            self.ledger.add(Violation(kind="audit", at_s=self.after_s, text=said(verdict)))

    def _truths(self) -> dict[str, Truth]:
        """Of those who are in the fleet and heard."""
        return {name: truth for name, truth in self.fleet.truths().items() if self._turnover.is_heard(name)}


def play(run: ExactRun) -> float:
    """Let a run go to its end; the seconds it took here."""
    with asyncio.Runner(loop_factory=lambda: TimelineLoop(run.timeline)) as runner:
        return runner.run(run.play())
