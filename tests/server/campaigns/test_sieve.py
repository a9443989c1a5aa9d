"""Sifting: whoever breaks a batch is found, whatever else is wrong; and nobody is blamed for what the database does."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.topics import Leaf, of_target, presence
from server.campaigns.lines import Raw
from server.campaigns.sieve import LIMIT, LONGEST_PAUSE_S, PAUSE_S, TRIES, Sieve
from server.errors import BusyError

FAULT = UnavailableError("storage-fault", "The disk is full.")


def report(agent: str, number: int = 0) -> Raw:
    body = b'{"payloadType":"x","n":%d}' % number
    return Raw(agent=agent, topic=of_target(agent, agent, Leaf.REPORT), payload=body, retained=False)


def hint(agent: str, *, online: bool) -> Raw:
    body = b'{"session":"s","online":%s}' % (b"true" if online else b"false")
    return Raw(agent=agent, topic=presence(agent), payload=body, retained=False)


class Desk:
    """What handles them. `poison`: what fails by itself. `works`: whether anything can be handled now; False for so many tries of
    `works_again_after`. Hints prove nothing."""

    def __init__(self, *poison: Raw, error: Exception = FAULT) -> None:
        self.poison, self.error = poison, error
        self.first_errors: list[Exception] = []
        self.works, self.works_again_after = True, 0
        self.handled: list[Raw] = []
        self.faults: list[Exception] = []
        self.tries: list[int] = []
        self.sieve = Sieve[Raw, Raw](self.work, raw_of=lambda one: one, on_fault=self.faults.append)

    async def work(self, part: Sequence[Raw]) -> tuple[Sequence[Raw], bool]:
        self.tries.append(len(part))
        if not self.works:
            self.works_again_after -= 1
            self.works = self.works_again_after == 0
            raise FAULT
        if any(one in self.poison for one in part):
            raise self.first_errors.pop(0) if self.first_errors else self.error
        self.handled += part
        return part, any(not one.is_hint for one in part)


async def test_while_the_database_takes_nothing_a_few_tries_tell_and_everything_is_kept_in_order() -> None:
    desk = Desk()
    desk.works = False
    said = [report(f"a{number % 50}", number) for number in range(256)]
    assert await desk.sieve.sift(said) == []
    assert desk.tries == [256, *[1] * TRIES], "each agent once"
    assert await desk.sieve.sift([report("new")]) == []
    assert desk.tries[1 + TRIES :] == [1] * TRIES
    desk.works = True
    await desk.sieve.sift([])
    assert (len(desk.sieve), desk.faults) == (0, [])
    assert Counter(desk.handled) == Counter([*said, report("new")])
    for agent in {one.agent for one in said}:
        assert [one for one in desk.handled if one.agent == agent] == [one for one in said if one.agent == agent]


@pytest.mark.parametrize("error", [FAULT, RefusedError("bad-value", "No."), ZeroDivisionError()], ids=str)
async def test_one_that_fails_by_itself_is_set_aside_and_all_others_are_handled_in_few_tries(error: Exception) -> None:
    said = [report(f"a{number}") for number in range(256)]
    desk = Desk(said[150], error=error)
    results = await desk.sieve.sift(said)
    assert results == desk.handled == [*said[:150], *said[151:]]
    assert (desk.faults, len(desk.sieve)) == ([error], 0)
    assert len(desk.tries) < 40


async def test_nobody_is_at_fault_before_another_was_written_and_then_whoever_fails_again_is() -> None:
    bad = hint("a", online=False)
    desk = Desk(bad)
    for _ in range(3):
        await desk.sieve.sift([])
        await desk.sieve.sift([bad])
        await desk.sieve.sift([hint("b", online=True)])
    assert (desk.faults, len(desk.sieve)) == ([], 1), "what was said of presence proves nothing"
    await desk.sieve.sift([report("b")])
    assert (desk.faults, len(desk.sieve)) == ([FAULT], 0)


async def test_nobody_is_at_fault_for_a_database_that_comes_back_between_two_tries() -> None:
    desk = Desk()
    desk.works, desk.works_again_after = False, TRIES
    said = [hint("a", online=False), report("b"), report("c"), report("a")]
    await desk.sieve.sift(said)
    assert (desk.faults, len(desk.sieve)) == ([], 0)
    assert Counter(desk.handled) == Counter(said)
    assert [one for one in desk.handled if one.agent == "a"] == [said[0], said[3]]


async def test_nobody_is_at_fault_for_what_failed_once_long_ago() -> None:
    first, second = hint("a", online=False), hint("a", online=True)
    desk = Desk(second)
    desk.works = False
    await desk.sieve.sift([first])
    desk.works = True
    await desk.sieve.sift([])
    await desk.sieve.sift([report("b"), second])
    assert (len(desk.sieve), desk.faults) == (1, [])


async def test_nobody_is_at_fault_for_another_writers_lock_and_one_try_tells() -> None:
    """Each try would wait for it."""
    locked = BusyError("storage-fault", "It is locked.")
    said = [report("a"), *(report("b", number) for number in range(9))]
    desk = Desk(said[0])
    desk.first_errors = [FAULT, FAULT, FAULT, locked]
    await desk.sieve.sift(said)
    assert desk.tries == [10, 1, 1, 4, 1]
    desk.poison = ()
    await desk.sieve.sift([])
    assert (len(desk.sieve), desk.faults, Counter(desk.handled)) == (0, [], Counter(said))


async def test_those_that_break_it_do_not_keep_out_others_however_many_and_however_much_they_say() -> None:
    bad = [report(f"bad{number % 12}", number) for number in range(600)]
    desk = Desk(*bad)
    await desk.sieve.sift(bad)
    for number in range(12 // TRIES + 1):
        await desk.sieve.sift([report("good", number)])
    assert [one.agent for one in desk.handled] == ["good"] * (12 // TRIES + 1)
    await desk.sieve.sift([report("good", 99)])
    assert (len(desk.faults), len(desk.sieve)) == (600, 0)


async def test_what_a_device_said_before_and_after_what_breaks_it_is_handled() -> None:
    said = [report("a", 1), report("a", 2), report("a", 3), report("b")]
    desk = Desk(said[1])
    await desk.sieve.sift(said)
    assert Counter(desk.handled) == Counter([said[0], said[2], said[3]])
    assert desk.faults == [FAULT]


async def test_what_is_kept_is_bounded_and_the_newest_presence_is_never_let_go() -> None:
    desk = Desk()
    desk.works = False
    await desk.sieve.sift([report("a", number) for number in range(LIMIT - 1)])
    for online in (True, False):
        await desk.sieve.sift([hint(f"p{number}", online=online) for number in range(LIMIT)])
    await desk.sieve.sift([report("b", 1), report("b", 1), report("b", 2), hint("a", online=True)])
    assert len(desk.sieve) == LIMIT + LIMIT + 1
    assert [str(error) for error in desk.faults] == ["More came than is kept until the database works."]
    desk.works = True
    await desk.sieve.sift([])
    signed = [one for one in desk.handled if not one.is_presence]
    assert len(signed) == LIMIT
    for agent, first in (("a", 0), ("b", 1)):
        numbers = [one for one in signed if one.agent == agent]
        assert numbers == [report(agent, first + number) for number in range(len(numbers))], "in order, without gaps"
    assert {one for one in desk.handled if one.is_presence} == {
        hint("a", online=True),
        *(hint(f"p{number}", online=False) for number in range(LIMIT)),
    }


async def test_what_is_sent_again_stays_in_its_place_and_the_newest_presence_comes_last() -> None:
    desk = Desk()
    desk.works = False
    await desk.sieve.sift([hint("a", online=True), report("a", 1), report("a", 2)])
    await desk.sieve.sift([report("a", 1), hint("a", online=False)])
    desk.works = True
    await desk.sieve.sift([])
    assert desk.handled == [report("a", 1), report("a", 2), hint("a", online=False)]


async def test_it_tries_by_itself_ever_more_seldom_and_keeps_what_comes_meanwhile() -> None:
    desk = Desk()
    desk.works = False
    come: asyncio.Queue[Sequence[Raw]] = asyncio.Queue()

    async def go_on() -> None:
        while True:
            await desk.sieve.next(come.get)

    task = asyncio.create_task(go_on())
    come.put_nowait([report("a")])
    for number in range(15):
        come.put_nowait([report("b", number)])
        await asyncio.sleep(0.04)
    rounds = desk.tries.count(1)
    assert 2 <= rounds <= 2 * 8, "after 0.05, 0.1, 0.2, 0.4 … s, of two agents each, on a slow machine, too"
    desk.works = True
    async with asyncio.timeout(2 * LONGEST_PAUSE_S):
        while len(desk.handled) < 16:  # noqa: ASYNC110 (the loop under test runs meanwhile)
            await asyncio.sleep(PAUSE_S)
    desk.tries.clear()
    await asyncio.sleep(4 * PAUSE_S)
    assert desk.tries == [], "nothing is kept, so nothing is tried"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


NAMES = st.sampled_from("abcde")


@given(st.lists(st.tuples(st.booleans(), st.lists(st.tuples(NAMES, st.booleans()), max_size=12)), max_size=12))
def test_each_is_handled_once_in_its_agents_order_unless_it_breaks_by_itself(
    rounds: list[tuple[bool, list[tuple[str, bool]]]],
) -> None:
    """Rounds in which the database works or doesn't, and in which agents say what is good or not."""

    async def play() -> None:
        number, said, bad = 0, list[Raw](), list[Raw]()
        desk = Desk()
        for works, words in rounds:
            desk.works, items = works, list[Raw]()
            for agent, is_bad in words:
                number += 1
                items.append(report(agent, number))
                bad += items[-1:] if is_bad else []
            desk.poison = tuple(bad)
            said += items
            await desk.sieve.sift(items)
        desk.works = True
        while len(desk.sieve):
            number += 1
            said.append(report("z", number))
            await desk.sieve.sift(said[-1:])
        assert len(desk.faults) == len(bad)
        for agent in "abcdez":
            good = [one for one in said if one.agent == agent and one not in bad]
            assert [one for one in desk.handled if one.agent == agent] == good

    asyncio.run(play())
