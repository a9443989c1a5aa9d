"""Live selections in virtual time: who comes later comes in, who fits no more and has no order drops out, as on the server."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from server.campaigns.members import LOOK_EVERY_S
from server.planner.decision import Decision, Put
from server.planner.events import AssignmentDue, Deselected, Enlisted, Event
from server.planner.revising import DESELECTED
from server.planner.rows import AssignmentRow, CampaignRow, ReleaseKey, TargetRow
from server.planner.slices import Slice
from server.planner.words import AssignmentState, CampaignState
from simulator.virtual.churn import Happening, happenings
from simulator.virtual.enlisting import Enlisting
from simulator.virtual.library import load
from simulator.virtual.outcome import Outcome
from simulator.virtual.rows import RowStore
from simulator.virtual.run import Run
from simulator.virtual.shell import Shell
from simulator.virtual.world import Member, World
from simulator.virtual.world_file import parse_world

PLACE = """
name: place
days: 12
fleet:
  - {name: lamp, devices: 40, hardware: lamp-r1, sites: 8}
  - {name: bell, devices: 4, hardware: lamp-r1, labels: {ring: slow}, presence: {asleep: {share: 100%, until: 8d}}}
  - {name: horn, devices: 8, hardware: horn-r1}
releases: [{version: "2.0.0", image: 40 MB}, {version: "2.1.0", image: 40 MB}]
campaigns:
  CAMPAIGNS
