"""The agent's Unix socket, for programs of the device: several clients, of whom none can harm another or the agent.

One thread serves them all and never waits for one. A client has one request under way at a time, a bounded line to say it in,
and a bounded backlog of lines that it doesn't read; who exceeds these, or says nothing for long, is hung up on. Who may connect
is the file system's to say: mode 0660, the agent's user and the configured group.
"""

import contextlib
import grp
import logging
import os
import queue
import selectors
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agent.local.requests import (
    MAX_REQUEST_BYTES,
    Request,
    Subscribe,
    encode_line,
    parse_request,
    refusal,
)
from firmware.errors import RefusedError, UnavailableError

log = logging.getLogger(__name__)
MAX_CLIENTS = 16
MAX_BACKLOG_BYTES = 65536
MAX_IDLE_S = 60.0
TICK_S = 5.0
MODE = 0o660
LONGEST_ADDRESS = 100
"""Of the 107 bytes that the system takes."""
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, kw_only=True)
class LocalAsk:
    """A request, who asks (user id), and where the answer goes; `reply` may be called once, from any thread."""

    request: Request
    uid: int
    reply: Callable[[dict[str, Any]], None]


@dataclass(eq=False, kw_only=True)
class _Client:
    connection: socket.socket
    uid: int
    said_at: float
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)
    waits: bool = False
    subscribed: bool = False
    leaving: bool = False


