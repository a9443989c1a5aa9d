"""The devices' listener over real TLS: who gets in, what is served, and byte ranges."""

import asyncio
import contextlib
import hashlib
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yarl import URL

from firmware.errors import RefusedError
from server.artifacts import ArtifactStore
from server.http.devices import DeviceRoutes, tls_peer
from server.http.tls import devices_context
from server.identity.authority import Authorities
from server.ports import AgentStatus, Shelf, Unit
from server.shelves.s3 import S3Shelf
from server.storage.database import SqlDatabase
from tests.people_side import add_device
from tests.s3_store import Store

DATA = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(DATA).hexdigest()


class PaperEnrolment:
    """Implements the enrolment port: refuses or repeats what it was told."""

    def services_ca_pem(self) -> bytes:
        return b"-----BEGIN CERTIFICATE-----\n"

    async def enrol(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("claim") != "good":
            raise RefusedError("claim-unknown", "The claim token is not known here; ask the operator for a new one.")
        return {"agent": "gw-1"}


class PaperRenewal:
    """Implements the renewal port: refuses or repeats what it was told."""

    def challenge(self) -> dict[str, Any]:
        return {"nonce": "n"}

    async def renew(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("proof") != "good":
            raise RefusedError("bad-proof", "The proof is not signed by the certificate's key.")
        return {"certificate": "new"}


@dataclass(kw_only=True)
class Devices:
    """A running devices' listener and the files of its clients."""

    url: str
    directory: Path
    authorities: Authorities
    database: SqlDatabase
    artifacts: ArtifactStore
    routes: frozenset[str]

    def context(self, name: str | None, signer: Authorities | None = None) -> ssl.SSLContext:
        """TLS of a client with a certificate of this name (None: without one), by default from this fleet's CA."""
        context = ssl.create_default_context(cafile=self.authorities.services_ca_file)
        if name is not None:
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
            pem = (signer or self.authorities).sign_agent(csr.public_bytes(serialization.Encoding.PEM), name).pem
            kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            file = self.directory / f"{name}-{key.private_numbers().private_value}.pem"
            file.write_bytes(pem + key.private_bytes(*kinds))
            context.load_cert_chain(file)
        return context

    async def get(self, path: str, name: str | None = "gw-1", **headers: str) -> tuple[int, bytes, Any]:
        """GET as this agent; status, body and headers."""
        connector = aiohttp.TCPConnector(ssl=self.context(name))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(URL(self.url + path, encoded=True), headers=headers) as answer,
        ):
            return answer.status, await answer.read(), answer.headers


both_stores = pytest.mark.parametrize("devices", ["files", "s3"], indirect=True)
"""Artifacts as files, and passed through from a bucket."""


@pytest.fixture
async def devices(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Devices]:
    authorities = Authorities.open_or_create(tmp_path / "identity")
    database = SqlDatabase.open(f"sqlite:///{tmp_path / 'devices.db'}")
    await database.write(lambda unit: [add_device(unit, name, {}) for name in ("gw-1", "gw-2")])
    shelf: Shelf | None = None
    if getattr(request, "param", "files") == "s3":
        store: Store = request.getfixturevalue("s3_store")
        shelf = S3Shelf(store.settings(store.make_bucket()))
    artifacts = ArtifactStore(tmp_path / "artifacts", shelf)
    await asyncio.to_thread(artifacts.add, [DATA])
    metadata = tmp_path / "metadata"
    metadata.mkdir()
    (metadata / "timestamp.json").write_text("{}")
    (metadata / "3.product-a.json").write_text("{}")
    (metadata / "1.root.json").write_text('{"root": 1}')
    (metadata / "secret.key").write_text("secret")
    app = DeviceRoutes(
        enrolment=PaperEnrolment(),
        known=PaperEnrolment(),
        renewal=PaperRenewal(),
        database=database,
        artifacts=artifacts,
        metadata=metadata,
        peer=tls_peer,
    ).app()
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=devices_context(authorities.https_for_devices))
    await site.start()
    yield Devices(
        url=f"https://127.0.0.1:{site.port}",
        directory=tmp_path,
        authorities=authorities,
        database=database,
        artifacts=artifacts,
        routes=frozenset(
            f"{route.method} {route.resource.canonical}" for route in app.router.routes() if route.method != "HEAD"
        ),
    )
    await runner.cleanup()
    artifacts.close()
    await database.close()


PRIVATE = (
    "/v1/catalogue/metadata/3.product-a.json",
    f"/v1/catalogue/targets/deltas/{SHA256}.a-b.otd",
    f"/v1/artifacts/sha256/{SHA256}",
)


