"""Servers behind routers behind a pair of core routers, in three campaigns at once, whatever the order in which things happen.

The campaigns are those of `make demo-mixed`, as files. What must hold is counted by the test from what it gave and heard, not
from the planner's rows.
"""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.campaigns.strategy_file import parse_campaign
from server.planner import group_checks
from server.planner.ask_events import CHECKS, Check
from server.planner.commands import GrantPermit
from server.planner.rows import ReleaseKey
from server.planner.states import UNDECIDED
from server.planner.words import CampaignState
from simulator.mixed.campaigns import PARTS, Part
from simulator.mixed.sites import APPLIANCE, HOST, Member, everybody, labels_of, pairs, paths
from tests.server.planner.playbook import NEW, OLD, Board

MEMBERS = {one.name: one for one in everybody()}
PAIRS, PATHS = pairs(MEMBERS.values()), paths(MEMBERS.values())
SITE_LIMIT = 2
MOST_MOVES = 3000
ENDS = ("committed", "committed", "committed", "fell_back", "silent")


class Yard:
    """The sites, the planner before them, and who is out now: in flight, or silent."""

    def __init__(self, random: Random, checks: tuple[Check, ...] = CHECKS, *, but: str = "") -> None:
        """`but`: words that are left out of the campaigns' files."""
        self.random, self.board, self.but = random, Board(checks=checks), but
        self.in_flight: set[str] = set()
        self.silent: set[str] = set()
        self.done: set[str] = set()
        self.bad: Counter[str] = Counter()
        self.granted: list[str] = []
        for name, one in MEMBERS.items():
            labels = labels_of(one, {above: above for above in one.above})
            self.board.add_target(name, groups=tuple(f"{key}={value}" for key, value in labels.items()))
        for part in PARTS:
            self._start(part)

    def _start(self, part: Part) -> None:
        names = [one.name for one in MEMBERS.values() if one.kind == part.kind]
        release = ReleaseKey(product=part.product, version="2.0", counter=2, sha256=NEW)
        plan = parse_campaign(part.text("2.0").replace(self.but, "")).strategy
        self.board.add_campaign(part.name, names, plan, seed=self.random.randrange(1000), release=release)
        self.board.put_leaves_first(part.name)
        self.board.start(part.name)

    def move(self) -> None:
        """Somebody asks, comes to an end or comes back, or time passes."""
        name = self.random.choice(list(MEMBERS))
        if self.random.random() < 0.1:
            self.board.wait(self.random.choice([1, 2, 4]))
        elif name in self.in_flight:
            self._end(name)
        elif name in self.silent:
            self._come_back(name)
        elif name not in self.done:
            self._ask(name)

    def _ask(self, name: str) -> None:
        if self.board.target(name).holder is None:
            return
        self.board.stage(name)
        if isinstance(self.board.ask(name), GrantPermit):
            self.granted.append(name)
            self._check(MEMBERS[name])
            self.in_flight.add(name)
            self.board.report(name, "activating")

    def _end(self, name: str) -> None:
        kind = MEMBERS[name].kind
        how = self.random.choice(ENDS) if not self.bad[kind] else "committed"
        self.bad[kind] += how != "committed"
        self.in_flight.discard(name)
        if how == "silent":
            self.silent.add(name)
            return
        self.board.report(name, "trial", runs=NEW)
        self.board.report(name, how, runs=NEW if how == "committed" else OLD)
        self.done.add(name)

    def _come_back(self, name: str) -> None:
        if self.random.random() < 0.2:
            self.silent.discard(name)
            self.board.report(name, "trial", runs=NEW)
            self.board.report(name, "committed", runs=NEW)
            self.done.add(name)

    def _check(self, one: Member) -> None:
        """What must hold when somebody may go."""
        out = self.in_flight | self.silent
        assert not [name for name in PAIRS.get(one.pair, ()) if name in out], "its pair would be down"
        assert not PATHS[one.name] & out, "somebody above it is out"
        assert not [name for name in self.in_flight if one.name in PATHS[name]], "somebody behind it is in flight"
        assert sum(MEMBERS[name].site == one.site for name in out) < SITE_LIMIT, "too many of its site would be out"
        if one.kind == APPLIANCE:
            behind = [name for name, above in PATHS.items() if one.name in above and MEMBERS[name].kind == APPLIANCE]
            first = [*behind, *(name for name, other in MEMBERS.items() if other.kind == HOST)]
            assert set(first) <= self.done | self.silent, "leaves go first, and all servers before any router"

    def run(self) -> None:
        """Until everybody is through, or nobody gets any further."""
        for _ in range(MOST_MOVES):
            self.move()
            if len(self.done) == len(MEMBERS):
                return


@pytest.mark.timeout(600)
@settings(deadline=None)
@given(st.integers(0, 1 << 32))
def test_no_pair_is_broken_and_everybody_gets_there_in_any_order(seed: int) -> None:
    yard = Yard(Random(seed))
    yard.run()
    left = {name: yard.board.explain(name, None).text for name in MEMBERS if name not in yard.done}
    assert not left
    yard.board.wait(3600)
    assert {yard.board.campaign(part.name).state for part in PARTS} == {CampaignState.COMPLETED}
    assert not [row for row in yard.board.assignments() if row.state in UNDECIDED]
    assert sorted(yard.granted) == sorted(MEMBERS)


def run_some(checks: tuple[Check, ...] = CHECKS, *, but: str = "") -> None:
    for seed in range(20):
        Yard(Random(seed), checks, but=but).run()


@pytest.mark.parametrize(
    ("check", "seen"),
    [
        (group_checks.predecessors_are_done, "all servers before any router"),
        (group_checks.leaves_went_first, "leaves go first"),
        (group_checks.path_is_clear, "somebody (above it is out|behind it is in flight)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_it_would_be_seen_if_the_planner_did_not_ask(check: Check, seen: str) -> None:
    others = tuple(one for one in CHECKS if one is not check)
    with pytest.raises(AssertionError, match=seen):
        run_some(others)


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("    - {by: pair, keep: 1}\n", "its pair would be down"),
        ("    - {by: site, limit: 2}\n", "too many of its site"),
    ],
)
def test_it_would_be_seen_if_the_campaigns_did_not_say(words: str, seen: str) -> None:
    assert all(words in part.text("2.0") for part in PARTS)
    with pytest.raises(AssertionError, match=seen):
        run_some(but=words)
