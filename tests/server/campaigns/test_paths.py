"""Ways to a release: tables of what is chosen and why not, and properties over random catalogues."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.manifest import Requires
from server.campaigns import paths
from server.campaigns.paths import UNKNOWN, Hop, can_apply, counter_of, find_path
from server.planner.policy import LEAST_SAVING
from server.ports import DeltaRecord, Origin, ReleaseImage, ReleaseRecord, ReleaseState, Requirements, StoredFile

MIB = 1 << 20
IMAGE = 20 * MIB
ABLE = ("delta-otd1",)


def image(counter: int) -> str:
    return f"{counter + 1:064x}"


def release(counter: int, *, lowest: int = 0, through: tuple[int, ...] = (), **changes: object) -> ReleaseRecord:
    folder = f"releases/lamp/{counter}.0"
    made = ReleaseRecord(
        product="lamp",
        version=f"{counter}.0",
        counter=counter,
        hardware=("hw",),
        manifest=StoredFile(path=f"{folder}/manifest.json", length=9, sha256="e" * 64),
        images=(ReleaseImage(file=StoredFile(path=f"{folder}/root.img", length=IMAGE, sha256=image(counter))),),
        requires=Requirements(min_counter=lowest, through=through),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def delta(source: int, target: int, length: int = MIB, memory: int = 8 * MIB) -> DeltaRecord:
    return DeltaRecord(
        file=StoredFile(path=f"deltas/{source}-{target}.otd", length=length, sha256="d" * 64),
        source_sha256=image(source),
        source_length=IMAGE,
        target_sha256=image(target),
        memory_bytes=memory,
    )


def at(counter: int, *capabilities: str) -> Origin:
    return Origin(
        hardware="hw", sha256=image(counter), product="lamp", counter=counter, capabilities=capabilities or ABLE
    )


STRANGER = Origin(hardware="hw", sha256="f" * 64, product=None, counter=None, capabilities=ABLE)


def ways(
    origin: Origin, releases: list[ReleaseRecord], *deltas: DeltaRecord, min_saving: float = 0.2
) -> list[tuple[int, bool]]:
    """The counters installed to reach the last release, and whether by delta."""
    found = find_path(origin, releases[-1], releases, paths.as_deltas(deltas), min_saving=min_saving)
    return [(hop.release.counter, hop.fetches[0].delta is not None) for hop in found]


class TestTheWay:
    def test_straight_there_when_nothing_stands_between(self) -> None:
        assert ways(at(1), [release(1), release(2), release(3)]) == [(3, False)]

    def test_through_what_must_be_passed(self) -> None:
        assert ways(at(1), [release(1), release(2), release(3, through=(2,))]) == [(2, False), (3, False)]

    def test_not_through_what_was_passed_already(self) -> None:
        assert ways(at(2), [release(1), release(2), release(3, through=(2,))]) == [(3, False)]

    def test_what_is_passed_through_may_itself_ask_for_more(self) -> None:
        chain = [release(1), release(2), release(3, through=(2,)), release(4), release(5, through=(3,))]
        assert ways(at(1), chain) == [(2, False), (3, False), (5, False)]

    def test_a_release_that_must_be_passed_is_not_jumped_over_by_another_that_is_allowed(self) -> None:
        """The agent alone would take 1 -> 3 -> 4: it knows only what runs now."""
        chain = [release(2), release(3), release(4, through=(2,), lowest=3)]
        assert ways(at(1), chain) == [(2, False), (3, False), (4, False)]

    def test_the_lowest_release_may_be_any_above_it(self) -> None:
        assert ways(at(1), [release(2), release(3), release(4, lowest=2)]) == [(3, False), (4, False)]

    def test_fewer_installations_come_before_fewer_bytes(self) -> None:
        assert ways(at(1), [release(1), release(2), release(3)], delta(1, 2, 1), delta(2, 3, 1)) == [(3, False)]

    def test_among_ways_of_one_length_the_fewest_bytes(self) -> None:
        chain = [release(2), release(3), release(4, lowest=2)]
        assert ways(at(1), chain, delta(1, 2), delta(2, 4)) == [(2, True), (4, True)]
        assert ways(at(1), chain, delta(1, 2), delta(3, 4, 10), delta(1, 3, 10)) == [(3, True), (4, True)]

    def test_back_to_an_older_release_is_one_installation(self) -> None:
        assert ways(at(9), [release(2), release(3, through=(2,), lowest=1)]) == [(3, False)]

    @pytest.mark.parametrize("state", [ReleaseState.SUSPECT, ReleaseState.WITHDRAWN])
    def test_nobody_is_sent_over_a_doubtful_release(self, state: ReleaseState) -> None:
        chain = [release(2), release(3, state=state), release(4, lowest=2)]
        assert ways(at(1), chain, delta(1, 3), delta(3, 4)) == [(2, False), (4, False)]

    def test_nor_over_one_for_other_hardware_or_of_another_product(self) -> None:
        foreign = release(3, product="pump")
        chain = [release(2), release(3, hardware=("hw-2",)), foreign, release(4, lowest=2)]
        assert ways(at(1), chain) == [(2, False), (4, False)]

    def test_content_that_is_no_release_is_below_all(self) -> None:
        assert ways(STRANGER, [release(0), release(1)]) == [(1, False)]
        assert ways(STRANGER, [release(0), release(1, through=(0,))]) == [(0, False), (1, False)]
        assert ways(replace(STRANGER, product="lamp", counter=2), [release(2), release(3, through=(2,))]) == [
            (3, False)
        ]
        assert ways(replace(STRANGER, product="pump", counter=2), [release(2), release(3, through=(2,))]) == [
            (2, False),
            (3, False),
        ]

    def test_a_release_whose_manifest_was_not_read_yet_asks_for_nothing(self) -> None:
        assert ways(at(1), [release(2, requires=None)]) == [(2, False)]


class TestNoWay:
    @pytest.mark.parametrize(
        ("between", "says"),
        [
            ([], "3.0 asks for the release with counter 2 first, and none is published for the hardware hw."),
            ([release(2, state=ReleaseState.WITHDRAWN)], "with counter 2 first, and 2.0 is withdrawn."),
            ([release(2, state=ReleaseState.SUSPECT)], "with counter 2 first, and 2.0 is suspect."),
            ([release(2, hardware=("hw-2",))], "and 2.0 is not made for the hardware hw."),
            ([release(2, lowest=1)], "2.0 asks for a release with counter 1 or above first, and none is published"),
        ],
    )
    def test_the_reason_names_the_release_that_is_missing(self, between: list[ReleaseRecord], says: str) -> None:
        with pytest.raises(RefusedError) as caught:
            ways(at(0), [*between, release(3, through=(2,))])
        assert caught.value.kind == "no-path"
        assert caught.value.text.startswith("No way leads to 3.0 from counter 0: ")
        assert says in caught.value.text

    def test_each_release_that_is_asked_for_is_looked_at(self) -> None:
        with pytest.raises(RefusedError, match="counter 1 first"):
            ways(at(0), [release(2), release(3, through=(1, 2))])

    def test_what_runs_is_named_also_when_it_is_no_release(self) -> None:
        with pytest.raises(RefusedError, match="content that is no release of the product"):
            ways(STRANGER, [release(3, lowest=2)])


class TestDeltas:
    def test_a_delta_starts_from_exactly_what_runs(self) -> None:
        assert ways(at(1), [release(2)], delta(1, 2)) == [(2, True)]
        assert ways(replace(at(1), sha256="f" * 64), [release(2)], delta(1, 2)) == [(2, False)]
        assert ways(replace(at(1), sha256=None), [release(2)], delta(1, 2)) == [(2, False)]

    @pytest.mark.parametrize(("length", "taken"), [(15 * MIB, True), (15 * MIB + 1, False), (IMAGE, False)])
    def test_a_delta_that_saves_too_little_is_not_offered(self, length: int, taken: bool) -> None:
        assert ways(at(1), [release(2)], delta(1, 2, length), min_saving=0.25) == [(2, taken)]

    @pytest.mark.parametrize(
        ("capabilities", "memory", "taken"),
        [
            (("delta-otd1",), 8 * MIB, True),
            (("other",), 1, False),
            (("delta-otd2",), 1, False),
            (("delta-otd1", f"delta-memory-{8 * MIB}"), 8 * MIB, True),
            (("delta-otd1", f"delta-memory-{8 * MIB - 1}"), 8 * MIB, False),
            (("delta-otd1", f"delta-memory-{4 * MIB}"), 2 * MIB, True),
            (("delta-otd1", "delta-memory-0"), 1, False),
            (("delta-otd1", "delta-memory-many"), 8 * MIB, True),
            ((f"delta-memory-{64 * MIB}",), 1, False),
        ],
    )
    def test_only_who_can_apply_it_is_offered_a_delta(
        self, capabilities: tuple[str, ...], memory: int, taken: bool
    ) -> None:
        assert can_apply(at(1, *capabilities), memory) is taken
        assert ways(at(1, *capabilities), [release(2)], delta(1, 2, memory=memory)) == [(2, taken)]

    def test_each_hop_has_its_own(self) -> None:
        chain = [release(1), release(2), release(3, through=(2,))]
        assert ways(at(1), chain, delta(2, 3), delta(1, 3)) == [(2, False), (3, True)]

    def test_less_than_the_least_saving_is_never_kept(self) -> None:
        from server.campaigns.deltas import MIN_SAVING

        assert LEAST_SAVING == MIN_SAVING


counters = st.integers(0, 7)


@st.composite
def catalogues(draw: st.DrawFn) -> list[ReleaseRecord]:
    """Releases that ask for anything older, some of them doubtful or for other hardware."""
    made = []
    for counter in draw(st.lists(st.integers(1, 8), min_size=1, max_size=7, unique=True).map(sorted)):
        below = st.integers(0, counter - 1)
        made.append(
            release(
                counter,
                lowest=draw(st.one_of(st.just(0), below)),
                through=tuple(sorted(draw(st.sets(below, max_size=2)))),
                state=draw(st.sampled_from([*[ReleaseState.ACTIVE] * 4, ReleaseState.WITHDRAWN])),
                hardware=draw(st.sampled_from([("hw",), ("hw",), ("hw", "hw-2"), ("hw-2",)])),
            )
        )
    return made


origins = st.one_of(st.just(STRANGER), counters.map(at), counters.map(lambda counter: at(counter, "none")))
pairs = st.lists(st.builds(delta, counters, st.integers(1, 8), st.integers(1, IMAGE)), max_size=8)


def allowed(start: int, way: list[ReleaseRecord]) -> bool:
    """Whether a way is one: each hop as the agent judges it, and nothing that is asked for was left out."""
    runs = start
    for place, one in enumerate(way):
        requires = one.requires or Requirements()
        if Requires(min_counter=requires.min_counter, through=list(requires.through)).first(runs) is not None:
            return False
        passed = {earlier.counter for earlier in way[:place]}
        if {counter for counter in requires.through if counter > start} - passed:
            return False
        runs = one.counter
    return True


def every_way(start: int, releases: list[ReleaseRecord]) -> list[list[ReleaseRecord]]:
    """All rising ways to the last release over what may come in between."""
    between = [
        one
        for one in releases[:-1]
        if one.state is ReleaseState.ACTIVE and "hw" in one.hardware and start < one.counter < releases[-1].counter
    ]
    chosen = [[one for bit, one in enumerate(between) if mask >> bit & 1] for mask in range(1 << len(between))]
    return [way for some in chosen if allowed(start, way := [*some, releases[-1]])]


@given(catalogues(), origins, pairs, st.sampled_from([0.2, 0.5, 1.0]))
def test_the_way_is_allowed_and_none_is_shorter_or_of_one_length_cheaper(
    releases: list[ReleaseRecord], origin: Origin, offered: list[DeltaRecord], saving: float
) -> None:
    deltas, start = paths.as_deltas(offered), counter_of(origin, "lamp", releases)
    possible = every_way(start, releases)
    try:
        found = find_path(origin, releases[-1], releases, deltas, min_saving=saving)
    except RefusedError:
        assert possible == []
        return
    way = [hop.release for hop in found]
    assert way in possible
    assert len(way) == min(map(len, possible))
    costs = [_cost(origin, one, deltas, saving) for one in possible if len(one) == len(way)]
    assert sum(hop.length for hop in found) == min(costs)
    _check_deltas(origin, found, saving)


def _cost(origin: Origin, way: list[ReleaseRecord], deltas: paths.Deltas, saving: float) -> int:
    total = 0
    for source, target in pairwise([origin.sha256, *(one.sha256 for one in way)]):
        if source == target:
            continue  # it runs already
        held = deltas.get((source or "", target or ""))
        fits = held is not None and "delta-otd1" in origin.capabilities
        length = held.file.length if held is not None and fits else IMAGE
        total += length if length <= (1 - saving) * IMAGE else IMAGE
    return total


def _check_deltas(origin: Origin, hops: tuple[Hop, ...], saving: float) -> None:
    runs = origin.sha256
    for hop in hops:
        delta = hop.fetches[0].delta
        if delta is not None:
            assert (delta.source_sha256, delta.target_sha256) == (runs, hop.release.sha256)
            assert "delta-otd1" in origin.capabilities
            assert delta.file.length <= (1 - saving) * hop.release.length
        runs = hop.release.sha256


@given(catalogues(), origins)
def test_the_rest_of_the_way_is_still_the_way_after_its_first_hop(
    releases: list[ReleaseRecord], origin: Origin
) -> None:
    """So a target that is planned anew at every step arrives, in as many steps as were planned at first."""
    try:
        found = find_path(origin, releases[-1], releases, {}, min_saving=0.2)
    except RefusedError:
        return
    if len(found) > 1:
        there = replace(at(found[0].release.counter), sha256=found[0].release.sha256)
        again = find_path(there, releases[-1], releases, {}, min_saving=0.2)
        assert [hop.release.counter for hop in again] == [hop.release.counter for hop in found[1:]]


def test_a_long_chain_has_an_end() -> None:
    chain = [release(counter, lowest=counter - 1) for counter in range(1, 16)]
    assert len(ways(at(0), chain)) == 15
    longer = [release(counter, lowest=counter - 1) for counter in range(1, 40)]
    with pytest.raises(RefusedError):
        ways(at(0), longer)


def test_unknown_is_below_every_counter() -> None:
    assert counter_of(STRANGER, "lamp", [release(1)]) == UNKNOWN < 0
