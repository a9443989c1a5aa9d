"""The agent's HTTPS client against a real TLS server on loopback that misbehaves as told."""

import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.identity import SERVICES_CA_FILE, TLS_CERTIFICATE_FILE, TLS_KEY_FILE
from device_agent.transport.http import DeviceHttp, HttpPatience
from device_agent.transport.tls import client_context
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.order import FileRef
from server.identity.authority import Authorities
from tests.brokers import csr_of, key_pem

BODY = bytes(range(256)) * 1000
FILE = FileRef(path="releases/demo/1.0/image", length=len(BODY), sha256="a" * 64)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path; `fault` of the server spoils the next answers."""

    server: "Site"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        fault = self.server.fault
        if fault == "missing":
            return self.send_error(404)
        if fault == "broken":
            return self.send_error(500)
        offset = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if fault == "no-range":
            offset = 0
        body = BODY[offset:]
        self.send_response(206 if offset else 200)
        if offset:
            self.send_header("Content-Range", f"bytes {offset}-{len(BODY) - 1}/{len(BODY)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "drips":
            return self._drip(body)
        self.wfile.write(body[:70_000] if fault == "dies" else body)
        return None

    def _drip(self, body: bytes) -> None:
        """A byte now and then, for ever."""
        for at in range(len(body)):
            self.wfile.write(body[at : at + 1])
            if self.server.over.wait(0.05):
                return

    def log_message(self, *_: object) -> None:
        return


class Site(http.server.ThreadingHTTPServer):
    fault = ""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.over = threading.Event()
        self.asked: list[tuple[str, str | None]] = []
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        return


@pytest.fixture
def authorities(tmp_path: Path) -> Authorities:
    return Authorities.open_or_create(tmp_path / "identity")


@pytest.fixture
def site(authorities: Authorities) -> Iterator[Site]:
    files = authorities.https_for_devices
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(cafile=authorities.fleet_ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    running = Site(context)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.over.set()
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def directory(authorities: Authorities, tmp_path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / SERVICES_CA_FILE).write_bytes(authorities.services_ca_file.read_bytes())
    (tmp_path / TLS_CERTIFICATE_FILE).write_bytes(authorities.sign_agent(csr_of(key), "d-aaaaaaaaaa").pem)
    (tmp_path / TLS_KEY_FILE).write_bytes(key_pem(key))
    return tmp_path


@pytest.fixture
def client(site: Site, directory: Path) -> Iterator[DeviceHttp]:
    made = connect(site, directory)
    yield made
    made.close()


def connect(site: Site, directory: Path, *, trusted_time: float = 0.0) -> DeviceHttp:
    patience = HttpPatience(connect_s=5.0, read_s=5.0, small_s=0.5)
    url = f"https://127.0.0.1:{site.server_address[1]}"
    return DeviceHttp(url, client_context(directory, lambda: trusted_time), patience)


def test_artifact_comes_whole_and_from_an_offset(client: DeviceHttp, site: Site) -> None:
    assert b"".join(client.open(FILE, offset=0)) == BODY
    assert b"".join(client.open(FILE, offset=1000)) == BODY[1000:]
    path = f"/v1/artifacts/sha256/{FILE.sha256}"
    assert site.asked == [(path, None), (path, "bytes=1000-")]


@pytest.mark.parametrize("fault", ["missing", "broken", "dies"])
def test_artifact_that_cannot_be_had_now_is_unavailable(client: DeviceHttp, site: Site, fault: str) -> None:
    site.fault = fault
    with pytest.raises(UnavailableError) as caught:
        b"".join(client.open(FILE, offset=0))
    assert caught.value.kind == "unreachable"


def test_server_that_ignores_the_range_is_read_from_the_front(client: DeviceHttp, site: Site) -> None:
    site.fault = "no-range"
    assert b"".join(client.open(FILE, offset=150_000)) == BODY[150_000:]


def test_metadata_is_bounded_and_missing_is_none(client: DeviceHttp, site: Site) -> None:
    assert client.metadata("timestamp.json", 100) == BODY[:101]
    assert client.target("releases/demo/1.0/aa.manifest.json", len(BODY)) == BODY
    site.fault = "missing"
    assert client.metadata("9.root.json", 100) is None
    assert site.asked[0][0] == "/v1/catalogue/metadata/timestamp.json"


def test_security_metadata_that_drips_is_given_up(client: DeviceHttp, site: Site) -> None:
    """Slow retrieval: each byte is in time, and all of them never come."""
    site.fault = "drips"
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="too slowly"):
        client.metadata("timestamp.json", 16_384)
    assert time.monotonic() - began < 5


def test_artifact_that_drips_can_be_stopped_at_every_byte(client: DeviceHttp, site: Site) -> None:
    site.fault = "drips"
    chunks = client.open(FILE, offset=0)
    assert len(next(chunks)) < 1000
    chunks.close()  # type: ignore[attr-defined]


def test_address_without_a_valid_port_is_refused(directory: Path) -> None:
    with pytest.raises(RefusedError, match="99999"):
        DeviceHttp("https://server:99999", client_context(directory, lambda: 0.0))


def test_server_that_is_gone_is_unavailable(site: Site, directory: Path) -> None:
    client = connect(site, directory)
    site.shutdown()
    site.server_close()
    with pytest.raises(UnavailableError):
        client.metadata("timestamp.json", 100)


def test_certificate_that_is_over_by_trusted_time_is_refused(site: Site, directory: Path) -> None:
    with pytest.raises(UnavailableError, match="expired"):
        connect(site, directory, trusted_time=1 << 40).metadata("timestamp.json", 100)
    assert site.asked == []


def test_server_of_another_installation_is_refused(site: Site, directory: Path, tmp_path: Path) -> None:
    foreign = Authorities.open_or_create(tmp_path / "foreign")
    (directory / SERVICES_CA_FILE).write_bytes(foreign.services_ca_file.read_bytes())
    with pytest.raises(UnavailableError):
        connect(site, directory).metadata("timestamp.json", 100)
    assert site.asked == []
