"""The whole server in this process: it starts, says where it is, is alone, and stops when a part of it ends."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from alembic import command
from alembic.script import ScriptDirectory

from firmware.errors import OtariaError, RefusedError, UnavailableError
from server.app import Running, Server, run
from server.cli import run as run_command
from server.config import Settings, load_settings
from server.config_limits import LimitSettings
from server.errors import NotLeaderError
from server.foundation import SystemClock
from server.identity.authority import Authorities
from server.ports import CertificateRecord, Unit
from server.storage import SqlDatabase
from server.storage.engines import make_engine, parse_url
from server.storage.schema import MIGRATIONS, _config
from server.transport.broker import start_broker
from tests.people_side import add_device
from tests.softhsm import soft_token

CONFIG = """
[http]
people = "127.0.0.1:0"
devices = "127.0.0.1:0"
[broker]
kind = "KIND"
[catalogue]
repository = "repository/metadata"
online_keys = "repository/keys/online"
"""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("catalogue") / "repository"
    assert run_command(["keys", "init", str(directory), "--product", "gateway"]) == 0
    return directory


@pytest.fixture
def settings(tmp_path: Path, catalogue: Path) -> Settings:
    (tmp_path / "repository").symlink_to(catalogue)
    (tmp_path / "otaria.toml").write_text(CONFIG.replace("KIND", "auto"))
    return load_settings(tmp_path / "otaria.toml")


def _secret(settings: Settings) -> str:
    token = settings.state / "admin.token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    return token.read_text().strip()


async def _get(url: str, secret: str | None = None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


async def _ready(url: str) -> None:
    async with asyncio.timeout(20):
        while (await _get(f"{url}/readyz"))[0] != 200:  # noqa: ASYNC110 (another task connects meanwhile)
            await asyncio.sleep(0.05)


async def test_it_starts_answers_restarts_with_the_same_keys_and_leaves_nothing_running(settings: Settings) -> None:
    async with Server(settings) as server:
        running = server.running
        await _ready(running.people_url)
        assert json.loads((settings.state / "run.json").read_text())["people_url"] == running.people_url
        assert running.pid == os.getpid()
        secret = _secret(settings)
        assert (await _get(f"{running.people_url}/api/v1/fleet", secret))[0] == 200
        broker = running.broker_pid
        fleet_ca = (settings.state / "identity" / "fleet-ca.pem").read_bytes()
        with pytest.raises(RefusedError) as second:
            await Server(settings).__aenter__()
        assert second.value.kind == "already-running"
    assert not (settings.state / "run.json").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(broker, 0)
    async with Server(settings) as again:
        assert (await _get(f"{again.running.people_url}/api/v1/fleet", secret))[0] == 200
        assert (settings.state / "identity" / "fleet-ca.pem").read_bytes() == fleet_ca
        assert again.running.mqtt_port == running.mqtt_port


async def test_a_part_that_ends_ends_the_server_with_its_name(settings: Settings) -> None:
    async with Server(settings) as server:
        part = next(task for task in asyncio.all_tasks() if task.get_name() == "engine")
        part.cancel()
        with pytest.raises(OtariaError, match="engine") as ended:
            async with asyncio.timeout(5):
                await server.wait()
        assert ended.value.kind == "part-failed"


async def test_a_signal_stops_it_cleanly(settings: Settings) -> None:
    seen: list[Running] = []

    def started(running: Running) -> None:
        seen.append(running)
        os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.timeout(20):
        await run(settings, started=started)
    assert seen
    assert not (settings.state / "run.json").exists()


async def test_an_open_page_does_not_hold_up_the_stop(settings: Settings) -> None:
    async with Server(settings) as server:
        secret = _secret(settings)
        session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {secret}"})
        stream = await session.get(f"{server.running.people_url}/api/v1/events")
        await stream.content.readuntil(b"\n\n")
        before = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - before < 2.5
    stream.close()
    await session.close()


async def test_a_taken_port_and_a_missing_catalogue_are_told_in_words(tmp_path: Path, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = CONFIG.replace("KIND", "auto").replace("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}", 1)
        (tmp_path / "taken.toml").write_text(text)
        with pytest.raises(UnavailableError, match=r"http\.people"):
            await Server(load_settings(tmp_path / "taken.toml")).__aenter__()
    (tmp_path / "bare.toml").write_text(CONFIG.replace("KIND", "auto").replace("repository/metadata", "nowhere"))
    with pytest.raises(RefusedError) as missing:
        await Server(load_settings(tmp_path / "bare.toml")).__aenter__()
    assert missing.value.kind == "catalogue-missing"
    async with Server(settings):
        """A failed start released the lock and the sockets: the next one succeeds."""


async def test_a_webhook_is_told_as_soon_as_something_happens(tmp_path: Path, settings: Settings) -> None:
    config = tmp_path / "otaria.toml"
    await asyncio.to_thread(
        config.write_text, CONFIG.replace("KIND", "auto") + '[webhooks]\nprivate = ["127.0.0.0/8"]\n'
    )
    told: asyncio.Queue[dict] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        told.put_nowait(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    async with TestServer(app) as receiver, Server(load_settings(config)) as server, aiohttp.ClientSession() as session:
        api, headers = f"{server.running.people_url}/api/v1", {"Authorization": f"Bearer {_secret(settings)}"}
        for path, body in (
            ("webhooks", {"name": "pager", "url": str(receiver.make_url("/"))}),
            ("people", {"name": "bob", "role": "viewer"}),
        ):
            async with session.post(f"{api}/{path}", json=body, headers=headers) as answer:
                assert answer.status == 201, await answer.text()
        async with asyncio.timeout(20):
            while (await told.get())["type"] != "otaria.key.access-given":
                continue


async def test_a_connection_that_asks_nothing_is_closed(settings: Settings) -> None:
    async with Server(replace(settings, limits=LimitSettings(idle_s=0.3))) as server:
        port = int(server.running.people_url.rpartition(":")[2])
        for said in (b"", b"GET /healthz HTTP/1.1\r\nHost:"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()


async def test_whoever_is_gone_with_the_broker_is_not_shown_online_for_ever(settings: Settings) -> None:
    settings.state.mkdir()
    database = SqlDatabase.open(f"sqlite:///{settings.state / 'otaria.db'}")
    await database.write(lambda unit: add_device(unit, "gw-1", {}))
    await database.write(lambda unit: unit.fleet.set_presence("gw-1", online=True, at=1.0))
    await database.close()
    async with Server(settings) as server:
        await _ready(server.running.people_url)
        _, text = await _get(f"{server.running.people_url}/api/v1/fleet/gw-1", _secret(settings))
        assert json.loads(text)["presence"] is False


async def _works(running: Running, secret: str) -> None:
    """It reaches its broker, which readiness asks for, and answers."""
    await _ready(running.people_url)
    assert (await _get(f"{running.people_url}/api/v1/fleet", secret))[0] == 200


async def test_it_serves_without_the_token_of_its_ca_what_needs_no_signature(
    tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "token").mkdir()
    with soft_token(tmp_path / "token", "fleet") as token:
        (tmp_path / "token.toml").write_text(f'{CONFIG.replace("KIND", "auto")}[identity]\nfleet_key = "{token.uri}"\n')
        in_token = load_settings(tmp_path / "token.toml")
        async with Server(in_token):
            pass
        lists = in_token.state / "identity" / "fleet-crl.pem"
        before, later = (
            lists.read_bytes(),
            SystemClock(wall=lambda: time.time() + 2 * 86_400),
        )  # it is to be signed anew
        token.unplug()
        async with Server(in_token, clock=later) as server:
            await _works(server.running, _secret(in_token))
            headers = {"Authorization": f"Bearer {_secret(in_token)}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                rotate = f"{server.running.people_url}/api/v1/authorities/fleet/rotate"
                async with session.post(rotate, json={}) as answer:
                    told = await answer.json()
                    assert (answer.status, told["type"]) == (503, "authority-unavailable"), told
        assert lists.read_bytes() == before
        token.plug_in()
        async with Server(in_token, clock=later):
            assert lists.read_bytes() != before


async def test_it_runs_on_the_embedded_broker(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "embedded.toml").write_text(CONFIG.replace("KIND", "embedded"))
    async with Server(load_settings(tmp_path / "embedded.toml")) as server:
        assert server.running.broker_kind == "embedded"
        await _works(server.running, _secret(settings))
        broker = server.running.broker_pid
    with pytest.raises(ProcessLookupError):
        os.kill(broker, 0)


async def test_it_uses_an_external_broker_and_leaves_it_running(tmp_path: Path, settings: Settings) -> None:
    authorities = Authorities.open_or_create(settings.state / "identity")
    broker = await start_broker(tmp_path / "elsewhere", authorities, restart=False)
    try:
        external = (
            f'external"\nagents_host = "mqtt.example"\nagents_port = {broker.ports.agents}\n'
            f'services_host = "127.0.0.1"\nservices_port = {broker.ports.services}\n#'
        )
        (tmp_path / "external.toml").write_text(CONFIG.replace("KIND", external))
        async with Server(load_settings(tmp_path / "external.toml")) as server:
            running = server.running
            assert (running.broker_kind, running.broker_pid) == ("external", None)
            assert (running.mqtt_host, running.mqtt_port) == ("mqtt.example", broker.ports.agents)
            await _works(running, _secret(settings))
        os.kill(broker.pid, 0)
    finally:
        await broker.stop()


async def test_without_its_external_broker_it_runs_and_says_what_it_waits_for(
    tmp_path: Path, settings: Settings
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    external = f'external"\nagents_host = "h"\nagents_port = 1\nservices_host = "127.0.0.1"\nservices_port = {port}\n#'
    (tmp_path / "external.toml").write_text(CONFIG.replace("KIND", external))
    async with Server(load_settings(tmp_path / "external.toml")) as server:
        status, text = await _get(f"{server.running.people_url}/readyz")
        assert (status, "broker" in text) == (503, True)
        assert (await _get(f"{server.running.people_url}/api/v1/fleet", _secret(settings)))[0] == 200


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ('[storage]\nurl = "postgresql://nobody@127.0.0.1:1/otaria"', "storage-fault"),
        ('[storage]\nurl = "mysql://nobody@127.0.0.1:1/otaria"', "database-url"),
        ('[storage]\nurl = "no url"', "database-url"),
        ('[server]\nstate = "otaria.toml"', "state-unusable"),
        ('[server]\nstate = "otaria.toml/below"', "state-unusable"),
    ],
)
async def test_what_cannot_be_opened_is_told_in_words(
    tmp_path: Path, settings: Settings, setting: str, kind: str
) -> None:
    (tmp_path / "wrong.toml").write_text(CONFIG.replace("KIND", "auto") + setting + "\n")
    with pytest.raises(OtariaError) as caught:
        await Server(load_settings(tmp_path / "wrong.toml")).__aenter__()
    assert caught.value.kind == kind


async def test_a_database_that_is_none_is_told_in_words(settings: Settings) -> None:
    settings.state.mkdir()
    (settings.state / "otaria.db").write_bytes(b"not a database" * 100)
    with pytest.raises(UnavailableError) as caught:
        await Server(settings).__aenter__()
    assert caught.value.kind == "storage-fault"


async def test_a_token_of_another_database_is_replaced(settings: Settings) -> None:
    settings.state.mkdir()
    (settings.state / "admin.token").write_text("otp1_of-an-older-life\n")
    async with Server(settings) as server:
        secret = _secret(settings)
        assert secret != "otp1_of-an-older-life"
        assert (await _get(f"{server.running.people_url}/api/v1/fleet", secret))[0] == 200


SHARED = """
[storage]
url = "sqlite:///URL"
lease_s = 1.0
"""


@pytest.fixture
def pair(tmp_path: Path, catalogue: Path) -> tuple[Settings, Settings]:
    """The settings of two servers on one database, of which the second has no authorities yet."""
    made = []
    for name in ("ulm", "bonn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "repository").symlink_to(catalogue)
        text = CONFIG.replace("KIND", "auto") + SHARED.replace("URL", str(tmp_path / "shared.db"))
        (tmp_path / name / "otaria.toml").write_text(text)
        made.append(load_settings(tmp_path / name / "otaria.toml"))
    return made[0], made[1]


async def _answer(url: str) -> tuple[int, dict[str, object], str | None]:
    async with aiohttp.ClientSession() as session, session.get(url, ssl=False) as answer:
        return answer.status, json.loads(await answer.text()), answer.headers.get("Retry-After")


async def _leads(server: Server) -> None:
    async with asyncio.timeout(20):
        while server.running.role != "leader":  # noqa: ASYNC110 (another task promotes it meanwhile)
            await asyncio.sleep(0.05)


async def test_a_second_server_stands_by_says_so_and_takes_over(pair: tuple[Settings, Settings]) -> None:
    ulm, bonn = pair
    promoted: list[str] = []
    async with Server(ulm) as first:
        shutil.copytree(ulm.state / "identity", bonn.state / "identity")
        async with Server(bonn, promoted=lambda running: promoted.append(running.role)) as second:
            waiting = asyncio.create_task(second.wait())
            running = second.running
            assert (first.running.role, running.role) == ("leader", "standby")
            assert json.loads((bonn.state / "run.json").read_text())["role"] == "standby"
            for url in (f"{running.people_url}/api/v1/fleet", f"{running.devices_url}/v1/enrol/ca"):
                status, problem, retry = await _answer(url)
                assert (status, problem["type"], retry) == (503, "not-leader", "1")
                assert first.running.people_url in str(problem["detail"])
            status, body, _ = await _answer(f"{running.people_url}/readyz")
            assert (status, body["role"], body["leader"]) == (503, "standby", first.running.people_url)
            assert (await _get(f"{running.people_url}/healthz"))[0] == 200
            assert "otaria_leader 0" in (await _get(f"{running.people_url}/api/v1/metrics"))[1]
            await first.__aexit__()
            await _leads(second)
            assert promoted == ["leader"]
            assert second.running.people_url == running.people_url
            await _works(second.running, _secret(bonn))
            _, text = await _get(f"{second.running.people_url}/api/v1/audit?limit=500", _secret(bonn))
            (change,) = [line["text"] for line in json.loads(text)["audit"] if line["kind"] == "leader-changed"]
            assert change.endswith("gave the lease back.")
            second.stop()
            await waiting


async def test_one_that_was_replaced_ends_and_says_who_leads(pair: tuple[Settings, Settings]) -> None:
    settings, _ = pair
    async with Server(settings) as server:
        other = SqlDatabase.open(str(settings.storage_url))

        def take(unit: Unit) -> None:
            unit.leases.take(unit.leases.get("leader"), holder="bonn", address="http://bonn")

        await other.write(take)
        body = {"uses": 1, "expires_s": 60, "labels": {}}
        headers = {"Authorization": f"Bearer {_secret(settings)}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            answer = await session.post(f"{server.running.people_url}/api/v1/claim-tokens", json=body)
            assert (answer.status, (await answer.json())["type"]) == (503, "not-leader")
        assert await other.read(lambda unit: unit.identities.claims()) == []
        with pytest.raises(NotLeaderError, match="http://bonn"):
            async with asyncio.timeout(10):
                await server.wait()
        lines = len(await other.read(lambda unit: unit.audit.page(limit=1000)))
    assert len(await other.read(lambda unit: unit.audit.page(limit=1000))) == lines
    lease = await other.read(lambda unit: unit.leases.get("leader"))
    assert (lease.holder, lease.is_free) == ("bonn", False)
    await other.close()


async def test_a_stranger_may_not_stand_by(pair: tuple[Settings, Settings]) -> None:
    ulm, bonn = pair
    async with Server(ulm):
        database = SqlDatabase.open(str(ulm.storage_url))
        await database.write(lambda unit: add_device(unit, "gw-1", {}))
        record = CertificateRecord(serial="1", agent="gw-1", issuer="ab" * 32, issued_at=1.0, expires_at=2.0)
        await database.write(lambda unit: unit.identities.add_certificate(record))
        await database.close()
        with pytest.raises(RefusedError) as caught:
            await Server(bonn).__aenter__()
        assert caught.value.kind == "other-authorities"


async def test_whoever_leads_brings_the_tables_up_to_date(settings: Settings) -> None:
    settings.state.mkdir()
    url = f"sqlite:///{settings.state / 'otaria.db'}"
    made = make_engine(parse_url(url), writer=True, size=1)
    with made.begin() as connection:
        command.upgrade(_config(connection), "0021")
    made.dispose()
    async with Server(settings):
        database = SqlDatabase.open(url, unless_led=True)
        found = await database.read(
            lambda unit: unit.audit._db.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()  # type: ignore[attr-defined]
        )
        await database.close()
    assert found == ScriptDirectory(str(MIGRATIONS)).get_current_head() != "0021"
