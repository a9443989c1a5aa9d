"""What is reported of a target beside where it stands: what it is, its packages, what it measured. None of it moves anything.

Rules
- Of packages and of metrics one telling waits at most, whatever changes meanwhile.
- What the server would not take, or nobody can sign now, is told later and holds up nothing.
"""

import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from device_agent import reports
from device_agent.journal import MetricsTold, PackagesTold
from device_agent.kept import Kept
from device_agent.work import Ports
from firmware.errors import OtariaError, UnavailableError
from firmware.protocol.codec import canonical
from firmware.protocol.report import Ack, Inventory, Reason

if TYPE_CHECKING:  # few devices measure
    from device_agent.metrics.desk import MetricDesk

log = logging.getLogger(__name__)


class Tellings:
    """`inventory` makes the one of now."""

    def __init__(self, *, kept: Kept, ports: Ports, inventory: Callable[[], Inventory]) -> None:
        self._kept, self._ports, self._inventory = kept, ports, inventory

    def tell_inventory(self, trouble: Reason | None = None) -> None:
        """Report what this target is, when that has changed. Raises `UnavailableError` when it can't be made durable."""
        inventory, record = self._inventory(), self._kept.record
        digest = hashlib.sha256(canonical(inventory)).hexdigest()
        if digest == record.inventory_hash:
            return
        box = reports.enqueue_inventory(record.outbox, inventory, trouble, record.standing, self._kept.facts())
        self._kept.store(replace(record, outbox=box, inventory_hash=digest))
        self._kept.send()

    def tell_packages(self) -> None:
        """Report what became of a host's packages. Raises as `tell_inventory`."""
        record = self._kept.record
        told, box = record.packages_told, record.outbox
        if self._ports.packages is None or (told is not None and box.oldest <= told.seq < box.next_seq):
            return
        try:
            parts = self._ports.packages(told.sha256 if told is not None else "", self._ports.clock.seconds())
            added = reports.enqueue_packages(box, parts, record.standing, self._kept.facts())
        except (OtariaError, OSError) as error:
            log.warning("the packages can't be told now", extra={"reason": str(error)})
            return
        if parts:
            now_told = PackagesTold(seq=added.next_seq - 1, sha256=parts[-1].now)
            self._kept.store(replace(record, outbox=added, packages_told=now_told))
            self._kept.send()

    def packages_acked(self, ack: Ack) -> None:
        """Tell what has changed since; or, when the server holds something else, the whole after the next survey."""
        told = self._kept.record.packages_told
        if told is None or ack.packages is None or ack.seq < told.seq:
            return
        if ack.packages == told.sha256:
            self.tell_packages()
        else:
            self._kept.store(replace(self._kept.record, packages_told=None))

    def tell_metrics(self, desk: "MetricDesk") -> None:
        """Report the next hours; none while there is no link: else a month offline would push out of the outbox what moves
        things. Raises as `tell_inventory`."""
        record, now = self._kept.record, self._ports.clock.seconds()
        told, box = record.metrics_told, record.outbox
        if not self._ports.reach.connected or (told is not None and box.oldest <= told.seq < box.next_seq):
            desk.hold()
            return
        metrics = desk.next(told.through if told is not None else -1)
        if metrics is None:
            desk.wait(now, self._ports.chance.jitter())
            return
        try:
            added = reports.enqueue_metrics(box, metrics, record.standing, self._kept.facts())
        except UnavailableError as error:
            log.info("metrics wait", extra={"reason": error.text})
            desk.wait(now, self._ports.chance.jitter())
            return
        through = metrics.hours[-1].hour
        self._kept.store(replace(record, outbox=added, metrics_told=MetricsTold(seq=box.next_seq, through=through)))
        desk.told(through)
        desk.hold()
        self._kept.send()

    def let_metrics_go_on(self) -> None:
        """The way to the server is free again."""
        if self._ports.metrics is not None:
            self._ports.metrics.go_on(self._ports.clock.seconds(), self._ports.chance.jitter())
