"""The API is as its own description says, and lists come in pages that miss nothing.

That real answers fit their schemas is held everywhere: the `people` fixture looks at every one (`tests/described.py`).
"""

import base64
import json
import re
from itertools import pairwise

import pytest
from jsonschema import Draft202012Validator

from firmware.host_packages import HostFacts
from firmware.protocol.order import Counter
from server.http.openapi import DESCRIPTION
from server.http.routes import API, PATHS, Raw, Route
from server.ports import EnvelopeKind, HostHeld, LogAsk, Role, SignedEnvelope, Unit
from tests.people_side import CAMPAIGN, PeopleSide, add_device


async def _document(people: PeopleSide) -> dict:
    answer = await people.client.get(f"{API}/openapi.json", headers=people.headers(Role.VIEWER))
    return await answer.json()


async def test_every_registered_route_is_described_and_nothing_else(people: PeopleSide) -> None:
    found = await _document(people)
    assert found["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, item in found["paths"].items() for method in item}
    registered = {
        (route.method, route.resource.canonical)
        for route in people.client.server.app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith(API)
    }
    assert described == registered


async def test_every_operation_says_what_it_does_takes_and_answers(people: PeopleSide) -> None:
    found = await _document(people)
    ids = []
    for path, item in found["paths"].items():
        for method, operation in item.items():
            ids.append(operation["operationId"])
            assert len(operation["summary"]) > 8, (method, path)
            assert operation["x-otaria-need"] in ("read", "operate", "approve", "administer")
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
            success = [status for status in operation["responses"] if status.startswith("2")]
            assert success, (method, path)
            bodies = [status for status in success if status != "204"]
            assert method == "head" or all("content" in operation["responses"][status] for status in bodies)
            assert set(operation["responses"]["default"]["content"]) == {"application/problem+json"}
            assert (method == "get") <= ("requestBody" not in operation)
    assert len(ids) == len(set(ids))


async def test_its_schemas_are_schemas_and_every_reference_leads_somewhere(people: PeopleSide) -> None:
    found = await _document(people)
    schemas = found["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    references = re.findall(r"'#/components/schemas/([^']+)'", str(found))
    assert set(references) <= set(schemas)
    assert r"\Z" not in str(found), "which is no anchor to anybody but Python"


async def test_a_handler_reads_nothing_but_what_its_route_declares(people: PeopleSide) -> None:
    """Or the description would be true of nothing."""
    description = people.client.server.app[DESCRIPTION]
    routes: list[Route] = [*description._others, *description.routes()]
    assert all(set(re.findall(r"\{(\w+)\}", route.path)) <= set(PATHS) for route in routes)
    taking = [route for route in routes if route.method != "GET" and route.body is not None]
    assert len(taking) > 25
    assert {route.path for route in taking if isinstance(route.body, Raw)} == {
        "/campaigns",
        "/plan",
        "/artifacts/sha256/{hash}",
        "/uploads/{upload}",
    }


async def test_unknown_and_repeated_parts_of_a_query_are_refused_by_name(people: PeopleSide) -> None:
    for query, word in (("limit=3&colour=red", "`colour`"), ("limit=3&limit=4", "once"), ("label.site=x", "label")):
        answer = await people.client.get(f"{API}/fleet?{query}", headers=people.headers())
        problem = await answer.json()
        assert (answer.status, problem["type"]) == (400, "malformed")
        assert word in problem["detail"]


LISTS = {
    "/hosts": ("hosts", 3),
    "/fleet": ("targets", 6),
    "/campaigns": ("campaigns", 5),
    "/campaigns/c-0/assignments": ("assignments", 6),
    "/campaigns/c-0/revisions": ("revisions", 1),
    "/campaigns/c-0/evidence": ("evidence", 4),
    "/fleet/gw-1/logs": ("logs", 4),
    "/fleet/gw-1/signed": ("signed", 4),
    "/claim-tokens": ("claim_tokens", 3),
    "/known-devices": ("known_devices", 3),
    "/people": ("people", 5),
    "/releases": ("releases", 2),
    "/webhooks": ("webhooks", 3),
    "/webhooks/w-0/deliveries": ("deliveries", 4),
    "/audit": ("audit", None),
    "/audit?after=0": ("audit", None),
}


