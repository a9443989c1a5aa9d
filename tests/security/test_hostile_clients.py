"""Hostile clients on both listeners of a real server: slow ones, large ones, and paths that lead out.

What they get is an end or a refusal; who is honest is answered meanwhile."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.app import Server
from server.cli import run as run_command
from server.config import load_settings
from server.identity.authority import Authorities

CONFIG = """
[http]
people = "127.0.0.1:0"
devices = "127.0.0.1:0"
max_artifact_bytes = 65536
[limits]
idle_s = 0.5
body_s = 0.5
pause_s = 0.5
[catalogue]
repository = "repository/metadata"
online_keys = "repository/keys/online"
"""
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Doors:
    """A running server: the ports of its listeners, an administrator's token, and TLS that trusts it."""

    people: int
    devices: int
    token: str
    tls: ssl.SSLContext
    state: Path

    @asynccontextmanager
    async def open(self, door: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to `people` or `devices`, as whoever has no certificate."""
        tls = self.tls if door == "devices" else None
        reader, writer = await asyncio.open_connection("127.0.0.1", getattr(self, door), ssl=tls)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def ask(self, door: str, raw: bytes) -> bytes:
        """What a whole request is answered with, until the server ends the connection."""
        async with self.open(door) as (reader, writer), asyncio.timeout(PATIENCE_S):
            writer.write(raw)
            return await _rest(reader)

    async def is_well(self, door: str) -> bool:
        return b"200 OK" in await self.ask(door, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hostile") / "repository"
    assert run_command(["keys", "init", str(directory), "--product", "gateway"]) == 0
    return directory


@pytest.fixture
async def doors(tmp_path: Path, catalogue: Path) -> AsyncIterator[Doors]:
    (tmp_path / "repository").symlink_to(catalogue)
    (tmp_path / "otaria.toml").write_text(CONFIG)
    settings = load_settings(tmp_path / "otaria.toml")
    async with Server(settings) as server:
        running = server.running
        authorities = Authorities.open_or_create(settings.state / "identity")
        yield Doors(
            people=int(running.people_url.rpartition(":")[2]),
            devices=int(running.devices_url.rpartition(":")[2]),
            token=(settings.state / "admin.token").read_text().strip(),
            tls=ssl.create_default_context(cafile=authorities.services_ca_file),
            state=settings.state,
        )


async def _dribbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    """Send the beginning of a request, then a header's byte at a time, until the server has had enough."""
    ended = asyncio.create_task(_rest(reader))
    writer.write(head)
    async with asyncio.timeout(PATIENCE_S):
        while not ended.done():
            writer.write(b"x")
            await asyncio.wait([ended], timeout=0.05)


async def test_headers_that_never_end_are_given_up_and_others_are_served_meanwhile(doors: Doors) -> None:
    for door in ("people", "devices"):
        async with doors.open(door) as first, doors.open(door) as second:
            head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "
            slow = [asyncio.create_task(_dribbles(*one, head)) for one in (first, second)]
            assert await doors.is_well(door)
            await asyncio.gather(*slow)
        async with doors.open(door) as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            await _dribbles(reader, writer, b"GET /healthz HTTP/1.1\r\nX-Slow: ")  # nor after a good one


async def test_who_says_nothing_is_given_up_also_before_tls(doors: Doors) -> None:
    for door in (doors.people, doors.devices):
        reader, writer = await asyncio.open_connection("127.0.0.1", door)
        async with asyncio.timeout(PATIENCE_S):
            assert await _rest(reader) == b""
        writer.transport.abort()
    reader, writer = await asyncio.open_connection("127.0.0.1", doors.devices)
    writer.write(b"\x16\x03\x01\x02")  # the beginning of a handshake
    async with asyncio.timeout(PATIENCE_S):
        assert await _rest(reader) == b""
    writer.transport.abort()
    assert await doors.is_well("devices")


async def test_a_body_that_comes_too_slowly_is_given_up(doors: Doors) -> None:
    for door, path in (("people", "/api/v1/claim-tokens"), ("devices", "/v1/enrol"), ("devices", "/v1/renew")):
        async with doors.open(door) as (reader, writer):
            writer.write(_post(path, doors.token, b"{", length=1000))
            async with asyncio.timeout(PATIENCE_S):
                assert b" 408 " in await reader.readline(), path


async def test_what_is_too_large_is_refused_before_it_comes(doors: Doors) -> None:
    """Nothing of the body is sent, so an answer means that nobody waited for it."""
    hashed = "0" * 64
    for door, method, path in (
        ("people", "POST", "/api/v1/claim-tokens"),
        ("people", "POST", "/api/v1/campaigns"),
        ("people", "PUT", f"/api/v1/artifacts/sha256/{hashed}"),
        ("devices", "POST", "/v1/enrol"),
        ("devices", "POST", "/v1/enrol/key"),
        ("devices", "POST", "/v1/renew"),
    ):
        async with doors.open(door) as (reader, writer):
            writer.write(_post(path, doors.token, b"", length=1 << 40, method=method))
            async with asyncio.timeout(PATIENCE_S):
                assert b" 413 " in await reader.readline(), path
    assert list((doors.state / "artifacts" / "incoming").iterdir()) == []


async def test_an_upload_without_a_length_is_cut_off_at_the_bound(doors: Doors) -> None:
    path = f"/api/v1/artifacts/sha256/{'0' * 64}"
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {doors.token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    async with doors.open("people") as (reader, writer):
        writer.write(head.encode())
        for _ in range(5):
            writer.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert b" 413 " in await reader.readline()
    assert list((doors.state / "artifacts" / "incoming").iterdir()) == []


def _post(path: str, token: str, body: bytes, *, length: int, method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + body


OUT = (
    "../../../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "..\\..\\etc\\passwd",
)
WAYS = {
    "people": ("/static/", "/", "/fleet/", "/campaigns/", "/releases/", "/api/v1/artifacts/sha256/", "/api/v1/fleet/"),
    "devices": ("/", "/v1/catalogue/metadata/", "/v1/catalogue/targets/", "/v1/artifacts/sha256/"),
}


@pytest.mark.parametrize("door", list(WAYS))
async def test_paths_that_lead_out_lead_nowhere(doors: Doors, door: str) -> None:
    """As bytes on the wire, since clients tidy addresses."""
    secrets = [doors.token.encode(), b"PRIVATE KEY", b"root:"]
    more = [
        "//etc/passwd",
        "/static//etc/passwd",
        "/static/%00",
        "/static/otaria.css%00.png",
        "http://x/etc/passwd",
        "*",
    ]
    for path in [*(way + out for way in WAYS[door] for out in OUT), *more, "/" + "a/" * 3000, "/%ff%fe", "/\x7f"]:
        raw = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {doors.token}\r\nConnection: close\r\n\r\n"
        answer = await doors.ask(door, raw.encode("latin-1"))
        status = int(answer.split()[1])
        assert status in (303, 400, 401, 403, 404, 405, 414), (path, status)
        assert not any(secret in answer for secret in secrets), path


@pytest.mark.parametrize("door", list(WAYS))
async def test_requests_that_two_readers_would_part_differently_are_refused(doors: Doors, door: str) -> None:
    both = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    twice = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"
    bare = b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n"
    long = b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"
    for raw in (both, twice, bare, long, b"\x00\x01\x02\r\n\r\n"):
        answer = await doors.ask(door, raw)
        assert answer.startswith(b"HTTP/1.") and b" 400 " in answer.split(b"\r\n")[0], raw[:60]  # noqa: PT018
    assert await doors.is_well(door)
