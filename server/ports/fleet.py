"""The targets as people see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.planner.surroundings import Word
from server.planner.words import AssignmentState
from server.ports.identity import AgentStatus
from server.ports.querying import EVERYBODY, Query


@dataclass(frozen=True, kw_only=True)
class TargetView:
    """A target as people see it. `presence` is a hint; `last_report_at` is evidence. `endpoint`: the server address it said
    it uses; `services_cas`: the services CAs it said it trusts (sha256 of the DER)."""

    id: str
    agent: str
    hardware: str
    labels: Mapping[str, str]
    status: AgentStatus
    running_version: str | None = None
    running_slot: str | None = None
    running_sha256: str | None = None
    running_product: str | None = None
    running_counter: int | None = None
    previous_version: str | None = None
    rollback_available: bool = False
    presence: bool = False
    presence_at: float | None = None
    last_report_at: float | None = None
    campaign: str | None = None
    state: AssignmentState | None = None
    progress: str = ""
    reason_kind: str = "none"
    reason: str = ""
    capabilities: tuple[str, ...] = ()
    encryption_key: str | None = None
    """The public key that it announced for encrypted releases."""
    endpoint: str | None = None
    services_cas: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Announced:
    """What a target said about itself, and its agent and hardware as enrolled. `labels`: its own, without prefix; `product` and
    `counter`: of the release that it runs."""

    agent: str
    hardware: str
    labels: Mapping[str, str]
    capabilities: tuple[str, ...]
    encryption_key: str | None
    endpoint: str | None
    services_cas: tuple[str, ...]
    product: str | None
    counter: int | None


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A counter of a group's members, or of those that are offline, that was not what it should be."""

    key: str
    members: int
    members_counted: int
    offline: int
    offline_counted: int


@dataclass(frozen=True, kw_only=True)
class Page:
    """Rows and the cursor of the next page (None: this was the last)."""

    rows: Sequence[Any]
    next: str | None = None


class Fleet(Protocol):
    def page(self, *, cursor: str | None = None, limit: int = 100, query: Query = EVERYBODY) -> Page:
        """Targets by id. A page may be short and yet have a `next`: one looks at so many targets at most."""
        ...

    def fitting(self, query: Query = EVERYBODY, *, most: int = 10_000) -> tuple[int, bool]:
        """How many targets fit among the first `most` that come into question, and whether that is all of them."""
        ...

    def target(self, target_id: str) -> TargetView | None: ...
    def expect(self, targets: Sequence[str]) -> None:
        """Fetch at once what these targets have announced."""
        ...

    def announced(self, target: str) -> Announced | None:
        """What a target said about itself; None for one that isn't known."""
        ...

    def versions(self) -> Mapping[str, int]:
        """Number of targets per running version ("unknown" for none yet)."""
        ...

    def images(self) -> Mapping[str, int]:
        """Number of targets per sha256 of the running image, where that is known."""
        ...

    def count(self) -> int: ...
    def drifted(self) -> int:
        """Number of targets whose version was changed by hand, by the last campaign that held them."""
        ...

    def set_presence(self, agent: str, *, online: bool, at: float) -> None: ...
    def forget_presence(self) -> None:
        """Nobody is known to be online: the broker's word for it is about to come anew."""
        ...

    def set_progress(self, target: str, text: str) -> None: ...
    def note_report(
        self,
        target: str,
        *,
        at: float,
        slot: str,
        previous_version: str | None,
        product: str | None = None,
        counter: int | None = None,
    ) -> None:
        """Note what a stored report says that the planner does not look at; its own columns change through `commit`."""
        ...

    def set_inventory(
        self,
        target: str,
        *,
        labels: Mapping[str, str],
        capabilities: Sequence[str],
        encryption_key: str | None = None,
    ) -> None:
        """Replace the capabilities, the encryption key and the agent's own labels, kept as `agent.NAME` below what the server
        gave."""
        ...

    def set_way(self, target: str, *, endpoint: str | None, services_cas: Sequence[str]) -> None:
        """Note by which address a target said it comes, and which services CAs it trusts."""
        ...

    def put_word(self, word: Word) -> None:
        """Keep a word from outside, in place of one of the same name about the same."""
        ...

    def labels(self, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """The labels of these names, by target, of all targets that are not shut out and have any."""
        ...

    def recount_groups(self) -> Sequence[Drift]:
        """Count the members of every group anew, and repair what was counted wrong; returns what that was."""
        ...

    def endpoints(self) -> Mapping[str, int]:
        """Number of targets that are not shut out, by the address they said they use (empty: none said yet)."""
        ...

    def without_services_ca(self, fingerprint: str) -> int:
        """Number of targets that are not shut out and have not said that they trust this services CA."""
        ...
