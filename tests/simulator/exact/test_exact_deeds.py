"""What a scenario does to network, server, database and broker, in exact runs: each has its effect, and nothing is lost by it."""

import dataclasses
import json
import logging
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from firmware.errors import UnavailableError
from firmware.protocol.words import ReasonKind
from server.campaigns.strategy_file import parse_campaign
from server.planner.words import CampaignState, Verb
from simulator.exact.broker import Broker
from simulator.exact.database import WatchedDatabase
from simulator.exact.run import COMMISSION_S, ExactRun, play
from simulator.exact.telling import outcome_of, room
from simulator.exact.timeline import Timeline
from simulator.exact.trace import Head, Line, Trace
from simulator.run_cli import unmet
from simulator.virtual.deeds import TURNS, Turns, parted
from simulator.virtual.library import load
from simulator.virtual.world import Act, Deed, World
from simulator.virtual.world_file import parse_world

PLAIN = """
name: plain
days: 2
seed: 3
fleet:
  - {name: lamp, devices: 6, hardware: lamp-r1, sites: 2, link: {mbit: 1}, health: 1m}
releases: [{version: "2.0.0", image: 30 MB}]
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy: {name: s, cohorts: [{name: all}], patience: 12h, healthy: 10m, horizon: 2h, retry: 1m}
"""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def plain(*deeds: Deed, image_bytes: int = 30_000_000) -> World:
    world = parse_world(PLAIN, "plain.yaml")
    release = dataclasses.replace(world.releases[0], size_bytes=image_bytes)
    return dataclasses.replace(world, deeds=deeds, releases=(release,))


class Played:
    """`lines`: of its trace, with their times after the world's beginning."""

    def __init__(self, world: World, tmp_path: Path, looks: dict[float, Callable[[ExactRun], None]]) -> None:
        out = tmp_path / "trace.jsonl"
        with room() as directory:
            self.run = run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed), out=out))
            for at, look in looks.items():
                run.timeline.later(COMMISSION_S + at, lambda look=look: look(run))  # type: ignore[misc]
            self.outcome = outcome_of(run, play(run))
        found = [Line(**json.loads(line)) for line in out.read_text().splitlines()[1:]]
        self.lines = [_after_beginning(one) for one in found]
        assert self.outcome.violations == ()
        assert {one.state for one in run.shown} == {"verified"}

    def at(self, state: str) -> dict[str, float]:
        """When each device came to it."""
        return {one.member: one.at - COMMISSION_S for one in self.run.moments if one.state == state}

    def between(self, begin: float, end: float) -> list[Line]:
        return [one for one in self.lines if begin < one.t < end]


def _after_beginning(line: Line) -> Line:
    return Line(t=line.t - COMMISSION_S, who=line.who, what=line.what, hash=line.hash)


def messages(lines: list[Line]) -> list[Line]:
    return [one for one in lines if one.what.split()[0] in ("report", "ask", "order", "permit", "ack", "presence")]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """A run to which nothing is done."""
    logging.disable(logging.WARNING)
    return Played(plain(), tmp_path_factory.mktemp("calm"), {})


def played(world: World, tmp_path: Path, **looks: Callable[[ExactRun], None]) -> Played:
    """`looks`: what is done at a second, as in `at_120=…`."""
    return Played(world, tmp_path, {float(name.removeprefix("at_")): look for name, look in looks.items()})


@pytest.mark.timeout(180)
def test_who_is_parted_is_heard_of_again_when_it_is_over_and_taken_for_dead_meanwhile(tmp_path: Path) -> None:
    deed = Deed(kind="partition", after_s=30.0, for_s=1200.0, share=0.5)
    world = plain(deed)
    out = parted(deed, [one.id for one in world.members(world.seed)], world.seed)
    assert len(out) == 3
    offline: list[set[str]] = []
    look = lambda run: offline.append({*run.server.offline})  # noqa: E731
    found = played(world, tmp_path, at_110=look, at_125=look, at_1400=look)
    assert offline == [set(), {*out}, set()]
    heard = {one.who for one in messages(found.between(30, 1230))}
    assert heard == {"server", "broker", *found.run.members} - {*out}
    activated = found.at("activating")
    assert {name for name, at in activated.items() if at > 1230} == {*out}
    assert max(at for name, at in activated.items() if name not in out) < 600


