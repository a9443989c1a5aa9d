"""Fleets that are made up, with everything that bites: sites that fail as a unit, bad strata, silence, delay and drift.

Each scenario says what is true of its fleets, so which verdict is wrong, and how often it may be given. The planner's own code
moves every target and judges after every move (`gatehouse`). Seeds are numbers, so a table can be made again:

    python -m tests.server.planner.gate_trials --runs 1000 --write
"""

import argparse
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from server.planner.states import Move
from server.planner.strategy import GatePolicy
from server.planner.words import GateVerdict
from tests.server.planner.gatehouse import HELD, PASS, Gatehouse, rate

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "gates.md"
BEGIN, END = "<!-- generated: calibration -->\n", "<!-- end -->"
GOOD, BAD, SILENT, REFUSING, ASLEEP = "good", "bad", "silent", "refusing", "asleep"
GOOD_S, HORIZON_S = 10.0, 50.0
Made = list[tuple[dict[str, str], str]]
"""Targets in random order: what each has, and how it ends."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`wrong`: the verdict that is an error in these fleets, which may be given in a share of `claim` at most (None: none is
    wrong, and how often it passes is its power). `bad_s`: how long a failure takes to be told."""

    name: str
    gate: GatePolicy
    make: Callable[[np.random.Generator], Made]
    wrong: GateVerdict | None
    claim: float = 0.05
    bad_s: float = 5.0
    in_flight: int = 30
    is_large: bool = False
    """Too many targets to be played whenever somebody runs the tests."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    runs: int
    passed: int
    failed: int

    @property
    def held(self) -> int:
        return self.runs - self.passed - self.failed


def play(scenario: Scenario, seed: int) -> GateVerdict:
    """One fleet's first verdict, or `insufficient` when there never is one."""
    rng = np.random.default_rng(seed)
    made = scenario.make(rng)
    house = Gatehouse((scenario.gate,), {f"t{i}": own for i, (own, _) in enumerate(made)})
    ends = {f"t{i}": end for i, (_, end) in enumerate(made)}
    return next((verdict for verdict in _history(house, ends, scenario) if verdict is not HELD), HELD)


def trials(scenario: Scenario, runs: int, seed: int = 1) -> Tally:
    """So many fleets of a scenario."""
    found = [play(scenario, seed * 1_000_003 + run) for run in range(runs)]
    return Tally(runs=runs, passed=found.count(PASS), failed=found.count(GateVerdict.FAIL))


def _history(house: Gatehouse, ends: dict[str, str], scenario: Scenario) -> Iterator[GateVerdict]:
    """What happens to a cohort in the order of time, with the verdict after each."""
    house.order()
    takes_s = {GOOD: GOOD_S, BAD: scenario.bad_s, SILENT: HORIZON_S}
    for target, end in ends.items():
        if end == REFUSING:
            yield house.move(target, "refused")
    waiting = [target for target, end in ends.items() if end in takes_s][::-1]
    under_way: list[tuple[float, str]] = []
    now = 0.0
    while waiting or under_way:
        while waiting and len(under_way) < scenario.in_flight:
            target = waiting.pop()
            yield house.attempt(target)
            heapq.heappush(under_way, (now + takes_s[ends[target]], target))
        now, target = heapq.heappop(under_way)
        if ends[target] == GOOD:
            yield house.verify(target)
        else:
            yield house.move(target, "fell_back" if ends[target] == BAD else Move.HORIZON)
    for target, end in ends.items():
        if end == ASLEEP:
            yield house.to_late(target)


# Fleets


def shuffled(rng: np.random.Generator, items: list[T]) -> list[T]:
    return [items[index] for index in rng.permutation(len(items))]


def iid(number: int, share: float, end: str = BAD, asleep: float = 0.0) -> Callable[[np.random.Generator], Made]:
    """Every target fails by itself."""

    def make(rng: np.random.Generator) -> Made:
        ends = np.where(rng.random(number) < share, end, GOOD)
        return [({}, ASLEEP if rng.random() < asleep else str(one)) for one in ends]

    return make


