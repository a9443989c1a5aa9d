"""From samples to signed reports by the real runtime: each hour once, one report at a time, none while nobody hears it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from device_agent.metrics.desk import BOOK_FILE, MetricDesk
from device_agent.metrics.settings import Measured, MetricSettings
from device_agent.notary import KeyNotary
from device_agent.runtime import Connected, Runtime
from firmware.errors import UnavailableError
from firmware.protocol.metrics import Metrics
from firmware.protocol.report import Report
from firmware.protocol.words import Action
from tests.crash.disk import Cut, PowerCut
from tests.crash.world import AGENT, World

SETTINGS = MetricSettings(
    measured=[Measured(name="free", metric="memory-free"), Measured(name="boots", metric="boots")],
    every_s=3600,
    report_s=7200,
)


class FixedMeter:
    """Reads the same every time."""

    def read(self, program_port: int | None, stop: Callable[[], bool]) -> dict[str, float]:
        return {"free": 100.0, "unheard-of": 1.0}


class Measuring(Runtime):
    """An agent that measures."""

    def __init__(self, **fields: Any) -> None:
        ports = fields["ports"]
        desk = MetricDesk(ports.effects, AGENT, SETTINGS, meter=FixedMeter())
        super().__init__(**{**fields, "ports": replace(ports, metrics=desk)})


class Mute(KeyNotary):
    """Can't sign metrics."""

    def seal(self, payload: bytes, kind: str) -> bytes:
        if b'"metrics":{' in payload:
            raise UnavailableError("no-worker", "Nobody is there to sign.")
        return super().seal(payload, kind)


class MuteAgent(Measuring):
    def __init__(self, **fields: Any) -> None:
        ports = fields["ports"]
        notary = Mute(ports.catalogue, ports.notary._signer)
        super().__init__(**{**fields, "ports": replace(ports, notary=notary)})


@pytest.fixture
def world() -> World:
    return World(runtime=Measuring)


def metrics_in(world: World) -> list[Report]:
    return [report for report in world.server.told if report.metrics is not None]


def told(world: World) -> list[int]:
    """The hours told, in the order in which they were."""
    return [hour.hour for report in metrics_in(world) for hour in (report.metrics or Metrics(hours=[])).hours]


def hours(world: World, number: float) -> Callable[[], bool]:
    return lambda: world.clock.now > 1000 + number * 3600


def live(world: World, number: float) -> None:
    """Boot, and let so many hours pass."""
    world.run(until=hours(world, number))


def test_hours_are_told_in_order_and_once_in_reports_about_no_order(world: World) -> None:
    live(world, 30)
    hours_told = told(world)
    assert len(hours_told) >= 25
    assert hours_told == list(range(hours_told[0], hours_told[0] + len(hours_told)))
    reports = metrics_in(world)
    assert 10 <= len(reports) <= 17, "about every two hours"
    assert {(report.order_hash, report.inventory, report.state.value) for report in reports} == {(None, None, "idle")}
    values = [hour.values for report in reports for hour in (report.metrics or Metrics(hours=[])).hours]
    assert {name for value in values for name in value} == {"free", "boots"}
    assert {value["free"].value for value in values} == {100.0}
    assert {value["boots"].value for value in values} == {0.0}


def test_offline_nothing_waits_in_the_outbox_and_afterwards_all_is_told_bit_by_bit(world: World) -> None:
    world.online = False
    live(world, 100)
    assert world.runtime is not None
    assert world.runtime.waiting_reports <= 2
    world.online = True
    live(world, 4)
    hours_told = told(world)
    assert len(hours_told) >= 98
    assert hours_told == sorted(set(hours_told))
    assert [len((report.metrics or Metrics(hours=[])).hours) for report in metrics_in(world)][:2] == [48, 48]


def test_no_second_report_is_made_before_the_first_is_acked(world: World) -> None:
    world.server.acking = False
    live(world, 8)
    live(world, 8)
    assert len(metrics_in(world)) == 1, "nor after a boot"
    first = told(world)
    world.server.acking = True
    live(world, 4)
    assert len(metrics_in(world)) > 1
    assert told(world) == sorted(set(told(world)))
    assert told(world)[: len(first)] == first


def test_who_can_not_sign_goes_on_without_metrics() -> None:
    world = World(runtime=MuteAgent)
    world.server.order(Action.INSTALL, world.new)
    world.run()
    live(world, 10)
    assert world.server.states()[-1] == "committed"
    assert metrics_in(world) == []


