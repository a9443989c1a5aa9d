"""No secret in a log, an error, the trail or the database: a run with all that goes wrong about secrets, and a look for each."""

import asyncio
import base64
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from device_agent.enrol import enrol
from firmware.errors import OtariaError
from firmware.protocol.enrol import encode_claim, parse_claim
from server.app import Server
from server.cli import run as run_command
from server.config import Settings, load_settings

CONFIG = """
[http]
people = "127.0.0.1:0"
devices = "127.0.0.1:0"
[broker]
kind = "auto"
[catalogue]
repository = "repository/metadata"
online_keys = "repository/keys/online"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    assert run_command(["keys", "init", str(tmp_path / "repository"), "--product", "gateway"]) == 0
    (tmp_path / "otaria.toml").write_text(CONFIG)
    return load_settings(tmp_path / "otaria.toml")


class Visitor:
    """Asks a server, and keeps every answer that is an error."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url, self.http, self.errors = url, http, list[str]()

    async def ask(self, method: str, path: str, token: str = "", **more: object) -> aiohttp.ClientResponse:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = await self.http.request(method, self.url + path, headers=headers, allow_redirects=False, **more)  # type: ignore[arg-type]
        text = await answer.text()
        if answer.status >= 400:
            self.errors.append(text + repr(dict(answer.headers)))
        return answer


def private_parts(*directories: Path) -> dict[str, str]:
    """The middle of every private key in PEM, by its file."""
    found = {}
    for directory in directories:
        for path in directory.rglob("*"):
            if path.is_file() and b"PRIVATE KEY-----" in (data := path.read_bytes()):
                found[str(path)] = data.split(b"-----")[2].replace(b"\n", b"")[20:60].decode()
    return found


def leaks(secrets: Mapping[str, str], places: Mapping[str, str]) -> list[tuple[str, str]]:
    """Which secret stands in which place, in the clear or in base64."""
    found = []
    for name, secret in secrets.items():
        forms = (secret, base64.b64encode(secret.encode()).decode().rstrip("=")[:-2])
        found += [(name, place) for place, text in places.items() if any(form in text for form in forms)]
    return found


async def test_no_secret_is_told(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets: dict[str, str] = {}
    async with Server(settings) as server, aiohttp.ClientSession() as http:
        visitor = Visitor(server.running.people_url, http)
        admin = secrets["the administrator's token"] = (settings.state / "admin.token").read_text().strip()
        made = await visitor.ask(
            "POST", "/api/v1/people", admin, json={"name": "bob", "role": "viewer", "expires_s": 1}
        )
        bob = secrets["a person's token"] = (await made.json())["token"]
        made = await visitor.ask("POST", "/api/v1/claim-tokens", admin, json={"uses": 1})
        claim = secrets["a claim token"] = (await made.json())["token"]
        secrets["a claim's secret"] = parse_claim(claim).secret
        stranger = secrets["a token that is unknown"] = "otp1_" + "unknown-" * 5

        await visitor.ask("GET", "/api/v1/fleet", stranger)
        await visitor.ask("POST", "/api/v1/claim-tokens", bob, json={"uses": 1})
        await visitor.ask("POST", "/api/v1/people", admin, data=f'{{"name": "{bob}", "role": ')
        await visitor.ask("POST", "/api/v1/people", admin, json={"name": "x", "role": "viewer", "secret": bob})
        await visitor.ask("POST", "/login", data={"token": stranger, "next": "/"})
        signed_in = await visitor.ask("POST", "/login", data={"token": admin, "next": "/"})
        secrets["a session"] = signed_in.cookies["otaria_session"].value
        await visitor.ask("POST", "/logout", data={"csrf": "wrong"})
        await asyncio.sleep(1.1)
        assert (await visitor.ask("GET", "/api/v1/fleet", bob)).status == 401  # has expired

        other = secrets["a claim's secret that is wrong"] = "wrong-" * 7 + "x"
        parsed = parse_claim(claim)
        words = {name: getattr(parsed, name) for name in ("url", "id", "ca", "root")}
        forged = encode_claim(type(parsed)(**words, secret=other))
        for directory, token in (("thief", forged), ("board", claim), ("late", claim), ("cut", claim[:-9])):
            try:
                await asyncio.to_thread(enrol, tmp_path / directory, token, "demo-board")
            except OtariaError as error:
                visitor.errors.append(f"{error!r} {error.text}")
        for words_ in (("people", "list"), ("fleet", "show", "nobody"), ("people", "add", "x", "--role", "viewer")):
            (tmp_path / "unknown.token").write_text(stranger)
            arguments = [*words_, "--server", visitor.url, "--token-file", str(tmp_path / "unknown.token")]
            assert await asyncio.to_thread(run_command, arguments) == 1
        trail = await (await visitor.ask("GET", "/api/v1/audit", admin)).text()
    secrets |= private_parts(settings.state, tmp_path / "repository", tmp_path / "board", tmp_path / "thief")

    said = "\n".join(f"{record.getMessage()} {vars(record)} {record.exc_text or ''}" for record in caplog.records)
    out, err = capfd.readouterr()
    places = {"the log": said, "stdout": out, "stderr": err, "the trail": trail, "an error": "\n".join(visitor.errors)}
    for path in (*settings.state.glob("otaria.db*"), *settings.state.glob("broker/*"), settings.state / "run.json"):
        if path.is_file():
            places[path.name] = path.read_bytes().decode("latin-1")
    assert len(visitor.errors) >= 9
    assert len(secrets) >= 12
    assert "otaria.db" in places
    assert leaks(secrets, places) == []
    assert leaks({"a canary": "demo-board"}, places), "what is looked for is found where it stands"
    assert json.loads(trail)["audit"]
