"""What is done at its time on the wire: in order, and again where the server could not just then."""

import pytest

from simulator.rest import RestError
from simulator.wire.todo import Due, Todo


class World:
    """A server that is `down`, or takes nothing (`refuses`), and what was done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.down: set[str] = set()
        self.refuses = False

    def due(self, name: str, at_s: float, *, asks: bool = True) -> Due:
        def do() -> None:
            if name in self.down:
                raise RestError("storage-fault", "The database failed.", 503)
            self.done.append(name)
            self.refuses = self.refuses or name == "full"

        return Due(at_s=at_s, do=do, asks=asks)


def test_each_comes_at_its_time_and_once() -> None:
    world = World()
    todo = Todo([world.due("b", 2.0), world.due("a", 1.0), world.due("c", 3.0)], lambda: False)
    todo.pass_to(0.5)
    assert (world.done, bool(todo)) == ([], True)
    todo.pass_to(2.0)
    todo.pass_to(2.5)
    assert world.done == ["a", "b"]
    todo.pass_to(9.0)
    assert (world.done, bool(todo)) == (["a", "b", "c"], False)


def test_who_is_told_that_it_cannot_just_now_asks_again_before_those_who_come_after() -> None:
    world = World()
    world.down.add("pause")
    todo = Todo([world.due("pause", 1.0), world.due("resume", 2.0), world.due("kill", 2.0, asks=False)], lambda: False)
    todo.pass_to(2.5)
    assert world.done == ["kill"]
    world.down.clear()
    todo.pass_to(3.0)
    assert (world.done, bool(todo)) == (["kill", "pause", "resume"], False)


def test_nobody_asks_a_server_that_takes_nothing() -> None:
    world = World()
    dues = [world.due("full", 1.0, asks=False), world.due("pause", 1.0), world.due("partition", 2.0, asks=False)]
    todo = Todo(dues, lambda: world.refuses)
    todo.pass_to(2.5)
    assert world.done == ["full", "partition"]
    world.refuses = False
    todo.pass_to(3.0)
    assert world.done == ["full", "partition", "pause"]


@pytest.mark.parametrize(("status", "asks"), [(422, True), (503, False)])
def test_what_else_is_answered_is_raised(status: int, asks: bool) -> None:
    def do() -> None:
        raise RestError("no", "No.", status)

    with pytest.raises(RestError):
        Todo([Due(at_s=0.0, do=do, asks=asks)], lambda: False).pass_to(1.0)
