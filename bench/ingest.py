"""Messages of a fleet at work taken in by a whole server, against merely receiving them; how long acks take; and what it keeps.

Seven in ten say how far a download is, unsigned and at QoS 0; three are signed reports at QoS 1, which are verified, stored,
acked and decided on by the planner before the clock stops. Server and peer hear the same messages from the same Mosquitto, over
TLS, while they are published.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.crowd import endless, mix
from bench.hall import Hall, hall
from bench.measure import MIB, pss_bytes
from bench.plan import Plan
from bench.postgres import postgres, postgres_is_here
from bench.result import Outcome, Skipped, against_limit, against_peer
from server.transport.broker import find_mosquitto

ROUNDS, DEVICES = 3, 1000
PACED_S, MEMORY_S = 10.0, 60.0
ACK_LIMIT_S = 0.5
FLAT = 1.05
PEER = "bare aiomqtt receiving them from the same Mosquitto"
DATABASES = ("sqlite", "postgresql")


@dataclass(frozen=True, kw_only=True)
class Round:
    """Messages per second of ours and of the peer; and seconds from publishing to the ack at half of ours."""

    ours: float
    theirs: float
    waits_s: Sequence[float]


def ingest(plan: Plan) -> list[Outcome]:
    """Messages per second, seconds to the ack, and memory over time."""
    if find_mosquitto() is None:
        return [Skipped(name="ingest", reason="Its peer, Mosquitto, is missing: apt-get install mosquitto")]
    outcomes: list[Outcome] = []
    for name in DATABASES:
        if name == "postgresql" and not postgres_is_here():
            outcomes.append(
                Skipped(name=f"ingest.{name}", reason="PostgreSQL 15 is missing: apt-get install postgresql-15")
            )
            continue
        outcomes += _on(name, plan)
    return [*outcomes, memory(plan, MEMORY_S)]


def memory(plan: Plan, for_s: float, name: str = "sqlite") -> Outcome:
    """Whether the server's memory grows while messages come in at half the rate that it could take."""
    with _opened(name, plan.scratch, plan.size(DEVICES)) as made:
        messages = mix(made.devices)
        per_s = len(messages) / made.handle(messages) / 2
        found = _watched(made, per_s, plan.size(int(for_s)))
    early, late = fifths(found)
    whose = f"the second fifth of {len(found)} s at {per_s:.0f} messages per s; {FLAT:g} times that counts as flat"
    return against_peer(f"ingest.memory.{name}", "MiB (PSS) in the last fifth", "lower", [late], whose, [early])


def fifths(found: Sequence[float]) -> tuple[float, float]:
    """The medians of the second fifth and of the last. In the first, caches fill; a median forgives a moment's peak."""
    fifth = max(1, len(found) // 5)
    return median(found[fifth : 2 * fifth] or found), median(found[-fifth:])


def _on(name: str, plan: Plan) -> list[Outcome]:
    rounds = [_round(name, plan) for _ in range(plan.rounds(ROUNDS))]
    ours, theirs = [one.ours for one in rounds], [one.theirs for one in rounds]
    p50, p99 = ([_quantile(one.waits_s, part) for one in rounds] for part in (0.5, 0.99))
    return [
        against_peer(f"ingest.{name}", "per s", "higher", ours, PEER, theirs),
        against_limit(f"ingest.{name}.ack.p50", "s", p50, ACK_LIMIT_S),
        against_limit(f"ingest.{name}.ack.p99", "s", p99, ACK_LIMIT_S),
    ]


def _round(name: str, plan: Plan) -> Round:
    with _opened(name, plan.scratch, plan.size(DEVICES)) as made:
        messages = mix(made.devices)
        ours = len(messages) / made.handle(messages)
        waits_s = _waits(made, ours / 2, plan.size(int(PACED_S)))
        theirs = len(messages) / made.receive(messages)
    return Round(ours=ours, theirs=theirs, waits_s=waits_s)


@contextmanager
def _opened(name: str, scratch: Path, devices: int) -> Iterator[Hall]:
    """A server whose devices have introduced themselves and hold orders."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        place = Path(directory)
        if name == "sqlite":
            with hall(place, devices) as made:
                made.order_all()
                yield made
        else:
            with postgres(place) as url, hall(place, devices, url=url) as made:
                made.order_all()
                yield made


def _waits(made: Hall, per_s: float, for_s: float) -> list[float]:
    """Seconds from publishing each report to its ack, at this rate."""
    sent = made.line.send_at(endless(made.devices), per_s, for_s)
    made.line.await_acks(sent.keys(), 60.0)
    return sorted(made.line.acked[key] - at for key, at in sent.items())


def _watched(made: Hall, per_s: float, for_s: int) -> list[float]:
    """The server's MiB (PSS) after each second at this rate."""
    found, messages = [], endless(made.devices)
    for _ in range(for_s):
        made.line.send_at(messages, per_s, 1.0)
        made.line.acked.clear()
        found.append(pss_bytes(made.pid) / MIB)
    return found


def _quantile(values: Sequence[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))]


def main(arguments: Sequence[str]) -> None:
    """`python -m bench.ingest --minutes N`: watch the server's memory for longer than a complete benchmark does."""
    parser = argparse.ArgumentParser(prog="python -m bench.ingest", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--database", choices=DATABASES, default=DATABASES[0])
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        print(memory(Plan(scratch=Path(directory), cache=Path(directory)), options.minutes * 60, options.database))
    print(f"{(time.monotonic() - began) / 60:.1f} minutes in all")


if __name__ == "__main__":
    main(sys.argv[1:])
