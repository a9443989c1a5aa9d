"""Whether hostile devices got anything through, by books that are kept apart from the server's.

Rules
- Nothing that is forged is stored, as whose word ever; what is stored of any other device is what it said, and nothing else.
- Nothing that they say on topics that aren't their own passes the broker, and they hear nothing that isn't for them.
- The others stand in the fleet as before, and who of them is connected is shown as connected.
- Who lies is left out where the server's word is held against what devices are. Of all others that must agree:
  their agents beneath are honest, so what is done with their keys has moved nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from server.ports import AgentStatus
from simulator.soak.books import Ledger, Violation
from simulator.soak.evidence import Reports
from simulator.virtual.hostility import LIES, counted
from simulator.virtual.world import Member
from simulator.wire.hostile_words import short
from simulator.wire.parts import HASH_BYTES
from simulator.wire.plan import Truth


class HostileBooks:
    """`does`: by member, what each hostile one does. `hear` is told all that passes the broker."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.does = {one.id: one.does for one in members if one.does}
        self.liars = frozenset(name for name, does in self.does.items() if does == LIES)
        self._passed: set[bytes] = set()

    def hear(self, topic: str, payload: bytes) -> None:
        """Something passed."""
        self._passed.add(short(payload))

    def truthful(self, truths: Mapping[str, Truth]) -> dict[str, Truth]:
        """Those whose agents say what is."""
        return {name: truth for name, truth in truths.items() if name not in self.liars}

    def counted(self, states: Mapping[str, str]) -> dict[str, int]:
        """Of a campaign's targets, how many of each state are hostile."""
        return counted(state for name, state in states.items() if name in self.does)

    def compare(
        self,
        fleet: Iterable[Mapping[str, Any]],
        truths: Mapping[str, Truth],
        reports: Reports,
        ledger: Ledger,
        at_s: float,
    ) -> None:
        """Note in the ledger what got through. `truths`: of all who are heard, newer than what `reports` looked at last."""
        if not self.does:
            return
        shown = {one["id"]: one for one in fleet}
        for kind, text in (
            *self._stored(truths, reports),
            *self._misplaced(truths),
            *self._standing(truths, shown),
        ):
            ledger.add(Violation(kind=kind, at_s=at_s, text=text))

    def _stored(self, truths: Mapping[str, Truth], reports: Reports) -> Iterator[tuple[str, str]]:
        forged = {digest for one in truths.values() if one.misdeeds for digest in _split(one.misdeeds.forged)}
        truthful = {one.target: one for one in self.truthful(truths).values()}
        for (target, journal), kept in reports.kept.items():
            truth = truthful.get(target)
            for seq, digest in kept.items():
                half = bytes.fromhex(digest)[:HASH_BYTES]
                if half in forged:
                    yield "forged-report", f"Report {seq} of {target} is stored and was forged."
                elif truth is not None and not _is_said(truth, journal, seq, half):
                    yield "made-up-report", f"Report {seq} of {truth.member} ({target}) is stored and it never said so."

    def _misplaced(self, truths: Mapping[str, Truth]) -> Iterator[tuple[str, str]]:
        for name, truth in truths.items():
            if truth.misdeeds is None:
                continue
            if passed := len(truth.misdeeds.misplaced & self._passed):
                yield "impersonated", f"{passed} messages of {name} on topics that aren't its own passed the broker."
            if truth.misdeeds.overheard:
                yield "overheard", f"{name} heard {truth.misdeeds.overheard} messages that were not for it."

    def _standing(
        self, truths: Mapping[str, Truth], shown: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[tuple[str, str]]:
        for name, truth in truths.items():
            one = shown.get(truth.target)
            if name in self.does or one is None:
                continue
            if one["status"] != AgentStatus.ACTIVE:
                yield "standing", f"{name} ({truth.target}) is {one['status']} and did nothing."
            if truth.is_connected and not one["presence"]:
                yield "presence", f"{name} ({truth.target}) is connected and shown as away."


def _is_said(truth: Truth, journal: str, seq: int, half: bytes) -> bool:
    """Whether the device signed this report; what it said in journals of before isn't known any more."""
    if journal != truth.journal:
        return journal in truth.earlier
    return truth.said[(seq - 1) * HASH_BYTES : seq * HASH_BYTES] == half


def _split(digests: bytes) -> Iterator[bytes]:
    return (digests[at : at + HASH_BYTES] for at in range(0, len(digests), HASH_BYTES))
