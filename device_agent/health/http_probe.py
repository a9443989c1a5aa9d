"""One GET with a deadline for all of it: connect, headers and the start of the body."""

import contextlib
import http.client
import socket
import ssl
import threading
from urllib.parse import SplitResult, urlsplit

from device_agent.health.probe import Deadline, Seen

MAX_BODY_BYTES = 512
POLL_S = 0.05
_BAD_URL = "its url is not an http(s) address with a host"


def get(url: str, deadline: Deadline) -> Seen:
    """GET `url`: passed when the answer is 200. No redirects, no proxies, no more than the start of the body is read."""
    try:
        parts = urlsplit(url)
        connection = _connection(parts, deadline)
    except ValueError:
        return Seen(passed=False, text=_BAD_URL)
    if connection is None:
        return Seen(passed=False, text=_BAD_URL)
    with _Watch(connection, deadline) as watch:
        try:
            path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = b"" if answer.status == http.client.OK else answer.read(MAX_BODY_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if watch.cut:
                return Seen(passed=False, text="there was no whole answer in time")
            return Seen(passed=False, text=_why(error), answered=not isinstance(error, OSError))
    if answer.status == http.client.OK:
        return Seen(passed=True, text="it answered 200")
    said = " ".join(body.decode(errors="replace").split())
    return Seen(passed=False, text=f"it answered {answer.status}" + (f": {said!r}" if said else ""))


def _connection(parts: SplitResult, deadline: Deadline) -> http.client.HTTPConnection | None:
    if not parts.hostname or parts.username is not None:
        return None
    timeout_s = max(deadline.left_s(), POLL_S)
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=context)
    return None


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, TimeoutError):
        return "there was no answer in time"
    return f"there was no usable answer ({type(error).__name__}: {error})"[:300]


class _Watch:
    """Cuts a connection whose answer only trickles in when the deadline is over: a socket's own timeout starts again at
    every byte."""

    def __init__(self, connection: http.client.HTTPConnection, deadline: Deadline) -> None:
        self.cut = False
        self._connection = connection
        self._deadline = deadline
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health-watch", daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._done.wait(POLL_S):
            if self._deadline.is_over():
                self.cut = True
                sock = self._connection.sock
                if sock is not None:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
