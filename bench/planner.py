"""The planner with its rows in memory: events per second against a bare event heap, and what a larger fleet costs."""

from heapq import heapify, heappop, heappush

from bench.fleet_play import Play, Timed
from bench.measure import in_turns, seconds
from bench.plan import Plan
from bench.result import Outcome, against_peer
from server.planner.events import AssignmentDue

ROUNDS, EVENTS = 3, 20_000
SMALL, LARGE = 10_000, 1_000_000
WAITING = 1_000
"""Events that wait in the bare heap meanwhile."""


def planner(plan: Plan) -> list[Outcome]:
    """Speed, and rows and time per event at two sizes of fleet."""
    limit, large_size = plan.size(EVENTS), plan.size(LARGE)
    small, large = _Rate(SMALL, limit), _Rate(large_size, limit)
    rate, heap_rate, large_rate = in_turns(plan.rounds(ROUNDS), small, lambda: _heap_rate(limit), large)
    kinds = small.rows.keys() & large.rows.keys()
    most = [float(max(found.rows[kind] for kind in kinds)) for found in (large, small)]
    times = [[1e6 / one for one in rates] for rates in (large_rate, rate)]
    peer = f"the same with {SMALL:,} targets"
    return [
        against_peer("planner.events", "per s", "higher", rate, "a bare heap of the same events", heap_rate),
        against_peer(f"planner.rows.{large_size}", "rows per event, at most", "lower", most[:1], peer, most[1:]),
        against_peer(f"planner.time.{large_size}", "µs per event", "lower", times[0], peer, times[1]),
    ]


class _Rate:
    """Events per second of a campaign that goes on from round to round, anew when it is over. `rows`: the most that an event
    of each kind ever touched."""

    def __init__(self, targets: int, limit: int) -> None:
        self._targets = targets
        self._limit = limit
        self._play = Play(targets)
        self.rows: dict[str, int] = {}

    def __call__(self) -> float:
        if not self._play.goes_on:
            self._play = Play(self._targets)
        before, limit = self._play.events, self._play.events + self._limit
        took_s = seconds(lambda: self._play.run(limit))
        for kind, rows in self._play.rows.items():
            self.rows[kind] = max(rows, self.rows.get(kind, 0))
        return (self._play.events - before) / took_s


def _heap_rate(events: int) -> float:
    heap: list[Timed] = [(float(n), n, AssignmentDue(campaign="c", target="t", at=float(n))) for n in range(WAITING)]
    heapify(heap)

    def turn_over() -> None:
        for number in range(events):
            at, _, _ = heappop(heap)
            heappush(heap, (at + WAITING, number, AssignmentDue(campaign="c", target="t", at=at + WAITING)))

    return events / seconds(turn_over)
