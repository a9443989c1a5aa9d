"""An S3-compatible store for tests: moto's server in a process of its own, and a way to it on which things go wrong."""

import os
import re
import secrets
import select
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from server.config_artifacts import ArtifactSettings

KEY, SECRET = "AKIAOTARIATESTS", "a-secret-that-nobody-may-see"
START_S = 60.0
_HEAD_BYTES = 65536


@dataclass(kw_only=True)
class Store:
    """A running store. `keys`: a file with keys for it."""

    port: int
    keys: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, bucket: str, *, port: int | None = None, **given: Any) -> ArtifactSettings:
        """Settings for a bucket of it; `port`: by another way."""
        wanted = {"prefix": "firmware/", "region": "eu-central-1", "timeout_s": 5.0, "connections": 4, **given}
        return ArtifactSettings(
            store="s3",
            endpoint=f"http://127.0.0.1:{port or self.port}",
            bucket=bucket,
            credentials_file=self.keys,
            **wanted,
        )

    @cached_property
    def client(self) -> Any:
        """A client of our own, to look behind the shelf's back."""
        from server.shelves.s3_client import open_client  # heavy, and most sessions don't need it

        return open_client(self.settings("any"))

    def make_bucket(self) -> str:
        """A new one; its name."""
        name = f"otaria-{secrets.token_hex(8)}"
        self.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        return name


@pytest.fixture(scope="session")
def s3_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One for all tests of a session; each makes its own bucket."""
    with running_store(tmp_path_factory.mktemp("s3")) as store:
        yield store


@contextmanager
def running_store(directory: Path) -> Iterator[Store]:
    """Start one on a free port, and end it."""
    command = (sys.executable, "-u", "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    log = directory / "moto.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=directory) as process,
    ):
        try:
            store = Store(port=_port(process, log), keys=write_keys(directory / "s3.keys"))
            yield store
            store.client.close()
        finally:
            process.terminate()


def write_keys(path: Path, key: str = KEY, secret: str = SECRET) -> Path:
    """A shared credentials file."""
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    return path


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        found = re.search(rb"Running on http://127\.0\.0\.1:(\d+)", log.read_bytes())
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise RuntimeError(f"moto's server did not start: {log.read_text()[-2000:]}")


Spoil = Callable[[int, bytes], "bytes | Callable[[Iterator[bytes]], Iterator[bytes]] | None"]


@dataclass(kw_only=True)
class Line:
    """A way to a store. `spoil(request, head)` is asked for each request, by its number from 0 and its head, what happens to it:
    None: it goes through; bytes: they are the answer; a callable: it gets the answer's pieces and yields what comes instead,
    and the connection ends after it. `pause`: what such a callable may wait for; set at the end."""

    store_port: int
    spoil: Spoil
    heads: list[bytes] = field(default_factory=list)
    port: int = 0
    pause: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, client: socket.socket) -> None:
        """One connection with one request."""
        head, rest = _head(client)
        if not head:
            return
        with self._lock:
            number = len(self.heads)
            self.heads.append(head)
        what = self.spoil(number, head)
        if isinstance(what, bytes):
            _swallow(client, head, rest)
            client.sendall(what)
            return
        with socket.create_connection(("127.0.0.1", self.store_port)) as store:
            store.sendall(head + rest)
            pieces = _exchange(client, store, _length(head) - len(rest))
            for piece in what(pieces) if what else pieces:
                client.sendall(piece)


@contextmanager
def spoilt_line(store: Store, spoil: Spoil = lambda number, head: None) -> Iterator[Line]:
    """A line that lets everything through until it is told otherwise."""
    line = Line(store_port=store.port, spoil=spoil)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                line.handle(self.request)
            except OSError:
                return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        line.port = server.server_address[1]
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield line
        finally:
            line.pause.set()
            server.shutdown()
            serving.join()


def answer(status: str, code: str) -> bytes:
    """An error as S3 tells it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    """The request's head, and what came of its body with it; asks for the rest if the client waits for that."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _HEAD_BYTES:
        piece = client.recv(_HEAD_BYTES)
        if not piece:
            return b"", b""
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    if re.search(rb"(?i)expect: *100-continue", head):
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = re.sub(rb"(?i)expect: *100-continue\r\n", b"", head + b"\r\n").rstrip(b"\r\n")
    head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head)
    return head + b"\r\nConnection: close\r\n\r\n", rest


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else 0


def _swallow(client: socket.socket, head: bytes, rest: bytes) -> None:
    left = _length(head) - len(rest)
    while left > 0 and (piece := client.recv(1 << 16)):
        left -= len(piece)


def _exchange(client: socket.socket, store: socket.socket, left: int) -> Iterator[bytes]:
    """Bring the body to the store, and its answer back."""
    while True:
        ready, _, _ = select.select([client, store] if left > 0 else [store], [], [])
        if store in ready:
            piece = store.recv(1 << 16)
            if not piece:
                return
            yield piece
        elif piece := client.recv(min(left, 1 << 16)):
            store.sendall(piece)
            left -= len(piece)
        else:
            return
