"""Checks elsewhere over HTTP: one signed question, one bounded answer.

Rules
- Only addresses of the server's configuration are asked, whatever a campaign's file says; redirects aren't followed at all.
- The question is JSON, with `X-Otaria-Signature: t=SECONDS,v1=HEX`: HMAC-SHA256 by the configured secret over `SECONDS.BODY`, so
  that who answers knows who asks, and when.
- The answer is status 200 and JSON with `verdict`: `good`, `bad` or `wait`; besides `reason`, `valid_s` and `retry_s`. Everything
  else is no answer, and says why.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from server.config import CheckSettings
from server.observe.answers import Bounds, body_of, plain
from server.ports import Answer, Clock

LEAST_SECRET_BYTES = 16
MAX_ANSWER_BYTES = 16 * 1024
TIMEOUT_S = 10.0
SIGNATURE = "X-Otaria-Signature"
MOST_S = 30 * 86400.0
LEAST_RETRY_S = 5.0
_MOST_RETRY_S = 86400.0


class _Said(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    verdict: Literal["good", "bad", "wait"]
    reason: Annotated[str, Meta(max_length=4000)] = ""
    valid_s: Annotated[float, Meta(ge=1, le=MOST_S)] | None = None
    retry_s: Annotated[float, Meta(ge=0, le=_MOST_RETRY_S)] | None = None


class HttpChecks:
    """`server.ports.CheckPort`. `urls`: by name, where a check is asked."""

    def __init__(
        self, urls: Mapping[str, str], secret: bytes, *, now: Callable[[], float], timeout_s: float = TIMEOUT_S
    ) -> None:
        self._urls = urls
        self._secret = secret
        self._now = now
        self._limit_s = timeout_s

    async def ask(self, name: str, question: Mapping[str, Any]) -> Answer:
        """Ask once.

        Raises `RefusedError` (`check-unknown`, `check-unusable`) or `UnavailableError` (`check-unavailable`).
        """
        url = self._urls.get(name)
        if url is None:
            raise RefusedError("check-unknown", f"No check {name} is configured; add it to [checks] urls.")
        return _answer(name, await self._post(name, url, canonical(dict(question))))

    async def _post(self, name: str, url: str, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", SIGNATURE: signature(self._secret, int(self._now()), body)}
        bounds = Bounds(limit_s=self._limit_s, most_bytes=MAX_ANSWER_BYTES, kind="check-unavailable")
        return await body_of("POST", url, bounds, f"{name} could not be asked", data=body, headers=headers)


def open_checks(settings: CheckSettings, clock: Clock) -> HttpChecks:
    """The checks that the configuration names; raises `RefusedError` (`config`) for a secret that can't be read or used."""
    try:
        secret = settings.secret_file.read_bytes().strip() if settings.secret_file else b""
    except OSError as error:
        raise RefusedError("config", f"`checks.secret_file` cannot be read: {error.strerror or error}.") from error
    if settings.urls and len(secret) < LEAST_SECRET_BYTES:
        text = f"`checks.secret_file` must hold {LEAST_SECRET_BYTES} bytes or more: anybody could guess it."
        raise RefusedError("config", text)
    return HttpChecks(settings.urls, secret, now=clock.now, timeout_s=settings.timeout_s)


def signature(secret: bytes, at: int, body: bytes) -> str:
    """The header by which a question shows who asks."""
    digest = hmac.new(secret, str(at).encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def _answer(name: str, body: bytes) -> Answer:
    """What an answer says; raises `RefusedError` (`check-unusable`)."""
    try:
        said = convert(parse_json(body, max_bytes=MAX_ANSWER_BYTES), _Said)
    except RefusedError as error:
        text = f"{name} gave an answer that is none: {plain(error.text)[:200]}"
        raise RefusedError("check-unusable", text) from error
    retry_s = None if said.retry_s is None else max(LEAST_RETRY_S, said.retry_s)
    return Answer(verdict=said.verdict, reason=plain(said.reason)[:200], lives_s=said.valid_s, retry_s=retry_s)
