"""What grows is told, what rests is not, and a simulator that is late says so."""

from simulator.soak.gauges import FILES_MORE, Gauges, Sample
from simulator.wire.plan import Pulse


def sample(at_s: float, *, mib: float = 100.0, files: int = 50, pid: int = 1) -> Sample:
    return Sample(
        at_s=at_s,
        connected=1,
        down=0,
        states={},
        lag_s=0.0,
        busy=0.0,
        simulator_mib=0.0,
        simulator_cpu=0.0,
        pid=pid,
        server_mib=mib,
        server_files=files,
        server_cpu=0.0,
        broker_mib=0.0,
        broker_files=0,
        stored=0,
    )


def gauges(samples: list[Sample]) -> Gauges:
    return Gauges(0.0, samples=samples)


def test_flat_is_flat_and_what_it_takes_to_begin_is_not_growth() -> None:
    assert gauges([sample(at * 5.0, mib=min(300.0, 100.0 + 10 * at)) for at in range(100)]).growth() == []


def test_memory_that_grows_is_told() -> None:
    [text] = gauges([sample(at * 5.0, mib=100.0 + 5 * at) for at in range(100)]).growth()
    assert "memory grew" in text


def test_files_that_stay_open_are_told() -> None:
    [text] = gauges([sample(at * 5.0, files=50 + at * FILES_MORE // 20) for at in range(100)]).growth()
    assert "open files grew" in text


def test_another_life_begins_anew() -> None:
    lives = [sample(at * 5.0, mib=100.0 + 5 * (at % 20), pid=at // 20) for at in range(100)]
    assert gauges(lives).growth() == []


def pulse(**given: float) -> Pulse:
    values = {"lag_s": 0.0, "busy": 0.2, "cpu": 0.2, **given}
    return Pulse(
        at=1.0,
        number=0,
        devices=1,
        connected=1,
        rss_bytes=0,
        files=0,
        fetched_bytes=0,
        states={},
        moments=(),
        troubles=(),
        lag_s=values["lag_s"],
        busy=values["busy"],
        cpu=values["cpu"],
    )


def test_the_simulator_says_when_it_is_late_or_has_no_rest() -> None:
    calm, late, busy = Gauges(0.0), Gauges(0.0), Gauges(0.0)
    for _ in range(100):
        calm.hear(pulse())
        late.hear(pulse(lag_s=7.0))
        busy.hear(pulse(busy=1.0))
    assert "not the bottleneck" in " ".join(calm.judgement())
    assert "could not keep real time" in " ".join(late.judgement())
    assert "up to 7.0 s" in " ".join(late.judgement())
    assert "was the bottleneck in 100%" in " ".join(busy.judgement())
