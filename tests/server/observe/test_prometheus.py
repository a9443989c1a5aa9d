"""Reading indicators: one number or a typed reason, whatever the other side answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError, UnavailableError
from server.observe.prometheus import MAX_ANSWER_BYTES, PrometheusSli, _value

VECTOR = {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1.5, "2.25"]}]}}


class Monitor:
    """A Prometheus that answers what it is told."""

    def __init__(self) -> None:
        self.body, self.status, self.asked, self.wait_s = json.dumps(VECTOR).encode(), 200, "", 0.0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked = request.query["query"]
        await asyncio.sleep(self.wait_s)
        return web.Response(body=self.body, status=self.status)


@pytest.fixture
async def monitor() -> AsyncIterator[tuple[Monitor, str]]:
    told = Monitor()
    app = web.Application()
    app.router.add_get("/api/v1/query", told.answer)
    async with TestServer(app) as server:
        yield told, str(server.make_url("/"))


async def test_the_query_of_the_name_is_asked_and_its_one_number_read(monitor: tuple[Monitor, str]) -> None:
    told, url = monitor
    port = PrometheusSli(url, {"errors": "sum(rate(x[5m]))"})
    assert await port.read("errors") == 2.25
    assert told.asked == "sum(rate(x[5m]))"
    told.body = json.dumps({"data": {"resultType": "scalar", "result": [1, "7"]}}).encode()
    assert await port.read("errors") == 7.0


@pytest.mark.parametrize(
    "data",
    [
        {"resultType": "vector", "result": []},
        {"resultType": "vector", "result": VECTOR["data"]["result"] * 2},  # type: ignore[index]
        {"resultType": "vector", "result": [{"value": [1, "NaN"]}]},
        {"resultType": "vector", "result": [{"value": [1, "+Inf"]}]},
        {"resultType": "vector", "result": [{"value": [1, True]}]},
        {"resultType": "matrix", "result": [[1, "2"]]},
        {"resultType": "scalar", "result": "2"},
        None,
    ],
)
async def test_what_is_not_one_number_is_no_reading(monitor: tuple[Monitor, str], data: object) -> None:
    told, url = monitor
    told.body = json.dumps({"data": data}).encode()
    with pytest.raises(RefusedError) as caught:
        await PrometheusSli(url, {"errors": "x"}).read("errors")
    assert caught.value.kind == "sli-unusable"


async def test_an_endless_or_garbled_answer_is_no_reading(monitor: tuple[Monitor, str]) -> None:
    told, url = monitor
    for body in (b" " * (MAX_ANSWER_BYTES + 2), b"{", b'{"data": 1, "data": 2}', b"[]"):
        told.body = body
        with pytest.raises(RefusedError, match="not one number"):
            await PrometheusSli(url, {"errors": "x"}).read("errors")


async def test_errors_redirects_silence_and_nobody_there_are_unavailable(monitor: tuple[Monitor, str]) -> None:
    told, url = monitor
    for status in (302, 400, 503):
        told.status = status
        with pytest.raises(UnavailableError, match=str(status)):
            await PrometheusSli(url, {"errors": "x"}).read("errors")
    told.wait_s = 5.0
    with pytest.raises(UnavailableError):
        await PrometheusSli(url, {"errors": "x"}, timeout_s=0.05).read("errors")
    with pytest.raises(UnavailableError) as caught:
        await PrometheusSli("http://127.0.0.1:9", {"errors": "x"}).read("errors")
    assert caught.value.kind == "sli-unavailable"


async def test_an_indicator_without_a_query_is_unknown() -> None:
    with pytest.raises(RefusedError) as caught:
        await PrometheusSli("http://127.0.0.1:9", {}).read("errors")
    assert caught.value.kind == "sli-unknown"


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps({"data": value}).encode())
)
def test_any_bytes_are_a_number_or_a_typed_refusal(body: bytes) -> None:
    with suppress(RefusedError):
        assert isinstance(_value("x", body), float)
