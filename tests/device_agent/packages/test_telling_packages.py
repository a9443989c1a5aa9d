"""Packages from the real runtime to the server's real tables: the whole once, then differences, and healing by itself."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine

from device_agent.packages.telling import SAY_AGAIN_S, TOLD_FILE, Teller
from device_agent.runtime import Runtime
from firmware.errors import OtariaError
from firmware.host_packages import HostFacts, HostState, Offered, PackageHere, host_state, pack, telling
from firmware.protocol.packages import PackagesPart
from firmware.protocol.report import Report
from server.campaigns.packages import take_packages
from server.storage.tables import Stored
from server.storage.unit import SqlUnit
from tests.crash.disk import Cut, PowerCut
from tests.crash.world import AGENT, World

SURVEY_S = 3600.0


def state(number: int = 300, **changed: str) -> HostState:
    versions = {f"package-{n}": f"{n}.1-{n % 7}+deb12u{n % 3}" for n in range(number)} | changed
    packages = [PackageHere(name=name, arch="amd64", version=version) for name, version in versions.items() if version]
    offers = [Offered(name="package-1", arch="amd64", before="1", version="9", is_security=True)]
    return host_state(HostFacts(kernel="6.1"), packages, offers)


class Seen:
    """What a survey finds; one for all processes of a world."""

    now: HostState


class HostAgent(Runtime):
    """An agent of a host."""

    def __init__(self, **fields: Any) -> None:
        ports, settings = fields["ports"], fields["settings"]
        teller = Teller(ports.effects, AGENT)
        ports = replace(ports, survey=lambda: True, packages=lambda told, now: teller.next(Seen.now, told, now))
        super().__init__(**{**fields, "ports": ports, "settings": replace(settings, survey_s=SURVEY_S)})


class Holder:
    """The server's own code behind the world's server."""

    def __init__(self, world: World) -> None:
        self.parts: list[PackagesPart] = []
        self.refused: list[str] = []
        self.deaf = False
        self.connection = self.begin()
        world.server.packages = self.take
        self.known: set[tuple[str, int]] = set()

    def begin(self) -> Connection:
        connection = create_engine("sqlite://").connect()
        _driven(connection).deserialize(_tables())
        return connection

    @property
    def unit(self) -> SqlUnit:
        return SqlUnit(self.connection)

    def take(self, report: Report) -> str | None:
        part, place = report.packages, (report.journal, report.seq)
        if part is None:
            return None
        if place not in self.known and not self.deaf:
            self.known.add(place)
            self.parts.append(part)
            try:
                take_packages(self.unit, report.target, part, 1.0)
            except OtariaError as error:
                self.refused.append(error.kind)
        return None if self.deaf else self.unit.packages.digest(report.target)


@cache
def _tables() -> bytes:
    """A database with all tables and no rows, which takes a tenth of a second to make."""
    with create_engine("sqlite://").connect() as connection:
        Stored.metadata.create_all(connection)
        connection.commit()
        return bytes(_driven(connection).serialize())


def _driven(connection: Connection) -> Any:
    return connection.connection.driver_connection


@pytest.fixture(autouse=True)
def _seen() -> None:
    Seen.now = state()


@pytest.fixture
def world() -> World:
    return World(runtime=HostAgent)


@pytest.fixture
def holder(world: World) -> Holder:
    return Holder(world)


def live(world: World, surveys: float, then: Callable[[], None] = lambda: None) -> None:
    until = world.clock.now + surveys * SURVEY_S if world.runtime is not None else 1000 + surveys * SURVEY_S
    done = []

    def ended() -> bool:
        if not done and world.clock.now > until / 2:
            then()
            done.append(1)
        return world.clock.now > 1000 + surveys * SURVEY_S

    world.run(until=ended)


def held(holder: Holder) -> str:
    return holder.unit.packages.digest("dev-1")


def test_the_whole_is_told_once_and_then_what_changed(world: World, holder: Holder) -> None:
    live(world, 3)
    assert held(holder) == Seen.now.digest
    first, *others = holder.parts
    assert (first.base, len(others)) == ("", 0)
    before = Seen.now.digest
    Seen.now = state(**{"package-3": "99", "package-4": ""})
    live(world, 3)
    assert held(holder) == Seen.now.digest
    assert [(part.base, part.now) for part in holder.parts[1:]][-1] == (before, Seen.now.digest)
    assert len(holder.parts[-1].data) < len(first.data) / 5
    view = holder.unit.packages.held("dev-1")
    assert view is not None
    assert (view.pending, view.security, view.facts.kernel) == (1, 1, "6.1")


def test_a_whole_that_is_too_large_for_one_report_comes_in_parts(world: World, holder: Holder) -> None:
    Seen.now = host_state(
        HostFacts(),
        [PackageHere(name=f"p{n}", arch="all", version=f"{n * 7919 % 9973}.{n * 104729 % 65537}") for n in range(4000)],
        [],
    )
    live(world, 2)
    assert [(part.index, part.count) for part in holder.parts if part.data] == [(n, 4) for n in range(4)]
    assert held(holder) == Seen.now.digest


def test_nothing_is_told_while_what_was_told_is_not_acked(world: World, holder: Holder) -> None:
    world.server.acking = False
    live(world, 2, then=lambda: setattr(Seen, "now", state(**{"package-3": "99"})))
    assert len(holder.parts) <= 1
    world.server.acking = True
    live(world, 2)
    assert held(holder) == Seen.now.digest


def test_a_server_that_lost_it_says_so_within_a_day_and_gets_the_whole(world: World, holder: Holder) -> None:
    live(world, 2)
    holder.connection = holder.begin()
    runtime = world.runtime
    assert runtime is not None
    live(world, 2)
    assert holder.parts[-1].base == ""
    assert held(holder) == Seen.now.digest, "a start says what is held"
    holder.parts.clear()
    live(world, SAY_AGAIN_S / SURVEY_S + 2, then=lambda: setattr(holder, "connection", holder.begin()))
    assert held(holder) == Seen.now.digest, "and so does a day without news"
    assert 2 <= len(holder.parts) <= 5


def test_a_difference_that_does_not_fit_changes_nothing_and_the_whole_follows(world: World, holder: Holder) -> None:
    live(world, 2)
    other = state(5)
    unit, part = holder.unit, Teller(world.disk, AGENT / "elsewhere").next(other, "", 0.0)
    for one in part:
        take_packages(unit, "dev-1", one, 2.0)
    Seen.now = state(**{"package-9": "99"})
    live(world, 4)
    assert held(holder) == Seen.now.digest
    assert holder.parts[-1].base == ""
    assert holder.refused == []


@pytest.mark.parametrize("damage", [b"", b"{", None, pack(telling(None, state(5)))])
def test_an_agent_that_lost_what_it_told_tells_the_whole(world: World, holder: Holder, damage: bytes | None) -> None:
    live(world, 2)
    if damage is None:
        world.disk.unlink(AGENT / TOLD_FILE)
    else:
        world.disk.replace(AGENT / TOLD_FILE, damage)
    Seen.now = state(**{"package-9": "99"})
    live(world, 2)
    assert held(holder) == Seen.now.digest
    assert holder.parts[-1].base == ""
    assert holder.refused == []


def test_a_server_that_does_not_know_packages_is_told_and_goes_on(world: World, holder: Holder) -> None:
    holder.deaf = True
    live(world, 5)
    assert world.runtime is not None
    assert world.runtime.waiting_reports == 0
    holder.deaf = False
    live(world, 3)
    assert held(holder) == Seen.now.digest


def test_whenever_the_power_is_cut_the_server_ends_with_what_is_there() -> None:
    clean = World(runtime=HostAgent)
    Holder(clean)
    clean.disk.system.trace = []
    live(clean, 2)
    moments = len(clean.disk.system.trace)
    assert moments > 8
    for moment in range(1, moments + 1):
        for how in ("before", "after"):
            Seen.now = state()
            world = World(runtime=HostAgent)
            holder = Holder(world)
            world.disk.system.cut = Cut(at=moment, how=how)
            with pytest.raises(PowerCut):
                live(world, 2)
            Seen.now = state(**{"package-9": "99"})
            world.after_cut("none")
            live(world, 4)
            assert held(holder) == Seen.now.digest, (moment, how)
            assert holder.refused == []


def test_a_full_disk_keeps_nothing_back_but_this(world: World, holder: Holder) -> None:
    def fail(kind: str, path: Path) -> None:
        if path.name.startswith(TOLD_FILE):
            raise OSError(28, "full")

    world.disk.fail = fail  # type: ignore[assignment]
    live(world, 3)
    assert holder.parts == []
    assert world.runtime is not None
    assert world.runtime.waiting_reports == 0
