"""The agenda of a run: whatever is put in when, it comes by its time, and of equals in the order in which it was put in."""

from heapq import heappop, heappush

from hypothesis import given
from hypothesis import strategies as st

from simulator.virtual.agenda import DRAWER_S, NEVER, Agenda

TAKE = None
times = st.one_of(
    st.integers(0, 20).map(lambda n: n * DRAWER_S / 4), st.floats(0, 5 * DRAWER_S), st.floats(1.7e9, 1.7e9 + DRAWER_S)
)


@given(st.lists(st.one_of(times, st.just(NEVER), st.just(TAKE)), max_size=60))
def test_it_is_a_heap_in_which_what_never_comes_is_not_kept(steps: list[float | None]) -> None:
    agenda, heap = Agenda[tuple[float, int]](), list[tuple[float, int]]()
    for number, at in enumerate([*steps, *[TAKE] * len(steps)]):
        if at is not TAKE:
            agenda.put((at, number))
            if at != NEVER:
                heappush(heap, (at, number))
        assert agenda.next_at() == (heap[0][0] if heap else NEVER)
        if at is TAKE and heap:
            assert agenda.take() == heappop(heap)
    assert agenda.next_at() == NEVER


def test_what_is_put_before_the_drawer_that_is_open_comes_first() -> None:
    agenda = Agenda[tuple[float, int]]()
    agenda.put((50 * DRAWER_S, 1))
    assert agenda.next_at() == 50 * DRAWER_S
    agenda.put((10 * DRAWER_S, 2))
    agenda.put((60 * DRAWER_S, 3))
    taken = []
    while agenda.next_at() < NEVER:
        taken.append(agenda.take()[1])
    assert taken == [2, 1, 3]
