"""Takes requests for logs and lets their answers out, part by part. Called by the runtime between two events.

Each request is taken once, and that is durable before anything is sent. A flood of signed requests gets a few answers.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from device_agent.core import events as ev
from device_agent.gate import Bucket
from device_agent.logs import answer
from device_agent.logs.book import LogBook
from device_agent.process import run_bounded
from firmware.protocol.codec import canonical
from firmware.protocol.logs import LogPart, LogRequest, What
from firmware.protocol.order import Counter
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
PART_EVERY_S, OFFLINE_AGAIN_S = 0.25, 10.0
REQUESTS_AT_ONCE, REQUEST_EVERY_S = 3, 300.0
TRIAL_KEPT_EVERY_S = 5.0
BOOT_S = 10.0
BOOT_BYTES = 128 << 10


class LogDesk:
    """`allow` false: every request is refused. `boot_argv`: the device's own command for `What.BOOT`."""

    def __init__(self, book: LogBook, *, allow: bool = True, boot_argv: Sequence[str] = ()) -> None:
        self.book, self._allow, self._boot_argv = book, allow, tuple(boot_argv)
        self._bucket = Bucket(size=REQUESTS_AT_ONCE, every_s=REQUEST_EVERY_S)
        self._waiting: deque[bytes] = deque()
        self._kept_at = float("-inf")
        self.send_at: float | None = None

    def admits(self, request: LogRequest, *, taken: Counter | None, trusted_time: float, now: float) -> bool:
        """Whether a verified request is to be answered: not one that was taken before, is too old, or is one too many."""
        if answer.stale(request, taken, trusted_time) or not self._bucket.take(now):
            log.info("request for logs passed over", extra={"request": request.id})
            return False
        return True

    def hear(self, event: ev.Event) -> None:
        """Keep what checks and hooks said."""
        if isinstance(event, ev.HealthFinished | ev.HeartbeatDone):
            self.book.note(What.HEALTH, f"{'healthy' if event.healthy else 'not healthy'}: {event.text}")
        elif isinstance(event, ev.FailureLogged | ev.CommitFailed):
            self.book.note(What.HOOKS, event.text)
        elif isinstance(event, ev.Withheld | ev.CommitVetoed | ev.MigrationFailed):
            self.book.note(What.HOOKS, f"{event.reason.kind}: {event.reason.text}")

    def collect(self, request: LogRequest) -> list[LogPart]:
        """The answer's parts. Blocks for as long as the device's own command takes."""
        if not self._allow:
            return answer.refusal(
                request, ReasonKind.LOGS_NOT_ALLOWED, "This device gives no logs: logs.allow is false."
            )
        try:
            return answer.parts(request, {what: self._lines(what) for what in request.what})
        except OSError as error:
            return answer.refusal(
                request, ReasonKind.STORAGE_FAULT, f"The log can't be read: {error.strerror or error}."
            )

    def queue(self, parts: Sequence[LogPart], now: float) -> None:
        """Let these out from now on; what of an earlier answer waits still is dropped."""
        self._waiting = deque(canonical(part) for part in parts)
        self.send_at = now if self._waiting else None

    def send(self, publish: Callable[[bytes], bool], now: float) -> None:
        """Let the next part out; `publish` says whether there was a link."""
        if not self._waiting:
            self.send_at = None
            return
        sent = publish(self._waiting[0])
        if sent:
            self._waiting.popleft()
        self.send_at = None if not self._waiting else now + (PART_EVERY_S if sent else OFFLINE_AGAIN_S)

    def in_trial(self, now: float, *, ends: bool) -> None:
        """A trial runs, or is given up: keep its lines where the other slot finds them."""
        if not ends and now - self._kept_at < TRIAL_KEPT_EVERY_S:
            return
        self._kept_at = now
        try:
            self.book.keep_trial()
        except OSError as error:
            log.warning("the trial's log can't be kept", extra={"reason": str(error)})

    def _lines(self, what: What) -> Sequence[str]:
        if what is not What.BOOT:
            return self.book.lines(what)
        if not self._boot_argv:
            return ["This device names no command for its boot log: logs.boot_argv."]
        end = time.monotonic() + BOOT_S
        ended = run_bounded(self._boot_argv, lambda: time.monotonic() >= end, kept_bytes=BOOT_BYTES)
        return (ended.output or ended.error or "It printed nothing.").splitlines()
