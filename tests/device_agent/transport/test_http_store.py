"""Caches and stores that are not the server: real HTTP servers on loopback that answer as told, and see what they are sent."""

import hashlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.config import load_config
from device_agent.install.addresses import artifact_path, store_address
from device_agent.install.blocks import BlockSource
from device_agent.ports import AbsentError
from device_agent.sourcing import open_sources
from device_agent.transport.http import DeviceHttp
from device_agent.transport.store_http import HttpPatience, HttpStore
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.order import FileRef
from server.identity.authority import Authorities
from tests.device_agent.transport.test_http_source import Site, authorities, client, directory, site

__all__ = ["authorities", "client", "directory", "site"]
BODY = bytes(range(256)) * 1000
SHA = hashlib.sha256(BODY).hexdigest()
FILE = FileRef(path="releases/demo/1.0/image", length=len(BODY), sha256=SHA)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers `answer`: status, headers, body; without one, as a good cache with ranges does."""

    server: "Cache"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        if self.server.answer is not None:
            status, headers, body = self.server.answer
        else:
            offset = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            status, body = (206 if offset else 200), BODY[offset:]
            headers = {"Content-Range": f"bytes {offset}-{len(BODY) - 1}/{len(BODY)}"} if offset else {}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


class Cache(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: tuple[int, dict[str, str], bytes] | None = None
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        return


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def store(cache: Cache) -> Iterator[HttpStore]:
    made = HttpStore(f"{cache.url}/files/{{prefix}}/{{sha256}}?v=1", patience=HttpPatience(connect_s=2.0, read_s=2.0))
    yield made
    made.close()


def refused_kind(store: HttpStore, offset: int) -> str:
    with pytest.raises(RefusedError) as caught:
        b"".join(store.open(FILE, offset=offset))
    return caught.value.kind


def test_files_are_asked_for_by_hash_with_nothing_of_the_agents(store: HttpStore, cache: Cache) -> None:
    assert b"".join(store.open(FILE, offset=0)) == BODY
    assert b"".join(store.open(FILE, offset=70_000)) == BODY[70_000:]
    (path, first), (_, second) = cache.asked
    assert path == f"/files/{SHA[:2]}/{SHA}?v=1"
    assert {name.lower() for name in first} == {"host", "accept-encoding", "user-agent"}
    assert second["Range"] == "bytes=70000-"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(store: HttpStore, cache: Cache, status: int) -> None:
    cache.answer = (status, {"Location": f"{cache.url}/elsewhere"}, b"")
    with pytest.raises(UnavailableError, match=str(status)):
        b"".join(store.open(FILE, offset=0))
    assert len(cache.asked) == 1


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_is_not_there_is_told_from_what_is_down(store: HttpStore, cache: Cache, status: int) -> None:
    cache.answer = (status, {}, b"")
    with pytest.raises(AbsentError):
        b"".join(store.open(FILE, offset=0))
    cache.answer = (503, {}, b"")
    with pytest.raises(UnavailableError) as caught:
        b"".join(store.open(FILE, offset=0))
    assert not isinstance(caught.value, AbsentError)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "bytes 0-255999/256000",
        "bytes 69999-255999/256000",
        "bytes */256000",
        "bytes 70000",
        "items 70000-255999/256000",
        "bytes ٧0000-255999/256000",
        f"bytes {'9' * 30}-1/2",
    ],
)
def test_another_range_than_was_asked_for_is_not_taken(store: HttpStore, cache: Cache, said: str) -> None:
    cache.answer = (206, {"Content-Range": said.encode().decode("latin-1")}, BODY[70_000:])
    with pytest.raises(UnavailableError, match="another range"):
        b"".join(store.open(FILE, offset=70_000))


def test_a_part_of_another_file_is_refused_before_a_byte(store: HttpStore, cache: Cache) -> None:
    cache.answer = (206, {"Content-Range": "bytes 70000-255998/255999"}, BODY[70_000:])
    assert refused_kind(store, 70_000) == "artifact-changed"
    cache.answer = (206, {"Content-Range": "bytes 70000-255999/*"}, BODY[70_000:])
    assert b"".join(store.open(FILE, offset=70_000)) == BODY[70_000:]


def test_a_store_that_ignores_the_range_is_read_from_the_front(store: HttpStore, cache: Cache) -> None:
    cache.answer = (200, {}, BODY)
    assert b"".join(store.open(FILE, offset=70_001)) == BODY[70_001:]


def test_a_body_that_breaks_off_is_unavailable(store: HttpStore, cache: Cache) -> None:
    class Short(bytes):
        def __len__(self) -> int:
            return len(BODY)

    cache.answer = (200, {}, Short(BODY[:100_000]))
    with pytest.raises(UnavailableError, match="broke off"):
        b"".join(store.open(FILE, offset=0))


def test_a_stored_file_that_is_compressed_is_not_unpacked(store: HttpStore, cache: Cache) -> None:
    cache.answer = (200, {"Content-Encoding": "gzip"}, BODY)
    assert b"".join(store.open(FILE, offset=0)) == BODY


def test_a_store_gets_no_client_certificate_even_when_it_asks_for_one(tmp_path: Path) -> None:
    """The server's own context would show it; a store's has none."""
    authorities = Authorities.open_or_create(tmp_path / "identity")
    seen: list[object] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authorities.https_for_devices.ca)
    context.load_cert_chain(authorities.https_for_devices.certificate, authorities.https_for_devices.key)
    context.verify_mode = ssl.CERT_OPTIONAL

    class Asking(Cache):
        def get_request(self) -> tuple[ssl.SSLSocket, object]:
            connection, address = super().get_request()
            wrapped = context.wrap_socket(connection, server_side=True)
            seen.append(wrapped.getpeercert(binary_form=True))
            return wrapped, address

    with Asking() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        trusting = ssl.create_default_context(cafile=authorities.services_ca_file)
        url = server.url.replace("http:", "https:").replace("127.0.0.1", "localhost")
        store = HttpStore(url, trusting)
        try:
            assert b"".join(store.open(FILE, offset=0)) == BODY
        finally:
            store.close()
            server.shutdown()
            thread.join()
    assert seen == [None]


def test_the_server_is_the_only_one_that_sees_the_certificate(
    tmp_path: Path, cache: Cache, client: DeviceHttp, site: Site
) -> None:
    """The sources as `agent.toml` names them: the cache is asked first, the server next."""
    (tmp_path / "agent.toml").write_text(f'sources = ["{cache.url}", "server"]\ndownload_rate = "1GiB"\n')
    config = load_config(tmp_path)
    clock = type("Clock", (), {"seconds": staticmethod(lambda: 0.0)})()
    blocks = BlockSource(lambda want: False, seconds=lambda: 0.0)
    sources = open_sources(tmp_path, config, client, blocks, clock)
    assert b"".join(sources.open(FILE, offset=0)) == BODY
    assert cache.asked[0][0] == f"/v1/artifacts/sha256/{SHA}"
    assert site.asked == []
    assert sources.again(FILE, wrong=True)
    assert b"".join(sources.open(FILE, offset=0)) == BODY
    assert site.asked == [(f"/v1/artifacts/sha256/{SHA}", None)]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache.example",
        "ftp://cache.example/",
        "file:///etc/passwd",
        "http://",
        "http://user@cache.example/",
        "http://user:secret@cache.example/",
        "http://{sha256}.example/",
        "http://cache.example:0/",
        "http://cache.example:99999/",
        "http://cache.example:x/",
        "http://cache.example/#top",
        "http://cache.example/a b",
        "http://cache.example/a\r\nHost: other",
        "http://[::1/",
    ],
)
def test_addresses_that_are_none_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(RefusedError) as caught:
        store_address(url)
    assert caught.value.kind == "bad-config"
    assert "secret" not in caught.value.text


def test_where_a_file_is_at_an_address() -> None:
    plain = store_address("https://cache.example:8443/otaria/")
    assert artifact_path(plain, SHA) == f"/otaria/v1/artifacts/sha256/{SHA}"
    assert artifact_path(store_address("http://c.example/{prefix}/{sha256}?x=y"), SHA) == f"/{SHA[:2]}/{SHA}?x=y"


@pytest.mark.parametrize(
    "text",
    [
        "sources = []",
        'sources = ["cache.example"]',
        "sources = [7]",
        'sources = [{url = "http://c.example", password = "x"}]',
        'sources = "server"',
        "download_rate = -1",
        'download_rate = "fast"',
        "sources = [" + '"server",' * 9 + "]",
    ],
)
def test_sources_that_cannot_be_meant_are_refused_at_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "agent.toml").write_text(text + "\n")
    with pytest.raises(RefusedError) as caught:
        load_config(tmp_path)
    assert caught.value.kind == "bad-config"


def test_an_authority_that_is_not_there_is_refused(tmp_path: Path, client: DeviceHttp) -> None:
    (tmp_path / "agent.toml").write_text('sources = [{url = "https://c.example", ca = "none.pem"}]\n')
    clock = type("Clock", (), {"seconds": staticmethod(lambda: 0.0)})()
    blocks = BlockSource(lambda want: False, seconds=lambda: 0.0)
    with pytest.raises(RefusedError) as caught:
        open_sources(tmp_path, load_config(tmp_path), client, blocks, clock)
    assert caught.value.kind == "bad-config"
