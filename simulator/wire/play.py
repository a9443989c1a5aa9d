"""One run of a world on the wire: campaigns, acts and deeds at their times, until all rests; told as runs in virtual time are.

Rules
- The world's clock goes `pace` times as fast as the wall's, and its campaigns' durations are divided by as much (`hasten`).
- In the end each target is held against its device, and what devices signed against what is stored, as a soak does
  (`soak.evidence`).
- It says when the simulator was late: then what is told is not that world.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from firmware.errors import OtariaError, RefusedError
from server.campaigns.rehearsal import Rehearsal
from server.planner.words import AssignmentState, CampaignState, Verb
from simulator.hostile import Eve
from simulator.rest import RestError
from simulator.soak.books import Ledger, Violation
from simulator.soak.evidence import Reports, Trail, compare_bricked, compare_fleet, quiet
from simulator.soak.gauges import Gauges
from simulator.virtual.approving import late
from simulator.virtual.chances import seeded
from simulator.virtual.churn import Turnover
from simulator.virtual.deeds import database_for
from simulator.virtual.defects import Defects
from simulator.virtual.outcome import CampaignOutcome, CohortOutcome, Outcome
from simulator.virtual.world import Act, Deed, World
from simulator.wire.changes import Changes
from simulator.wire.cuts import cuts_of
from simulator.wire.deeds import Deeds
from simulator.wire.foretold import foretell
from simulator.wire.hasten import hastened
from simulator.wire.hostile_books import HostileBooks
from simulator.wire.people import People
from simulator.wire.plan import Moment, Pulse, Tempo, Truth
from simulator.wire.scene import Scene
from simulator.wire.todo import UNAVAILABLE, Due, Todo

ENDED = (CampaignState.COMPLETED, CampaignState.ABORTED, CampaignState.ROLLED_BACK)
RESTING = (*ENDED, CampaignState.PAUSED)
ON_THE_WAY = ("permitted", "activating", "trial", "committed")
TURN_S = 0.5
CONNECT_S = 120.0
QUIET_S = 180.0
FEW = 0.9
"""The share of the devices that must be connected before campaigns begin, at most."""


@dataclass
class Played:
    """What came of it, and more than an `Outcome` has, by member: `truths`, `targets`, and by the server's word the target's
    `states`, its `standing` in the fleet and the `versions` that run. By campaign: `admitted`, the members in the order in which
    they followed their first permit, the `seeds` that the server drew, and what was `foretold` where it was rehearsed."""

    outcome: Outcome
    truths: Mapping[str, Truth]
    states: Mapping[str, str]
    standing: Mapping[str, str]
    versions: Mapping[str, str]
    targets: Mapping[str, str]
    admitted: Mapping[str, Sequence[str]]
    seeds: Mapping[str, int]
    judgement: Sequence[str]
    foretold: Mapping[str, Rehearsal]


class Play:
    """`database`: one of `simulator.virtual.deeds.DATABASES`; what the world needs unless given. `rehearse`: let the server's
    campaigns be rehearsed before they begin. `say` is told in sentences what begins."""

    def __init__(
        self,
        world: World,
        directory: Path,
        *,
        seed: int | None = None,
        pace: float = 1.0,
        tempo: Tempo | None = None,
        processes: int = 1,
        database: str | None = None,
        rehearse: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._world, self._pace, self._say = world, pace, say
        self._seed = world.seed if seed is None else seed
        self._texts = [(start.after_s / pace, hastened(start.text, pace), start.spec.name) for start in world.campaigns]
        self._turnover = Turnover(world.churn, world.members(self._seed), self._seed)
        self._members = self._turnover.members
        there = {one.id: one for one in self._turnover.present}
        if not there:
            raise RefusedError(
                "cannot-happen", f"Nobody of {world.name} is there when it begins; on the wire some must be."
            )
        self._first = len(there)
        self._hostile = HostileBooks(self._members.values())
        self._ledger, self._gauges, self._lock = Ledger(), Gauges(time.monotonic()), threading.Lock()
        self._began = time.monotonic()
        self._moments: list[Moment] = []
        self._made: dict[str, dict[str, Any]] = {}
        self._stopped: dict[str, float] = {}
        self._directory = directory
        given = tempo or Tempo()
        self._scene = Scene(
            directory,
            product=world.campaigns[0].spec.product,
            members=list(there.values()),
            later=[one for one in self._members.values() if one.id not in there],
            releases=world.releases,
            seed=self._seed,
            begins=world.begins,
            tempo=replace(given, hasten=pace),
            processes=processes,
            shuts_out=bool(self._turnover.happenings),
            database=database_for(world, database),
            on_pulse=self._hear,
            say=say,
        )
        self._eve: Eve | None = None
        self._deeds = Deeds(self._scene, self._members, self._seed, pace, self._broke)
        self._changes = Changes(self._scene, self._turnover, self._ledger)
        self._people = People(lambda: self._scene.lab.rest)
        self._refused = Counter[str]()
        self._rehearses, self._foretold = rehearse, dict[str, Rehearsal]()

    def run(self) -> Played:
        """All of it. Raises `UnavailableError` when it can't even begin."""
        try:
            self._scene.open()
            with self._overhearing():
                return self._run()
        finally:
            self._deeds.close()
            self._scene.close()

    @contextmanager
    def _overhearing(self) -> Iterator[None]:
        """Where devices are hostile, and the broker isn't (who holds it listens herself), hear all that passes it."""
        if not self._hostile.does or any(deed.kind == "hostile" for deed in self._world.deeds):
            yield
            return
        self._eve = self._scene.broker.eve()
        try:
            yield
        finally:
            self._eve.close()

    def _hear(self, pulse: Pulse) -> None:
        with self._lock:
            self._gauges.hear(pulse)
            self._moments += pulse.moments
            for text in pulse.troubles:
                self._ledger.add(Violation(kind="agent-broke", at_s=pulse.at - self._gauges.began, text=text))

    def _run(self) -> Played:
        self._say("connecting the devices")
        self._scene.crew.start()
        began = time.monotonic()
        while time.monotonic() - began < CONNECT_S and self._connected() < self._first * FEW:
            time.sleep(TURN_S)
            if self._connected() >= self._there(time.monotonic() - began):
                break
        self._foretell()
        self._began = began = time.monotonic()
        self._go_on(began)
        self._deeds.close()
        truths = self._settle(began)
        return self._told(began, truths)

    def _connected(self) -> int:
        with self._lock:
            return sum(one.connected for one in self._gauges.pulses.values())

    def _there(self, waited_s: float) -> float:
        """How many must be connected before it begins: fewer, the longer it waited, as some may be away by habit."""
        return self._first * FEW * max(0.0, 1 - waited_s / 20)

    def _foretell(self) -> None:
        releases = {one.version: one for one in self._world.releases}
        for start in self._world.campaigns if self._rehearses else ():
            name = start.spec.name
            self._say(f"rehearsing {name}")
            file = self._directory / "rehearsed" / f"{name}.yaml"
            self._foretold[name] = foretell(self._scene.lab, start, releases[start.spec.version], file)

    # While it goes on

    def _go_on(self, began: float) -> None:
        pace, world = self._pace, self._world
        dues = [Due(at_s=at_s, do=partial(self._begin, text, name)) for at_s, text, name in self._texts]
        dues += [Due(at_s=act.after_s / pace, do=partial(self._act, act)) for act in world.acts]
        dues += [Due(at_s=one.after_s / pace, do=partial(self._do, one), asks=False) for one in world.deeds]
        dues += [Due(at_s=one.at_s / pace, do=partial(self._changes.do, one)) for one in self._turnover.happenings]
        todo = Todo(dues, lambda: self._deeds.refuse)
        lasts_s = self._world.days * 86400 / self._pace
        rests_since: float | None = None
        while (at_s := time.monotonic() - began) < lasts_s:
            todo.pass_to(at_s)
            is_busy = bool(todo) or self._deeds.are_on or self._changes.is_joining
            rests = not is_busy and self._rests(at_s)
            rests_since = (rests_since or at_s) if rests else None
            if rests_since is not None and at_s - rests_since > self._late_s():
                return
            time.sleep(TURN_S)

    def _late_s(self) -> float:
        """How long what a release does late may take after everything rests."""
        late = max((fault.after_s for release in self._world.releases for fault in release.faults), default=0.0)
        return 3.0 + 2 * late / self._pace

    def _begin(self, text: str, name: str) -> None:
        self._say(f"campaign {name} begins")
        made = self._scene.lab.rest.post("/campaigns", text)
        self._made[name] = {"id": made["id"]}
        if made["state"] == CampaignState.DRAFT:
            self._people.act(made["id"], Verb.START)
        if name not in late(self._world):
            self._people.agree_at_once(made["id"])

    def _act(self, act: Act) -> None:
        try:
            self._people.act(self._made[act.campaign]["id"], act.verb)
        except RestError as error:
            if error.status == UNAVAILABLE:
                raise
            self._refused[f"Commanded: {error.kind}"] += 1

    def _do(self, deed: Deed) -> None:
        self._say(deed.kind)
        self._deeds.do(deed)

    def _broke(self, text: str) -> None:
        with self._lock:
            self._ledger.add(Violation(kind="server", at_s=time.monotonic() - self._began, text=text))

    def _rests(self, at_s: float) -> bool:
        try:
            views = {name: self._scene.lab.campaign(made["id"]) for name, made in self._made.items()}
        except (OtariaError, OSError):
            return False
        for name, view in views.items():
            self._made[name] = view
            if view["state"] in (*RESTING, "rolling_back") and view["state"] != "completed":
                self._stopped.setdefault(name, at_s)
        waits = CampaignState.AWAITING_APPROVAL  # for nobody, once all acts are done
        return all(
            view["state"] in (*RESTING, waits) and not any(_count(view, state) for state in ON_THE_WAY)
            for view in views.values()
        )

    # The end

    def _settle(self, began: float) -> Mapping[str, Truth]:
        self._say("waiting until all is said and heard")
        self._scene.crew.gather()
        liars = [self._scene.crew.targets[name] for name in self._hostile.liars if name in self._scene.crew.targets]
        reports = Reports(self._scene.lab.database_url, self._ledger, liars=liars)
        until = time.monotonic() + QUIET_S
        while True:
            truths = self._scene.crew.truths()
            heard = [one for name, one in self._hostile.truthful(truths).items() if self._turnover.is_heard(name)]
            reports.compare(heard, time.monotonic() - began, {})
            lively = [one for one in heard if not one.is_bricked]
            is_quiet = not quiet(lively) and not reports.pending and not self._changes.waits(truths)
            if is_quiet or time.monotonic() > until:
                break
            time.sleep(TURN_S)
        if not is_quiet:
            why = quiet(lively) or "the server has still to handle or to notice something"
            text = f"After {QUIET_S:g} s of quiet, {why}."
            self._ledger.add(Violation(kind="not-quiet", at_s=time.monotonic() - began, text=text))
        self._rests(time.monotonic() - began)
        Trail(self._scene.lab, self._directory / "trail", self._ledger).verify(time.monotonic() - began)
        by_target = {one.target: one for one in lively}
        brings = {
            view["id"]: start.spec.version
            for start in self._world.campaigns
            if (view := self._made.get(start.spec.name))
        }
        fleet = self._scene.lab.rest.fleet()
        compare_fleet(fleet, by_target, brings, self._ledger, time.monotonic() - began, {})
        compare_bricked(fleet, heard, self._ledger, time.monotonic() - began)
        self._changes.compare(truths, time.monotonic() - began)
        self._compare_hostile(fleet, reports, time.monotonic() - began)
        return truths

    def _compare_hostile(self, fleet: Sequence[Mapping[str, Any]], reports: Reports, at_s: float) -> None:
        if self._hostile.does:
            for message in self._eve.seen if self._eve is not None else ():
                self._hostile.hear(message.topic, message.payload)
            truths = {name: one for name, one in self._scene.crew.truths().items() if self._turnover.is_heard(name)}
            self._hostile.compare(fleet, truths, reports, self._ledger, at_s)

    def _told(self, began: float, truths: Mapping[str, Truth]) -> Played:
        seconds = time.monotonic() - began
        names = self._scene.names
        fleet = {names.get(one["id"], one["id"]): one for one in self._scene.lab.rest.fleet()}
        broken = self._ledger
        outcome = Outcome(
            world=self._world.name,
            seed=self._seed,
            virtual_days=seconds * self._pace / 86400,
            seconds=seconds,
            events=len(self._moments),
            digest="",
            campaigns=tuple(self._campaign(name, view) for name, view in self._made.items()),
            broken=broken.broken,
            violations=tuple(f"After {one.at_s:.0f} s: {one.text}" for one in broken.kept),
            ignored=dict(sorted(self._refused.items())),
            hostile=len(self._hostile.does),
            cuts=cuts_of(self._world, self._moments),
        )
        return Played(
            outcome=outcome,
            truths=truths,
            states={name: one["state"] or "" for name, one in fleet.items()},
            standing={name: one["status"] for name, one in fleet.items()},
            versions={name: one["running_version"] or "" for name, one in fleet.items()},
            targets=self._scene.crew.targets,
            admitted=self._admitted(),
            seeds={name: view["seed"] for name, view in self._made.items()},
            judgement=[*self._gauges.judgement(), *self._changes.notes, *self._deeds.notes],
            foretold=self._foretold,
        )

    def _admitted(self) -> Mapping[str, Sequence[str]]:
        changes = {view["change_id"]: name for name, view in self._made.items()}
        found: dict[str, dict[str, None]] = {name: {} for name in self._made}
        for moment in sorted(self._moments, key=lambda one: one.at):
            if moment.kind == "down" and moment.change in changes and moment.member in self._members:
                found[changes[moment.change]].setdefault(moment.member)
        return {name: list(members) for name, members in found.items()}

    def _campaign(self, name: str, view: Mapping[str, Any]) -> CampaignOutcome:
        counts: Counter[str] = Counter()
        for cohort in view["cohorts"]:
            counts.update(cohort["counts"])
        states = {str(AssignmentState.FELL_BACK), str(AssignmentState.REGRESSED)}
        failed = ("failed", "refused", "missing", "expired")
        return CampaignOutcome(
            campaign=name,
            state=view["state"],
            reason=view["reason"],
            targets=sum(cohort["size"] for cohort in view["cohorts"]),
            counts={state: number for state, number in sorted(counts.items()) if number},
            verified=counts["verified"],
            fell_back=sum(counts[state] for state in states),
            failed=sum(counts[state] for state in failed[:3]),
            unreached=sum(counts[state] for state in ("planned", "ordered", "downloading", "expired")),
            harmed=self._harmed(name),
            admitted=sum(cohort["attempted"] for cohort in view["cohorts"]),
            stopped_s=self._stopped[name] * self._pace if name in self._stopped else None,
            done_s=None,
            cohorts=tuple(
                CohortOutcome(
                    name=cohort["name"], size=cohort["size"], opened_s=None, decided_s=None, state=cohort["state"]
                )
                for cohort in view["cohorts"]
            ),
            waits={},
            hostile=self._hostile.counted(self._states(view["id"])) if self._hostile.does else {},
        )

    def _states(self, campaign: str) -> Mapping[str, str]:
        """Of each member in a campaign."""
        names, found, cursor = self._scene.names, dict[str, str](), ""
        while True:
            page = self._scene.lab.rest.get(f"/campaigns/{campaign}/assignments?limit=500{cursor}")
            found |= {names.get(one["target"], one["target"]): one["state"] for one in page["assignments"]}
            if not page.get("next"):
                return found
            cursor = f"&cursor={page['next']}"

    def _harmed(self, name: str) -> int:
        """Devices that followed a permit of the campaign and meet a defect of its release."""
        version = next(start.spec.version for start in self._world.campaigns if start.spec.name == name)
        release = next(one for one in self._world.releases if one.version == version)
        defects = Defects(release, self._seed)
        followed = self._admitted()[name]
        return sum(
            defects.of(self._members[member].hardware, seeded(self._seed, member)) is not None for member in followed
        )


def _count(view: Mapping[str, Any], state: str) -> int:
    return sum(int(cohort["counts"].get(state, 0)) for cohort in view["cohorts"])
