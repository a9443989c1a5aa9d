"""`otaria broker config` makes a Mosquitto that withstands `otaria broker verify`, which notices when a line of it is weaker."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from server.cli.broker import _copy
from server.cli.broker import broker as group
from server.identity.authority import Authorities
from server.transport.attempts import Finding
from server.transport.broker import start_broker
from server.transport.broker_files import ACCESS_LIST, CONFIG, SetUp, config_lines, write_set_up
from server.transport.trial import try_configuration, try_running
from tests.brokers import skip_without

# A line of the set-up, what takes its place, and the attempts that must then be noticed (one of them at least).
WEAKER: tuple[tuple[str, str, str], ...] = (
    ("acl_file ", "", "reports of another agent"),
    ("crlfile ", "", "a revoked certificate"),
    ("use_username_as_clientid true", "use_username_as_clientid false", "the client id of another agent"),
    ("max_packet_size ", "", "an oversized message"),
    ("memory_limit ", "", "a flood of retained messages"),
    ("require_certificate true", "require_certificate false", "an agent with its own certificate"),
    ("use_identity_as_username true", "use_identity_as_username false", "an agent with its own certificate"),
    ("certfile ", "", "an agent with its own certificate"),
    ("keyfile ", "", "an agent with its own certificate"),
    ("cafile ", "", "an agent with its own certificate"),
    ("pattern write otaria/v1/+/%u/presence", "pattern write otaria/v1/+/+/presence", "presence of another agent"),
    ("pattern write otaria/v1/+/%u/t/+/report", "pattern write otaria/v1/+/+/t/+/report", "reports of another agent"),
    ("pattern write otaria/v1/+/%u/t/+/want", "pattern write otaria/v1/+/+/t/+/want", "reports of another agent"),
    (
        "pattern write otaria/v1/+/%u/t/+/inventory",
        "pattern write otaria/v1/+/+/t/+/inventory",
        "reports of another agent",
    ),
    *(
        (f"pattern read otaria/v1/+/%u/t/+/{leaf}", f"pattern read otaria/v1/+/+/t/+/{leaf}", "another agent's topics")
        for leaf in ("order", "permit", "ack", "block", "logs")
    ),
    *(
        (f"pattern read otaria/v1/+/%u/t/+/{leaf}", f"pattern readwrite otaria/v1/+/%u/t/+/{leaf}", "orders to itself")
        for leaf in ("order", "permit", "ack", "block", "logs")
    ),
    ("pattern read otaria/v1/catalogue", "pattern readwrite otaria/v1/catalogue", "the doorbell"),
    ("pattern read otaria/v1/catalogue", "pattern read #", "a wildcard subscription"),
    (
        "pattern read otaria/v1/catalogue",
        "pattern read otaria/v1/catalogue\npattern write #",
        "topics that are not ours",
    ),
    ("user otaria.server", "user somebody", "an order, a report and the doorbell"),
    ("topic readwrite otaria/v1/#", "topic read otaria/v1/#", "an order, a report and the doorbell"),
)
# What one cannot see from outside, or what opens nothing as long as the other lines are there.
UNSEEN = (
    "per_listener_settings",
    "allow_anonymous",
    "persistence",
    "persistent_client_expiration",
    "max_queued_messages",
    "max_queued_bytes",
    "max_inflight_messages",
    "queue_qos0_messages",
    "set_tcp_nodelay",
    "sys_interval",
    "user mosquitto",
    "log_dest",
    "log_type",
    "connection_messages",
    "tls_version",
    "max_connections",
    "listener",
)


@pytest.fixture
def authorities(tmp_path: Path) -> Authorities:
    skip_without("mosquitto")
    return Authorities.open_or_create(tmp_path / "state" / "identity")


@pytest.fixture
def set_up(tmp_path: Path, authorities: Authorities) -> Path:
    write_set_up(tmp_path / "broker", authorities, wanted(tmp_path))
    return tmp_path / "broker"


def wanted(directory: Path) -> SetUp:
    return SetUp(
        listen="0.0.0.0",
        agents_port=8883,
        services_port=8884,
        user="mosquitto",
        log=directory / "mosquitto.log",
        memory_bytes=1 << 30,
    )


def tried(set_up: Path, authorities: Authorities) -> dict[str, Finding]:
    findings = asyncio.run(try_configuration(set_up / CONFIG, authorities))
    return {one.name: one for one in findings}


def holes(findings: dict[str, Finding]) -> set[str]:
    return {name for name, one in findings.items() if not one.good}


def change(set_up: Path, what: Callable[[str], str | None]) -> int:
    """Change the lines of both files; how many changed."""
    changed = 0
    for name in (CONFIG, ACCESS_LIST):
        lines = (set_up / name).read_text().splitlines()
        after = [what(line) for line in lines]
        changed += sum(old != new for old, new in zip(lines, after, strict=True))
        (set_up / name).write_text("\n".join(line for line in after if line is not None) + "\n")
    return changed


def replaced(start: str, text: str) -> Callable[[str], str | None]:
    return lambda line: (text or None) if line.startswith(start) else line


def test_it_withstands_everything(set_up: Path, authorities: Authorities) -> None:
    findings = tried(set_up, authorities)
    assert not holes(findings), findings
    assert {one.outcome for one in findings.values()} == {"refused", "works"}
    assert len(findings) >= 25


def test_several_holes_are_told_apart(set_up: Path, authorities: Authorities) -> None:
    """The quick half of the test below: what doesn't hide each other, in one run."""
    spare = ("crlfile ", "use_username_as_clientid true", "max_packet_size ", "memory_limit ", "pattern write ")
    expected = set()
    for start, text, name in WEAKER:
        if start.startswith(spare):
            assert change(set_up, replaced(start, text)), start
            expected.add(name)
    change(set_up, lambda line: "sys_interval 1" if line == "sys_interval 0" else line)
    change(set_up, lambda line: "pattern read $SYS/#" if line == "pattern read otaria/v1/+/%u/t/+/logs" else line)
    with (set_up / CONFIG).open("a") as file:
        file.write("listener 1883\n")
    found = holes(tried(set_up, authorities))
    plain = {name for name in found if name.startswith("no TLS, port ")}
    assert found - plain - {name for name in found if name.startswith("no certificate")} == {
        *expected,
        "$SYS",
        "the client id of the server",
        "a last will in another agent's name",
    }
    assert len(plain) == 1


