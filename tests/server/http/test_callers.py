"""Who asks behind a reverse proxy: read from the right, and from nobody who isn't trusted."""

import ipaddress

import pytest

from server.http.callers import MAX_HOPS, Proxies
from server.http.routes import API
from tests.people_side import PeopleSide

TRUSTED = [ipaddress.ip_network(one) for one in ("127.0.0.0/8", "10.0.0.0/8", "fd00::/8")]
FOR, FORWARDED = "x-forwarded-for", "forwarded"


@pytest.mark.parametrize(
    ("peer", "said", "caller"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # a stranger says who it is
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),  # and wrote the left part itself
        ("127.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["6.6.6.6, 198.51.100.1, 10.0.0.7"], "198.51.100.1"),  # two proxies of ours
        ("127.0.0.1", ["10.1.1.1, 10.0.0.7"], "10.1.1.1"),  # all trusted: the furthest
        ("127.0.0.1", ["198.51.100.1, unknown"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1, <script>"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("127.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("::ffff:127.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("fd00::1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        (None, ["198.51.100.1"], None),
    ],
)
def test_x_forwarded_for_is_read_from_the_right(peer: str | None, said: list[str], caller: str | None) -> None:
    assert Proxies(networks=TRUSTED).caller(peer, {FOR: said}) == caller


@pytest.mark.parametrize(
    ("said", "caller"),
    [
        (["for=198.51.100.1;proto=https;by=10.0.0.1"], "198.51.100.1"),
        (['For="[2001:db8::1]:4711"'], "2001:db8::1"),
        (["for=6.6.6.6, for=198.51.100.1"], "198.51.100.1"),
        (["for=198.51.100.1, for=_hidden"], "127.0.0.1"),
        (["proto=https"], "127.0.0.1"),
        (['for="198.51.100.1, for=6.6.6.6"'], "127.0.0.1"),  # a comma in quotes names nobody
    ],
)
def test_forwarded_is_read_from_the_right(said: list[str], caller: str) -> None:
    assert Proxies(networks=TRUSTED, header="Forwarded").caller("127.0.0.1", {FORWARDED: said}) == caller


def test_only_the_header_that_is_configured_is_read() -> None:
    """A proxy that writes one hands through what strangers say in the other."""
    both = {FOR: ["198.51.100.1"], FORWARDED: ["for=6.6.6.6"]}
    assert Proxies(networks=TRUSTED).caller("127.0.0.1", both) == "198.51.100.1"
    assert Proxies(networks=TRUSTED, header="Forwarded").caller("127.0.0.1", {FOR: ["6.6.6.6"]}) == "127.0.0.1"
    assert Proxies(networks=TRUSTED, header="Forwarded").scheme("127.0.0.1", {"x-forwarded-proto": ["https"]}) is None


def test_a_long_chain_costs_a_bounded_look() -> None:
    said = ["198.51.100.1, " + "10.0.0.1, " * MAX_HOPS + "10.0.0.1"]
    assert Proxies(networks=TRUSTED).caller("127.0.0.1", {FOR: said}) == "10.0.0.1"


def test_the_scheme_is_what_the_nearest_proxy_says() -> None:
    proxies = Proxies(networks=TRUSTED)
    assert proxies.scheme("127.0.0.1", {"x-forwarded-proto": ["http, https"]}) == "https"
    assert proxies.scheme("127.0.0.1", {"x-forwarded-proto": ["gopher"]}) is None
    assert proxies.scheme("203.0.113.9", {"x-forwarded-proto": ["https"]}) is None
    forwarded = Proxies(networks=TRUSTED, header="Forwarded")
    assert forwarded.scheme("127.0.0.1", {FORWARDED: ["for=1.2.3.4;proto=http, for=1.2.3.4;proto=https"]}) == "https"


BEHIND = Proxies(networks=TRUSTED)
FAR = Proxies(networks=[ipaddress.ip_network("192.0.2.0/24")])


async def _statuses(people: PeopleSide, number: int, said: str) -> set[int]:
    headers = {**people.headers(), "X-Forwarded-For": said}
    return {(await people.client.get(f"{API}/people", headers=headers)).status for _ in range(number)}


@pytest.mark.parametrize("people", [BEHIND], indirect=True)
async def test_behind_a_trusted_proxy_each_caller_has_its_own_limit(people: PeopleSide) -> None:
    people.limits.addresses.burst, people.limits.addresses.rate = 3, 0.001
    assert await _statuses(people, 4, "198.51.100.1") == {200, 429}
    assert await _statuses(people, 3, "198.51.100.2") == {200}


@pytest.mark.parametrize("people", [FAR], indirect=True)
async def test_a_stranger_gets_no_new_limit_by_naming_itself_anew(people: PeopleSide) -> None:
    people.limits.addresses.burst, people.limits.addresses.rate = 3, 0.001
    assert await _statuses(people, 3, "198.51.100.1") == {200}
    assert await _statuses(people, 1, "198.51.100.2") == {429}


@pytest.mark.parametrize(("people", "secure"), [(BEHIND, True), (FAR, False)], indirect=["people"])
async def test_the_cookie_is_secure_when_a_trusted_proxy_was_asked_by_https(people: PeopleSide, secure: bool) -> None:
    secret = people.headers()["Authorization"].removeprefix("Bearer ")
    answer = await people.client.post(
        "/login", data={"token": secret}, headers={"X-Forwarded-Proto": "https"}, allow_redirects=False
    )
    assert ("Secure" in answer.headers["Set-Cookie"]) == secure
