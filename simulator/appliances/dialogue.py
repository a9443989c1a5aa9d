"""What the dialogues of all emulated boxes are made of."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from simulator.appliances.box import Box


class HungUpError(Exception):
    """The box ends this connection."""


class Terminal(Protocol):
    """Where a command prints, and asks."""

    def say(self, text: str) -> None: ...
    async def ask(self, question: str) -> str: ...


Dialogue = Callable[[Box, str, Terminal], Awaitable[int]]
"""Carries out one command; its exit status."""


def present(box: Box, all_of_them: tuple[str, ...]) -> list[str]:
    """What is left of these under the running image."""
    return [one for one in all_of_them if not any(lost in one for lost in box.running.loses)]


def restart(box: Box, *, run_down: bool = True) -> None:
    """Go down; nothing more is said in this connection unless the box forgets to."""
    box.restart()
    if run_down and not box.faults.restart_forgotten:
        raise HungUpError
