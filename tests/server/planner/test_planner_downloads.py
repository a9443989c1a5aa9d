"""Downloads: how many of a site fetch at once, who comes next, and who gives a place back."""

import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError
from firmware.protocol.words import Action
from server.planner.commands import SendOrder
from server.planner.deadlines import HEARD_FACTOR
from server.planner.download_line import line_of
from server.planner.downloads import place_group
from server.planner.events import HandOut
from server.planner.policy import parse_strategy
from server.planner.slices import Footprint
from server.planner.strategy import (
    BandwidthPolicy,
    CohortPolicy,
    DownloadPolicy,
    GatePolicy,
    RetryPolicy,
    Strategy,
    TimeoutPolicy,
    UnattendedPolicy,
)
from server.planner.words import AssignmentState, TokenKind, Verb
from tests.server.planner.playbook import NEW, OLD, PATIENCE_S, STEP, Board, fleet, strategy

A = AssignmentState
ALL = (CohortPolicy(name="all", gate=GatePolicy(kind="share", max_failure_rate=1.0)),)
BERLIN = "site=berlin"
TWO_A_SITE = (DownloadPolicy(by="site", limit=2),)


def limited(**values: object) -> Strategy:
    return strategy(**{"cohorts": ALL, "downloads": TWO_A_SITE, **values})


def at_berlin(count: int = 5, plan: Strategy | None = None, **options: object) -> Board:
    return fleet(count, plan or limited(), groups=(BERLIN,), **options)


def fetching(board: Board) -> list[str]:
    return sorted(row.target for row in board.assignments() if row.state in (A.ORDERED, A.DOWNLOADING))


def in_line(board: Board) -> list[str]:
    line = board.tokens(line_of(place_group(BERLIN)))
    return [row.target for row in sorted(line, key=lambda row: row.since)]


def used(board: Board) -> int:
    return board.group(place_group(BERLIN)).used


def test_so_many_of_a_site_are_ordered_and_the_others_stand_in_line_by_rank() -> None:
    board = at_berlin()
    ranked = board.members("all")
    assert fetching(board) == sorted(ranked[:2])
    assert in_line(board) == ranked[2:]
    assert all(board.orders(name) == [] for name in ranked[2:])


def test_explain_names_the_site_those_that_download_and_what_ends_it() -> None:
    board = at_berlin(3)
    last = board.members("all")[2]
    told = board.explain(last)
    assert (told.kind, told.since, told.until) == ("downloads", 1000.0, board.assignment(last).wake_at)
    assert told.text == "2 of site=berlin may be downloading now, and 2 may at once. It is ordered at its turn."
    assert told.release_by == "its turn, when a target that downloads has staged or ended"


@pytest.mark.parametrize("word", ["staged", "deferred", "failed", "refused"])
def test_a_place_goes_to_the_next_in_line_when_a_download_is_over(word: str) -> None:
    board = at_berlin()
    first, second, third, *rest = board.members("all")
    board.report(first, "downloading")
    assert in_line(board) == [third, *rest]
    board.report(first, word)
    assert fetching(board) == sorted([second, third])
    assert in_line(board) == rest


def test_everybody_gets_a_turn() -> None:
    board = at_berlin(7)
    for name in board.members("all"):
        board.stage(name)
    assert board.tally() == {A.STAGED: 7}
    assert (board.tokens(), used(board)) == ([], 0)


def rates(board: Board) -> dict[str, int | None]:
    """By target, what its last order lets it fetch."""
    return {said.target: said.max_rate for said in board.said if isinstance(said, SendOrder)}


def shared(limit: int = 1000, places: int = 2, by: str = "site", **values: object) -> Strategy:
    downloads, bandwidth = (DownloadPolicy(by=by, limit=places),), (BandwidthPolicy(by=by, limit=limit),)
    return limited(downloads=downloads, bandwidth=bandwidth, **values)


def test_each_order_has_its_share_of_the_sites_bandwidth_also_who_comes_later() -> None:
    board = at_berlin(5, shared(1001))
    for name in board.members("all"):
        board.stage(name)
    assert set(rates(board).values()) == {500}
    assert len(rates(board)) == 5


