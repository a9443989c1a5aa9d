"""The other side: catalogue, source and server, which keep what they saw over every power cut."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msgspec.structs import replace as struct_replace
from securesystemslib.signer import Signer

from device_agent.ports import Director, Incoming
from firmware.errors import UnavailableError
from firmware.manifest import Manifest
from firmware.protocol.envelope import claimed, open_envelope, seal
from firmware.protocol.order import Counter, DeltaRef, FileRef, Order, ReleaseRef
from firmware.protocol.permit import Ask, Permit, Verdict
from firmware.protocol.report import Ack, Report
from firmware.protocol.unverified import payload_hash
from firmware.protocol.words import Action
from tests.crash.broken import require
from tests.crash.releases import Release

NOW = 1_790_000_000
CHUNK_BYTES = 16384


@dataclass
class Depot:
    """Catalogue and source: what is published. `down`: raised instead of an answer, while set. `served`: bytes given, by path."""

    director: Director
    releases: list[Release] = field(default_factory=list)
    deltas: list[tuple[DeltaRef, bytes]] = field(default_factory=list)
    down: Exception | None = None
    refreshed: int = 0
    served: dict[str, int] = field(default_factory=dict)

    def refresh(self, now: float) -> None:
        self.refreshed += 1
        if self.down:
            raise self.down

    def file(self, path: str) -> FileRef | None:
        refs = [ref for one in self.releases for ref in (one.manifest_ref, *one.refs.values())]
        refs += [ref.file for ref, _ in self.deltas]
        return next((ref for ref in refs if ref.path == path), None)

    def manifest(self, file: FileRef) -> Manifest:
        for one in self.releases:
            if one.manifest_ref == file:
                return one.manifest
        raise UnavailableError("unreachable", "No such manifest.")

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        if self.down:
            raise self.down
        data = next((data for sha256, data in self._artifacts() if sha256 == file.sha256), None)
        if data is None:
            raise UnavailableError("unreachable", "No such artifact.")
        self.served[file.path] = self.served.get(file.path, 0) + len(data) - offset
        yield from (data[at : at + CHUNK_BYTES] for at in range(offset, len(data), CHUNK_BYTES))

    def _artifacts(self) -> Iterator[tuple[str, bytes]]:
        yield from ((ref.sha256, one.images[name]) for one in self.releases for name, ref in one.refs.items())
        yield from ((ref.file.sha256, patch) for ref, patch in self.deltas)

    def allow(self, bytes_per_s: int | None) -> None:
        """It is as fast as it is."""

    def again(self, file: FileRef, *, wrong: bool) -> bool:
        return False

    def evidence(self) -> dict[str, object]:
        return {}


class DepotCatalogue:
    """`Catalogue` over a depot (whose `director` is a value)."""

    def __init__(self, depot: Depot) -> None:
        self._depot = depot
        self.refresh, self.file, self.manifest = depot.refresh, depot.file, depot.manifest

    def use_held(self, now: float) -> None:
        return

    def bring(self, path: Path, envelope: bytes, now: float) -> None:
        raise AssertionError("there is no stick here")

    def director(self) -> Director:
        return self._depot.director


@dataclass
class Server:
    """What the server keeps: orders out, reports in. Acks and permits are signed; silence can be asked for."""

    signer: Signer
    report_key: Any
    orders: list[bytes] = field(default_factory=list)
    reports: dict[tuple[str, int], str] = field(default_factory=dict)
    told: list[Report] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    highest: dict[str, Counter | None] = field(default_factory=dict)
    answer: Callable[[Ask], Verdict] = lambda ask: Verdict.GRANTED
    acking: bool = True
    packages: Callable[[Report], str | None] = lambda report: None
    n: int = 0
    last: Order | None = None

    def order(
        self, action: Action, new: Release | None = None, *, delta: DeltaRef | None = None, **fields: Any
    ) -> bytes:
        """Sign the next order and make it the retained one. `delta`: of the first image."""
        self.n += 1
        named: dict[str, Any] = {}
        if new is not None:
            ref = ReleaseRef(
                product="demo", version=new.manifest.version, counter=new.manifest.counter, manifest=new.manifest_ref
            )
            first, *others = new.ordered
            named = {"release": ref, "images": [struct_replace(first, delta=delta), *others]}
        values = {
            "target": "dev-1",
            "agent": "dev-1",
            "hardware": "board-1",
            "counter": Counter(epoch=1, n=self.n),
            "action": action,
            "change_id": f"change-{self.n}",
            "issued_at": NOW,
            "expires_at": NOW + 86400 * 30,
            "trial_s": 60,
            **named,
            **fields,
        }
        self.last = Order(**values)
        envelope = seal(self.last, "order", self.signer)
        self.orders.append(envelope)
        return envelope

    def copy(self) -> "Server":
        """Another one that knows the same."""
        return replace(
            self,
            orders=list(self.orders),
            reports=dict(self.reports),
            told=list(self.told),
            asks=list(self.asks),
            highest=dict(self.highest),
        )

    def hear(self, topic: str, payload: bytes) -> list[Incoming]:
        """A published message; the answers."""
        if topic.endswith("/presence") or b"payloadType" not in payload:
            return []
        kind, _ = claimed(payload)
        if kind.endswith("ask.v1+json"):
            return self._asked(open_envelope(payload, "ask", Ask, self.report_key).message)
        return self._reported(open_envelope(payload, "report", Report, self.report_key).message)

    def _asked(self, ask: Ask) -> list[Incoming]:
        self.asks.append(ask)
        verdict = self.answer(ask)
        permit = Permit(
            target=ask.target,
            agent=ask.agent,
            order_hash=ask.order_hash,
            counter=ask.counter,
            boot_id=ask.boot_id,
            nonce=ask.nonce,
            verdict=verdict,
            valid_s=300,
            retry_after_s=20,
            change_id="change-1",
            issued_at=NOW,
        )
        return [Incoming(leaf="permit", target="dev-1", payload=seal(permit, "permit", self.signer))]

    def _reported(self, report: Report) -> list[Incoming]:
        key, digest = (report.journal, report.seq), payload_hash(report)
        known = self.reports.get(key)
        require("no-two-contents", known in (None, digest), f"seq {report.seq} came with two contents")
        if known is None:
            before = (report.journal, report.seq - 1)
            require("no-gap", report.seq == 1 or before in self.reports, f"a gap before seq {report.seq}")
            self.reports[key] = digest
            self.told.append(report)
            highest = self.highest.get(report.journal)
            rises = highest is None or (report.counter is not None and report.counter >= highest)
            require("counters", rises, f"{report.counter} after {highest}")
            self.highest[report.journal] = report.counter or highest
        if not self.acking:
            return []
        ack = Ack(
            target="dev-1",
            agent="dev-1",
            journal=report.journal,
            seq=report.seq,
            report_hash=digest,
            issued_at=NOW,
            packages=self.packages(report),
        )
        return [Incoming(leaf="ack", target="dev-1", payload=seal(ack, "ack", self.signer))]

    def states(self) -> list[str]:
        """The states told by reports about orders, in order."""
        return [report.state.value for report in self.told if report.inventory is None]
