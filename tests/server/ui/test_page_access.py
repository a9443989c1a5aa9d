"""Who may see and do what in the pages: every route that is not the API's × every role, and who is not signed in."""

import re

import pytest
from aiohttp.web import AbstractResource

from server.http.routes import API
from server.ports import Role
from tests.people_side import CAMPAIGN, PeopleSide

OPEN = {"GET /healthz", "GET /readyz", "GET /static/otaria.css", "GET /login", "POST /login"}
READ = {
    "GET /",
    "GET /live",
    "GET /fleet",
    "GET /fleet/gw-1",
    "GET /fleet/gw-1/signed/1",
    "GET /fleet/gw-1/signed/1/download",
    "GET /releases",
    "GET /trail",
    "GET /api",
    "GET /campaigns/spring",
    "GET /approvals",
    "GET /keys",
    "GET /settings",
}
ONE = "/campaigns/spring"
OPERATE = {
    "GET /draft",
    "POST /draft",
    "GET /fleet/gw-1/logs/none",
    "POST /fleet/gw-1/logs",
    f"POST {ONE}/rehearse",
    f"POST {ONE}/rehearse/cancel",
    "POST /views",
    "GET /bulk/skip",
    "POST /bulk/skip",
    "GET /bulk/campaign",
    "POST /views/remove",
    f"GET {ONE}/again",
    *(
        f"{method} {ONE}/{act}"
        for method in ("GET", "POST")
        for act in (
            *("cohorts/canary/rollback", "cohorts/canary/gate", "targets/gw-1/rollback", "targets/gw-1/skip"),
            *("start", "pause", "resume", "abort", "rollback"),
        )
    ),
    "GET /releases/gateway/1.1.0/suspect",
    "POST /releases/gateway/1.1.0/clear",
    "GET /fleet/gw-1/quarantine",
    "POST /fleet/gw-9/quarantine",
}
APPROVE = {f"{method} {ONE}/{verb}" for method in ("GET", "POST") for verb in ("approve", "reject")}
ADMINISTER = {
    *(f"{method} /fleet/gw-9/{step}" for method in ("GET", "POST") for step in ("release", "revoke", "decommission")),
    "GET /webhooks",
    "GET /people",
    "GET /people/deactivate",
    *(f"POST /people/{act}" for act in ("add", "role", "deactivate", "expire")),
    "POST /webhooks/none/pause",
    "GET /webhooks/none/renew",
    "POST /webhooks/none/renew",
}
LEAVE = "POST /logout"
ALLOWED = {
    Role.VIEWER: READ,
    Role.AUDITOR: READ,
    Role.APPROVER: READ | APPROVE,
    Role.OPERATOR: READ | OPERATE,
    Role.ADMIN: READ | OPERATE | APPROVE | ADMINISTER,
}
EVERY = sorted(READ | OPERATE | APPROVE | ADMINISTER)


def test_the_matrix_names_every_route_of_the_pages(people: PeopleSide) -> None:
    found = set()
    for name in [*EVERY, *OPEN, LEAVE]:
        method, path = name.split(" ")
        routes = [
            route.resource.canonical
            for route in people.client.server.app.router.routes()
            if route.method == method and route.resource is not None and _fits(route.resource, path)
        ]
        assert routes, name
        found.add(f"{method} {routes[0]}")
    assert found == {
        f"{route.method} {route.resource.canonical}"
        for route in people.client.server.app.router.routes()
        if route.resource is not None and route.method != "HEAD" and not route.resource.canonical.startswith(API)
    }


def _fits(resource: AbstractResource, path: str) -> bool:
    info = resource.get_info()
    return info["pattern"].fullmatch(path) is not None if "pattern" in info else info["path"] == path


async def test_nobody_sees_or_does_anything_without_signing_in(people: PeopleSide) -> None:
    for name in [*EVERY, LEAVE]:
        method, path = name.split(" ")
        answer = await people.client.request(method, path, allow_redirects=False)
        if method == "GET":
            assert answer.status == 303, name
            assert answer.headers["Location"].startswith("/login"), name
        else:
            assert answer.status in (401, 403), name
        answer.close()
    for name in OPEN - {"POST /login"}:
        method, path = name.split(" ")
        assert (await people.client.request(method, path)).status == 200, name


@pytest.mark.parametrize("role", list(Role))
async def test_a_role_gets_exactly_what_it_may(people: PeopleSide, role: Role) -> None:
    made = await people.client.post(f"{API}/campaigns", data=CAMPAIGN, headers=people.headers())
    assert made.status == 201
    await people.sign_in(role)
    page = await (await people.client.get("/")).text()
    csrf = re.search(r'name="csrf" value="([^"]+)"', page)
    assert csrf
    for name in EVERY:
        method, path = name.split(" ")
        data = {"csrf": csrf[1], "reason": "r", "token": "none"} if method == "POST" else None
        answer = await people.client.request(method, path, data=data, allow_redirects=False)
        refused = answer.status == 403
        answer.close()
        assert refused == (name not in ALLOWED[role]), name
