"""What Prometheus is told: the instruments and their names. Every name begins with `otaria_`, counts in base units, and no label
grows with the fleet: none is a device, a change or an address.

Counters count since this process leads, as Prometheus expects. What is a state (queues, ages, expiry) is set by
`server.observe.watching`; a scrape only writes down what is there, so it costs the same at ten targets and at a million.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LONG_S = (60, 600, 3600, 6 * 3600, 86400, 3 * 86400, 7 * 86400, 14 * 86400, 30 * 86400, 60 * 86400)
"""Buckets of what takes until every device has come."""
SHORT_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
MEDIA = "text/plain; version=0.0.4; charset=utf-8"
Numbers = Callable[[], Mapping[str, float]]


class Meters:
    """The instruments of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        Info("otaria", "Which Otaria this is.", registry=self.registry).info({"version": version("otaria")})
        self._make_work()
        self._make_server()
        self._make_trust()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)

    def count_messages(self, stored: Callable[[], float], dropped: Numbers, waiting: Callable[[], float]) -> None:
        """What the ingest counts by itself is asked for when it is scraped."""
        self.registry.register(_Messages(stored, dropped, waiting))

    def _make_work(self) -> None:
        """What happens to targets and campaigns."""
        self.trail = self._counter("audit_records", "Lines of the trail that were written, by kind.", "kind")
        self.outcomes = self._counter("target_outcomes", "How updates of targets ended.", "outcome")
        self.remediation = self._histogram(
            "remediation_seconds", "From a release's publication until a target was verified on it.", LONG_S
        )
        self.deployment = self._histogram(
            "deployment_seconds", "From the opening of a target's cohort until it was verified.", LONG_S
        )
        self.rollback = self._histogram(
            "rollback_seconds", "From the permit of a target until it was back on its previous slot.", LONG_S
        )
        self.permit = self._histogram(
            "permit_seconds", "From the arrival of a target's ask until it was permitted.", SHORT_S
        )
        self.groups = self._gauge("budget_groups", "Groups with a budget: all, full, and above their limit.", "state")
        self.targets = self._gauge("targets", "Targets of the fleet: online and offline; once a minute.", "presence")
        self.drifted = self._gauge("targets_drifted", "Targets whose version was changed by hand.")
        self.campaigns = self._gauge("campaigns", "Campaigns by state.", "state")
        self.cohorts = self._gauge("cohorts", "Cohorts of all campaigns by place and state.", "place", "state")

    def _make_server(self) -> None:
        """How the server itself is."""
        self.leader = self._gauge("leader", "1 while this server leads, 0 while it stands by.")
        self.broker_connected = self._gauge("broker_connected", "1 while the server has a link to its broker.")
        self.storage_errors = self._counter("storage_errors", "Transactions that failed, by kind of error.", "kind")
        self.transactions = self._histogram(
            "transaction_seconds", "How long transactions took, with their wait.", SHORT_S, "mode"
        )
        self.artifact_errors = self._counter(
            "artifact_store_errors", "What the artifact store could not do, by kind of error.", "kind"
        )
        self.artifact_seconds = self._histogram(
            "artifact_store_seconds", "How long the artifact store took, with all attempts.", SHORT_S, "operation"
        )
        self.artifacts_reached = self._gauge(
            "artifact_store_reached", "1 while the artifact store is reached; asked every ten seconds."
        )
        self.inbox = self._gauge(
            "inbox_messages", "Messages that the planner hasn't taken yet; 10000 and more are 10000."
        )
        self.inbox_age = self._gauge("inbox_age_seconds", "How long the oldest of them has waited.")
        self.outbox = self._gauge("outbox_messages", "Messages that are to be published; 10000 and more are 10000.")
        self.outbox_age = self._gauge("outbox_age_seconds", "For how long the oldest of them has been seen waiting.")
        self.watched_at = self._gauge("watched_timestamp_seconds", "When these gauges were brought up to date.")

    def _make_trust(self) -> None:
        """What keeps the server believed."""
        self.audit_records = self._gauge("audit_chain_records", "Records that the chains hold and held.")
        self.audit_unsigned = self._gauge("audit_unsigned_records", "Records that no checkpoint covers yet.")
        self.audit_signed_at = self._gauge(
            "audit_checkpoint_timestamp_seconds", "When the newest checkpoint was signed."
        )
        self.audit_faults = self._gauge("audit_faults", "What didn't fit in the trail since this server leads.")
        self.revocation_signed_at = self._gauge(
            "revocation_list_timestamp_seconds", "When the oldest revocation list was signed; 0: none can be read."
        )
        self.revoked = self._gauge("revoked_certificates", "Certificates on the revocation lists.")
        self.role_expiry = self._gauge(
            "catalogue_role_expiry_timestamp_seconds", "Until when a role's metadata is signed.", "role"
        )
        self.certificate_expiry = self._gauge(
            "certificate_expiry_timestamp_seconds", "Until when our own certificates are valid.", "certificate"
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"otaria_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"otaria_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"otaria_{name}", text, labels, buckets=buckets, registry=self.registry)


@dataclass(frozen=True)
class _Messages(Collector):
    """Messages from the broker."""

    stored: Callable[[], float]
    dropped: Numbers
    waiting: Callable[[], float]

    def collect(self) -> Iterator[Metric]:
        taken = CounterMetricFamily(
            "otaria_messages", "Messages of agents, by what became of them.", labels=["outcome"]
        )
        taken.add_metric(["stored"], self.stored())
        for reason, number in self.dropped().items():
            taken.add_metric([reason], number)
        yield taken
        yield GaugeMetricFamily(
            "otaria_ingest_waiting_messages",
            "Messages that wait to be read, or for the database to work.",
            self.waiting(),
        )