OPEN = {
    "GET /healthz": "/healthz",
    "GET /v1/enrol/ca": "/v1/enrol/ca",
    "POST /v1/enrol": "/v1/enrol",
    "POST /v1/enrol/key": "/v1/enrol/key",
    "GET /v1/renew/challenge": "/v1/renew/challenge",
    "POST /v1/renew": "/v1/renew",
}
"""By route, an address: whoever calls may have no certificate yet, or none that is good any more."""
AGENTS = dict(
    zip(
        (
            "GET /v1/catalogue/metadata/{file}",
            "GET /v1/catalogue/targets/{path}",
            "GET /v1/artifacts/sha256/{hash}",
        ),
        PRIVATE,
        strict=True,
    )
)
"""Only active agents of this fleet; of the metadata all but the top-level roles."""
CALLERS = {None: 401, "gw-1": 200, "gw-2": 403, "gw-3": 403, "gw-99": 403}
"""Without a certificate, active, quarantined, revoked, and one that nobody enrolled."""


async def test_every_route_of_the_listener_with_every_kind_of_caller(devices: Devices) -> None:
    assert devices.routes == set(OPEN) | set(AGENTS)

    def shut_out(unit: Unit) -> None:
        add_device(unit, "gw-3", {})
        unit.identities.set_agent_status("gw-2", AgentStatus.QUARANTINED)
        unit.identities.set_agent_status("gw-3", AgentStatus.REVOKED)

    await devices.database.write(shut_out)
    for name, status in CALLERS.items():
        connector = aiohttp.TCPConnector(ssl=devices.context(name))
        async with aiohttp.ClientSession(connector=connector) as session:
            for route, path in AGENTS.items():
                async with session.get(devices.url + path) as answer:
                    assert answer.status == status, (route, name)
            for route, path in OPEN.items():
                async with session.request(route.split(" ")[0], devices.url + path, json={}) as answer:
                    assert answer.status not in (401, 403), (route, name)


@pytest.mark.parametrize("path", PRIVATE)
async def test_only_active_agents_of_this_fleet_are_served(devices: Devices, path: str) -> None:
    assert (await devices.get(path))[0] == 200
    assert (await devices.get(path, None))[0] == 401
    assert (await devices.get(path, "gw-99"))[0] == 403
    await devices.database.write(lambda unit: unit.identities.set_agent_status("gw-2", AgentStatus.REVOKED))
    assert (await devices.get(path, "gw-2"))[0] == 403


async def test_a_certificate_of_another_authority_does_not_get_through_tls(devices: Devices) -> None:
    other = Authorities.open_or_create(devices.directory / "other")
    connector = aiohttp.TCPConnector(ssl=devices.context("gw-1", other))
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(devices.url + "/v1/enrol/ca")


async def test_a_services_certificate_is_no_agents(devices: Devices) -> None:
    """The services CA signs the server's own certificates; none of them may act as a device."""
    context = ssl.create_default_context(cafile=devices.authorities.services_ca_file)
    context.load_cert_chain(devices.authorities.mqtt_client.certificate, devices.authorities.mqtt_client.key)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(devices.url + PRIVATE[2])


async def test_enrolment_is_open_to_who_has_no_certificate_yet(devices: Devices) -> None:
    assert (await devices.get("/v1/enrol/ca", None))[1].startswith(b"-----BEGIN CERTIFICATE")
    connector = aiohttp.TCPConnector(ssl=devices.context(None))
    async with aiohttp.ClientSession(connector=connector) as session:
        for body, status, kind in (
            ('{"claim": "good"}', 200, None),
            ('{"claim": "bad"}', 422, "claim-unknown"),
            ("[]", 400, "malformed"),
            ('{"a": 1, "a": 2}', 400, "malformed"),
            ("#" * 40_000, 413, "too-large"),
        ):
            async with session.post(devices.url + "/v1/enrol", data=body) as answer:
                assert answer.status == status
                assert (await answer.json(content_type=None)).get("type") == kind


async def test_a_sleeper_learns_whom_to_trust_without_a_certificate(devices: Devices) -> None:
    """Only the top-level roles; and whoever shows a certificate must still be in the fleet."""
    for name in ("timestamp.json", "1.root.json"):
        path = f"/v1/catalogue/metadata/{name}"
        assert (await devices.get(path, None))[0] == 200
        assert (await devices.get(path, "gw-99"))[0] == 403
    assert (await devices.get("/v1/catalogue/metadata/3.product-a.json", None))[0] == 401


async def test_renewal_is_open_to_whose_certificate_is_over(devices: Devices) -> None:
    status, body, headers = await devices.get("/v1/renew/challenge", None)
    assert (status, body, headers["Cache-Control"]) == (200, b'{"nonce": "n"}', "no-store")
    connector = aiohttp.TCPConnector(ssl=devices.context(None))
    async with aiohttp.ClientSession(connector=connector) as session:
        for sent, expected, kind in (
            ('{"proof": "good"}', 200, None),
            ('{"proof": "bad"}', 422, "bad-proof"),
            ("[]", 400, "malformed"),
            ("#" * 40_000, 413, "too-large"),
        ):
            async with session.post(devices.url + "/v1/renew", data=sent) as answer:
                assert answer.status == expected
                assert (await answer.json(content_type=None)).get("type") == kind


