"""What former campaigns taught: links drawn towards sites and fleets, and failures that few attempts do not rule out."""

import random

import pytest

from server.planner.lessons import Lines, Staging, Tally, clustered, frailties


def staging(target: str, rate: float) -> Staging:
    return Staging(target=target, size_bytes=round(rate * 100), seconds=100.0)


def tally(hardware: str, site: str, attempts: int, *, fell_back: int = 0, failed: int = 0, silent: int = 0) -> Tally:
    return Tally(hardware=hardware, site=site, attempts=attempts, failed=failed, fell_back=fell_back, silent=silent)


def test_without_history_nothing_is_said() -> None:
    assert Lines([], {"a": "s"}).of("a") is None
    assert frailties([]) is None


def test_a_target_is_drawn_to_its_site_and_that_to_the_fleet() -> None:
    sites = {f"t{n}": f"s{n // 4}" for n in range(40)}
    known = [staging(name, 1e6 if n < 20 else 1e4) for n, name in enumerate(sites) if n % 4 < 3]
    lines = Lines(known, sites)
    unseen_quick, unseen_slow = lines.of("t3"), lines.of("t39")
    assert 5e5 < unseen_quick.bytes_per_s < 1.2e6
    assert 8e3 < unseen_slow.bytes_per_s < 2e4
    assert lines.stagings == 30
    stranger = lines.of("of a site that nobody knows")
    assert stranger.spread > 2 * unseen_quick.spread


def test_an_absence_within_a_download_moves_the_middle_little() -> None:
    sites = {f"t{n}": "s" for n in range(22)}
    good = [staging(f"t{n}", 1e5) for n in range(21)]
    torn = [*good[:-4], *(staging(f"t{n}", 10.0) for n in range(17, 21))]
    lines = Lines(torn, sites)
    assert lines.of("t21").bytes_per_s == pytest.approx(1e5)  # at this site, and never seen
    assert lines.of("elsewhere").bytes_per_s == pytest.approx(1e5)
    chances = random.Random(2)
    varied = [staging(f"t{n}", 10 ** chances.gauss(5, 0.3)) for n in range(21) for _ in range(3)]
    own = [staging("t21", 1e5), staging("t21", 10.0), staging("t21", 1e5)]
    assert Lines([*varied, *own], sites).of("t21").bytes_per_s == pytest.approx(1e5, rel=0.5)


def test_what_differs_between_downloads_is_told_from_what_differs_between_targets() -> None:
    chances = random.Random(1)
    sites = {f"t{n}": "s" for n in range(60)}
    rates = {name: 10 ** chances.gauss(5, 0.5) for name in sites}
    steady = [staging(name, rates[name] * 10 ** chances.gauss(0, 0.02)) for name in sites for _ in range(5)]
    fickle = [staging(name, 10 ** chances.gauss(5, 0.5)) for name in sites for _ in range(5)]
    for name in ("t0", "t30"):
        assert Lines(steady, sites).of(name).bytes_per_s == pytest.approx(rates[name], rel=0.2)
        assert Lines(steady, sites).of(name).spread < 0.3
        assert Lines(fickle, sites).of(name).spread > 0.7


def test_few_attempts_neither_promise_nor_condemn() -> None:
    found = frailties([tally("old", "a", 1000, fell_back=20), tally("new", "a", 2), tally("bad", "b", 2, fell_back=2)])
    shares = {name: one.bad / (one.bad + one.good) for name, one in found.by_hardware.items()}
    assert shares["old"] == pytest.approx(0.02, rel=0.1)
    assert 0.015 < shares["new"] < 0.025
    assert 0.05 < shares["bad"] < 0.2
    assert found.usual.bad / (found.usual.bad + found.usual.good) == pytest.approx(22.5 / 1005)
    assert found.attempts == 1004
    assert found.usual.fell_back > 0.9
    assert found.usual.failed + found.usual.fell_back + found.usual.silent == pytest.approx(1)


def test_nothing_that_failed_yet_may_still_fail() -> None:
    found = frailties([tally("r1", "a", 10)])
    assert found.usual.bad > 0


def test_failures_that_come_together_are_noticed() -> None:
    together = [tally("r1", f"s{n}", 10, fell_back=10 if n % 10 == 0 else 0) for n in range(50)]
    apart = [tally("r1", f"s{n}", 10, fell_back=1) for n in range(50)]
    assert clustered(together) > 0.8
    assert clustered(apart) == 0.0
    assert clustered([tally("r1", "only", 10, fell_back=1)]) == 0.0
    chances = random.Random(3)
    some = [tally("r1", f"s{n}", 20, fell_back=sum(chances.random() < 0.1 for _ in range(20))) for n in range(200)]
    assert clustered(some) < 0.03
