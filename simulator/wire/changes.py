"""Does to a fleet on the wire what its world's churn says, as people and thieves would, and looks in the end what came of it.

Rules
- Who joins, or comes in somebody's place, enrols at its moment with a claim token of its own; while the server is away it waits.
- Who is replaced loses power for good, and a person decommissions it.
- Who is copied goes on running. The copy has the same keys and certificate, and a flash that is a report older; the server must
  quarantine both by what they say.
"""

from collections.abc import Iterable, Mapping

from server.ports import AgentStatus
from simulator.soak.books import Ledger, Violation
from simulator.virtual.churn import Happening, Turnover, successor
from simulator.virtual.hostility import LIES
from simulator.virtual.world import Member
from simulator.wire.plan import Truth
from simulator.wire.scene import Scene


class Changes:
    """`notes`: what could not be done, in sentences."""

    def __init__(self, scene: Scene, turnover: Turnover, ledger: Ledger) -> None:
        self.notes: list[str] = []
        self._scene, self._turnover, self._ledger = scene, turnover, ledger
        self._become: dict[str, AgentStatus] = {}
        self._left = len(turnover.happenings)
        self._first = [one.id for one in turnover.present if one.does != LIES]  # who lies may well end in quarantine

    def do(self, one: Happening) -> None:
        """Do it, or begin it: whoever joins is enrolled meanwhile. Raises what the server answers; it can be done again then."""
        name = one.member.id
        if one.kind == "reflash":
            self._scene.crew.wipe((name,))
        elif one.kind == "clone":
            self._turnover.was_copied(name)
            self._become[name] = AgentStatus.QUARANTINED
            self._scene.crew.copy((name,))
        elif one.kind == "replace":
            self._scene.take_out(name)
            self._turnover.went(name)
            self._become[name] = AgentStatus.DECOMMISSIONED
            self._join(successor(one.member))
        else:
            self._join(one.member)
        self._left -= 1

    def _join(self, member: Member) -> None:
        self._scene.join(member)
        self._turnover.came(member.id)
        self._become[member.id] = AgentStatus.ACTIVE

    @property
    def is_joining(self) -> bool:
        """Whether somebody is being enrolled."""
        return bool(self._scene.crew.joining)

    def waits(self, truths: Mapping[str, Truth]) -> bool:
        """Whether the server has yet to take somebody in, or to notice something."""
        return self.is_joining or any(self._differences(truths))

    def compare(self, truths: Mapping[str, Truth], at_s: float) -> None:
        """Hold what the server says of each against what happened to it, and note what didn't happen."""
        if self._left:
            self.notes.append(f"The days were over before {self._left} of the things that churn does were done.")
        for name in self._bricked(truths):
            self.notes.append(f"{name} was bricked, so that its copy was one, too: nobody could notice.")
        for name, why in self._scene.crew.refused.items():
            text = f"{name} should have joined and could not enrol: {why}"
            self._ledger.add(Violation(kind="churn", at_s=at_s, text=text))
        for text in self._differences(truths):
            self._ledger.add(Violation(kind="churn", at_s=at_s, text=text))

    def _bricked(self, truths: Mapping[str, Truth]) -> list[str]:
        wanted = AgentStatus.QUARANTINED
        return [name for name, one in truths.items() if one.is_bricked and self._become.get(name) is wanted]

    def _differences(self, truths: Mapping[str, Truth]) -> Iterable[str]:
        if not self._become:
            return
        found = {one["id"]: one["status"] for one in self._scene.lab.rest.fleet()}
        targets, left_out = self._scene.crew.targets, {*self._bricked(truths), *self._scene.crew.refused}
        for name, wanted in (dict.fromkeys(self._first, AgentStatus.ACTIVE) | self._become).items():
            status = found.get(targets.get(name, ""), "not in the fleet")
            if status != wanted and name not in left_out:
                yield f"{name} ({targets.get(name, 'not enrolled')}) should be {wanted} and is {status}."
