"""Ways to the server: their order, falling back, coming back, and whom to trust on them."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.identity import SERVICES_CA_FILE, TLS_CERTIFICATE_FILE, TLS_KEY_FILE, Identity
from device_agent.transport.ways import Ways
from device_agent.upkeep import Upkeep
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.endpoints import Endpoint, Endpoints, checked, endpoints_in
from server.identity.authority import Authorities
from tests.brokers import csr_of, key_pem

HOME = Identity(
    agent="d-aaaaaaaaaa",
    target="d-aaaaaaaaaa",
    hardware="hw",
    mqtt_host="old.example",
    mqtt_port=8883,
    https_url="https://old.example:8443",
    root_sha256="0" * 64,
)
NEW = Endpoint(server="https://new.example:8443", broker="new.example:8883")
SPARE = Endpoint(server="https://spare.example", broker="[::1]:8883")


@pytest.fixture
def authorities(tmp_path: Path) -> Authorities:
    return Authorities.open_or_create(tmp_path / "identity")


@pytest.fixture
def ways(tmp_path: Path, authorities: Authorities) -> Ways:
    directory = tmp_path / "agent"
    directory.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    (directory / SERVICES_CA_FILE).write_bytes(authorities.services.pem)
    (directory / TLS_KEY_FILE).write_bytes(key_pem(key))
    (directory / TLS_CERTIFICATE_FILE).write_bytes(authorities.sign_agent(csr_of(key), HOME.agent).pem)
    return Ways(directory, HOME, lambda: 0.0)


def told(authorities: Authorities, *endpoints: Endpoint) -> Endpoints:
    return Endpoints(endpoints=list(endpoints), services_ca=[authorities.fleet.pem.decode()])


def hosts(ways: Ways) -> list[str]:
    return [way.mqtt_host for way in ways.order]


def fail(ways: Ways, times: int) -> None:
    for _ in range(times):
        ways.failed(ways.current)


def test_what_enrolment_said_counts_until_the_catalogue_speaks(ways: Ways, authorities: Authorities) -> None:
    assert hosts(ways) == ["old.example"]
    assert ways.services_cas == (authorities.services.fingerprint,)
    fail(ways, 20)
    assert ways.current.mqtt_host == "old.example"


def test_the_catalogues_ways_come_first_and_the_old_one_last(ways: Ways, authorities: Authorities) -> None:
    assert ways.take(told(authorities, NEW, SPARE))
    assert hosts(ways) == ["new.example", "::1", "old.example"]
    assert ways.services_cas == (authorities.fleet.fingerprint,)
    assert not ways.take(told(authorities, NEW, SPARE))
    assert ways.take(None)
    assert hosts(ways) == ["old.example"]
    assert ways.services_cas == (authorities.services.fingerprint,)


def test_a_way_that_is_silent_three_times_makes_room_for_the_next(ways: Ways, authorities: Authorities) -> None:
    ways.take(told(authorities, NEW, SPARE))
    fail(ways, 2)
    ways.reached(ways.current)
    fail(ways, 2)
    assert ways.current.mqtt_host == "new.example"
    fail(ways, 1)
    assert ways.current.mqtt_host == "::1"
    fail(ways, 3)
    assert ways.current.mqtt_host == "old.example"
    fail(ways, 3)
    assert ways.current.mqtt_host == "new.example"


def test_a_ca_that_is_none_changes_nothing(ways: Ways, authorities: Authorities) -> None:
    good = told(authorities, NEW)
    ways.take(good)
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(RefusedError):
        ways.take(Endpoints(endpoints=[SPARE], services_ca=[pem]))
    assert hosts(ways) == ["new.example", "old.example"]
    assert not ways.take(good)


class PaperRenewer:
    """A `Renewer` that does as told."""

    def __init__(self) -> None:
        self.answers: list[bool | Exception] = []

    def look(self, trusted_time: float) -> bool:
        answer = self.answers.pop(0) if self.answers else False
        if isinstance(answer, Exception):
            raise answer
        return answer


class PaperLink:
    def __init__(self) -> None:
        self.restarts = 0

    def restart(self) -> None:
        self.restarts += 1


def test_upkeep_follows_returns_and_renews_and_each_restarts_the_link(ways: Ways, authorities: Authorities) -> None:
    renewer, link, said, answering = PaperRenewer(), PaperLink(), list[Endpoints | None]([None]), set[str]()
    upkeep = Upkeep(
        ways=ways,
        renewer=renewer,  # type: ignore[arg-type]
        link=link,
        answers=lambda way: way.mqtt_host in answering,
        endpoints=lambda: said[-1],
        trusted_time=lambda: 0.0,
        jitter=lambda: 0.0,
    )
    upkeep.turn()
    assert link.restarts == 0
    said.append(told(authorities, NEW))
    upkeep.turn()
    assert (link.restarts, ways.current.mqtt_host) == (1, "new.example")
    fail(ways, 3)
    upkeep.turn()
    assert (link.restarts, ways.current.mqtt_host) == (1, "old.example")
    answering.add("new.example")
    upkeep.turn()
    assert (link.restarts, ways.current.mqtt_host) == (2, "new.example")
    before = ways.context
    renewer.answers = [UnavailableError("unreachable", "Not now."), True]
    upkeep.turn()
    assert (link.restarts, ways.context) == (2, before)
    upkeep.turn()
    assert link.restarts == 3
    assert ways.context is not before


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"endpoints": [], "services_ca": ["x"]},
        {"endpoints": [{"server": "http://plain", "broker": "h:1"}], "services_ca": ["x"]},
        {"endpoints": [{"server": "https://h", "broker": "h"}], "services_ca": ["x"]},
        {"endpoints": [{"server": "https://h", "broker": "h:1"}], "services_ca": []},
        {"endpoints": [{"server": "https://h", "broker": "h:1", "more": 1}], "services_ca": ["x"]},
    ],
)
def test_malformed_endpoints_are_refused(value: object) -> None:
    with pytest.raises(RefusedError):
        endpoints_in({"x-otaria-endpoints": value})


def test_a_port_that_cannot_be_is_refused(authorities: Authorities) -> None:
    for port in ("0", "99999"):
        with pytest.raises(RefusedError, match="port"):
            checked(told(authorities, Endpoint(server="https://h", broker=f"h:{port}")))
    assert endpoints_in({}) is None
    assert x509.load_pem_x509_certificate(authorities.fleet.pem)
