"""Where events may go: public addresses by https, and what the configuration opens."""

import ipaddress
import socket
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from firmware.errors import RefusedError
from server.http.tls import devices_context
from server.identity.authority import Authorities
from server.webhooks.addresses import Addresses, GuardedResolver, host_of
from server.webhooks.post import MAX_SAID, Poster

OPEN = Addresses([ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("fd00::/8")])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.9",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd12::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::ffff:10.0.0.1",
    ],
)
def test_security_no_address_of_ones_own_network_is_open_by_itself(address: str) -> None:
    assert not Addresses().allows(address, encrypted=True)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_addresses_are_open_by_https_only(address: str) -> None:
    assert Addresses().allows(address, encrypted=True)
    assert not Addresses().allows(address, encrypted=False)
    assert not OPEN.allows(address, encrypted=False)


def test_the_configuration_opens_networks_also_without_tls() -> None:
    for address in ("127.0.0.1", "::ffff:127.0.0.1", "fd12::1"):
        assert OPEN.allows(address, encrypted=False)
    assert not OPEN.allows("10.0.0.1", encrypted=True)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hooks.example.org/x",
        "https://user:word@hooks.example.org/x",
        "https:///x",
        "https://hooks.example.org/x#part",
        "https://hooks.example.org:99999/",
        "https://hooks.example.org:0/",
        "https://hooks.example.org/\r\nHost: other",
        "https://hooks.example.org\\@10.0.0.1/",
        "https://exa mple.org/",
        "https://exämple.org/",
        "https://hooks.example.org/" + "x" * 500,
        "hooks.example.org",
        "",
        "http://hooks.example.org/x",
    ],
)
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(RefusedError) as refused:
        Addresses().check(url)
    assert refused.value.kind == "bad-url"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "10.0.0.1", "[::ffff:10.0.0.1]", "169.254.169.254"])
def test_security_a_private_address_is_refused_when_it_is_added(host: str) -> None:
    with pytest.raises(RefusedError) as refused:
        Addresses().check(f"https://{host}/x")
    assert refused.value.kind == "private-address"


def test_what_may_be_said_of_an_address_is_its_host() -> None:
    assert host_of("https://hooks.example.org:8443/T0/secret?key=1") == "hooks.example.org:8443"


class Lying(GuardedResolver):
    """A name that leads to these addresses."""

    def __init__(self, addresses: Addresses, *found: str) -> None:
        super().__init__(addresses, encrypted=True)
        self._found = found
        self._inner = self  # type: ignore[assignment]
        self._asked = False

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list:
        if self._asked:
            return [
                {"host": one, "hostname": host, "port": port, "family": family, "proto": 0, "flags": 0}
                for one in self._found
            ]
        self._asked = True
        try:
            return await super().resolve(host, port, family)
        finally:
            self._asked = False


async def test_security_a_name_is_worth_what_it_leads_to() -> None:
    assert [one["host"] for one in await Lying(Addresses(), "10.0.0.1", "93.184.216.34").resolve("x")] == [
        "93.184.216.34"
    ]
    with pytest.raises(OSError, match="no address that events may be sent to"):
        await Lying(Addresses(), "10.0.0.1", "::1").resolve("x")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "2130706433", "127.1"])
async def test_security_nothing_at_home_is_posted_to_whatever_its_name(name: str) -> None:
    """The server of the test is there, and only the guard is in between."""
    posted: list[str] = []

    async def take(request: web.Request) -> web.Response:
        posted.append(request.path)
        return web.Response(text="taken")

    app = web.Application()
    app.router.add_post("/{any}", take)
    elsewhere = Addresses([ipaddress.ip_network("203.0.113.0/24")])  # so that http is not what it is refused for
    async with TestServer(app) as server:
        url = f"http://{name}:{server.port}/x"
        async with Poster(elsewhere) as shut, Poster(OPEN) as opened:
            outcome = await shut.post(url, b"{}", {})
            assert outcome.code is None
            assert posted == []
            if name in ("localhost", "127.0.0.1"):  # aiohttp takes the others for no names at all
                assert "no address that events may be sent to" in outcome.said
                assert (await opened.post(url, b"{}", {})).code == 200


async def test_answers_are_bounded_and_redirects_lead_nowhere() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        match request.match_info["how"]:
            case "long":
                return web.Response(body=b"\x1b[31m" + b"x" * (1 << 20), status=500)
            case "aside":
                return web.Response(status=307, headers={"Location": "/long"})
            case "later":
                return web.Response(status=503, headers={"Retry-After": "70"})
            case "date":
                dates = {"Date": "Fri, 15 Jan 2027 08:00:00 GMT", "Retry-After": "Fri, 15 Jan 2027 08:01:00 GMT"}
                return web.Response(status=503, headers=dates)
        endless = web.StreamResponse()
        await endless.prepare(request)
        while True:
            await endless.write(b"x" * 4096)

    app = web.Application()
    app.router.add_post("/{how}", answer)
    async with TestServer(app) as server, Poster(OPEN, timeout_s=2.0) as poster:

        async def ask(how: str):
            return await poster.post(str(server.make_url(f"/{how}")), b"{}", {})

        long = await ask("long")
        assert (long.code, len(long.said), "\x1b" in long.said) == (500, MAX_SAID, False)
        assert ((await ask("aside")).code, (await ask("aside")).is_good) == (307, False)
        assert (await ask("later")).retry_s == 70.0
        assert (await ask("date")).retry_s == 60.0
        assert (await ask("endless")).code == 200
        left = str(server.make_url("/x/secret-path"))
    async with Poster(OPEN) as poster:
        gone = await poster.post(left, b"{}", {})
    assert (gone.code, "failed" in gone.said, "secret" in gone.said) == (None, True, False), gone


async def test_a_receiver_that_says_nothing_is_left(unused_tcp_port: int) -> None:
    with socket.create_server(("127.0.0.1", unused_tcp_port)):
        async with Poster(OPEN, timeout_s=0.3) as poster:
            outcome = await poster.post(f"http://127.0.0.1:{unused_tcp_port}/", b"{}", {})
    assert (outcome.code, outcome.said) == (None, "no answer within 0.3 s")


async def test_a_receiver_whose_authority_is_not_trusted_gets_nothing(tmp_path: Path) -> None:
    posted: list[str] = []

    async def take(request: web.Request) -> web.Response:
        posted.append(await request.text())
        return web.Response(text="taken")

    app = web.Application()
    app.router.add_post("/x", take)
    authorities = Authorities.open_or_create(tmp_path / "identity")
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=devices_context(authorities.https_for_devices))
    try:
        url = f"https://127.0.0.1:{server.port}/x"
        async with Poster(OPEN) as doubting, Poster(OPEN, ca_file=authorities.services_ca_file) as trusting:
            outcome = await doubting.post(url, b"first", {})
            assert (outcome.code, "certificate verify failed" in outcome.said) == (None, True), outcome
            assert (await trusting.post(url, b"second", {})).code == 200
    finally:
        await server.close()
    assert posted == ["second"]


def test_authorities_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(RefusedError, match="ca_file"):
            Poster(OPEN, ca_file=tmp_path / name)