def clusters(sites: int, members: int, share: float, end: str = BAD) -> Callable[[np.random.Generator], Made]:
    """Sites fail as a unit."""

    def make(rng: np.random.Generator) -> Made:
        bad = rng.random(sites) < share
        return shuffled(
            rng, [({"site": f"s{site}"}, end if bad[site] else GOOD) for site in range(sites) for _ in range(members)]
        )

    return make


def loose_clusters(sites: int, members: int, share: float) -> Callable[[np.random.Generator], Made]:
    """Sites have a rate of their own, from a beta distribution with this mean: some are bad, most are good, all are mixed."""

    def make(rng: np.random.Generator) -> Made:
        rates = rng.beta(share * 2, (1 - share) * 2, sites)
        found: list[tuple[dict[str, str], str]] = [
            ({"site": f"s{site}"}, BAD if rng.random() < rates[site] else GOOD)
            for site in range(sites)
            for _ in range(members)
        ]
        return shuffled(rng, found)

    return make


def revision(number: int, part: float, share: float, elsewhere: float = 0.0) -> Callable[[np.random.Generator], Made]:
    """One hardware revision is `part` of the fleet, and fails with probability `share`."""

    def make(rng: np.random.Generator) -> Made:
        ends: Made = []
        for index in range(number):
            is_bad = index < part * number
            fails = rng.random() < (share if is_bad else elsewhere)
            ends.append(({"hardware": "r2" if is_bad else "r1"}, BAD if fails else GOOD))
        return shuffled(rng, ends)

    return make


def strata(number: int, each: int, share: float) -> Callable[[np.random.Generator], Made]:
    """So many revisions, all with the same rate."""

    def make(rng: np.random.Generator) -> Made:
        return shuffled(
            rng,
            [
                ({"hardware": f"r{index % number}"}, BAD if rng.random() < share else GOOD)
                for index in range(number * each)
            ],
        )

    return make