def test_without_a_bandwidth_no_order_has_a_rate() -> None:
    board = at_berlin()
    assert set(rates(board).values()) == {None}


def test_who_is_in_no_group_that_is_limited_has_no_rate() -> None:
    board = fleet(2, shared())
    assert set(rates(board).values()) == {None}


def test_the_narrowest_of_several_lines_counts() -> None:
    downloads = (DownloadPolicy(by="site", limit=2), DownloadPolicy(by="campaign", limit=3))
    bandwidth = (BandwidthPolicy(by="site", limit=1000), BandwidthPolicy(by="campaign", limit=600))
    board = at_berlin(2, limited(downloads=downloads, bandwidth=bandwidth))
    assert set(rates(board).values()) == {200}


def test_going_back_fetches_nothing_and_has_no_rate() -> None:
    board = at_berlin(1, shared())
    board.verify("t0")
    board.tell(Verb.ROLLBACK)
    assert rates(board) == {"t0": None}


def test_only_orders_to_fetch_have_a_rate() -> None:
    board = at_berlin(1, shared(unattended=UnattendedPolicy()))
    assert rates(board) == {"t0": 500}
    board.feed(HandOut(campaign="c", target="t0", until=board.now + PATIENCE_S, by="ann", at=board.now))
    assert rates(board) == {"t0": None}
    board = at_berlin(1, shared())
    board.tell(Verb.ABORT)
    assert board.orders("t0")[-1] is Action.NOTHING
    assert rates(board) == {"t0": None}


def together(first: Strategy, second: Strategy) -> Board:
    """Two campaigns at one site, each with its own targets, the first one's ordered."""
    board = Board()
    for index in range(6):
        board.add_target(f"t{index}", groups=(BERLIN,))
    board.add_campaign("c", ["t0", "t1", "t2"], first)
    board.add_campaign("d", ["t3", "t4", "t5"], second)
    board.start("c")
    board.start("d")
    return board


def test_the_narrower_of_two_campaigns_binds_both_until_the_line_is_empty() -> None:
    board = together(shared(1000, places=4), shared(9000, places=4))
    assert [rate for name, rate in sorted(rates(board).items())] == [250, 250, 250, 250]
    assert board.group(place_group(BERLIN)).bandwidth == 1000
    for name in [f"t{index}" for index in range(6)]:
        if board.state(name, "c" if name < "t3" else "d") is not A.PLANNED:
            board.stage(name)
    for name in ("t3", "t4", "t5"):
        if board.state(name, "d") is not A.STAGED:
            board.stage(name)
    assert used(board) == 0
    board.add_target("t9", groups=(BERLIN,))
    board.add_campaign("e", ["t9"], shared(9000, places=4))
    board.start("e")
    assert rates(board)["t9"] == 2250


def test_a_campaign_that_limits_nothing_shares_the_line_too() -> None:
    board = together(shared(1000, places=4), limited(downloads=()))
    assert set(rates(board).values()) == {250}


@pytest.mark.parametrize(("first", "second"), [(4, 2), (2, 4), (3, 3), (4, 1)])
def test_all_orders_that_are_out_stay_together_below_the_limit(first: int, second: int) -> None:
    board = together(shared(1200, places=first), shared(1200, places=second))
    for _ in range(6):
        out = [row.target for row in board.assignments() if row.state in (A.ORDERED, A.DOWNLOADING)]
        assert sum(rates(board)[name] or 0 for name in out) <= 1200
        if out:
            board.stage(out[0])


def bandwidth_of(value: object, downloads: object = ({"by": "site", "limit": 4},)) -> tuple[BandwidthPolicy, ...]:
    given = {"name": "s", "cohorts": [{"name": "all"}], "bandwidth": value, "downloads": list(downloads)}  # type: ignore[call-overload]
    return parse_strategy(given).bandwidth