class Door:
    """Listens at `path`. Requests go to `take`, which answers through `LocalAsk.reply`."""

    def __init__(self, path: Path, group: str = "", *, max_idle_s: float = MAX_IDLE_S) -> None:
        self._path, self._group, self._max_idle_s = path, group, max_idle_s
        self._answers: queue.SimpleQueue[tuple[_Client | None, dict[str, Any]]] = queue.SimpleQueue()
        self._clients: dict[int, _Client] = {}
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._listener: socket.socket | None = None

    def start(self, take: Callable[[LocalAsk], None]) -> None:
        """Open the door; raises `OSError` or `KeyError` (no such group) when it can't be."""
        self._take = take
        self._listener = self._listen()
        self._bell, self._rope = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        for one in (self._listener, self._bell, self._rope):
            one.setblocking(False)
        self._thread = threading.Thread(target=self._serve, name="door", daemon=True)
        self._thread.start()

    def tell(self, event: dict[str, Any]) -> None:
        """Send an event to whoever subscribed; from any thread, never blocks."""
        if self._thread is not None and not self._stopping:
            self._send(None, event)

    def stop(self) -> None:
        """Close the door and hang up on everybody."""
        if self._thread is None:
            return
        self._stopping = True
        self._ring()
        self._thread.join(TICK_S)

    # The thread

    def _serve(self) -> None:
        swept_at = time.monotonic()
        while not self._stopping:
            for key, ready in self._selector.select(TICK_S if self._clients else None):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._bell:
                    with contextlib.suppress(BlockingIOError):
                        self._bell.recv(4096)
                elif key.fd in self._clients:
                    self._move(self._clients[key.fd], ready)
            self._hand_out()
            if time.monotonic() - swept_at >= min(TICK_S, self._max_idle_s):
                swept_at = time.monotonic()
                self._sweep(swept_at)
        self._close()

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            text = f"There are {MAX_CLIENTS} clients already; try again when one has gone."
            with contextlib.suppress(OSError):
                connection.send(encode_line(refusal(UnavailableError("busy", text))))
            connection.close()
            return
        client = _Client(connection=connection, uid=_uid(connection), said_at=time.monotonic())
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_READ)

    def _move(self, client: _Client, ready: int) -> None:
        try:
            if ready & selectors.EVENT_READ and not self._read(client):
                self._drop(client)
                return
            self._write(client)
        except OSError:
            self._drop(client)

    def _read(self, client: _Client) -> bool:
        """Take in what the client says; False when it has hung up."""
        try:
            data = client.connection.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        client.said_at = time.monotonic()
        client.incoming += data
        self._next_request(client)
        return True

    def _next_request(self, client: _Client) -> None:
        """Hand on the next line, if there is one and the last was answered."""
        while not client.waits and not client.leaving:
            line, newline, rest = client.incoming.partition(b"\n")
            if not newline:
                if len(line) > MAX_REQUEST_BYTES:
                    self._refuse(client, RefusedError("too-large", f"A request has {MAX_REQUEST_BYTES} bytes at most."))
                    client.leaving = True
                return
            client.incoming = bytearray(rest)
            self._request(client, bytes(line))

    def _request(self, client: _Client, line: bytes) -> None:
        try:
            request = parse_request(line)
        except RefusedError as error:
            log.info("local request refused", extra={"uid": client.uid, "reason_kind": error.kind})
            self._refuse(client, error)
            return
        if isinstance(request, Subscribe):
            client.subscribed = True
            client.outgoing += encode_line({"ok": True})
            return
        client.waits = True
        self._take(LocalAsk(request=request, uid=client.uid, reply=lambda answer: self._send(client, answer)))

    def _refuse(self, client: _Client, error: RefusedError) -> None:
        client.outgoing += encode_line(refusal(error))

    def _hand_out(self) -> None:
        """Put answers and events into the backlogs of those they are for."""
        for client, value in self._arrived():
            line = encode_line(value)
            for one in [client] if client is not None else [one for one in self._clients.values() if one.subscribed]:
                if client is not None:
                    one.waits, one.said_at = False, time.monotonic()
                one.outgoing += line
        for one in list(self._clients.values()):
            self._next_request(one)
            self._move(one, 0)

    def _arrived(self) -> Iterator[tuple[_Client | None, dict[str, Any]]]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._answers.get_nowait()

    def _write(self, client: _Client) -> None:
        if client.outgoing:
            with contextlib.suppress(BlockingIOError):
                sent = client.connection.send(client.outgoing)
                del client.outgoing[:sent]
        if len(client.outgoing) > MAX_BACKLOG_BYTES or (client.leaving and not client.outgoing):
            self._drop(client)
            return
        wanted = selectors.EVENT_WRITE if client.outgoing else 0
        if not client.waits and not client.leaving:
            wanted |= selectors.EVENT_READ
        self._want(client, wanted)

    def _want(self, client: _Client, wanted: int) -> None:
        """A client that waits for its answer is not read, so that it can't queue up work."""
        known = client.connection in self._selector.get_map()
        if not wanted:
            if known:
                self._selector.unregister(client.connection)
        elif known:
            self._selector.modify(client.connection, wanted)
        else:
            self._selector.register(client.connection, wanted)

    def _sweep(self, now: float) -> None:
        for client in list(self._clients.values()):
            quiet = now - client.said_at > self._max_idle_s
            if quiet and not client.waits and (not client.subscribed or client.outgoing):
                self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.connection.fileno(), None)
        if client.connection.fileno() >= 0 and client.connection in self._selector.get_map():
            self._selector.unregister(client.connection)
        client.connection.close()
        client.outgoing.clear()

    def _close(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.close()
        for one in (self._listener, self._bell, self._rope):
            if one is not None:
                one.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    # From other threads

    def _send(self, client: _Client | None, value: dict[str, Any]) -> None:
        self._answers.put((client, value))
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full: it rings already; closed: nobody is there
            self._rope.send(b"!")

    def _listen(self) -> socket.socket:
        """Bound, with its rights set before anybody can connect."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(self._path.lstat().st_mode):
                self._path.unlink()  # of an agent that was killed: this one holds the directory's lock
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with address_of(self._path) as address:
                listener.bind(address)
            self._path.chmod(MODE)
            if self._group:
                os.chown(self._path, -1, grp.getgrnam(self._group).gr_gid)
            listener.listen(MAX_CLIENTS)
        except BaseException:
            listener.close()
            raise
        return listener


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """An address of the socket that fits: a long one goes over the open directory."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def _uid(connection: socket.socket) -> int:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])
