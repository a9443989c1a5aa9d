"""What churn does on the wire, before a scene that only notes it: who is told what, and what is held against it in the end."""

from typing import Any, cast

import pytest

from simulator.soak.books import Ledger
from simulator.virtual.churn import Turnover
from simulator.wire.changes import Changes
from simulator.wire.plan import Truth
from simulator.wire.scene import Scene
from tests.simulator.virtual.test_churn import place


class NotedScene:
    """As much of a scene, its crew and its server's fleet as churn needs. `done`: what was asked for."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.crew, self.lab, self.rest = self, self, self
        self.targets: dict[str, str] = {}
        self.joining: set[str] = set()
        self.refused: dict[str, str] = {}
        self.status: dict[str, str] = {}

    def wipe(self, names: tuple[str]) -> None:
        self.done.append(("wipe", names[0]))

    def copy(self, names: tuple[str]) -> None:
        self.done.append(("copy", names[0]))

    def take_out(self, name: str) -> None:
        self.done.append(("take out", name))

    def join(self, member: Any) -> None:
        self.done.append(("join", member.id))
        self.targets[member.id] = member.id

    def fleet(self) -> list[dict[str, str]]:
        return [{"id": name, "status": status} for name, status in self.status.items()]


def bricked(name: str) -> Truth:
    return Truth(
        member=name,
        target=name,
        version="",
        sha256="",
        state="bricked",
        order="",
        is_up=False,
        is_bricked=True,
        is_connected=False,
        journal="",
        said=b"",
        acked=0,
        waiting=-1,
        orders=0,
    )


class Changed:
    """A scene in which all of it was done, and the server says what it should."""

    def __init__(self, kind: str) -> None:
        world = place(f"{{do: {kind}, fleet: lamp, share: 5%, within: 1d}}")
        self.scene, self.ledger = NotedScene(), Ledger()
        self.turnover = Turnover(world.churn, world.members(world.seed), world.seed)
        first = [one.id for one in self.turnover.present]
        self.scene.targets = {name: name for name in first}
        self.changes = Changes(cast(Scene, self.scene), self.turnover, self.ledger)
        self.names = [one.member.id for one in self.turnover.happenings]
        assert self.names
        for one in self.turnover.happenings:
            self.changes.do(one)
        self.scene.status = dict.fromkeys(self.scene.targets, "active")

    @property
    def said(self) -> list[str]:
        self.changes.compare({}, 1.0)
        return [one.text for one in self.ledger.kept]


@pytest.mark.parametrize(
    ("kind", "done"),
    [
        ("join", [("join", "")]),
        ("replace", [("take out", ""), ("join", "-new")]),
        ("reflash", [("wipe", "")]),
        ("clone", [("copy", "")]),
    ],
)
def test_each_kind_is_done_to_whom_it_happens(kind: str, done: list[tuple[str, str]]) -> None:
    changed = Changed(kind)
    assert changed.scene.done == [(what, f"{name}{more}") for name in changed.names for what, more in done]
    assert [changed.turnover.is_heard(name) for name in changed.names] == [kind in ("join", "reflash")] * len(
        changed.names
    )


@pytest.mark.parametrize(("kind", "wanted"), [("clone", "quarantined"), ("replace", "decommissioned")])
def test_it_waits_for_the_server_to_shut_out_and_says_whom_it_did_not(kind: str, wanted: str) -> None:
    changed = Changed(kind)
    assert changed.changes.waits({})
    assert sorted(changed.said) == [
        f"{name} ({name}) should be {wanted} and is active." for name in sorted(changed.names)
    ]
    changed = Changed(kind)
    changed.scene.status |= dict.fromkeys(changed.names, wanted)
    assert not changed.changes.waits({})
    assert (changed.said, changed.changes.notes) == ([], [])


def test_who_was_shut_out_for_nothing_is_named() -> None:
    changed = Changed("join")
    other = next(name for name in changed.scene.targets if name not in changed.names)
    changed.scene.status[other] = "quarantined"
    assert changed.said == [f"{other} ({other}) should be active and is quarantined."]


def test_who_could_not_enrol_is_told_with_the_reason_and_is_waited_for_no_more() -> None:
    changed = Changed("join")
    name = changed.names[0]
    changed.scene.joining = {name}
    assert changed.changes.is_joining
    assert changed.changes.waits({})
    changed.scene.joining = set()
    del changed.scene.targets[name], changed.scene.status[name]
    changed.scene.refused[name] = "RefusedError: The claim token has expired."
    assert not changed.changes.waits({})
    assert changed.said == [
        f"{name} should have joined and could not enrol: RefusedError: The claim token has expired."
    ]


def test_a_copy_of_a_bricked_device_is_noted_and_no_violation() -> None:
    changed = Changed("clone")
    truths = {name: bricked(name) for name in changed.names}
    changed.changes.compare(truths, 1.0)
    assert changed.ledger.kept == []
    assert changed.changes.notes == [
        f"{name} was bricked, so that its copy was one, too: nobody could notice." for name in changed.names
    ]


def test_what_the_days_had_no_room_for_is_told() -> None:
    world = place("{do: reflash, fleet: lamp, share: 20%, within: 1d}")
    turnover = Turnover(world.churn, world.members(world.seed), world.seed)
    changes = Changes(cast(Scene, NotedScene()), turnover, Ledger())
    changes.do(turnover.happenings[0])
    changes.compare({}, 1.0)
    left = len(turnover.happenings) - 1
    assert changes.notes == [f"The days were over before {left} of the things that churn does were done."]