@pytest.mark.timeout(180)
def test_what_a_parted_device_loads_comes_later_by_as_long_as_it_is_parted(calm: Played, tmp_path: Path) -> None:
    staged = calm.at("staged")
    begin = min(staged.values()) - 60
    deed = Deed(kind="partition", after_s=begin, for_s=1000.0, share=0.5)
    found = played(plain(deed), tmp_path).at("staged")
    for name, at in staged.items():
        late_s = 1000.0 if name in parted(deed, staged, 3) else 0.0
        assert found[name] == pytest.approx(at + late_s, abs=1.0)


def test_a_device_that_loses_power_in_a_partition_is_parted_still(tmp_path: Path) -> None:
    deed = Deed(kind="partition", after_s=30.0, for_s=600.0, share=0.5)
    [first, *_] = parted(deed, [f"lamp-00000{n}" for n in range(6)], 3)
    found = played(plain(deed), tmp_path, at_60=lambda run: run.fleet.devices[first].power_cut())
    assert [one for one in messages(found.between(60, 630)) if one.who == first] == []
    assert any(one.who == first for one in messages(found.between(630, 700)))


@pytest.mark.timeout(180)
def test_while_the_disk_takes_nothing_nothing_is_stored_or_acked_and_all_of_it_comes_after(tmp_path: Path) -> None:
    stored: list[int] = []
    world = plain(Deed(kind="full-server", after_s=1.0, for_s=600.0))
    look = lambda run: stored.append(rows(run))  # noqa: E731
    found = played(world, tmp_path, at_2=look, at_599=look, at_1800=look)
    assert stored[0] == stored[1] < stored[2]
    acks = [one for one in found.between(1.5, 600.9) if one.what.startswith("ack")]
    reports = [one for one in found.between(1.5, 601) if one.what.startswith("report")]
    assert (acks, len(reports) > 6) == ([], True)
    assert ReasonKind.STORAGE_FAULT not in found.outcome.ignored
    assert any(one.what.startswith("ack") for one in found.between(600.9, 602)), "nobody had to say it again"
    assert min(found.at("activating").values()) > 601


@pytest.mark.timeout(180)
def test_what_is_decided_while_the_disk_takes_nothing_never_was_and_is_decided_after(
    calm: Played, tmp_path: Path
) -> None:
    """They were healthy for ten minutes in between."""
    verified_s = calm.outcome.campaigns[0].done_s
    assert verified_s is not None
    begin, for_s = verified_s - 25, 40.0
    found = played(plain(Deed(kind="full-server", after_s=begin, for_s=for_s)), tmp_path)
    assert found.run.server.failures > 10
    assert [one for one in found.between(begin, begin + for_s) if one.who == "planner"] == []
    assert found.outcome.campaigns[0].done_s == pytest.approx(begin + for_s, abs=2)
    assert found.outcome.events == calm.outcome.events


@pytest.mark.timeout(180)
def test_who_goes_away_while_the_disk_takes_nothing_counts_as_away_after(tmp_path: Path) -> None:
    """Its last will is said once; the books hear it, whatever becomes of the database."""
    world = parse_world(PLAIN.replace("devices: 6", "devices: 2").replace("sites: 2", "sites: 1"), "plain.yaml")
    budget = "budgets: [{by: site, limit: 1, offline_counts: true}], patience"
    start = dataclasses.replace(world.campaigns[0], after_s=1800.0)
    start = dataclasses.replace(
        start, text=start.text.replace("patience", budget), spec=parse_campaign(start.text.replace("patience", budget))
    )
    deed = Deed(kind="full-server", after_s=10.0, for_s=600.0)
    found = played(
        dataclasses.replace(world, deeds=(deed,), campaigns=(start,)),
        tmp_path,
        at_60=lambda run: run.fleet.devices["lamp-000000"].power_cut(again=False),
        at_5000=lambda run: run.fleet.devices["lamp-000000"].power_on(),
    )
    assert min(found.run.admitted.values()) > 5000
    assert found.run.waits["budget"] > 10