PASSES, STOPS = PASS, GateVerdict.FAIL
BOUND = 0.2
GATE, STRICT = rate(BOUND), rate(0.05)
BY_HARDWARE = rate(BOUND, by=("hardware",))
MANY = 70
SCENARIOS = (
    Scenario(name="20 % fail", gate=GATE, make=iid(MANY, BOUND), wrong=PASSES),
    Scenario(name="20 % fail", gate=GATE, make=iid(MANY, BOUND), wrong=STOPS),
    Scenario(name="20 % fail, told late", gate=GATE, make=iid(MANY, BOUND), wrong=PASSES, bad_s=45.0),
    Scenario(name="20 % fail, told at once", gate=GATE, make=iid(MANY, BOUND), wrong=STOPS, bad_s=0.1),
    Scenario(
        name="20 % fail, told late, all under way",
        gate=GATE,
        make=iid(MANY, BOUND),
        wrong=PASSES,
        bad_s=45,
        in_flight=MANY,
    ),
    Scenario(
        name="20 % brick silently, all under way",
        gate=GATE,
        make=iid(MANY, BOUND, SILENT),
        wrong=PASSES,
        in_flight=MANY,
    ),
    Scenario(
        name="10 % brick silently (bound 5 %)", gate=STRICT, make=iid(150, 0.1, SILENT), wrong=PASSES, in_flight=150
    ),
    Scenario(name="20 % refuse before any attempt, at once", gate=GATE, make=iid(MANY, BOUND, REFUSING), wrong=STOPS),
    Scenario(name="20 % fail, a third is asleep", gate=GATE, make=iid(90, BOUND, asleep=0.33), wrong=PASSES),
    Scenario(name="sites of 5 fail as units, 20 %", gate=GATE, make=clusters(40, 5, BOUND), wrong=PASSES),
    Scenario(name="sites of 5 fail as units, 20 %", gate=GATE, make=clusters(40, 5, BOUND), wrong=STOPS),
    Scenario(
        name="sites of 20 fail as units, 20 %", gate=GATE, make=clusters(30, 20, BOUND), wrong=PASSES, is_large=True
    ),
    Scenario(
        name="sites of 20 fail as units, 20 %", gate=GATE, make=clusters(30, 20, BOUND), wrong=STOPS, is_large=True
    ),
    Scenario(name="sites of 5 brick as units, 20 %", gate=GATE, make=clusters(40, 5, BOUND, SILENT), wrong=PASSES),
    Scenario(name="sites of 6 of mixed quality, 20 %", gate=GATE, make=loose_clusters(40, 6, BOUND), wrong=PASSES),
    Scenario(name="sites of 6 of mixed quality, 20 %", gate=GATE, make=loose_clusters(40, 6, BOUND), wrong=STOPS),
    Scenario(
        name="a revision that is 3 % fails in 20 %",
        gate=BY_HARDWARE,
        make=revision(800, 0.03, BOUND),
        wrong=PASSES,
        is_large=True,
    ),
    Scenario(name="8 revisions, each 20 %", gate=BY_HARDWARE, make=strata(8, 20, BOUND), wrong=STOPS),
    Scenario(name="8 revisions, each 20 %", gate=BY_HARDWARE, make=strata(8, 20, BOUND), wrong=PASSES),
)
"""Where the truth is at the bound, or beyond: nothing is harder to tell."""
POWER = (
    Scenario(name="2 % fail, 32 sites", gate=GATE, make=iid(32, 0.02), wrong=None),
    Scenario(name="5 % fail, 70 sites", gate=GATE, make=iid(MANY, 0.05), wrong=None),
    Scenario(name="0.5 % fail, 133 sites (bound 5 %)", gate=STRICT, make=iid(133, 0.005), wrong=None),
    Scenario(
        name="sites of 20, 2 % fail as units, 32 sites",
        gate=GATE,
        make=clusters(32, 20, 0.02),
        wrong=None,
        is_large=True,
    ),
    Scenario(name="50 % fail, 70 sites", gate=GATE, make=iid(MANY, 0.5), wrong=None),
    Scenario(name="half of all brick, 70 sites", gate=GATE, make=iid(MANY, 0.5, SILENT), wrong=None),
    Scenario(name="30 % brick, 150 sites (bound 5 %)", gate=STRICT, make=iid(150, 0.3, SILENT), wrong=None),
)


def at_most(claim: float, runs: int) -> int:
    """So many of `runs` may be wrong: more than that has a probability below 1 in 10,000 where the claim holds."""
    chance, total, errors = (1 - claim) ** runs, 0.0, 0
    while total + chance < 0.9999:
        total += chance
        chance *= (runs - errors) / (errors + 1) * claim / (1 - claim)
        errors += 1
    return errors


def table(runs: int, *, large: bool) -> str:
    """The table of the docs; `large`: with the scenarios that take long."""
    lines = ["| fleets | wrong verdict | claimed at most | given |", "|---|---|---|---|"]
    for scenario in (one for one in SCENARIOS if large or not one.is_large):
        tally = trials(scenario, runs)
        given = tally.passed if scenario.wrong is PASSES else tally.failed
        lines.append(f"| {scenario.name} | {scenario.wrong} | {scenario.claim:.0%} | {given / runs:.1%} |")
    lines += ["", "| fleets | pass | fail | insufficient |", "|---|---|---|---|"]
    for scenario in (one for one in POWER if large or not one.is_large):
        tally = trials(scenario, runs)
        shares = [f"{number / runs:.1%}" for number in (tally.passed, tally.failed, tally.held)]
        lines.append(f"| {scenario.name} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--large", action="store_true", help="with the scenarios that take long")
    parser.add_argument("--write", action="store_true", help="put the table into the docs")
    options = parser.parse_args()
    said = "bound 20 % with 95 % confidence where nothing else is said"
    made = f"{options.runs:,} fleets each, seed 1; {said}.\n\n{table(options.runs, large=options.large)}"
    if not options.write:
        print(made)
        return
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