@pytest.mark.deep
@pytest.mark.parametrize(("start", "text", "name"), WEAKER)
def test_each_weaker_line_is_noticed(start: str, text: str, name: str, set_up: Path, authorities: Authorities) -> None:
    assert change(set_up, replaced(start, text))
    assert name in holes(tried(set_up, authorities))


@pytest.mark.deep
def test_a_foreign_ca_that_is_let_in_is_noticed(set_up: Path, authorities: Authorities, tmp_path: Path) -> None:
    """The services' CA beside the fleet's on the agents' listener lets in whoever the server's CA certifies."""
    both = set_up / "both.pem"
    both.write_bytes(authorities.fleet.pem + authorities.services.pem)
    change(set_up, lambda line: f"cafile {both}" if line.startswith("cafile ") else line)
    found = holes(tried(set_up, authorities))
    assert "an agent's certificate on the services' listener" in found


def test_every_line_is_weakened_or_known_to_be_unseen(set_up: Path) -> None:
    lines = [*config_lines(set_up / CONFIG), *config_lines(set_up / ACCESS_LIST)]
    known = (*(start for start, _, _ in WEAKER), *UNSEEN)
    assert [line for line in lines if not line.startswith(known)] == []


async def test_a_running_broker_is_tried_without_harm(tmp_path: Path, authorities: Authorities) -> None:
    broker = await start_broker(tmp_path / "own", authorities, kind="mosquitto", restart=False)
    try:
        findings = await try_running(tmp_path / "own" / CONFIG, authorities, "127.0.0.1")
    finally:
        await broker.stop()
    assert all(one.good for one in findings), findings
    skipped = {one.name for one in findings if one.outcome == "not tried"}
    assert skipped == {"a revoked certificate", "a flood of retained messages"}


def test_the_commands(tmp_path: Path, authorities: Authorities, capsys: pytest.CaptureFixture[str]) -> None:
    state, made = str(tmp_path / "state"), str(tmp_path / "made")
    assert called("config", made, "--state", state, "--json") == 0
    assert CONFIG in json.loads(capsys.readouterr().out)["written"]
    authorities.revocation_file.write_bytes(authorities.revocation_lists(["abcdef"]))
    assert [one.outcome for one in _copy(Path(made), authorities)] == ["fails"]
    assert called("config", made, "--state", state, "--refresh", "--json") == 0
    assert [one.outcome for one in _copy(Path(made), authorities)] == ["works"]
    assert json.loads(capsys.readouterr().out)["written"] == ["fleet-crl.pem"]
    assert called("config", made, "--state", state, "--json") == 0
    assert json.loads(capsys.readouterr().out)["written"] == []
    change(tmp_path / "made", replaced("max_packet_size ", ""))
    assert called("verify", made, "--state", state, "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in answer["findings"] if not one["good"]] == ["an oversized message"]
    assert not list((tmp_path / "state" / "identity").glob(".trial-*"))


def called(*arguments: str) -> int:
    return int(group.main(args=list(arguments), standalone_mode=False) or 0)
