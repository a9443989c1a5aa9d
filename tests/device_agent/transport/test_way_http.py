"""HTTPS by several ways, against real TLS: who is asked, and what is taken from somebody who proves nothing."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.identity import SERVICES_CA_FILE, TLS_CERTIFICATE_FILE, TLS_KEY_FILE, Identity
from device_agent.transport.tls import client_context
from device_agent.transport.way_http import WayHttp
from device_agent.transport.ways import Ways
from firmware.errors import UnavailableError
from firmware.protocol.endpoints import Endpoint, Endpoints
from firmware.protocol.renew import CHALLENGE_PATH
from server.http.tls import devices_context
from server.identity.authority import Authorities
from tests.brokers import csr_of, key_pem

AGENT = "d-aaaaaaaaaa"
DEAD = "https://127.0.0.1:1"


@pytest.fixture
def authorities(tmp_path: Path) -> Authorities:
    return Authorities.open_or_create(tmp_path / "identity")


@asynccontextmanager
async def served(authorities: Authorities, asked: list[tuple[str, bool]]) -> AsyncIterator[str]:
    """A devices' listener that notes what is asked, and whether a certificate was shown; gives its URL."""

    async def answer(request: web.Request) -> web.Response:
        transport = request.transport
        shown = transport is not None and bool(transport.get_extra_info("ssl_object").getpeercert())
        asked.append((request.path.rpartition("/")[2], shown))
        if request.path == CHALLENGE_PATH:
            return web.json_response({"nonce": "n" * 64, "at": 1, "authority": "a" * 40})
        return web.Response(body=b"signed")

    app = web.Application()
    app.router.add_get("/{path:.+}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=devices_context(authorities.https_for_devices))
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def ways_of(directory: Path, authorities: Authorities, url: str) -> Ways:
    directory.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    (directory / SERVICES_CA_FILE).write_bytes(authorities.services.pem)
    (directory / TLS_KEY_FILE).write_bytes(key_pem(key))
    (directory / TLS_CERTIFICATE_FILE).write_bytes(authorities.sign_agent(csr_of(key), AGENT).pem)
    identity = Identity(
        agent=AGENT,
        target=AGENT,
        hardware="hw",
        mqtt_host="127.0.0.1",
        mqtt_port=1,
        https_url=url,
        root_sha256="0" * 64,
    )
    return Ways(directory, identity, lambda: 0.0)


async def on_thread(call: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(call)


async def hung_up(http: WayHttp) -> None:
    """Every connection is closed from this end; a server that closes first waits for our good-bye."""
    http.close()
    await asyncio.sleep(0.1)


async def test_a_server_of_another_ca_gives_signed_top_level_metadata_and_nothing_else(
    tmp_path: Path, authorities: Authorities
) -> None:
    """A sleeper that pins a CA of the past must learn of the new one from somebody; and shows nothing to whoever that is."""
    asked: list[tuple[str, bool]] = []
    foreign = Authorities.open_or_create(tmp_path / "foreign")
    async with served(foreign, asked) as url:
        http = WayHttp(ways_of(tmp_path / "agent", authorities, url))
        for name in ("timestamp.json", "2.root.json", "7.snapshot.json", "3.targets.json"):
            assert await on_thread(lambda name=name: http.metadata(name, 100)) == b"signed"
        for refused in (
            lambda: http.metadata("3.product-a.json", 100),
            lambda: http.metadata("3.targets.json.json", 100),
            lambda: http.target("a/b", 100),
            http.challenge,
        ):
            with pytest.raises(UnavailableError):
                await on_thread(refused)
        await hung_up(http)
    assert [shown for _, shown in asked] == [False] * 4


async def test_our_own_server_is_asked_with_our_certificate(tmp_path: Path, authorities: Authorities) -> None:
    asked: list[tuple[str, bool]] = []
    async with served(authorities, asked) as url:
        http = WayHttp(ways_of(tmp_path / "agent", authorities, url))
        assert await on_thread(lambda: http.metadata("timestamp.json", 100)) == b"signed"
        assert await on_thread(lambda: http.is_taken(client_context(tmp_path / "agent", lambda: 0.0)))
        await hung_up(http)
    assert asked == [("timestamp.json", True)] * 2


async def test_a_certificate_of_a_retired_ca_is_not_taken(tmp_path: Path, authorities: Authorities) -> None:
    asked: list[tuple[str, bool]] = []
    other = Authorities.open_or_create(tmp_path / "other")
    mixed = replace(authorities, fleet=other.fleet)
    async with served(authorities, asked) as url:
        http = WayHttp(ways_of(tmp_path / "agent", mixed, url))
        context: ssl.SSLContext = client_context(tmp_path / "agent", lambda: 0.0)
        assert not await on_thread(lambda: http.is_taken(context))
        assert await on_thread(lambda: http.metadata("timestamp.json", 100)) == b"signed"
        await hung_up(http)
    assert asked == [("challenge", False), ("timestamp.json", False)]


async def test_a_wrong_address_in_front_costs_a_moment(tmp_path: Path, authorities: Authorities) -> None:
    asked: list[tuple[str, bool]] = []
    async with served(authorities, asked) as url:
        ways = ways_of(tmp_path / "agent", authorities, url)
        ca = authorities.services.pem.decode()
        ways.take(Endpoints(endpoints=[Endpoint(server=DEAD, broker="127.0.0.1:1")], services_ca=[ca]))
        http = WayHttp(ways)
        assert await on_thread(lambda: http.metadata("timestamp.json", 100)) == b"signed"
        assert not await on_thread(lambda: http.answers(ways.preferred))
        assert await on_thread(lambda: http.answers(ways.order[-1]))
        await hung_up(http)
    with pytest.raises(UnavailableError):
        await on_thread(lambda: http.metadata("timestamp.json", 100))
