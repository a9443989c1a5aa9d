"""Taking in what was read: everything one message changes outside the planner, in one transaction for many.

A report is stored before it is acked: acks are only noted here, and signed after the commit. A repeat is acked again, because
its ack may be what was lost. A report that comes before its turn is left to be resent. The same place in a journal with other
words is a second device with the same key: the agent is quarantined until a person has looked.
"""

from collections.abc import Sequence

from firmware.encryption.content_key import SUITE, key_id, public_from_text
from firmware.errors import RefusedError
from firmware.protocol.logs import LogPart
from firmware.protocol.metrics import MAX_METRICS, Metrics
from firmware.protocol.packages import PackagesPart
from firmware.protocol.permit import Ask
from firmware.protocol.report import Ack, Inventory, Report
from firmware.protocol.topics import Leaf, of_target
from server.audit.chain import REPORTS_STORED
from server.campaigns.director import Director
from server.campaigns.logs import ask_again, take_part
from server.campaigns.packages import take_packages
from server.campaigns.reading import PresenceHint, ProgressHint, Reading, Said
from server.campaigns.signed import file_report
from server.campaigns.standing import keep_order
from server.ports import AgentStatus, SeqVerdict, Unit

_ELSEWHERE = frozenset({"metrics", "packages"})
"""What of a report has a place of its own."""


