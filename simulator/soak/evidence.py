"""What the server has, held against what the devices are and said: reports, the trail, and the state of every target.

Rules
- A report that a device saw acked is stored; what is stored of a device's journal is what it said, once, in its order, and
  without a gap.
- The trail's export verifies without the server, and what it said earlier it says still.
- When all is quiet, a target's state is that of its device: what it runs, and whether that is the release of the campaign that
  holds it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import Key

from firmware.catalogue.signers import read_key_file
from firmware.errors import RefusedError
from server.audit.verify import Verifier
from server.planner.words import AssignmentState
from server.storage.evidence import KeptReport, kept_reports, pending_reports
from simulator.lab import Lab
from simulator.soak.books import Ledger, Violation
from simulator.wire.plan import Truth

HASH_HEX = 32
PERMITS = (b'"permit-granted"', b'"permit-repeated"')
"""What a record of a permit has in its line: also of one that is granted anew, since its first may be followed after all."""
ON_RELEASE = (AssignmentState.VERIFIED, AssignmentState.COMMITTED)
OFF_RELEASE = (AssignmentState.FELL_BACK, AssignmentState.ROLLED_BACK)


class Reports:
    """Reads what is new in the inbox each time. `liars`: targets whose reports may have gaps and come in any order."""

    def __init__(self, url: str, ledger: Ledger, *, liars: Collection[str] = ()) -> None:
        self._url, self._ledger, self._liars = url, ledger, liars
        self._after = 0
        self._kept: defaultdict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        self._told: set[tuple[str, str, int]] = set()
        self.stored = 0

    @property
    def kept(self) -> Mapping[tuple[str, str], Mapping[int, str]]:
        """By target and journal, the hash of each report by its number, of what was looked at."""
        return self._kept

    @property
    def pending(self) -> int:
        """How many the server has still to handle."""
        return pending_reports(self._url)

    def compare(self, truths: Iterable[Truth], at_s: float, trace: Mapping[str, Sequence[str]]) -> None:
        """Look at all that is stored now; the truths must be older than this call."""
        self.take(kept_reports(self._url, after=self._after), at_s)
        for truth in truths:
            if truth.waiting >= 0 and truth.journal:
                self._of(truth, at_s, tuple(trace.get(truth.member, ())))

    def take(self, rows: Iterable[KeptReport], at_s: float) -> None:
        """Look at what was stored since, in its order."""
        for row in rows:
            self._after, self.stored = row.id, self.stored + 1
            kept = self._kept[(row.target, row.journal)]
            if row.target in self._liars:
                pass  # its numbers are its own affair
            elif row.seq in kept:
                self._broke("doubled-report", at_s, row.target, row.journal, row.seq, "is stored twice.")
            elif row.seq != (last := next(reversed(kept), row.seq - 1)) + 1:
                self._broke("reordered-report", at_s, row.target, row.journal, row.seq, f"follows {last}.")
            kept[row.seq] = row.hash

    def _of(self, truth: Truth, at_s: float, trace: tuple[str, ...]) -> None:
        kept, said = self._kept[(truth.target, truth.journal)], truth.said.hex()
        for seq in range(1, truth.acked + 1):
            wanted = said[(seq - 1) * HASH_HEX : seq * HASH_HEX]
            found = kept.get(seq)
            if found is None:
                self._broke(
                    "lost-report", at_s, truth.target, truth.journal, seq, "was acked and is not stored.", trace
                )
            elif not found.startswith(wanted):
                self._broke("changed-report", at_s, truth.target, truth.journal, seq, "is stored as another.", trace)

    def _broke(
        self, kind: str, at_s: float, target: str, journal: str, seq: int, text: str, trace: tuple[str, ...] = ()
    ) -> None:
        if (target, journal, seq) not in self._told:
            self._told.add((target, journal, seq))
            sentence = f"Report {seq} of {target} (journal {journal}) {text}"
            self._ledger.add(Violation(kind=kind, at_s=at_s, text=sentence, trace=trace))


class Trail:
    """Exports and verifies the trail, with the key and the checkpoint of the time before as pins."""

    def __init__(self, lab: Lab, directory: Path, ledger: Ledger) -> None:
        self._lab, self._directory, self._ledger = lab, directory, ledger
        self._number = 0
        self._pins: list[bytes] = []
        self.records = 0
        self.permits = 0
        """How many it says were granted."""
        directory.mkdir(parents=True, exist_ok=True)

    def verify(self, at_s: float) -> None:
        """Export it and look. Raises what the commands raise while the server is away."""
        self._number += 1
        access = self._lab.access
        key, export, pin = (self._directory / f"{name}-{self._number}" for name in ("key", "trail.jsonl", "checkpoint"))
        self._lab.otaria("audit", "key", "-o", str(key), *access)
        self._lab.otaria("audit", "export", "-o", str(export), *access)
        try:
            with export.open("rb") as file:
                self.look(read_key_file(key)[0], file, at_s)
        finally:
            export.unlink()
        self._lab.otaria("audit", "checkpoint", "-o", str(pin), *access)
        self._pins = [pin.read_bytes()]

    def look(self, key: Key, lines: Iterable[bytes], at_s: float) -> None:
        """Verify an export's lines by the server's public key, and by what was kept the time before."""
        try:
            verifier = Verifier({key.keyid: key}, self._pins)
        except RefusedError as error:
            self._broke(f"What it signed earlier doesn't verify any more: {error.text}", at_s)
            return
        permits = 0
        for line in lines:
            verifier.feed(line.rstrip(b"\n"))
            permits += any(word in line for word in PERMITS)
        verdict = verifier.finish()
        if not verdict.is_whole:
            self._broke(f"It does not verify: {msgspec.json.encode(verdict).decode()[:600]}", at_s)
        self.records, self.permits = max(self.records, verdict.records), max(self.permits, permits)

    def end(self, followed: int, at_s: float) -> None:
        """It was verified at all, and every permit that a device followed is in it."""
        if not self.records:
            self._broke("It was never verified.", at_s)
        elif self.permits < followed:
            self._broke(f"It has {self.permits} permits, and devices followed {followed}.", at_s)

    def _broke(self, text: str, at_s: float) -> None:
        self._ledger.add(Violation(kind="audit", at_s=at_s, text=f"The trail: {text}"))


def compare_fleet(
    fleet: Iterable[Mapping[str, Any]],
    truths: Mapping[str, Truth],
    versions: Mapping[str, str],
    ledger: Ledger,
    at_s: float,
    trace: Mapping[str, Sequence[str]],
) -> None:
    """Hold each target against its device; `truths` by target, `versions`: what each campaign brings."""
    known = {one["id"]: one for one in fleet}
    for target, truth in truths.items():
        for text in _differences(known.get(target), truth, versions):
            lines = tuple(trace.get(truth.member, ()))
            kind = "bricked" if truth.is_bricked else "state"
            ledger.add(Violation(kind=kind, at_s=at_s, text=f"{truth.member} ({target}) {text}", trace=lines))


def compare_bricked(fleet: Iterable[Mapping[str, Any]], truths: Iterable[Truth], ledger: Ledger, at_s: float) -> None:
    """Where releases may brick: who is bricked says nothing, so the server can't know what it runs; but it is neither verified
    nor back on what it ran."""
    known = {one["id"]: one for one in fleet}
    for truth in truths:
        shown = known.get(truth.target)
        if truth.is_bricked and shown is None:
            ledger.add(Violation(kind="bricked", at_s=at_s, text=f"{truth.member} is not in the fleet."))
        elif truth.is_bricked and shown is not None and shown["state"] in (*ON_RELEASE, *OFF_RELEASE):
            text = f"{truth.member} is {shown['state']} in {shown['campaign']} and bricked."
            ledger.add(Violation(kind="bricked", at_s=at_s, text=text))


def _differences(shown: Mapping[str, Any] | None, truth: Truth, versions: Mapping[str, str]) -> Iterable[str]:
    if truth.is_bricked or truth.waiting < 0:
        yield "does not come up any more."
        return
    if shown is None:
        yield "is not in the fleet."
        return
    if shown["running_version"] != truth.version or shown["running_sha256"] != truth.sha256:
        yield f"runs {truth.version}, and the server says {shown['running_version']}."
        return
    state, brings = shown["state"], versions.get(shown["campaign"] or "")
    if state in ON_RELEASE and truth.version != brings:
        yield f"is {state} in {shown['campaign']}, which brings {brings}, and runs {truth.version}."
    elif state in OFF_RELEASE and truth.version == brings:
        yield f"is {state} in {shown['campaign']} and runs its release {brings}."


def quiet(truths: Iterable[Truth]) -> str:
    """What keeps the devices from being quiet; empty when all is said and heard."""
    truths = list(truths)
    waiting = sum(one.waiting > 0 for one in truths)
    away = sum(not one.is_connected for one in truths)
    down = sum(not one.is_up for one in truths)
    if waiting or away or down:
        return f"{waiting} devices wait for acks, {away} are not connected, {down} are down"
    return ""