async def _furnished(people: PeopleSide) -> None:
    for number in range(5):
        text = CAMPAIGN.replace("spring", f"c-{number}")
        answer = await people.client.post(f"{API}/campaigns", data=text, headers=people.headers())
        assert answer.status == 201, await answer.text()
    for _ in range(3):
        await people.client.post(f"{API}/claim-tokens", json={}, headers=people.headers())
    devices = [{"serial": f"SN-{number}"} for number in range(3)]
    await people.client.post(f"{API}/known-devices", json={"devices": devices}, headers=people.headers())
    for number in range(3):
        body = {"name": f"w-{number}", "url": "https://hooks.example.org/"}
        await people.client.post(f"{API}/webhooks", json=body, headers=people.headers())
    for _ in range(4):
        await people.client.post(f"{API}/webhooks/w-0/test", headers=people.headers())

    def work(unit: Unit) -> None:
        for number in range(4):
            given = {"target": "gw-1", "agent": "gw-1", "what": ["agent"], "max_bytes": 1024, "asked_by": "planner"}
            times = {"asked_at": 1.0, "expires_at": 2.0, "sent_at": 1.0, "counter": Counter(epoch=1, n=number)}
            unit.logs.add(LogAsk(id=f"log-{number}", campaign="c-0", **given, **times))
            said = {"kind": EnvelopeKind.PERMIT, "at": 1.0, "hash": "0" * 64, "campaign": "c-0"}
            unit.envelopes.add(SignedEnvelope(target="gw-1", envelope=b'{"signatures":[{"keyid":"k"}]}', **said))

        for name in ("gw-1", "gw-2", "gw-3"):
            held = HostHeld(target=name, digest="d" * 64, facts=HostFacts(), pending=0, security=0, told_at=1.0)
            unit.packages.put(held, {}, whole=True)

    await people.database.write(work)


async def _pages(people: PeopleSide, path: str, key: str, limit: int) -> list[list]:
    """Every page, by the `next` in the body; the header must say the same."""
    join = "&" if "?" in path else "?"
    pages, cursor = [], ""
    while True:
        url = f"{API}{path}{join}limit={limit}{cursor}"
        answer = await people.client.get(url, headers=people.headers())
        assert answer.status == 200, await answer.text()
        page = await answer.json()
        pages.append(page[key])
        if page["next"] is None:
            assert "Link" not in answer.headers
            return pages
        assert page["next"] in str(answer.links["next"]["url"])
        cursor = f"&cursor={page['next']}"


async def test_every_list_comes_in_pages_that_together_are_the_list(people: PeopleSide) -> None:
    await _furnished(people)
    found = await _document(people)
    paged = {path for path, item in found["paths"].items() if "cursor" in str(item.get("get", {}).get("parameters"))}
    assert paged == {API + re.sub(r"/(c-0|gw-1|w-0)", _braced, path.partition("?")[0]) for path in LISTS}
    for path, (key, number) in LISTS.items():
        (whole,) = await _pages(people, path, key, 1000)
        assert number in (None, len(whole)), path
        for limit in (1, 2):
            pages = await _pages(people, path, key, limit)
            assert [row for page in pages for row in page] == whole, path
            assert all(len(page) == limit for page, _ in pairwise(pages))


def _braced(found: re.Match[str]) -> str:
    return {"c-0": "/{campaign}", "gw-1": "/{target}", "w-0": "/{webhook}"}[found[1]]


async def test_a_cursor_is_good_for_its_own_list_and_filters_only(people: PeopleSide) -> None:
    await _furnished(people)
    page = await (await people.client.get(f"{API}/fleet?limit=2", headers=people.headers())).json()
    cursor = page["next"]
    for path in (
        f"/fleet?query=hardware:gateway-r1&cursor={cursor}",
        f"/claim-tokens?cursor={cursor}",
        f"/fleet?cursor={cursor[:-4]}",
        f"/fleet?cursor={'W10='}",
        "/fleet?cursor=gw-1",
        "/fleet?cursor=%7F",
    ):
        answer = await people.client.get(API + path, headers=people.headers())
        assert answer.status == 400, path
    more = await people.client.get(f"{API}/fleet?limit=3&cursor={cursor}", headers=people.headers())
    assert [one["id"] for one in (await more.json())["targets"]] == ["gw-2", "gw-3", "gw-4"]


@pytest.mark.parametrize(
    "part", ['["x"]', '["L", "a", "b"]', '["L", 3]', '["L", "\\u0000"]', '["L", "\\ud800"]', "3", "{}", "[" * 600]
)
async def test_a_forged_cursor_is_refused(people: PeopleSide, part: str) -> None:
    page = await (await people.client.get(f"{API}/fleet?limit=2", headers=people.headers())).json()
    mine = json.loads(base64.urlsafe_b64decode(page["next"] + "=="))[0]
    forged = base64.urlsafe_b64encode(part.replace('"L"', f'"{mine}"').encode()).decode().rstrip("=")
    answer = await people.client.get(f"{API}/fleet", params={"cursor": forged}, headers=people.headers())
    assert (answer.status, (await answer.json())["type"]) in ((400, "bad-cursor"), (400, "malformed"))


async def test_rows_that_come_meanwhile_move_no_other(people: PeopleSide) -> None:
    first = await (await people.client.get(f"{API}/fleet?limit=3", headers=people.headers())).json()
    await people.database.write(lambda unit: add_device(unit, "a-first", {}))
    second = await (
        await people.client.get(f"{API}/fleet?limit=3&cursor={first['next']}", headers=people.headers())
    ).json()
    assert [one["id"] for one in second["targets"]] == ["gw-3", "gw-4", "gw-5"]
