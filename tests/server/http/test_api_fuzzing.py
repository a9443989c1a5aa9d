"""schemathesis over the whole API of a real server: every operation of its own description, with good and with bad data.

Nothing may be a server error, and every answer must have a status, a media type and a shape that the description names. Bad data
must be refused, and nothing answered without a token. The run is the same every time; `HYPOTHESIS_PROFILE=deep` takes more, and
other data each time. Ids in paths are, half of the time, of things that exist."""

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from server.app import Server
from server.cli import run as run_command
from server.config import load_settings
from server.ports import Unit
from server.storage.database import SqlDatabase
from tests.people_side import CAMPAIGN, furnish

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
EXAMPLES = 200 if DEEP else 3
MAX_ADDRESS = 8000
"""A longer request line never reaches the API: the parser of HTTP refuses it, in plain text."""
CONFIG = """
[http]
people = "127.0.0.1:0"
devices = "127.0.0.1:0"
[limits]
address_per_s = 100000.0
address_burst = 1000000
token_per_s = 100000.0
token_burst = 1000000
body_s = 2.0
pause_s = 2.0
[catalogue]
repository = "repository/metadata"
online_keys = "repository/keys/online"
"""
ENDLESS = {"/api/v1/events": "a stream that ends with its token"}
OWN_TOKEN = {("DELETE", "/api/v1/people"): "might take the token away that everything else is asked with"}
KNOWN = {
    "campaign": "spring",
    "target": "gw-1",
    "product": "gateway",
    "version": "1.1.0",
    "cohort": "all",
    "webhook": "ops",
}
CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@dataclass
class Served:
    """A server in a thread of its own: where it is, the token of its administrator, and what it says it serves."""

    url: str
    token: str
    document: dict[str, Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("fuzzed")
    assert run_command(["keys", "init", str(directory / "repository"), "--product", "gateway"]) == 0
    (directory / "otaria.toml").write_text(CONFIG)
    wanted = load_settings(directory / "otaria.toml")
    wanted.state.mkdir(mode=0o700)
    asyncio.run(_furnish(wanted.state))
    loop, up, down = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with Server(wanted) as server:
            urls.append(server.running.people_url)
            up.set()
            await down.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert up.wait(60)
    token = (wanted.state / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    document = requests.get(f"{urls[0]}/api/v1/openapi.json", headers=headers, timeout=30).json()
    webhook = {"name": "ops", "url": "https://hooks.example.org/"}
    requests.post(f"{urls[0]}/api/v1/campaigns", data=CAMPAIGN, headers=headers, timeout=30).raise_for_status()
    requests.post(f"{urls[0]}/api/v1/webhooks", json=webhook, headers=headers, timeout=30).raise_for_status()
    yield Served(url=urls[0], token=token, document=document)
    loop.call_soon_threadsafe(down.set)
    thread.join(60)
    loop.close()


async def _furnish(state: Path) -> None:
    database = SqlDatabase.open(f"sqlite:///{state / 'otaria.db'}")

    def work(unit: Unit) -> None:
        furnish(unit)

    await database.write(work)
    await database.close()


def _operations(served: Served) -> Iterator[Any]:
    schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
    schema = schemathesis.openapi.from_dict(served.document)
    schema.config.update(base_url=served.url)
    schema.config.checks.negative_data_rejection.expected_statuses = ["4XX"]
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path not in ENDLESS and (operation.method.upper(), operation.path) not in OWN_TOKEN:
            yield operation


def _bounded(test: Any) -> Any:
    phases = [Phase.generate, Phase.explicit, *([Phase.shrink] if DEEP else [])]
    every = list(HealthCheck)
    bound = settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=phases,
        suppress_health_check=every,
        database=None,
        derandomize=not DEEP,
    )
    return bound(test if DEEP else seed(20260101)(test))


@pytest.mark.timeout(1800 if DEEP else 120)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_every_operation_answers_as_described(served: Served, mode: GenerationMode) -> None:
    session, wrong, tried = requests.Session(), [], 0
    for operation in _operations(served):

        @_bounded
        @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
        def one(case: Case, known: bool) -> None:
            nonlocal tried
            if known and mode is GenerationMode.POSITIVE:
                case.path_parameters = {
                    name: KNOWN.get(name, value) for name, value in (case.path_parameters or {}).items()
                }
            headers = {"Authorization": f"Bearer {served.token}"}
            assume(len(case.as_transport_kwargs()["url"] + urlencode(case.query or {}, doseq=True)) < MAX_ADDRESS)
            response = case.call(session=session, headers=headers, timeout=30)
            tried += 1
            case.validate_response(response, checks=CHECKS)

        try:
            one()
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - of every operation, not of the first alone
            wrong.append(f"{operation.label}: {error}")
    assert wrong == [], "\n\n".join(wrong)
    assert tried > 100
    session.close()


def test_nothing_is_answered_without_a_good_token(served: Served) -> None:
    session = requests.Session()
    for operation in _operations(served):

        @_bounded
        @given(case=operation.as_strategy())
        def one(case: Case) -> None:
            for headers in ({}, {"Authorization": "Bearer none"}):
                response = case.call(session=session, headers=headers, timeout=30)
                assert response.status_code == 401, (case.operation.label, response.status_code)

        one()
    session.close()
