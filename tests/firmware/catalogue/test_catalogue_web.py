"""Over real HTTP: bounds in bytes and time, absence, and python-tuf's own client as a peer of ours."""

import http.server
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware.catalogue.web import WebFetch
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class QuietServer(http.server.ThreadingHTTPServer):
    """A client that hangs up in mid-answer is no news."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Serve with a function that answers a request; returns the URL."""
    running: list[http.server.ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
                pass

        server = QuietServer(("127.0.0.1", 0), Handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def answer_with(status: int, body: bytes, **headers: str) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def endless(sent: list[int]) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        try:
            while True:
                sent.append(request.wfile.write(b"x" * 65536))
        except OSError:
            sent.append(0)

    return answer


def test_a_file_is_fetched_whole_and_its_absence_is_no_error(serve: Any) -> None:
    assert WebFetch(serve(answer_with(200, b"abc")))("timestamp.json", 3) == b"abc"
    assert WebFetch(serve(answer_with(200, b"")))("timestamp.json", 3) == b""
    for status in (403, 404):
        assert WebFetch(serve(answer_with(status, b"no")))("2.root.json", 3) is None


@pytest.mark.parametrize("status", [500, 503, 301, 206, 401])
def test_other_answers_mean_try_again_later(serve: Any, status: int) -> None:
    url = serve(answer_with(status, b"x", Location="http://127.0.0.1:1/"))
    with pytest.raises(UnavailableError, match=str(status)):
        WebFetch(url)("timestamp.json", 3)


def test_nobody_listens() -> None:
    with pytest.raises(UnavailableError) as caught:
        WebFetch("http://127.0.0.1:1")("timestamp.json", 3)
    assert caught.value.kind == ReasonKind.UNREACHABLE


@pytest.mark.parametrize("url", ["nonsense", "http://", "http:///x", "ftp://127.0.0.1/", "file:///etc/passwd"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(RefusedError) as caught:
        WebFetch(url)
    assert caught.value.kind == "bad-url"


def test_a_body_that_is_cut_off_is_unavailable(serve: Any) -> None:
    def short(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "10")
        request.end_headers()
        request.wfile.write(b"abc")
        request.close_connection = True

    with pytest.raises(UnavailableError):
        WebFetch(serve(short))("timestamp.json", 100)


def test_endless_data_over_http_is_cut_one_byte_past_the_limit(serve: Any) -> None:
    sent: list[int] = []
    url = serve(endless(sent))
    data = WebFetch(url)("timestamp.json", 100_000)
    assert data is not None
    assert len(data) == 100_001
    with pytest.raises(RefusedError) as caught:
        WebFetch(url).download("image", 100_000, io.BytesIO())
    assert caught.value.kind == ReasonKind.ARTIFACT_TOO_LONG


def test_a_compressed_bomb_is_not_unpacked(serve: Any) -> None:
    url = serve(answer_with(200, b"\x1f\x8b\x08junk", Content_Encoding="gzip"))
    assert WebFetch(url)("timestamp.json", 100) == b"\x1f\x8b\x08junk"


def test_slow_retrieval_is_given_up(serve: Any) -> None:
    """A drip that always stays ahead of the silence timeout. The time for the whole file ends it."""
    stop = threading.Event()

    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        request.close_connection = True
        try:
            while not stop.wait(0.02):
                request.wfile.write(b"x")
        except OSError:
            return

    with pytest.raises(UnavailableError, match=r"more than 0\.3 s"):
        WebFetch(serve(drip), total_s=0.3)("timestamp.json", 1_000_000)
    stop.set()


def files(lab: Any, artifacts: dict[str, bytes]) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        name = request.path.removeprefix("/metadata/")
        path: Path = lab.metadata / name
        data = artifacts.get(request.path.removeprefix("/targets/"))
        if data is None and "/" not in name and path.is_file():
            data = path.read_bytes()
        answer_with(200 if data is not None else 404, data or b"")(request)

    return answer


def test_python_tufs_own_client_accepts_our_catalogue(lab: Any, serve: Any, tmp_path: Path) -> None:
    """The peer agrees with ours, so what we publish is TUF and not merely what we read."""
    from tuf.ngclient import Updater

    lab = type(lab)(tmp_path / "today", now=time.time())  # the peer's clock cannot be given
    lab.publish()
    lab.serve_root(lambda root: None, "root-2", "root-3")
    path = "releases/pump/1.0/pump.img"
    sha256 = lab.repository.files(path).sha256
    url = serve(files(lab, {f"releases/pump/1.0/{sha256}.pump.img": b"x" * 3000}))
    (tmp_path / "peer").mkdir()
    peer = Updater(
        str(tmp_path / "peer"),
        f"{url}/metadata",
        str(tmp_path),
        f"{url}/targets",
        bootstrap=lab.repository.root_bytes(),
    )
    peer.refresh()
    found = peer.get_targetinfo(path)
    assert found is not None
    assert Path(peer.download_target(found)).read_bytes() == b"x" * 3000
    assert peer.get_targetinfo("releases/tap/1.0/tap.img") is None

    client = type(lab.client())(lab.store, WebFetch(f"{url}/metadata"))
    client.refresh(lab.NOW)
    ours = client.find(path)
    assert ours == found
    image = io.BytesIO()
    WebFetch(f"{url}/targets").download(client.address(ours), ours.length, image)
    assert image.getvalue() == b"x" * 3000
