"""Between the broker and the core: has messages verified, and decides when the catalogue is refreshed.

A message that no known key signed may be signed by a new one, so the newest of its kind is kept for one more try after a
refresh. Refreshes asked for by strangers' messages keep a distance, so that a flood of forgeries costs no traffic. Signed
orders that change nothing may be replayed without end: of those, few are told about, so that a flood wears out no flash.
"""

import logging
from collections.abc import Sequence

from device_agent import inbound
from device_agent.core.values import backoff
from device_agent.identity import Identity
from device_agent.ports import Notary, Verified
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
MAX_RETRY_S = 300.0


class Bucket:
    """`size` takings at once, and one more every `every_s` seconds."""

    def __init__(self, *, size: int, every_s: float) -> None:
        self._size, self._every_s = size, every_s
        self._left, self._at = float(size), float("-inf")

    def take(self, now: float) -> bool:
        """Whether there is one to take at monotonic seconds `now`; takes it."""
        self._left = min(self._size, self._left + max(0.0, now - self._at) / self._every_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Gate:
    """Has messages verified. `refresh_at`: monotonic seconds of the next wanted refresh, or None. `believed_until`: POSIX seconds
    up to which the word about the time of whoever signed the latest message is taken."""

    def __init__(self, notary: Notary, *, refresh_min_s: float) -> None:
        self._notary, self._refresh_min_s = notary, refresh_min_s
        self._doubtful: dict[str, bytes] = {}
        self._doorbell: bytes | None = None
        self._refreshed_at = self._rung_at = float("-inf")
        self._failures = 0
        self.refresh_at: float | None = None
        self.believed_until = 0.0

    def want_refresh(self, at: float) -> None:
        """Refresh at monotonic seconds `at`, or earlier if that is wanted already."""
        self.refresh_at = at if self.refresh_at is None else min(at, self.refresh_at)

    def take_refresh(self, now: float) -> bool:
        """Whether a refresh is due; the caller then starts it."""
        if self.refresh_at is None or self.refresh_at > now:
            return False
        self.refresh_at = None
        return True

    def ring(self, payload: bytes, now: float, spread_s: float) -> bool:
        """The doorbell, to be answered after `spread_s`; whether it says something new. Its content is compared, never
        believed. Anybody who holds the broker can ring: refreshes keep their distance, and so does what else it hastens."""
        if payload == self._doorbell:
            return False
        self._doorbell = payload
        self.want_refresh(max(now + spread_s, self._refreshed_at + self._refresh_min_s))
        if now < self._rung_at + self._refresh_min_s:
            return False
        self._rung_at = now
        return True

    def refreshed(self, now: float, jitter: float) -> Sequence[tuple[str, bytes]]:
        """A job of the catalogue ended: give back the messages that wait for the keys it left."""
        self._refreshed_at = now
        if not self._notary.knows_director():
            self._failures += 1
            self.want_refresh(now + backoff(self._failures, jitter, 1.0, MAX_RETRY_S))
            return ()
        self._failures = 0
        waiting, self._doubtful = list(self._doubtful.items()), {}
        return waiting

    def open(self, leaf: str, payload: bytes, identity: Identity, now: float) -> inbound.Opened | None:
        """The verified message, or None for one that is dropped or waits for a refresh."""
        try:
            return inbound.open_message(leaf, payload, self, identity)
        except UnavailableError as error:
            log.info("message waits to be verified", extra={"leaf": leaf, "reason": error.text})
            self._doubt(leaf, payload, now)
        except RefusedError as error:
            log.warning("message not accepted", extra={"leaf": leaf, "reason_kind": error.kind, "reason": error.text})
            if error.kind == ReasonKind.BAD_SIGNATURE:
                self._doubt(leaf, payload, now)
        return None

    def verify(self, envelope: bytes, kind: str, *, max_bytes: int) -> Verified:
        """See `Verifier.verify`; keeps what is known of the director that signed it."""
        verified = self._notary.verify(envelope, kind, max_bytes=max_bytes)
        self.believed_until = verified.until
        return verified

    def _doubt(self, leaf: str, payload: bytes, now: float) -> None:
        """Keep it for one more try after a refresh, which comes at once only when the last one was long ago."""
        self._doubtful[leaf] = payload
        self.want_refresh(max(now, self._refreshed_at + self._refresh_min_s))