@pytest.mark.timeout(180)
def test_people_come_back_when_the_disk_takes_something(tmp_path: Path) -> None:
    world = plain(Deed(kind="full-server", after_s=100.0, for_s=500.0))
    acts = (
        Act(campaign="spring", verb=Verb.PAUSE, after_s=200.0),
        Act(campaign="spring", verb=Verb.RESUME, after_s=900.0),
    )
    found = played(dataclasses.replace(world, acts=acts), tmp_path)
    said = [(one.t, one.what) for one in found.lines if one.what.startswith("Commanded")]
    assert [at for at, _ in said] == pytest.approx([0.0, 600.0, 900.0], abs=1)
    assert found.run.views[0].row.state is CampaignState.COMPLETED


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["slow-database", "slow-server"])
def test_a_server_that_is_slow_does_something_in_its_turns_only(kind: str, calm: Played, tmp_path: Path) -> None:
    found = played(plain(Deed(kind=kind, after_s=5.0, for_s=400.0)), tmp_path)

    def waits(one: Played) -> set[bool]:
        said = [line for line in one.between(5, 405) if line.who in ("server", "planner")]
        assert len(said) > 5
        return {TURNS[kind].waits_s(line.t - 5.0) > 0 for line in said}

    assert waits(found) == {False}
    assert True in waits(calm)


@pytest.mark.timeout(180)
def test_over_a_broker_that_is_slow_messages_pass_in_its_turns_only(calm: Played, tmp_path: Path) -> None:
    found = played(plain(Deed(kind="slow-broker", after_s=5.0, for_s=2000.0)), tmp_path)

    def waits(one: Played) -> set[bool]:
        return {TURNS["slow-broker"].waits_s(line.t - 5.0) > 0 for line in messages(one.between(5, 2005))}

    assert waits(found) == {False}
    assert True in waits(calm)
    assert found.between(5, 2005)


def test_a_slow_broker_keeps_the_order_of_what_it_was_sent_and_gives_all_of_it_when_it_goes() -> None:
    timeline, said = Timeline(0.0, lambda _: None), []
    broker = Broker(timeline, Trace(Head(world="w", seed=1)), lambda: None)
    broker.listeners.append(lambda topic, payload: said.append((timeline.now(), payload)))
    broker.waits_s = lambda: Turns(stands_s=3.0, goes_s=1.0).waits_s(timeline.now())

    def say(word: bytes) -> None:
        broker.inject("otaria/v1/catalogue", word, who="somebody")

    timeline.later(3.0, lambda: say(b"as it begins to go"))
    for at in (1.0, 2.0, 3.5):
        timeline.later(at, lambda at=at: say(str(at).encode()))  # type: ignore[misc]
    while timeline.next_at is not None:
        timeline.pass_to(timeline.next_at)
        while (what := timeline.take()) is not None:
            what()
    assert said == [(3.0, b"1.0"), (3.0, b"2.0"), (3.0, b"as it begins to go"), (3.5, b"3.5")]


def test_a_run_goes_on_until_what_is_done_to_it_is_over(tmp_path: Path) -> None:
    late = Deed(kind="slow-broker", after_s=30 * 3600.0, for_s=600.0)
    found = played(plain(late), tmp_path)
    assert [one.t for one in found.lines if one.who == "slow-broker"] == pytest.approx([108000.0, 108600.0])


async def test_a_full_disk_is_the_kernels_word_and_only_the_databases(tmp_path: Path) -> None:
    database, told = WatchedDatabase(tmp_path / "otaria.db"), []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    add = lambda unit: unit.audit.add(at=1.0, kind="sim", text="Something.")  # noqa: E731

    async def write(what: str) -> None:
        database.once_kept(lambda: None)  # of a transaction before that never was
        await database.write(lambda unit: (add(unit), database.once_kept(lambda: told.append(what))))

    database.is_full = True
    with pytest.raises(UnavailableError, match=r"disk (I/O error|is full)"):
        await write("rolled back")
    assert (told, resource.getrlimit(resource.RLIMIT_FSIZE)) == ([], limits)
    (tmp_path / "other").write_bytes(bytes(1 << 16))
    database.is_full = False
    await write("kept")
    assert told == ["kept"]
    await database.close()
    with closing(sqlite3.connect(tmp_path / "otaria.db")) as file:
        assert file.execute("SELECT count(*) FROM audit WHERE kind = 'sim'").fetchone() == (1,)


