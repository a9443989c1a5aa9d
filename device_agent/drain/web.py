"""Draining by HTTP: a request, then asking until the host is out of service."""

from device_agent.drain.client import Answer, Client
from device_agent.drain.port import Pacing, Patience
from device_agent.drain.settings import HttpDrain
from firmware.errors import UnavailableError


class WebDrainer:
    """`Drainer` over two requests. What can't be reached, and a status that isn't expected, is tried again until the time is
    over."""

    def __init__(self, settings: HttpDrain, pacing: Pacing | None = None) -> None:
        self._settings, self._pacing = settings, pacing or Pacing()
        self._client = Client(ca_file=settings.ca_file, token_file=settings.token_file, request_s=settings.request_s)

    def drain(self, trial_id: str) -> None:
        patience = self._patience()
        self._ask(self._settings.drain, self._settings.body, patience)
        if not self._settings.poll:
            return
        while True:
            seen = self._try("GET", self._settings.poll, "")
            if isinstance(seen, Answer) and self._is_drained(seen):
                return
            patience.wait(f"{self._settings.poll}: {seen.said if isinstance(seen, Answer) else seen}")

    def undrain(self, trial_id: str) -> None:
        self._ask(self._settings.undrain, self._settings.undrain_body, self._patience())

    def _ask(self, url: str, body: str, patience: Patience) -> None:
        while True:
            seen = self._try(self._settings.method, url, body)
            if isinstance(seen, Answer) and seen.status in self._settings.expect:
                return
            after_s = seen.retry_after_s if isinstance(seen, Answer) else 0.0
            patience.wait(f"{url}: {seen.said if isinstance(seen, Answer) else seen}", after_s)

    def _try(self, method: str, url: str, body: str) -> Answer | str:
        """The answer, or why there is none."""
        kind = "application/json" if body.lstrip().startswith(("{", "[")) else "text/plain"
        headers = {"Content-Type": kind} if body else {}
        try:
            return self._client.ask(method, url, body.encode() if body else None, headers)
        except UnavailableError as error:
            return error.text

    def _is_drained(self, seen: Answer) -> bool:
        wanted = self._settings.poll_text
        return seen.status == self._settings.poll_status and wanted in seen.body.decode(errors="replace")

    def _patience(self) -> Patience:
        return Patience(self._settings.timeout_s, self._settings.every_s, self._pacing)
