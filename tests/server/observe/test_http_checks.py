"""Asking checks: a signed question, a bounded answer or a typed reason, whatever the other side says."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError, UnavailableError
from server.config import CheckSettings
from server.observe.checks import LEAST_RETRY_S, MAX_ANSWER_BYTES, SIGNATURE, HttpChecks, _answer, open_checks
from server.ports import Answer

SECRET = b"0123456789abcdef"
NOW = 1_790_000_000.0
QUESTION = {"check": "backup", "about": "t0", "campaign": "spring"}


class Elsewhere:
    """A system that answers what it is told."""

    def __init__(self) -> None:
        self.body, self.status, self.is_stuck = json.dumps({"verdict": "good"}).encode(), 200, False
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, bytes]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.headers[SIGNATURE], await request.read()))
        if self.is_stuck:
            await asyncio.Event().wait()
        return web.Response(body=self.body, status=self.status, headers=self.headers)


@pytest.fixture
async def elsewhere() -> AsyncIterator[tuple[Elsewhere, str]]:
    told = Elsewhere()
    app = web.Application()
    app.router.add_post("/ask", told.answer)
    app.router.add_post("/other", told.answer)
    async with TestServer(app) as server:
        yield told, str(server.make_url("/ask"))


def port(url: str, timeout_s: float = 10.0) -> HttpChecks:
    return HttpChecks({"backup": url}, SECRET, now=lambda: NOW, timeout_s=timeout_s)


async def test_the_question_is_signed_with_its_time_and_the_answer_read(elsewhere: tuple[Elsewhere, str]) -> None:
    told, url = elsewhere
    told.body = json.dumps({"verdict": "bad", "reason": "job 7\x1b[31m failed\n", "valid_s": 60}).encode()
    assert await port(url).ask("backup", QUESTION) == Answer(verdict="bad", reason="job 7 [31m failed", lives_s=60.0)
    ((signed, body),) = told.asked
    assert json.loads(body) == QUESTION
    digest = hmac.new(SECRET, b"1790000000." + body, hashlib.sha256).hexdigest()
    assert signed == f"t=1790000000,v1={digest}"


async def test_it_may_ask_for_patience_within_bounds(elsewhere: tuple[Elsewhere, str]) -> None:
    told, url = elsewhere
    told.body = json.dumps({"verdict": "wait", "reason": "running", "retry_s": 0}).encode()
    assert await port(url).ask("backup", QUESTION) == Answer(verdict="wait", reason="running", retry_s=LEAST_RETRY_S)


async def test_only_what_is_configured_is_asked(elsewhere: tuple[Elsewhere, str]) -> None:
    told, url = elsewhere
    with pytest.raises(RefusedError) as refused:
        await port(url).ask("other", QUESTION)
    assert refused.value.kind == "check-unknown"
    assert told.asked == []


async def test_no_redirect_is_followed(elsewhere: tuple[Elsewhere, str]) -> None:
    told, url = elsewhere
    told.status, told.headers = 307, {"Location": "/other"}
    with pytest.raises(UnavailableError, match="status 307") as refused:
        await port(url).ask("backup", QUESTION)
    assert refused.value.kind == "check-unavailable"
    assert len(told.asked) == 1


@pytest.mark.parametrize("status", [204, 302, 401, 500])
async def test_another_status_is_no_answer(elsewhere: tuple[Elsewhere, str], status: int) -> None:
    told, url = elsewhere
    told.status = status
    with pytest.raises(UnavailableError, match=f"status {status}"):
        await port(url).ask("backup", QUESTION)


async def test_one_that_never_answers_is_given_up(elsewhere: tuple[Elsewhere, str]) -> None:
    told, url = elsewhere
    told.is_stuck = True
    with pytest.raises(UnavailableError) as refused:
        await port(url, timeout_s=0.05).ask("backup", QUESTION)
    assert refused.value.kind == "check-unavailable"


async def test_nobody_there_is_said() -> None:
    with pytest.raises(UnavailableError) as refused:
        await port("http://127.0.0.1:1/").ask("backup", QUESTION)
    assert refused.value.kind == "check-unavailable"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"verdict": "fine"}',
        b'{"verdict": true}',
        b'{"verdict": "good", "verdict": "bad"}',
        b'{"verdict": "good", "valid_s": 1e999}',
        b'{"verdict": "good", "valid_s": -1}',
        b'{"verdict": "good", "valid_s": 99999999999}',
        b'{"verdict": "good", "permit": "everything"}',
        b'{"verdict": "good", "reason": "' + b"x" * 5000 + b'"}',
        b'{"verdict": "good", "reason": "' + b"x" * MAX_ANSWER_BYTES + b'"}',
        b"\xff\xfe",
        b"[" * 5000,
    ],
)
async def test_what_is_no_answer_is_refused(elsewhere: tuple[Elsewhere, str], body: bytes) -> None:
    told, url = elsewhere
    told.body = body
    with pytest.raises(RefusedError) as refused:
        await port(url).ask("backup", QUESTION)
    assert refused.value.kind == "check-unusable"
    assert refused.value.text.isprintable()


@dataclass
class SetClock:
    def now(self) -> float:
        return NOW


def test_questions_are_signed_with_what_the_configured_file_holds(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    settings = CheckSettings(urls={"backup": "https://backup.example"}, secret_file=secret, timeout_s=5)
    for content, says in ((None, "cannot be read"), (b"  short\n", "16 bytes or more")):
        if content is not None:
            secret.write_bytes(content)
        with pytest.raises(RefusedError, match=says) as refused:
            open_checks(settings, SetClock())
        assert refused.value.kind == "config"
    secret.write_bytes(SECRET + b"\n")
    assert isinstance(open_checks(settings, SetClock()), HttpChecks)


def test_without_checks_no_secret_is_needed() -> None:
    assert isinstance(open_checks(CheckSettings(urls={}, secret_file=None, timeout_s=10), SetClock()), HttpChecks)


@given(st.binary(max_size=200))
def test_whatever_is_answered_is_an_answer_or_a_typed_refusal(body: bytes) -> None:
    with suppress(RefusedError):
        assert _answer("backup", body).verdict in ("good", "bad", "wait")