def test_a_medium_that_can_not_keep_the_book_costs_nothing_but_metrics(world: World) -> None:
    def fail(kind: str, path: object) -> None:
        if path == AGENT / BOOK_FILE:
            raise OSError(28, "full")

    world.disk.fail = fail  # type: ignore[assignment]
    world.server.order(Action.INSTALL, world.new)
    world.run()
    world.disk.fail = fail  # type: ignore[assignment]
    live(world, 10)
    assert "committed" in world.server.states()
    assert told(world)
    assert told(world) == sorted(set(told(world)))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"hours": 1}'])
def test_a_damaged_book_is_begun_anew(world: World, damage: bytes) -> None:
    world.disk.replace(AGENT / BOOK_FILE, damage)
    live(world, 6)
    assert told(world)


def test_an_update_tells_no_metrics_in_its_reports_about_the_order(world: World) -> None:
    world.server.order(Action.INSTALL, world.new)
    world.run()
    about_it = [report for report in world.server.told if report.order_hash is not None]
    assert about_it
    assert all(report.metrics is None for report in about_it)


def test_every_boot_is_counted_though_none_lasts_an_hour() -> None:
    disk = World().disk

    def begun(boot: str) -> MetricDesk:
        desk = MetricDesk(disk, AGENT, SETTINGS, meter=FixedMeter())
        desk.begin(boot, now=0.0, jitter=0.0)
        desk.take({"free": 1.0}, trusted_time=3600.0 * 7, now=1.0, jitter=0.0)
        return desk

    for boot in ("a", "b", "c", "c"):
        last = begun(boot)
    last.take({"free": 1.0}, trusted_time=3600.0 * 8, now=2.0, jitter=0.0)
    told = last.next(-1)
    assert told is not None
    assert told.hours[0].values["boots"].value == 2.0


def test_samples_and_reports_of_a_fleet_are_spread() -> None:
    desk = MetricDesk(World().disk, AGENT, SETTINGS, meter=FixedMeter())
    desk.begin("a", now=100.0, jitter=0.5)
    assert (desk.sample_at, desk.tell_at) == (100.0 + 1800, 100.0 + 3600)
    desk.take({}, trusted_time=1.0, now=200.0, jitter=0.0)
    assert desk.sample_at == 200.0 + 2700
    desk.take({}, trusted_time=1.0, now=200.0, jitter=0.9)
    assert desk.sample_at == 200.0 + 3600 * 1.2
    desk.wait(300.0, 0.9)
    assert desk.tell_at == 300.0 + 7200 * 1.2
    desk.go_on(300.0, 0.5)
    assert desk.tell_at == 300.0 + 7200 * 1.2, "nothing held it up"
    desk.hold()
    desk.go_on(300.0, 0.5)
    assert desk.tell_at == 330.0


def test_a_power_cut_between_the_report_and_the_book_tells_no_hour_twice(world: World) -> None:
    world.online = False
    live(world, 20)
    before = world.disk.read(AGENT / BOOK_FILE)
    assert before is not None
    world.online = True
    live(world, 6)
    hours_told = told(world)
    assert len(hours_told) >= 18
    world.disk.replace(AGENT / BOOK_FILE, before)
    live(world, 6)
    assert told(world) == hours_told, "the clock has yet to pass what was told"


def test_a_link_that_comes_back_lets_it_go_on(world: World) -> None:
    live(world, 3)
    runtime = world.runtime
    assert runtime is not None
    desk = runtime._ports.metrics
    assert desk is not None
    runtime.handle(Connected(online=False))
    assert desk.tell_at is not None
    world.clock.now = desk.tell_at
    runtime.due()
    assert desk.tell_at is None
    runtime.handle(Connected(online=True))
    assert desk.tell_at == world.clock.now + 30.0


def test_whenever_the_power_is_cut_no_hour_is_told_twice_or_lost_but_the_one_under_way() -> None:
    clean = World(runtime=Measuring)
    clean.disk.system.trace = []
    live(clean, 5)
    moments = len(clean.disk.system.trace)
    assert moments > 20
    for moment in range(1, moments + 1):
        for how in ("before", "after"):
            world = World(runtime=Measuring)
            world.disk.system.cut = Cut(at=moment, how=how)
            with pytest.raises(PowerCut):
                live(world, 5)
            world.after_cut("none")
            live(world, 8)
            hours_told = told(world)
            assert hours_told == sorted(set(hours_told)), (moment, how)
            assert len(hours_told) >= 3, (moment, how)
            lost = hours_told[-1] - hours_told[0] + 1 - len(hours_told)
            assert lost <= 1, f"{moment} {how}: only the hour under way goes with the power"
