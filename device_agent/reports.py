"""Makes the signed reports that go into the outbox.

What the server would refuse must never get in: reports leave in order, so one of them would hold up all after it for ever.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from device_agent import outbox as box
from device_agent.core.commands import Tell
from device_agent.core.machine import running_of
from device_agent.core.states import Standing, word_of
from device_agent.identity import Identity
from device_agent.outbox import Entry, Outbox
from device_agent.ports import Notary
from firmware.protocol.codec import canonical
from firmware.protocol.metrics import Metrics
from firmware.protocol.packages import PackagesPart
from firmware.protocol.report import REPORT_KIND, Inventory, Reason, Report
from firmware.protocol.topics import Leaf
from firmware.protocol.words import MAX_TEXT


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Who reports, who signs it, at which trusted time (POSIX seconds). `evidence`: what is said in every report about an
    order."""

    identity: Identity
    notary: Notary
    at: int
    evidence: dict[str, Any] = field(default_factory=dict)


def enqueue(outbox: Outbox, tell: Tell, standing: Standing, facts: Facts) -> Outbox:
    """The outbox with the report that a `Tell` asks for, signed."""
    order = tell.held.order if tell.held else None
    report = replace(
        _of_no_order(outbox, standing, facts),
        state=tell.state,
        order_hash=tell.held.hash if tell.held else None,
        campaign=order.campaign if order else None,
        change_id=order.change_id if order else None,
        reason=_fitting(tell.reason),
        evidence={**facts.evidence, **tell.evidence},
    )
    return _add(outbox, report, Leaf.REPORT, facts.notary)


def enqueue_inventory(
    outbox: Outbox, inventory: Inventory, reason: Reason | None, standing: Standing, facts: Facts
) -> Outbox:
    """The outbox with a report of what this target is."""
    report = replace(_of_no_order(outbox, standing, facts), reason=_fitting(reason), inventory=inventory)
    return _add(outbox, report, Leaf.INVENTORY, facts.notary)


def enqueue_metrics(outbox: Outbox, metrics: Metrics, standing: Standing, facts: Facts) -> Outbox:
    """The outbox with a report of what this target measured. Raises `UnavailableError` when nobody can sign it now."""
    report = replace(_of_no_order(outbox, standing, facts), metrics=metrics)
    return _add(outbox, report, Leaf.REPORT, facts.notary)


def enqueue_packages(outbox: Outbox, parts: Sequence[PackagesPart], standing: Standing, facts: Facts) -> Outbox:
    """The outbox with a report for each part of what is told of a host's packages. Raises `UnavailableError` as above."""
    for part in parts:
        report = replace(_of_no_order(outbox, standing, facts), packages=part)
        outbox = _add(outbox, report, Leaf.REPORT, facts.notary)
    return outbox


def _of_no_order(outbox: Outbox, standing: Standing, facts: Facts) -> Report:
    """The next report, about where this target stands and no order."""
    return Report(
        target=facts.identity.target,
        agent=facts.identity.agent,
        journal=outbox.journal,
        seq=outbox.next_seq,
        oldest=box.oldest_after_adding(outbox),
        boot_id=standing.boot.boot_id,
        at=facts.at,
        state=word_of(standing.state),
        running=running_of(standing),
        counter=standing.highest,
    )


def _fitting(reason: Reason | None) -> Reason | None:
    """The reason with a text that the wire takes: bounded, and Unicode (a file's name may not be)."""
    if reason is None:
        return None
    return replace(reason, text=reason.text.encode(errors="replace").decode()[:MAX_TEXT])


def _add(outbox: Outbox, report: Report, leaf: Leaf, notary: Notary) -> Outbox:
    payload = canonical(report)
    digest = hashlib.sha256(payload).hexdigest()
    envelope = notary.seal(payload, REPORT_KIND)
    return box.add(outbox, Entry(seq=report.seq, hash=digest, leaf=leaf.value, envelope=envelope))