churn: [CHURN]
"""
STRATEGY = "{name: s, cohorts: [COHORTS], budgets: [{by: site, limit: 1}], patience: PATIENCE, retry: 20m}"
CANARY = "{name: canary, count: 4, first: {ring: slow}, gate: {kind: all}}"
REST = "{name: rest, gate: {kind: share, max_failure_rate: 90%}}"


LAMP = Member(id="lamp", hardware="lamp-r1", labels={}, week=())
TARGET = TargetRow(id="lamp", agent="lamp", hardware="lamp-r1", running_version="1.0.0")
FAILED = AssignmentRow(campaign="spring", target="lamp", cohort=0, rank=0, state=AssignmentState.FAILED)


class Watched(Run):
    """Notes who was enlisted when, in seconds after the beginning."""

    enlisted: dict[str, float]

    def _observe(self, loaded: Slice, event: Event, decision: Decision) -> None:
        super()._observe(loaded, event, decision)
        if isinstance(event, Enlisted):
            self.enlisted |= dict.fromkeys(event.targets, event.at - self.world.begins)


def campaign(
    name: str = "spring",
    version: str = "2.0.0",
    *,
    selection: str = "{hardware: [lamp-r1], membership: live}",
    cohorts: str = REST,
    patience: str = "1d",
    after: str = "0m",
    start_at: str = "",
) -> str:
    strategy = STRATEGY.replace("COHORTS", cohorts).replace("PATIENCE", patience)
    more = f", start_at: {start_at}" if start_at else ""
    file = f'{{name: {name}, product: lamp, version: "{version}", selection: {selection}, strategy: {strategy}{more}}}'
    return f"- after: {after}\n    file: |\n      {file}"


def place(*campaigns: str, churn: str) -> World:
    return parse_world(
        PLACE.replace("CAMPAIGNS", "\n  ".join(campaigns)).replace("CHURN", churn),
        "place.yaml",
    )


def played(*campaigns: str, churn: str) -> tuple[Watched, Outcome]:
    run = Watched(place(*campaigns, churn=churn))
    run.enlisted = {}
    outcome = run.play()
    assert (outcome.broken, outcome.violations, outcome.ignored) == (0, (), {})
    return run, outcome


def running(world: World) -> CampaignRow:
    key = ReleaseKey(product="lamp", version="2.0.0", counter=1, sha256="00")
    strategy = world.campaigns[0].spec.strategy
    return CampaignRow(
        id="spring", change_id="c-1", state=CampaignState.RUNNING, release=key, strategy=strategy, seed=1
    )


def rows(run: Run, name: str = "spring") -> Mapping[str, AssignmentRow]:
    return {row.target: row for row in run.store.in_states(name, tuple(AssignmentState))}


def met(run: Run) -> Mapping[str, float]:
    """When it meets whom, in seconds after the beginning."""
    world = run.world
    return {one.member.id: one.at_s for one in happenings(world.churn, world.members(world.seed), world.seed)}


LATER = "{do: join, fleet: lamp, share: 30%, after: 2h, within: 6d}, {do: join, fleet: horn, share: 50%, after: 2h}"


def test_who_comes_later_is_enlisted_within_a_minute_and_verified() -> None:
    run, outcome = played(campaign(), churn=LATER)
    names = {name: at for name, at in met(run).items() if name.startswith("lamp")}
    assert 3 < len(names) < 25
    assert len(met(run)) > len(names)  # horns come, too, and are of other hardware
    assert set(run.enlisted) == set(names)
    found = rows(run)
    assert {found[name].state for name in names} == {AssignmentState.VERIFIED}
    for name, at in names.items():
        assert 0 < run.enlisted[name] - at <= LOOK_EVERY_S
        assert run.enlisted[name] % LOOK_EVERY_S == 0
    late = outcome.campaigns[0].cohorts[-1]
    assert {found[name].cohort for name in names} == {1}
    assert (late.name, late.size) == ("late", len(names) + 4)  # and the bells
    assert outcome.campaigns[0].targets == 44 == outcome.campaigns[0].verified


def test_who_comes_before_a_campaign_begins_is_enlisted_when_it_does() -> None:
    scheduled = campaign(start_at="2026-03-03T00:00+00:00")
    run, _ = played(scheduled, churn="{do: join, fleet: lamp, share: 30%, within: 20h}")
    assert set(run.enlisted) == set(met(run))
    assert set(run.enlisted.values()) == {86400.0 + LOOK_EVERY_S}
    assert {row.state for row in rows(run).values()} == {AssignmentState.VERIFIED}


def test_hardware_that_the_release_is_not_for_stays_out() -> None:
    world = place(campaign(selection="{membership: live}"), churn=LATER)
    releases = tuple(dataclasses.replace(one, hardware=("lamp-r1",)) for one in world.releases)
    run = Watched(dataclasses.replace(world, releases=releases))
    run.enlisted = {}
    run.play()
    assert {name.split("-")[0] for name in met(run)} == {"lamp", "horn"}
    assert {name.split("-")[0] for name in run.enlisted} == {"lamp"}


def test_a_frozen_selection_takes_nobody_else_and_one_that_says_frozen_is_the_same() -> None:
    run, outcome = played(campaign(selection="{hardware: [lamp-r1]}"), churn=LATER)
    again, other = played(campaign(selection="{hardware: [lamp-r1], membership: frozen}"), churn=LATER)
    assert not (set(met(run)) & set(rows(run)))
    assert run.enlisted == again.enlisted == {}
    assert outcome.digest == other.digest


def test_a_campaign_that_is_over_takes_nobody_else() -> None:
    lamps = "{hardware: [lamp-r1], exclude: [{labels: {ring: slow}}], membership: live}"
    run, outcome = played(campaign(selection=lamps), churn=LATER)
    assert outcome.campaigns[0].state == CampaignState.COMPLETED
    assert run.enlisted == {}


def test_who_takes_the_place_of_another_is_enlisted_and_that_other_stays_out() -> None:
    run, _ = played(campaign(), churn="{do: replace, fleet: lamp, share: 40%, within: 6d}")
    gone, found = set(met(run)), rows(run)
    assert set(run.enlisted) == {f"{name}-new" for name in gone}
    assert {found[f"{name}-new"].state for name in gone} == {AssignmentState.VERIFIED}
    assert {found[name].state for name in gone} <= {AssignmentState.VERIFIED, AssignmentState.SKIPPED}


def test_who_comes_before_the_last_cohort_opens_joins_that_one_in_the_order_of_its_rank() -> None:
    slow = campaign(cohorts=f"{CANARY}, {REST}", patience="10d")
    run, outcome = played(slow, churn=LATER)
    found = rows(run)
    assert len(run.enlisted) > 3
    assert {found[name].cohort for name in run.enlisted} == {1}
    assert {row.state for row in found.values()} == {AssignmentState.VERIFIED}
    assert [one.size for one in outcome.campaigns[0].cohorts] == [4, 40, 0]
    assert sorted(row.rank for row in found.values()) == list(range(44))


BY_VERSION = '{hardware: [lamp-r1], versions: ["0.9.0"], membership: live}'


def two(selection: str) -> tuple[str, str]:
    """One that updates the lamps, and one whose lamps wait for its canaries, which sleep."""
    quick = campaign(selection="{exclude: [{labels: {ring: slow}}]}")
    slow = campaign("summer", "2.1.0", selection=selection, cohorts=f"{CANARY}, {REST}", patience="10d", after="1m")
    return quick, slow


def test_who_runs_another_version_by_now_is_let_go_and_comes_back_when_it_runs_the_first_again() -> None:
    run, outcome = played(*two(BY_VERSION), churn="{do: reflash, fleet: lamp, share: 40%, after: 3d, within: 1d}")
    flashed, found = set(met(run)), rows(run, "summer")
    lamps = {name for name in found if name.startswith("lamp")}
    assert 3 < len(flashed) < len(lamps) == 40
    assert {(found[name].state, found[name].reason_kind) for name in lamps - flashed} == {
        (AssignmentState.SKIPPED, DESELECTED)
    }
    assert {found[name].state for name in flashed} == {AssignmentState.VERIFIED}
    assert {run.devices[name].image.version for name in lamps - flashed} == {"2.0.0"}
    assert run.enlisted == {}
    assert outcome.campaigns[1].targets == 44


def test_a_frozen_one_keeps_who_runs_another_version_by_now() -> None:
    run, _ = played(*two(BY_VERSION.replace("live", "frozen")), churn="")
    assert {row.state for row in rows(run, "summer").values()} == {AssignmentState.VERIFIED}


def test_who_has_an_order_stays_whatever_it_runs() -> None:
    run, _ = played(campaign(selection=BY_VERSION), churn="")
    assert {row.state for row in rows(run).values()} == {AssignmentState.VERIFIED}


def test_who_is_shut_out_is_not_enlisted() -> None:
    churn = "{do: clone, fleet: lamp, share: 40%, within: 10m}"
    run, _ = played(campaign(selection=BY_VERSION, after="1h"), churn=churn)
    assert met(run)
    assert not set(met(run)) & set(rows(run))


def test_groups_that_go_whole_take_nobody_else() -> None:
    strategy = campaign().replace("retry: 20m", "retry: 20m, together: {by: site}")
    run, _ = played(strategy, churn=LATER)
    assert run.enlisted == {}


def test_in_the_turnover_of_the_library_both_campaigns_have_who_came() -> None:
    run = Watched(load("turnover"))
    run.enlisted = {}
    run.play()
    came = {f"{one.member.id}-new" if one.kind == "replace" else one.member.id: one for one in _came(run.world)}
    early = {name for name, one in came.items() if one.at_s < 9 * 86400}
    assert len(early) > 10
    assert early <= set(run.enlisted) <= set(came)
    assert set(came) <= set(rows(run, "summer"))
    assert {rows(run)[name].state for name in early} == {AssignmentState.VERIFIED}


def _came(world: World) -> list[Happening]:
    found = happenings(world.churn, world.members(world.seed), world.seed)
    return [one for one in found if one.kind in ("join", "replace")]


def test_the_same_seed_gives_the_same_run() -> None:
    world = place(*two(BY_VERSION), churn=f"{LATER}, {{do: reflash, fleet: lamp, share: 40%, within: 4d}}")
    first, again, other = (Run(world, seed=seed).play() for seed in (3, 3, 4))
    assert first.digest == again.digest != other.digest


class Stage:
    """Live selections of one campaign over one lamp; what they tell, and when they will look next."""

    def __init__(self, *rows: AssignmentRow, runs: str) -> None:
        self.world = place(campaign(selection=BY_VERSION), churn="")
        self.store, self.said = RowStore(), list[Event]()
        self.looks = list[tuple[float, Callable[[float], None]]]()
        self.store.add([running(self.world), replace(TARGET, running_version=runs), *rows])
        self.enlisting = Enlisting(
            self.store,
            {LAMP.id: LAMP},
            sizes={},
            begins=5.0,
            later=lambda *one: self.looks.append(one),
            tell=self._tell,
        )

    def put(self, row: AssignmentRow) -> Decision:
        now = self.store.assignment("spring", LAMP.id)
        decision = Decision(changes=(Put(row=replace(row, version=now.version if now else 0)),))
        self.store.commit(decision)
        return decision

    def look(self) -> float:
        at, look = self.looks.pop()
        assert self.looks == []
        look(at)
        return at

    def _tell(self, events: Sequence[Event]) -> None:
        self.said.extend(events)
        is_in = isinstance(events[0], Enlisted)
        state = AssignmentState.PLANNED if is_in else AssignmentState.SKIPPED
        self.put(replace(FAILED, state=state, reason_kind="none" if is_in else DESELECTED))


DUE = AssignmentDue(campaign="spring", target="lamp", at=70.0)


def test_who_waits_for_its_turn_again_and_fits_no_more_by_then_is_let_go() -> None:
    stage = Stage(FAILED, runs="1.0.0")
    stage.enlisting.begin("spring", stage.world.campaigns[0].spec.selection, ())
    stage.enlisting.observe(Slice(assignment=FAILED), DUE, stage.put(replace(FAILED, state=AssignmentState.PLANNED)))
    at = stage.look()
    assert at == 125.0
    assert stage.said == [Deselected(campaign="spring", target=LAMP.id, revision=0, at=at)]


def test_who_fits_by_what_the_server_knows_is_enlisted_once_the_campaign_runs_and_nothing_is_looked_at_twice() -> None:
    stage = Stage(runs="0.9.0")
    began = Decision(changes=(Put(row=running(stage.world)),))
    stage.enlisting.begin("spring", stage.world.campaigns[0].spec.selection, ())
    stage.enlisting.observe(Slice(), DUE, began)
    at = stage.look()
    assert stage.said == [Enlisted(campaign="spring", targets=(LAMP.id,), at=at)]
    stage.enlisting.observe(Slice(), DUE, began)
    assert stage.looks == []


def test_who_is_out_for_another_reason_is_not_told_to_come_back() -> None:
    stage = Stage(replace(FAILED, state=AssignmentState.SKIPPED, reason_kind="left-out"), runs="0.9.0")
    stage.enlisting.begin("spring", stage.world.campaigns[0].spec.selection, ())
    stage.enlisting.observe(Slice(), DUE, Decision(changes=(Put(row=running(stage.world)),)))
    stage.look()
    assert stage.said == []


def test_what_is_found_out_together_is_fed_in_the_order_of_the_servers_turn() -> None:
    fed: list[Event] = []
    shell = Shell(RowStore(), on_order=lambda *_: None, observe=lambda _, event, __: fed.append(event))
    first, second, third = (Deselected(campaign="spring", target=name, revision=0, at=1.0) for name in "abc")
    shell.tell([first, second, third])
    assert fed == [second, third, first]


def test_who_is_planned_again_waits_where_its_rank_has_it_and_once() -> None:
    store = RowStore()
    store.add(
        replace(FAILED, target=name, rank=rank, state=AssignmentState.PLANNED) for rank, name in enumerate("abcd")
    )

    def put(name: str, state: AssignmentState) -> None:
        row = store.assignment("spring", name)
        assert row is not None
        store.commit(Decision(changes=(Put(row=replace(row, state=state)),)))

    for name in "bc":
        put(name, AssignmentState.SKIPPED)
    assert [row.target for row in store.candidates("spring", 0, 2)] == ["a", "d"]
    put("a", AssignmentState.ORDERED)
    for name in "cb":
        put(name, AssignmentState.PLANNED)
    put("b", AssignmentState.SKIPPED)
    put("b", AssignmentState.PLANNED)
    assert [row.target for row in store.candidates("spring", 0, 9)] == ["b", "c"]
