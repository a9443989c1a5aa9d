"""When agents were there."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from server.planner.availability import Availability
from server.planner.words import AssignmentState


class Waiting(Struct, frozen=True, kw_only=True):
    """An undecided assignment, as far as a forecast looks at it. `zone`: what a label calls its time zone."""

    target: str
    agent: str
    state: AssignmentState
    wake_at: float | None
    zone: str | None


class Presences(Protocol):
    """When agents are there, as their unsigned presence taught (`server.planner.availability`), and when that was watched."""

    def linked(self, at: float) -> None:
        """The server has a new link to its broker."""
        ...

    def watching(self, at: float) -> None:
        """The link is still there; told about once a minute."""
        ...

    def heard(self, agent: str, *, online: bool, at: float) -> None:
        """The broker said that an agent is there or not. Writes only when that is news."""
        ...

    def of(self, agents: Sequence[str], now: float) -> Mapping[str, Availability]:
        """What is known of these agents, learned up to now; nothing of those that were never heard."""
        ...

    def refresh(self, before: float, now: float, limit: int) -> int:
        """Learn up to now what some agents did that neither came nor went since `before`, and forget watches that no row needs
        any more; returns how many agents."""
        ...

    def waiting(self, campaign: str, cohort: int, states: Sequence[AssignmentState], step: int) -> Sequence[Waiting]:
        """Every `step`-th undecided assignment of a cohort by rank, which is random, with its agent and time zone."""
        ...

    def agents(self, targets: Sequence[str]) -> Mapping[str, str]:
        """The agent of each target."""
        ...

    def labels(self, targets: Sequence[str], names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """The labels of these names that these targets have."""
        ...
