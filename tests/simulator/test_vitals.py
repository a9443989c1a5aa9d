"""What simulated devices measure: seeded levels with noise, and the harm that a release does."""

from device_agent.metrics.book import batch
from firmware.protocol.metrics import HOUR_S
from simulator.cli import defects_of
from simulator.fakes import MemoryEffects
from simulator.swarm import ROOM
from simulator.vitals import CRASHES, FREE, FREE_NOISE, LATENCY, MEASURED, Defect, Vitals, keep_book


class Device:
    """What it runs, and its clock."""

    def __init__(self, *defects: Defect, seed: int = 1) -> None:
        self.version, self.now = "1", 0.0
        self.vitals = Vitals(seed, defects, lambda: self.version, lambda: self.now)

    def day(self) -> list[dict[str, float]]:
        """A sample an hour, for a day."""
        found = []
        for _ in range(24):
            self.now += HOUR_S
            found.append(self.vitals.read(None, lambda: False))
        return found


def test_a_release_without_a_defect_changes_nothing_but_noise() -> None:
    device = Device(Defect(version="2", leak_bytes_per_h=50e6, crashes_per_h=5))
    day = device.day()
    levels = [one[FREE] for one in day]
    assert max(levels) - min(levels) <= FREE_NOISE
    assert day[-1][CRASHES] <= 3
    assert all(set(one) == {FREE, CRASHES, LATENCY} == {one.name for one in MEASURED.measured} for one in day)
    assert Device(seed=1).day() == Device(seed=1).day() != Device(seed=2).day()


def test_who_runs_a_defect_leaks_until_it_boots_and_crashes() -> None:
    device = Device(*defects_of(["2"], ["2", "3"]))
    device.version = "2"
    day = device.day()
    assert day[0][FREE] - day[3][FREE] > 3 * 50e6 - FREE_NOISE
    assert day[-1][FREE] == 0.0
    assert 60 <= day[-1][CRASHES] <= 84
    device.vitals.booted()
    assert device.vitals.read(None, lambda: False)[FREE] > 300e6
    device.version = "3"
    later = device.day()
    assert later[-1][FREE] > 300e6
    assert later[-1][CRASHES] - day[-1][CRASHES] >= 60


def test_a_device_comes_with_hours_that_its_agent_tells() -> None:
    effects = MemoryEffects()
    now = 1_790_553_600.0 + 5.0
    keep_book(effects, ROOM, Device().vitals.measured_before(200, now))
    book = Device().vitals.measured_before(200, now)
    assert effects.read(ROOM / "metrics.json")
    assert [one.hour for one in book.hours] == list(range(int(now // 3600) - 200, int(now // 3600)))
    assert batch(book, -1) is not None
