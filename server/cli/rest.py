"""How commands reach a running server: its REST API with a token, named by options, environment or state directory."""

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import click

from firmware.errors import OtariaError, RefusedError, UnavailableError
from server.errors import DeniedError

F = TypeVar("F", bound=Callable[..., Any])
TIMEOUT_S = 60.0
FOLLOW_TIMEOUT_S = 60.0
"""Longer than the heartbeat of the stream of changes."""
STREAM_S = 600.0
"""An image is read once before its first byte is sent."""
PIECE_BYTES = 1 << 18
MAX_ANSWER_BYTES = 64 << 20
MAX_PAGE = 1000
MAX_TOKEN_FILE_BYTES = 4096
PAUSES_S = (0.3, 0.7, 1.5, 3.0, 6.0)
"""Before each further try of what broke off."""


class BrokenOffError(UnavailableError):
    """A connection that was there broke: what was sent may have been done."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Where the server is and the token to show; `ca` verifies a server with a certificate of its own."""

    url: str
    token: str
    ca: Path | None = None


class RestClient:
    """Blocking calls below `/api/v1`. Problems come back as `OtariaError` with the server's own kind and sentence."""

    def __init__(self, access: Access, *, timeout_s: float = TIMEOUT_S) -> None:
        self._access = access
        self._timeout_s = timeout_s

    def get(self, path: str, **query: object) -> Any:
        """GET; the parsed JSON. `query` values of None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._json("GET", path + (f"?{urlencode(given)}" if given else ""))

    def pages(self, path: str, limit: int | None = None, **query: Any) -> Iterator[Any]:
        """The pages of a list one after the other, until there are no more, or (with `limit`) so many rows."""
        left, cursor = limit, None
        while left is None or left > 0:
            page = self.get(path, **query, limit=MAX_PAGE if left is None else min(MAX_PAGE, left), cursor=cursor)
            yield page
            cursor = page["next"]
            if cursor is None:
                return
            if left is not None:
                left -= sum(len(rows) for rows in page.values() if isinstance(rows, list))

    def whole(self, path: str, name: str, **query: Any) -> list[dict[str, Any]]:
        """All rows of the list `name`."""
        return [row for page in self.pages(path, **query) for row in page[name]]

    def post(self, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        """POST JSON, or text as it is; the parsed JSON. Sent again when the connection breaks, under a key by which it is done
        once."""
        data = body.encode() if isinstance(body, str) else json.dumps({} if body is None else body).encode()
        return self._json("POST", path, data, {**(headers or {}), "Idempotency-Key": str(uuid.uuid4())})

    def patch(self, path: str, body: object) -> Any:
        """PATCH JSON; the parsed JSON."""
        return self._json("PATCH", path, json.dumps(body).encode())

    def delete(self, path: str, body: object) -> Any:
        """DELETE with a JSON body; the parsed JSON."""
        return self._json("DELETE", path, json.dumps(body).encode())

    def exists(self, path: str) -> bool:
        """HEAD: whether there is something. For `otaria release publish`."""
        try:
            with self._open("HEAD", path, None, {}):
                return True
        except OtariaError as error:
            if error.kind == "not-found":
                return False
            raise

    def headers(self, path: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """HEAD; the headers of the answer."""
        with self._open("HEAD", path, None, dict(headers)) as answer:
            return dict(answer.headers)

    def send(self, method: str, path: str, file: IO[bytes], headers: Mapping[str, str]) -> Mapping[str, str]:
        """Send what `file` reads as a stream, of the `Content-Length` in `headers`, once; the headers of the answer."""
        with self._open(method, path, file, dict(headers)) as answer:
            return dict(answer.headers)

    @contextmanager
    def stream(self, path: str, body: object) -> Iterator[tuple[Mapping[str, str], Iterator[bytes]]]:
        """POST JSON; the answer's headers and its bytes in pieces. For `otaria bundle make`. Raises `UnavailableError`
        (`unreachable`) when it breaks off."""
        answer = self._open("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"}, STREAM_S)

        def pieces() -> Iterator[bytes]:
            try:
                while piece := answer.read(PIECE_BYTES):
                    yield piece
            except (OSError, http.client.HTTPException) as error:
                raise _unreachable(self._access.url, error) from error

        with answer:
            yield dict(answer.headers), pieces()

    def pieces(self, path: str) -> Iterator[bytes]:
        """GET; the bytes of the answer in pieces. For `otaria audit export`. Raises `UnavailableError` (`unreachable`) when it
        breaks off."""
        with self._open("GET", path, None, {}, STREAM_S) as answer:
            try:
                while piece := answer.read(PIECE_BYTES):
                    yield piece
            except (OSError, http.client.HTTPException) as error:
                raise _unreachable(self._access.url, error) from error

    @staticmethod
    def parsed(text: str) -> Any:
        """JSON out of a header of our own server."""
        return json.loads(text)

    def changes(self) -> Iterator[None]:
        """Yields once at the start and whenever something changed, for as long as the server lives."""
        with self._open("GET", "/events", None, {"Accept": "text/event-stream"}, FOLLOW_TIMEOUT_S) as stream:
            try:
                for line in stream:
                    if line.startswith(b"event: changed"):
                        yield None
            except OSError as error:
                raise _unreachable(self._access.url, error) from error

    def _json(self, method: str, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        """What does nothing twice is sent again when the connection breaks."""
        pauses = list(PAUSES_S) if method == "GET" or "Idempotency-Key" in (headers or {}) else []
        broke = False
        while True:
            try:
                with self._open(method, path, data, {"Content-Type": "application/json", **(headers or {})}) as answer:
                    return _parsed(answer, self._access.url)
            except OtariaError as error:
                if not pauses or not (isinstance(error, BrokenOffError) or (broke and _may_pass(error))):
                    raise
                broke = True
            time.sleep(pauses.pop(0))

    def _open(
        self, method: str, path: str, data: Any, headers: dict[str, str], timeout_s: float | None = None
    ) -> http.client.HTTPResponse:
        request = urllib.request.Request(  # noqa: S310 - `resolve` let only http and https through
            f"{self._access.url}/api/v1{path}",
            data=data,
            method=method,
            headers={"Authorization": f"Bearer {self._access.token}", **headers},
        )
        context = ssl.create_default_context(cafile=self._access.ca) if self._access.url.startswith("https:") else None
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(  # noqa: S310
                request, timeout=timeout_s or self._timeout_s, context=context
            )
        except urllib.error.HTTPError as error:
            raise _problem(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise _lost(self._access.url, error) from error
        return answer


def segment(text: str) -> str:
    """A path segment, quoted."""
    return quote(text, safe="")


def server_options(command: F) -> F:
    """Adds `--server`, `--token-file` and `--state` to a command; hand them to `connect`."""
    for option in (
        click.option("--state", type=click.Path(path_type=Path), help="State directory of a server on this machine."),
        click.option(
            "--token-file", envvar="OTARIA_TOKEN_FILE", type=click.Path(path_type=Path), help="File with an API token."
        ),
        click.option("--server", envvar="OTARIA_SERVER", help="The server, such as http://127.0.0.1:8080."),
    ):
        command = option(command)
    return command


def connect(server: str | None, token_file: Path | None, state: Path | None) -> RestClient:
    """A client for what the options say; the state directory fills in what they leave out.

    Raises `click.UsageError` when they do not name a server and a token.
    """
    if state is None and not (server and token_file) and Path("state/run.json").is_file():
        state = Path("state")
    if state is not None:
        server = server or _running(state)
        token_file = token_file or state / "admin.token"
    if not server or token_file is None:
        raise click.UsageError(
            "Name the server: --server URL and --token-file FILE (or OTARIA_SERVER and OTARIA_TOKEN_FILE), or --state DIR."
        )
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(f"--server must be a URL such as http://127.0.0.1:8080, not {server!r}.")
    return RestClient(Access(url=server.rstrip("/"), token=_token(token_file)))


def _running(state: Path) -> str:
    try:
        return str(json.loads((state / "run.json").read_text())["people_url"])
    except FileNotFoundError as error:
        raise UnavailableError("not-running", f"No server runs on {state}; start it with `otaria serve`.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefusedError("malformed", f"{state / 'run.json'} is not what `otaria serve` writes.") from error


def _token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TOKEN_FILE_BYTES).decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise RefusedError("malformed", f"{path} does not hold an API token.") from error
    except FileNotFoundError as error:
        raise RefusedError("token-missing", f"There is no token file {path}; name one with --token-file.") from error
    if not text or not text.isprintable() or " " in text:
        raise RefusedError("malformed", f"{path} does not hold an API token.")
    return text


def _problem(error: urllib.error.HTTPError) -> OtariaError:
    with error:
        data = error.read(65536)
    try:
        problem = json.loads(data)
        kind, text = str(problem["type"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        kind = {401: "unauthenticated", 403: "forbidden", 404: "not-found"}.get(error.code, "http")
        text = f"The server answered {error.code} {error.reason}."
    if error.code in (401, 403):
        return DeniedError(kind, text)
    return UnavailableError(kind, text) if error.code >= 500 else RefusedError(kind, text)


def is_passing(error: OtariaError) -> bool:
    """Whether the same may succeed a little later: the server is away, starts, is taken over from, or is asked too often."""
    passing = ("unreachable", "not-leader", "http") if isinstance(error, UnavailableError) else ("too-many-requests",)
    return error.kind in passing


def _may_pass(error: OtariaError) -> bool:
    """Whether, after a connection that broke, the answer is only not there yet."""
    return is_passing(error) or error.kind == "conflict"


def _parsed(answer: http.client.HTTPResponse, url: str) -> Any:
    """The JSON of an answer that came whole: `http.client` takes the end of a connection for the end of headers and body."""
    try:
        data = answer.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _lost(url, error) from error
    if "Transfer-Encoding" not in answer.headers and answer.headers.get("Content-Length") != str(len(data)):
        raise _broke(url, "the answer is not whole")
    return json.loads(data or b"null")


def _lost(url: str, error: Exception) -> UnavailableError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ConnectionResetError | BrokenPipeError | http.client.IncompleteRead):
        return _broke(url, str(cause))
    return _unreachable(url, error)


def _broke(url: str, why: str) -> BrokenOffError:
    return BrokenOffError("unreachable", f"The connection to {url} broke: {why}. Is `otaria serve` well there?")


def _unreachable(url: str, error: Exception) -> UnavailableError:
    return UnavailableError("unreachable", f"{url} does not answer: {error}. Is `otaria serve` running there?")
