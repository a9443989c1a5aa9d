"""What grows is told, what rests is not, and a simulator that is late says so."""

from simulator.soak.gauges import FILES_MORE, Gauges, Sample
from simulator.wire.plan import Pulse


def sample(at_s: float, *, mib: float = 100.0, files: int = 50, pid: int = 1, broker_mib: float = 9.0) -> Sample:
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
        broker_mib=broker_mib,
        broker_files=0,
        stored=0,
        broker_pid=7,
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


def test_a_server_that_is_away_now_and_then_hides_no_growth() -> None:
    """While it is away it has no process, so those looks are no life of anybody."""
    leaking = [
        sample(at * 5.0, mib=100.0 + 5 * at, files=50 + at * FILES_MORE // 20, pid=1 + at // 60) for at in range(180)
    ]
    away = [sample(at_s, mib=0.0, files=0, pid=0) for at_s in (1.0, 450.0, 899.0)]
    said = gauges(sorted([*leaking, *away], key=lambda one: one.at_s)).growth()
    assert [text.split(" grew")[0] for text in said] == ["The server's memory", "The server's open files"]


def test_a_broker_that_grows_is_told() -> None:
    [text] = gauges([sample(at * 5.0, broker_mib=10.0 + 2 * at) for at in range(100)]).growth()
    assert text.startswith("The broker's memory grew")


def test_what_could_not_be_judged_is_said() -> None:
    short = gauges([sample(at * 5.0, pid=1 + at // 10) for at in range(100)])
    server, broker = short.flatness()
    assert "No life of the server" in server
    assert (
        broker == "The broker took 9 MiB early and 9 MiB late in its longest life of 8 min, and had 0 and 0 files open."
    )


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
