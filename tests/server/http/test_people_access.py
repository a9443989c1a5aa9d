"""Who may do what on the people's listener: the whole matrix, route by route."""

import re

import pytest

from server.http.access import Need
from server.http.campaigns import CampaignRoutes
from server.http.routes import API
from server.identity.api_tokens import ApiTokens
from server.ports import Role
from tests.people_side import CAMPAIGN, PeopleSide

READ = {
    "GET /fleet",
    "GET /fleet/{target}",
    "GET /fleet/{target}/explain",
    "GET /audit",
    "GET /audit/state",
    "GET /audit/checkpoint",
    "GET /audit/export",
    "GET /campaigns",
    "GET /campaigns/{campaign}",
    "GET /campaigns/{campaign}/assignments",
    "GET /campaigns/{campaign}/forecast",
    "GET /campaigns/{campaign}/evidence",
    "GET /campaigns/{campaign}/rehearsals",
    "GET /rehearsals",
    "GET /campaigns/{campaign}/revisions",
    "HEAD /artifacts/sha256/{hash}",
    "GET /release-key",
    "GET /releases",
    "GET /releases/{product}/{version}",
    "GET /events",
    "GET /metrics",
    "GET /authorities",
    "GET /endpoints",
    "GET /fleet/{target}/logs",
    "GET /fleet/{target}/packages",
    "GET /hosts",
    "GET /hosts-pending",
    "GET /fleet/{target}/signed",
    "GET /fleet/{target}/signed/{envelope}",
    "GET /openapi.json",
    "GET /fleet-summary",
    "OPTIONS /uploads",
}
OPERATE = {
    "GET /releases/{product}/{version}/cast",
    "POST /campaigns/{campaign}/bundle",
    "POST /campaigns/{campaign}/bundle/orders",
    "POST /fleet/{target}/code",
    "POST /reports",
    "POST /fleet/{target}/logs",
    "GET /logs/{request}",
    "POST /campaigns",
    "POST /fleet/{target}/quarantine",
    "POST /campaigns/{campaign}/cohorts/{cohort}/gate",
    "POST /campaigns/{campaign}/comparisons/{target}",
    "POST /campaigns/{campaign}/start",
    "POST /campaigns/{campaign}/pause",
    "POST /campaigns/{campaign}/resume",
    "POST /campaigns/{campaign}/abort",
    "POST /campaigns/{campaign}/rollback",
    "POST /campaigns/{campaign}/skip",
    "POST /campaigns/{campaign}/rehearsals",
    "DELETE /campaigns/{campaign}/rehearsals",
    "POST /releases/{product}/{version}/suspect",
    "POST /releases/{product}/{version}/clear",
    "POST /words",
    "POST /plan",
    "PUT /artifacts/sha256/{hash}",
    "POST /uploads",
    "HEAD /uploads/{upload}",
    "PATCH /uploads/{upload}",
    "DELETE /uploads/{upload}",
    "POST /releases",
    "POST /releases/{product}/{version}/deltas",
}
APPROVE = {
    "POST /campaigns/{campaign}/approve",
    "POST /campaigns/{campaign}/reject",
}
ADMINISTER = {
    "GET /known-devices",
    "POST /known-devices",
    "POST /known-devices/{known}/allow",
    "DELETE /known-devices/{known}",
    "GET /introduction",
    "GET /people",
    "POST /people",
    "DELETE /people",
    "PATCH /people",
    "POST /people/{token}/expire",
    "GET /claim-tokens",
    "POST /claim-tokens",
    "POST /fleet/{target}/release",
    "POST /fleet/{target}/revoke",
    "POST /fleet/{target}/decommission",
    "POST /authorities/{kind}/{step}",
    "GET /webhooks",
    "POST /webhooks",
    "GET /webhooks/{webhook}",
    "PATCH /webhooks/{webhook}",
    "DELETE /webhooks/{webhook}",
    "GET /webhooks/{webhook}/deliveries",
    "POST /webhooks/{webhook}/test",
    "POST /webhooks/{webhook}/replay",
    "POST /audit/removal",
}
ALLOWED = {
    Role.VIEWER: READ,
    Role.AUDITOR: READ,
    Role.APPROVER: READ | APPROVE,
    Role.OPERATOR: READ | OPERATE,
    Role.ADMIN: READ | OPERATE | APPROVE | ADMINISTER,
}
EVERY = sorted(READ | OPERATE | APPROVE | ADMINISTER)


def _address(route: str) -> tuple[str, str]:
    method, path = route.split(" ")
    return method, API + re.sub(r"\{[a-z]+\}", "x", path)


async def test_the_matrix_below_names_every_api_route(people: PeopleSide) -> None:
    found = {
        f"{route.method} {route.resource.canonical.removeprefix(API)}"
        for route in people.client.server.app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith(API)
    }
    assert found == set(EVERY)


@pytest.mark.parametrize("route", EVERY)
async def test_nobody_gets_in_without_a_good_token(people: PeopleSide, route: str) -> None:
    method, path = _address(route)
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YTpi"}):
        answer = await people.client.request(method, path, headers=headers)
        assert answer.status == 401
        assert "Bearer" in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("role", list(Role))
async def test_a_role_gets_exactly_what_it_may(people: PeopleSide, role: Role) -> None:
    for route in EVERY:
        method, path = _address(route)
        answer = await people.client.request(method, path, headers=people.headers(role))
        refused = answer.status == 403
        answer.close()
        assert refused == (route not in ALLOWED[role]), route


async def test_a_session_cookie_opens_no_api_route(people: PeopleSide) -> None:
    """Or a foreign page could use a signed-in browser to start campaigns."""
    await people.sign_in()
    assert (await people.client.get("/")).status == 200
    assert (await people.client.get(f"{API}/fleet")).status == 401
    assert (await people.client.post(f"{API}/campaigns", data=CAMPAIGN)).status == 401


async def test_an_expired_token_ends_its_sessions_too(people: PeopleSide) -> None:
    short = await ApiTokens(people.database, clock=people.clock).create("short", Role.ADMIN, expires_s=60)
    people.secret[Role.ADMIN] = short
    await people.sign_in()
    people.clock.at += 61
    assert (await people.client.get(f"{API}/fleet", headers=people.headers())).status == 401
    answer = await people.client.get("/fleet", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, "/login?next=%2Ffleet")


def test_every_campaign_verb_is_an_operators_route_but_the_word_of_approvers(people: PeopleSide) -> None:
    routes = CampaignRoutes(database=people.database, desk=people.desk, clock=people.clock).routes()
    needs = {route.path.rpartition("/")[2]: route.need for route in routes if route.method == "POST"}
    assert {name for name, need in needs.items() if need is Need.APPROVE} == {"approve", "reject"}
    assert {need for name, need in needs.items() if name not in ("approve", "reject")} == {Need.OPERATE}