@pytest.mark.timeout(180)
def test_while_the_database_is_gone_nothing_is_stored_acked_or_decided_and_all_of_it_comes_after(
    tmp_path: Path,
) -> None:
    stored: list[int] = []
    look = lambda run: stored.append(rows(run))  # noqa: E731
    deeds = (
        Deed(kind="kill-database", after_s=1.0, for_s=600.0),
        Deed(kind="kill-database", after_s=650.0, for_s=300.0),
    )
    acts = (
        Act(campaign="spring", verb=Verb.PAUSE, after_s=200.0),
        Act(campaign="spring", verb=Verb.RESUME, after_s=700.0),
    )
    world = dataclasses.replace(plain(*deeds), acts=acts)
    found = played(world, tmp_path, at_20=look, at_599=look, at_651=look, at_949=look, at_2000=look)
    assert stored[0] == stored[1] < stored[2] <= stored[3] < stored[4]
    for begin, end in ((20, 601), (660, 950)):
        said = found.between(begin, end)
        assert [one for one in said if one.what.startswith("ack") or one.who == "planner"] == []
        assert [one for one in said if one.what.startswith(("report", "ask"))]
    assert ReasonKind.STORAGE_FAULT not in found.outcome.ignored
    assert found.run.server.failures > 500
    people = [one.t for one in found.lines if one.what.startswith("Commanded")]
    assert people == pytest.approx([0.0, 601.0, 950.0], abs=1)
    assert [one.t for one in found.lines if one.who == "database"] == pytest.approx([1.0, 601.0, 650.0, 950.0])


async def test_of_a_killed_databases_last_transactions_one_is_kept_unsaid_and_the_next_is_not(tmp_path: Path) -> None:
    database, told = WatchedDatabase(tmp_path / "otaria.db"), []

    async def write(what: str) -> None:
        add = lambda unit: unit.audit.add(at=1.0, kind="sim", text=what)  # noqa: E731
        await database.write(lambda unit: (add(unit), database.once_kept(lambda: told.append(what))))

    await write("before")
    for number in (1, 2):
        database.kill()
        for what in ("under way", "later"):
            with pytest.raises(UnavailableError, match=r"failed \(unable to open database file\)") as caught:
                await write(f"{what} {number}")
            assert caught.value.kind == ReasonKind.STORAGE_FAULT
        with pytest.raises(UnavailableError, match="unable to open database file"):
            await database.read(lambda unit: unit.audit.page())
        database.is_gone = False
        await write(f"after {number}")
    assert told == ["before", "under way 1", "after 1", "after 2"]
    lines = await database.read(lambda unit: unit.audit.page(kind="sim"))
    assert [one.text for one in lines] == told
    await database.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["database-killed", "storage-storm"])
def test_a_storm_of_all_of_it_ends_as_it_should(name: str, tmp_path: Path) -> None:
    whole = load(name, deeds=True)
    world = dataclasses.replace(whole, lots=tuple(dataclasses.replace(lot, devices=8) for lot in whole.lots))
    assert {one.kind for one in world.deeds} >= STORMS[name]
    found = played(world, tmp_path)
    assert (list(unmet(world, found.outcome)), found.run.deeds.left) == ([], 0)
    assert found.run.server.failures
    assert played(world, tmp_path).outcome.digest == found.outcome.digest


STORMS = {
    "database-killed": {"kill-database", "slow-database"},
    "storage-storm": {*TURNS, "full-server", "partition", "kill-server"},
}


def rows(run: ExactRun) -> int:
    with closing(sqlite3.connect(run.server.url.removeprefix("sqlite:///"))) as database:
        return int(database.execute("SELECT count(*) FROM inbox").fetchone()[0])
