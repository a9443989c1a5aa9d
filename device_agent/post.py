"""Sends what waits in the outbox: each report once per connection, then again on a jittered timer until it is acked.

Order is kept: reports leave by rising seq, at most `window` of them unacked at a time.
"""

from dataclasses import dataclass

from device_agent.core.values import backoff
from device_agent.identity import Identity
from device_agent.outbox import Entry, Outbox
from device_agent.ports import Link
from firmware.protocol import topics


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds between resends, from least (after news) to most, and how many reports may be under way."""

    resend_min_s: float = 10.0
    resend_max_s: float = 300.0
    window: int = 32


class Post:
    """Knows which reports this connection has seen and when to repeat them. Keeps nothing durable."""

    def __init__(self, link: Link, identity: Identity, pace: Pace) -> None:
        self._link, self._identity, self._pace = link, identity, pace
        self._online = False
        self._sent_through = 0
        self._attempts = 0
        self.resend_at: float | None = None

    def connected(self, online: bool, outbox: Outbox, now: float, jitter: float) -> None:
        """A new connection has seen nothing yet."""
        self._online, self._sent_through, self._attempts = online, 0, 0
        self.send(outbox, now, jitter)

    def send(self, outbox: Outbox, now: float, jitter: float) -> None:
        """Send what this connection has not seen, within the window; arm the timer while anything waits."""
        if not self._online or not outbox.entries:
            self.resend_at = None
            return
        for entry in outbox.entries[: self._pace.window]:
            if entry.seq > self._sent_through and not self._publish(entry):
                break
            self._sent_through = max(self._sent_through, entry.seq)
        if self.resend_at is None:
            self._arm(now, jitter)

    def acked(self, outbox: Outbox, now: float, jitter: float) -> None:
        """News from the server: start waiting from the beginning."""
        self._attempts, self.resend_at = 0, None
        self.send(outbox, now, jitter)

    def resend(self, outbox: Outbox, now: float, jitter: float) -> None:
        """The timer ran out: everything in the window goes out again."""
        self._sent_through = 0
        self._attempts += 1
        self.resend_at = None
        self.send(outbox, now, jitter)

    def _arm(self, now: float, jitter: float) -> None:
        self.resend_at = now + backoff(self._attempts, jitter, self._pace.resend_min_s, self._pace.resend_max_s)

    def _publish(self, entry: Entry) -> bool:
        topic = topics.of_target(self._identity.agent, self._identity.target, topics.Leaf(entry.leaf))
        return self._link.publish(topic, entry.envelope, qos=1)