@both_stores
async def test_artifacts_are_immutable_and_resume_at_any_byte(devices: Devices) -> None:
    path = f"/v1/artifacts/sha256/{SHA256}"
    status, body, headers = await devices.get(path)
    assert (status, body) == (200, DATA)
    assert "immutable" in headers["Cache-Control"]
    assert headers["ETag"]
    status, body, headers = await devices.get(path, Range="bytes=1000-")
    assert (status, body) == (206, DATA[1000:])
    assert headers["Content-Range"] == f"bytes 1000-{len(DATA) - 1}/{len(DATA)}"
    assert (await devices.get(path, Range="bytes=5-9"))[1] == DATA[5:10]
    assert (await devices.get(path, Range="bytes=-7"))[1] == DATA[-7:]
    etag = headers["ETag"]
    assert (await devices.get(path, **{"If-None-Match": etag}))[0] == 304


@both_stores
@pytest.mark.parametrize(
    ("wanted", "statuses"),
    [
        (f"bytes={len(DATA)}-", {416}),
        ("bytes=9-5", {416}),
        ("bytes=abc", {416}),
        ("bytes=" + "9" * 200 + "-", {416}),
        ("bytes=0-1,3-4", {416, 200}),
        ("seals=1-2", {416, 200}),
        ("bytes=--5", {416}),
        ("x" * 4000, {416, 200}),
    ],
)
async def test_garbage_ranges_never_yield_wrong_bytes(devices: Devices, wanted: str, statuses: set[int]) -> None:
    status, body, _ = await devices.get(f"/v1/artifacts/sha256/{SHA256}", Range=wanted)
    assert status in statuses
    assert body == (DATA if status == 200 else b"")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/catalogue/metadata/secret.key",
        "/v1/catalogue/metadata/..%2f..%2fidentity%2ffleet-ca.key",
        "/v1/catalogue/metadata/../secret.key",
        "/v1/catalogue/metadata/.json",
        "/v1/catalogue/metadata/01.root.json",
        "/v1/catalogue/metadata/" + "a" * 300 + ".json",
        "/v1/catalogue/metadata/9.root.json",
        "/v1/catalogue/metadata/a%00.json",
        "/v1/catalogue/targets/deltas/x.otd",
        f"/v1/catalogue/targets/../{SHA256}.x",
        f"/v1/catalogue/targets/a/%2e%2e/{SHA256}.x",
        f"/v1/catalogue/targets/{SHA256}.a%2f..%2fb",
        "/v1/catalogue/targets/deltas/" + "0" * 64 + ".x",
        "/v1/catalogue/targets/" + "a/" * 300 + SHA256 + ".x",
        "/v1/artifacts/sha256/" + SHA256.upper(),
        "/v1/artifacts/sha256/..%2f..%2fdevices.db",
        "/v1/artifacts/sha256/" + "0" * 64,
        "/v1/artifacts/",
        "/",
    ],
)
async def test_path_tricks_lead_nowhere(devices: Devices, path: str) -> None:
    status, body, _ = await devices.get(path)
    assert status in (400, 404)
    assert b"secret" not in body
    assert b"PRIVATE" not in body


async def test_metadata_that_changes_is_not_cached_and_the_rest_for_ever(devices: Devices) -> None:
    path = "/v1/catalogue/metadata/timestamp.json"
    assert (await devices.get(path))[2]["Cache-Control"] == "no-cache"
    status, body, headers = await devices.get("/v1/catalogue/metadata/1.root.json")
    assert (status, body) == (200, b'{"root": 1}')
    assert "immutable" in headers["Cache-Control"]


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_download_ends_at_once_and_quietly(
    devices: Devices, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio's own sendfile over TLS goes on to the file's end after the device has gone, with a warning per block."""
    name, length = devices.artifacts.add([bytes(16 << 20)])
    with await asyncio.to_thread(_download_begun, devices, name) as connection:
        assert _descriptors_of(name)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            socket.socket.shutdown(connection, socket.SHUT_WR)
            with contextlib.suppress(OSError):
                received = await asyncio.to_thread(lambda: sum(map(len, iter(lambda: connection.recv(1 << 16), b""))))
                assert received < length // 2
    for _ in range(500):
        if not _descriptors_of(name):
            break
        await asyncio.sleep(0.01)
    assert not _descriptors_of(name)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def _download_begun(devices: Devices, sha256: str) -> ssl.SSLSocket:
    """A connection on which the first bytes of an artifact have come."""
    address = ("127.0.0.1", URL(devices.url).port)
    connection = devices.context("gw-1").wrap_socket(socket.create_connection(address), server_hostname="127.0.0.1")
    connection.settimeout(5)
    connection.sendall(f"GET /v1/artifacts/sha256/{sha256} HTTP/1.1\r\nHost: devices\r\n\r\n".encode())
    assert connection.recv(1 << 16)
    return connection


def _descriptors_of(sha256: str) -> list[str]:
    """Descriptors of this process that hold the artifact open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(descriptor.readlink()))
    return [name for name in found if name.endswith(sha256)]