class Intake:
    """Takes readings in, inside one transaction; made anew for each. `stored` counts what is new for the planner; `acks` are owed
    once this is committed."""

    def __init__(self, unit: Unit, director: Director, now: float) -> None:
        self._unit = unit
        self._director = director
        self._now = now
        self._sent_again: set[str] = set()
        self._asked_again: set[str] = set()
        self._progress: dict[str, str] = {}
        self._reports: list[tuple[str, str, int, str]] = []
        self.stored = 0
        self.acks: list[Ack] = []
        self.dropped: list[str] = []

    def take_all(self, readings: Sequence[Reading]) -> None:
        """Take readings in this order, with what is asked about them fetched at once."""
        said = [reading.message for reading in readings if isinstance(reading, Said)]
        reports = [message for message in said if isinstance(message, Report)]
        unit, targets = self._unit, [report.target for report in reports]
        unit.identities.expect([message.agent for message in said])
        unit.inbox.expect([(report.agent, report.journal, report.seq) for report in reports])
        unit.orders.expect(targets)
        unit.logs.expect([report.agent for report in reports])
        unit.fleet.expect([report.target for report in reports if report.inventory is not None])
        for reading in readings:
            self.take(reading)
        self.finish()

    def finish(self) -> None:
        """Write the hints that no report has ended since, and record which signed reports were stored: one record for all, or
        ingest would write each report twice."""
        for target, text in self._progress.items():
            self._unit.fleet.set_progress(target, text)
        self._progress.clear()
        if self._reports:
            number = len(self._reports)
            text = "A signed report was stored." if number == 1 else f"{number} signed reports were stored."
            reports = {"reports": self._reports}
            self._unit.audit.add(at=self._now, kind=REPORTS_STORED, text=text, actor="ingest", data=reports)
            self._reports = []

    def take(self, reading: Reading) -> None:
        """Store one reading and what it entails, until `finish`; drops it, with a reason, when its agent is no longer active."""
        match reading:
            case PresenceHint(agent=agent, online=online):
                self._unit.fleet.set_presence(agent, online=online, at=self._now)
                self._unit.presences.heard(agent, online=online, at=self._now)
                if online:
                    self._ask_for_logs_again(agent)
            case ProgressHint(target=target, text=text):
                self._progress[target] = text
            case Said(message=message) if not self._active(message.agent):
                self.dropped.append("agent-not-active")
            case Said(message=Ask()):
                self.stored += self._unit.inbox.add_ask(reading.message.target, reading.hash, reading.body, self._now)
            case Said(message=LogPart() as part):
                why = take_part(self._unit, part, self._now)
                if why is not None:
                    self.dropped.append(why)
            case Said(message=Report() as report):
                self._report(reading, report)

    def _ask_for_logs_again(self, agent: str) -> None:
        """It speaks: what it was asked for while it slept is asked anew."""
        if agent not in self._asked_again:
            self._asked_again.add(agent)
            ask_again(self._unit, self._director, agent, self._now)

    def _active(self, agent_id: str) -> bool:
        agent = self._unit.identities.agent(agent_id)
        return agent is not None and agent.status is AgentStatus.ACTIVE

    def _report(self, said: Said, report: Report) -> None:
        verdict = self._unit.inbox.sequence(report.agent, report.journal, report.seq, report.oldest, said.hash)
        match verdict:
            case SeqVerdict.NEW | SeqVerdict.NEW_AFTER_GAP:
                self._store(said, report, after_gap=verdict is SeqVerdict.NEW_AFTER_GAP)
                self._ack(said, report, after_gap=verdict is SeqVerdict.NEW_AFTER_GAP)
            case SeqVerdict.REPEAT:
                self._ack(said, report, after_gap=False)
            case SeqVerdict.EARLY:
                self.dropped.append("early")
            case SeqVerdict.TOO_MANY_JOURNALS:
                self.dropped.append("too-many-journals")
            case SeqVerdict.CLONE:
                self._quarantine(said, report)

    def _store(self, said: Said, report: Report, *, after_gap: bool) -> None:
        self._ask_for_logs_again(report.agent)
        self._progress.pop(report.target, None)
        body = {name: value for name, value in said.body.items() if name not in _ELSEWHERE}
        self._unit.inbox.add_report(report.target, report.agent, report.journal, report.seq, said.hash, body, self._now)
        file_report(self._unit, report, digest=said.hash, envelope=said.envelope, now=self._now)
        self.stored += 1
        self._reports.append((report.agent, report.journal, report.seq, said.hash))
        runs = report.running
        self._unit.fleet.note_report(
            report.target,
            at=self._now,
            slot=runs.slot,
            previous_version=runs.previous_version,
            product=runs.product,
            counter=runs.release_counter if runs.product is not None else None,
        )
        if after_gap:
            self._incident(
                report, "reports-lost", f"Reports of {report.target} before number {report.seq} are lost here."
            )
        if report.inventory is not None:
            self._inventory(report, report.inventory)
        if report.metrics is not None:
            self._metrics(report, report.metrics)
        if report.packages is not None:
            self._packages(report, report.packages)
        self._compare_counters(report)

    def _ack(self, said: Said, report: Report, *, after_gap: bool) -> None:
        tells_packages = report.packages is not None or after_gap
        self.acks.append(
            Ack(
                target=report.target,
                agent=report.agent,
                journal=report.journal,
                seq=report.seq,
                report_hash=said.hash,
                issued_at=int(self._now),
                packages=self._unit.packages.digest(report.target) if tells_packages else None,
            )
        )

    def _inventory(self, report: Report, inventory: Inventory) -> None:
        before = self._unit.fleet.announced(report.target)
        self._unit.fleet.set_inventory(
            report.target,
            labels=inventory.labels,
            capabilities=inventory.capabilities,
            encryption_key=self._encryption_key(report, inventory, before.encryption_key if before else None),
        )
        self._unit.fleet.set_way(
            report.target, endpoint=inventory.endpoint or None, services_cas=inventory.services_cas
        )
        if before is not None and before.hardware != inventory.hardware:
            self._incident(
                report,
                "hardware-mismatch",
                f"{report.target} was enrolled as {before.hardware} but says it is {inventory.hardware}.",
            )

    def _metrics(self, report: Report, metrics: Metrics) -> None:
        left_out = self._unit.metrics.put(report.target, metrics.hours, self._now)
        if metrics.dropped:
            text = f"{report.target} let {metrics.dropped} hours of metrics go before it could tell them."
            self._incident(report, "metrics-lost", text)
        if left_out:
            text = f"{left_out} numbers that {report.target} told are of no use: their hours are too old or yet to come, or it "
            self._incident(report, "metrics-left-out", f"{text}measures more than {MAX_METRICS} things.")

    def _packages(self, report: Report, part: PackagesPart) -> None:
        try:
            take_packages(self._unit, report.target, part, self._now)
        except RefusedError as error:
            text = f"What {report.target} told of its packages was left out. {error.text}"
            self._incident(report, "packages-refused", text, why=error.kind)

    def _encryption_key(self, report: Report, inventory: Inventory, before: str | None) -> str | None:
        """The announced key, if it can be encrypted to. Another than before is told: somebody may hold the report key."""
        told = inventory.encryption_key
        if told is None:
            return None
        try:
            if told.suite != SUITE:
                raise RefusedError("bad-encryption-key", f"This server does not know {told.suite[:64]}.")
            public_from_text(told.public)
        except RefusedError as error:
            text = f"{report.target} announced an encryption key that is of no use, so it gets no encrypted releases."
            self._incident(report, error.kind, f"{text} {error.text}")
            return None
        if before not in (None, told.public):
            text = (
                f"{report.target} announced another encryption key than before; its orders are encrypted to that now."
            )
            self._incident(
                report, "encryption-key-changed", text, key_id=key_id(told.public), before=key_id(before or "")
            )
        return told.public

    def _compare_counters(self, report: Report) -> None:
        """Note what the target has accepted; send its order again when that is behind, since a broker forgets."""
        if report.counter is not None:
            self._unit.orders.set_echoed(report.target, report.counter)
        current = self._unit.orders.current(report.target)
        if current is None or report.target in self._sent_again:
            return
        if report.counter is None or report.counter < current.counter:
            topic = of_target(current.agent, current.target, Leaf.ORDER)
            self._unit.outbox.add(topic, current.envelope, retain=True)
            self._sent_again.add(report.target)

    def _quarantine(self, said: Said, report: Report) -> None:
        self.dropped.append("clone")
        self._unit.identities.set_agent_status(report.agent, AgentStatus.QUARANTINED)
        self._unit.identities.set_evicting(report.agent, True)
        keep_order(self._unit, report.agent, report.target, is_active=False)
        self._incident(
            report,
            "clone",
            f"Two different reports claim number {report.seq} of one journal: {report.agent}'s key is in use twice. "
            "It is quarantined; enrol the genuine device anew.",
            hash=said.hash,
            journal=report.journal,
            seq=report.seq,
        )

    def _incident(self, report: Report, kind: str, text: str, **data: object) -> None:
        self._unit.audit.add(
            at=self._now,
            kind=kind,
            text=text,
            actor="ingest",
            change_id=report.change_id,
            campaign=report.campaign,
            target=report.target,
            data=data,
        )
