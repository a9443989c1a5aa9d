"""One attempt to deliver an event over HTTP: bounded in time and in what is read of the answer."""

import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType

import aiohttp
from msgspec import Struct
from yarl import URL

from firmware.errors import OtariaError, RefusedError
from server.observe.answers import plain
from server.webhooks.addresses import Addresses, GuardedResolver

MAX_ANSWER_BYTES = 1024
MAX_SAID = 200
MAX_LINE, MAX_FIELD = 4096, 4096
TIMEOUT_S = 10.0
AT_ONCE = 64


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of an attempt. `code`: None when there was no answer. `retry_s`: when the receiver wants the next one."""

    code: int | None
    said: str
    retry_s: float | None = None

    @property
    def is_good(self) -> bool:
        return self.code is not None and 200 <= self.code < 300


class Poster:
    """Posts to allowed addresses while it is entered."""

    def __init__(self, addresses: Addresses, *, ca_file: Path | None = None, timeout_s: float = TIMEOUT_S) -> None:
        """`ca_file`: certificates (PEM) of authorities that are trusted beside the system's. Raises `RefusedError` (`config`) for
        one that can't be read."""
        self._addresses = addresses
        self._limit_s = timeout_s
        self._tls: ssl.SSLContext | bool = True if ca_file is None else _trusting(ca_file)
        self._stack = AsyncExitStack()
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> "Poster":
        for scheme in ("http", "https"):
            resolver = GuardedResolver(self._addresses, encrypted=scheme == "https")
            connector = aiohttp.TCPConnector(
                resolver=resolver, use_dns_cache=False, ssl=self._tls, limit=AT_ONCE, force_close=True
            )
            session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=self._limit_s),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                max_line_size=MAX_LINE,
                max_field_size=MAX_FIELD,
            )
            self._sessions[scheme] = await self._stack.enter_async_context(session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Send once; whatever goes wrong is an outcome."""
        try:
            self._addresses.check(url)
            session = self._sessions[URL(url).scheme]
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                said = await answer.content.read(MAX_ANSWER_BYTES)
                retry_s = _retry_s(answer.headers.get("Retry-After", ""), answer.headers.get("Date", ""))
                return Outcome(code=answer.status, said=_said(said), retry_s=retry_s)
        except OtariaError as error:
            return Outcome(code=None, said=error.text[:MAX_SAID])
        except TimeoutError:
            return Outcome(code=None, said=f"no answer within {self._limit_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(code=None, said=plain(_why(error))[:MAX_SAID] or type(error).__name__)


def _trusting(ca_file: Path) -> ssl.SSLContext:
    """Without such a file, aiohttp's own context serves: it has read the system's certificates already, which takes 60 ms."""
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise RefusedError("config", f"`webhooks.ca_file` cannot be used: {error}.") from error
    return context


def _why(error: Exception) -> str:
    """Without the address, whose path may be a secret."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error.os_error.strerror or error.os_error)
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer is none: {error.message}"
    if isinstance(error, aiohttp.InvalidURL):
        return "the address is not one"
    return str(error)


def _said(body: bytes) -> str:
    return plain(body.decode("utf-8", errors="replace"))[:MAX_SAID]


def _retry_s(wanted: str, date: str) -> float | None:
    """`Retry-After` in seconds, whichever of its two forms it has; None when it says nothing."""
    if wanted.isascii() and wanted.isdigit():
        return float(wanted[:9])
    try:
        return max(0.0, (parsedate_to_datetime(wanted) - parsedate_to_datetime(date)).total_seconds())
    except (ValueError, TypeError):
        return None
