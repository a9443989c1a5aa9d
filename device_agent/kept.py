"""What is durable of a running agent: its record, written before anything follows from it, and what goes with each report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from device_agent.identity import Identity
from device_agent.journal import Journal, Record, durable
from device_agent.lineage import Lineage
from device_agent.outbox import Outbox
from device_agent.post import Post
from device_agent.reports import Facts
from device_agent.trusted_time import TrustedTime
from device_agent.work import Ports


class Kept:
    """`record` is what counts now. `directory` holds the journal, written in the schema of `lineage`."""

    def __init__(
        self,
        *,
        identity: Identity,
        ports: Ports,
        directory: Path,
        lineage: Lineage,
        time: TrustedTime,
        post: Post,
        evidence: Callable[[], dict[str, Any]],
    ) -> None:
        self.record = Record(outbox=Outbox(journal="unstarted"))
        self._journal = Journal(ports.effects, directory, lineage)
        self._identity, self._ports, self._time, self._post, self._evidence = identity, ports, time, post, evidence

    def load(self) -> Record | None:
        """What the last process left, without making it count. Raises `RefusedError` (`journal-damaged`)."""
        return self._journal.load()

    def store(self, record: Record) -> None:
        """Let it count, durable if anything but the clock moved. Raises `UnavailableError`, and then the old one does."""
        if durable(record) != durable(self.record) or record.outbox.next_seq == 1:
            record = replace(record, trusted_time=self._time.seconds(self._ports.clock.seconds()))
            self._journal.store(record)
        self.record = record

    def send(self) -> None:
        """Send of the outbox what may leave now."""
        self._post.send(self.record.outbox, self._ports.clock.seconds(), self._ports.chance.jitter())

    def facts(self) -> Facts:
        """What goes with a report now."""
        return Facts(
            identity=self._identity,
            notary=self._ports.notary,
            at=int(self._time.seconds(self._ports.clock.seconds())),
            evidence=self._evidence(),
        )