def test_everything_that_can_be_said_about_bandwidth() -> None:
    assert bandwidth_of([{"by": "site", "limit": "2 MB/s"}]) == (BandwidthPolicy(by="site", limit=2_000_000),)
    assert bandwidth_of([{"by": "site", "limit": "512KiB/s"}]) == (BandwidthPolicy(by="site", limit=512 << 10),)
    assert bandwidth_of([{"by": "site", "limit": 4096}]) == (BandwidthPolicy(by="site", limit=4096),)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([{"by": "rack", "limit": 9999}], r"bandwidth\[0\] must have an entry in downloads by rack beside it"),
        (
            [{"by": "site", "limit": 4095}],
            "limit must leave each of the 4 that may download at once 1024 bytes per second, not 1023",
        ),
        ([{"by": "site", "limit": 0}], "limit must be bytes per second, from 1024"),
        ([{"by": "site", "limit": "2MB"}], "limit must be bytes per second, from 1024, or a text such as 2MB/s"),
        ([{"by": "site", "limit": True}], "limit must be bytes per second"),
        ([{"by": "no such", "limit": 9999}], "by must be 'campaign' or the name of a label"),
        ([{"by": "site", "limit": 9999}, {"by": "site", "limit": 9999}], "different from the others"),
        ([{"by": "site", "rate": 1}], "rate is no key"),
    ],
)
def test_bandwidth_that_makes_no_sense_is_refused(value: object, says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        bandwidth_of(value)


def test_other_sites_do_not_wait() -> None:
    board = Board()
    names = [f"t{index}" for index in range(6)]
    for index, name in enumerate(names):
        board.add_target(name, groups=[BERLIN if index % 2 else "site=rome"])
    board.add_campaign("c", names, limited())
    board.start()
    assert len(fetching(board)) == 4


@pytest.mark.parametrize("limit_s", [None, 50 * PATIENCE_S])
def test_who_is_not_heard_gives_its_place_back_after_its_patience(limit_s: float | None) -> None:
    board = at_berlin(3, limited(timeouts=TimeoutPolicy(download_s=limit_s)))
    *_, last = board.members("all")
    board.wait(PATIENCE_S - 1)
    assert last not in fetching(board)
    board.wait(1)
    assert board.state(last) is A.ORDERED
    assert used(board) == 1, "the two that were moved to late hold none"


@pytest.mark.parametrize(("limit_s", "after_s"), [(None, HEARD_FACTOR * PATIENCE_S), (40.0, 40)])
def test_who_falls_silent_while_it_downloads_gives_its_place_back(limit_s: float | None, after_s: float) -> None:
    board = at_berlin(3, limited(timeouts=TimeoutPolicy(download_s=limit_s)))
    first, second, last = board.members("all")
    board.report(first, "downloading")
    board.report(second, "downloading")
    board.wait(after_s - 1)
    assert board.state(last) is A.PLANNED
    board.wait(1)
    assert board.state(last) is A.ORDERED


def test_waiting_in_line_is_no_silence() -> None:
    board = at_berlin(3)
    first, second, last = board.members("all")
    for _ in range(5):
        board.wait(PATIENCE_S / 2)
        board.report(first, "ordered")
        board.report(second, "ordered")
    assert board.assignment(last).cohort == 0
    assert (board.state(last), in_line(board)) == (A.PLANNED, [last])
    assert board.cohort("all").verdict == "insufficient"


def two_campaigns(first: Strategy, second: Strategy) -> Board:
    board = Board()
    for name in ("a", "b", "x", "y", "z"):
        board.add_target(name, groups=[BERLIN])
    board.add_campaign("c", ["a", "b"], first)
    board.add_campaign("d", ["x", "y", "z"], second)
    board.start("c")
    board.start("d")
    return board


def test_running_campaigns_share_a_site() -> None:
    board = two_campaigns(limited(), limited(downloads=(DownloadPolicy(by="site", limit=3),)))
    assert len(fetching(board)) == 2, "the strictest holds"
    board.stage("a")
    assert len(fetching(board)) == 2


def test_a_campaign_that_limits_nothing_counts_where_another_does() -> None:
    board = two_campaigns(limited(), limited(downloads=()))
    assert fetching(board) == ["a", "b"]
    board.stage("a", "b")
    assert len(fetching(board)) == 2, "the limit held until the line moved"


def test_what_began_before_anybody_limited_it_is_counted_when_it_says_so() -> None:
    board = Board()
    for name in ("a", "x", "y"):
        board.add_target(name, groups=[BERLIN])
    board.add_campaign("c", ["a"], limited(downloads=()))
    board.add_campaign("d", ["x", "y"], limited())
    board.start("c")
    board.start("d")
    assert len(fetching(board)) == 3
    board.report("a", "downloading")
    assert used(board) == 3
    board.stage(board.members("all", "d")[0])
    assert used(board) == 2


def test_the_higher_priority_comes_first() -> None:
    board = two_campaigns(limited(downloads=(DownloadPolicy(by="site", limit=1),)), limited(priority=5))
    assert len(fetching(board)) == 1
    for _ in range(3):
        board.stage(fetching(board)[0])
        assert set(fetching(board)) <= {"x", "y", "z"}


def test_a_turn_that_nothing_comes_of_goes_to_the_next() -> None:
    board = at_berlin(4, limited(downloads=(DownloadPolicy(by="site", limit=1),)))
    first, second, third, _ = board.members("all")
    board.rows["target", second] = replace(board.target(second), quarantined=True)
    board.report(first, "staged")
    assert (board.state(second), fetching(board)) == (A.SKIPPED, [third])


def test_a_paused_campaign_gives_its_turn_to_another_and_goes_on_when_resumed() -> None:
    board = two_campaigns(limited(downloads=(DownloadPolicy(by="site", limit=1),)), limited())
    board.tell(Verb.PAUSE, "c")
    board.stage(fetching(board)[0])
    assert set(fetching(board)) <= {"x", "y", "z"}
    waits = next(name for name in ("a", "b") if board.state(name) is A.PLANNED)
    assert board.explain(waits).kind == "paused"
    board.tell(Verb.RESUME, "c")
    for name in (*board.members("all", "d"), "a", "b"):
        board.stage(name)
    assert board.state(waits) is A.STAGED


def test_a_paused_campaign_keeps_nobody_asking() -> None:
    board = at_berlin(3)
    waits = board.members("all")[2]
    board.tell(Verb.PAUSE)
    board.wait(PATIENCE_S)
    assert (board.assignment(waits).wake_at, in_line(board)) == (None, [])
    board.tell(Verb.RESUME)
    board.wait(1)
    assert board.state(waits) is A.ORDERED


def test_an_aborted_campaign_leaves_the_line_and_its_places() -> None:
    board = at_berlin(4)
    waiting = board.members("all")[2:]
    board.tell(Verb.ABORT)
    board.wait(PATIENCE_S)
    assert (board.tokens(), used(board)) == ([], 0)
    assert all(board.assignment(name).wake_at is None for name in waiting)


def test_who_comes_late_is_counted_and_its_place_ends() -> None:
    board = at_berlin(3)
    first, *_ = board.members("all")
    board.wait(PATIENCE_S)
    before = used(board)
    board.report(first, "downloading")
    assert used(board) == before + 1
    assert board.assignment(first).cohort == 1, "it is late"
    board.wait(HEARD_FACTOR * PATIENCE_S - 1)
    assert [row.kind for row in board.tokens(place_group(BERLIN)) if row.target == first] == [TokenKind.DOWNLOADING]
    board.wait(1)
    assert not [row for row in board.tokens() if row.target == first]
    assert board.state(first) is A.DOWNLOADING
    assert board.assignment(first).wake_at == board.now + board.campaign().strategy.order_ttl_s


def test_a_retry_stands_in_line_again() -> None:
    board = at_berlin(3, limited(retries=RetryPolicy(most=1, first_s=20, jitter=0)))
    first, second, last = board.members("all")
    board.report(first, "failed", reason_kind="unreachable", reason="No route.")
    assert fetching(board) == sorted([first, second, last])
    assert used(board) == 2, "the one that waits for its retry has no place"
    board.wait(20)
    assert board.explain(first).kind == "downloads"
    assert board.orders(first) == [Action.INSTALL]
    board.stage(second)
    assert board.orders(first) == [Action.INSTALL, Action.INSTALL]


def test_the_next_step_stands_in_line_too() -> None:
    board = at_berlin(3, limited(downloads=(DownloadPolicy(by="site", limit=1),)), through=True)
    first, second, last = board.members("all")
    board.commit(first)
    board.wait(10)
    assert (board.state(first), board.assignment(first).via is not None) == (A.COMMITTED, True)
    assert board.explain(first).kind == "downloads"
    board.stage(second)
    assert board.state(first) is A.ORDERED, "it is of lower rank than the last"
    assert board.state(last) is A.PLANNED
    assert board.target(first).running_sha256 == STEP


def test_a_correction_waits_for_a_place() -> None:
    board = at_berlin(2, limited(on_drift="correct", downloads=(DownloadPolicy(by="site", limit=1),)))
    for name in board.members("all"):
        board.verify(name)
    board.add_target("x", groups=[BERLIN])
    board.add_campaign("d", ["x"], limited())
    board.start("d")
    board.report("t0", "idle", runs="9" * 64, order_hash=None)
    assert board.state("t0") is A.DRIFTED
    board.stage("x")
    board.report("t0", "idle", runs="9" * 64, order_hash=None)
    assert board.state("t0") is A.ORDERED


def test_going_back_needs_no_place() -> None:
    board = at_berlin(3, limited(downloads=(DownloadPolicy(by="site", limit=1),)))
    first, *_ = board.members("all")
    board.verify(first)
    board.take_back(target=first)
    assert board.orders(first) == [Action.INSTALL, Action.ROLLBACK]


def test_a_place_is_no_token_of_a_budget() -> None:
    board = at_berlin(3)
    first, *_ = board.members("all")
    board.verify(first)
    assert board.state(first) is A.VERIFIED
    assert [row for row in board.tokens() if row.target == first] == []
    board.report(first, "fell_back", runs=OLD)
    assert board.state(first) is A.REGRESSED


def test_the_whole_campaign_can_be_limited() -> None:
    board = fleet(4, limited(downloads=(DownloadPolicy(by="campaign", limit=1),)))
    assert len(fetching(board)) == 1
    waits = board.members("all")[3]
    assert "1 of the whole campaign may be downloading now" in board.explain(waits).text
    for name in board.members("all"):
        board.stage(name)
    assert board.tally() == {A.STAGED: 4}


def test_two_limits_hold_together() -> None:
    both = (DownloadPolicy(by="site", limit=2), DownloadPolicy(by="rack", limit=1))
    board = Board()
    for index in range(4):
        board.add_target(f"t{index}", groups=[BERLIN, f"rack={index % 2}"])
    board.add_campaign("c", [f"t{index}" for index in range(4)], limited(downloads=both))
    board.start()
    for _ in range(4):
        racks = [board.target(name).groups[1] for name in fetching(board)]
        assert len(racks) == len(set(racks)) <= 2
        if racks:
            board.stage(fetching(board)[0])
    for name in fetching(board):
        board.stage(name)
    assert board.tally() == {A.STAGED: 4}


def test_what_an_event_touches_does_not_grow_with_the_line() -> None:
    board = at_berlin(60)
    sizes = []
    board.observers.append(lambda loaded, event, decision: sizes.append(len(decision.changes)))
    for name in board.members("all"):
        board.stage(name)
    assert max(sizes) <= 8
    assert len(board.load(Footprint(campaign="c", target="t0")).groups) <= 4


@pytest.mark.parametrize(
    ("items", "where"),
    [
        ([{"by": "site"}], "downloads[0].limit"),
        ([{"by": "?", "limit": 1}], "downloads[0].by"),
        ([{"by": "site", "limit": 0}], "downloads[0].limit"),
        ([{"by": "site", "limit": 1}, {"by": "site", "limit": 2}], "downloads[1].by"),
    ],
)
def test_a_limit_that_is_none_is_refused(items: list[object], where: str) -> None:
    with pytest.raises(RefusedError, match=where.replace("[", r"\[").replace("]", r"\]")):
        parse_strategy({"extends": "standard", "downloads": items})


def test_it_is_read_as_it_is_written() -> None:
    assert parse_strategy({"extends": "standard", "downloads": [{"by": "site", "limit": 4}]}).downloads == (
        DownloadPolicy(by="site", limit=4),
    )


def test_a_release_that_is_there_already_takes_no_place() -> None:
    board = Board()
    for index, runs in enumerate((NEW, NEW, OLD, OLD)):
        board.add_target(f"t{index}", runs=runs, groups=[BERLIN])
    board.add_campaign("c", [f"t{index}" for index in range(4)], limited())
    board.start()
    assert fetching(board) == ["t2", "t3"]
