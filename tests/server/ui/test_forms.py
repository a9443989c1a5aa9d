"""Forms: signing in and out, and telling a campaign what to do; no form of another site does anything."""

import re

import pytest

from server.planner.words import CampaignState, Verb
from server.ports import LogState, Role
from server.ui.sessions import COOKIE
from tests.people_side import CAMPAIGN, PeopleSide


async def _csrf(people: PeopleSide, path: str = "/") -> str:
    text = await (await people.client.get(path)).text()
    return re.search(r'name="csrf" value="([^"]+)"', text).group(1)


async def _state(people: PeopleSide) -> CampaignState:
    return (await people.desk.view("spring")).row.state


@pytest.fixture
async def signed_in(people: PeopleSide) -> PeopleSide:
    await people.desk.create(people.desk.parse(CAMPAIGN), by="mara")
    await people.sign_in(Role.OPERATOR)
    return people


async def test_the_cookie_is_no_token_and_not_for_scripts_or_other_sites(people: PeopleSide) -> None:
    answer = await people.client.post("/login", data={"token": people.secret[Role.VIEWER]}, allow_redirects=False)
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert people.secret[Role.VIEWER] not in cookie


@pytest.mark.parametrize("token", ["", "wrong", "otp1_" + "x" * 43, "x" * 100_000, "\x00", "ünïcode"])
async def test_a_wrong_token_opens_nothing(people: PeopleSide, token: str) -> None:
    answer = await people.client.post("/login", data={"token": token}, allow_redirects=False)
    assert answer.status == 401
    assert "Set-Cookie" not in answer.headers
    assert "not a valid token" in await answer.text()


@pytest.mark.parametrize(
    ("wanted", "leads_to"),
    [
        ("/fleet?state=missing", "/fleet?state=missing"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("javascript:alert(1)", "/"),
        ("/" + "x" * 600, "/"),
    ],
)
async def test_signing_in_leads_only_to_this_site(people: PeopleSide, wanted: str, leads_to: str) -> None:
    data = {"token": people.secret[Role.VIEWER], "next": wanted}
    answer = await people.client.post("/login", data=data, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, leads_to)


async def test_signing_out_ends_the_session(signed_in: PeopleSide) -> None:
    client = signed_in.client
    kept = client.session.cookie_jar.filter_cookies(client.make_url("/"))[COOKIE].value
    answer = await client.post("/logout", data={"csrf": await _csrf(signed_in)}, allow_redirects=False)
    assert answer.status == 303
    again = await client.get("/", headers={"Cookie": f"{COOKIE}={kept}"}, allow_redirects=False)
    assert again.status == 303


async def test_an_operator_starts_and_pauses_with_a_reason(signed_in: PeopleSide) -> None:
    page = await (await signed_in.client.get("/campaigns/spring/start")).text()
    assert "The first cohort opens" in page
    for verb, state in (("start", CampaignState.RUNNING), ("pause", CampaignState.PAUSED)):
        data = {"csrf": await _csrf(signed_in), "reason": " too\n early "}
        answer = await signed_in.client.post(f"/campaigns/spring/{verb}", data=data, allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (303, "/campaigns/spring")
        assert await _state(signed_in) is state
    trail = await signed_in.database.read(lambda unit: unit.audit.latest(campaign="spring"))
    assert any("too early" in record.text for record in trail)


async def test_a_form_without_its_word_or_from_another_site_does_nothing(signed_in: PeopleSide) -> None:
    csrf = await _csrf(signed_in)
    for data, headers in (
        ({}, {}),
        ({"csrf": "guess"}, {}),
        ({"csrf": csrf}, {"Origin": "https://evil.example"}),
        ({"csrf": csrf}, {"Origin": "null"}),
    ):
        answer = await signed_in.client.post("/campaigns/spring/start", data=data, headers=headers)
        assert answer.status == 403
        assert await _state(signed_in) is CampaignState.DRAFT


async def test_a_viewer_is_offered_nothing_and_may_do_nothing(people: PeopleSide) -> None:
    await people.desk.create(people.desk.parse(CAMPAIGN), by="mara")
    await people.sign_in(Role.VIEWER)
    page = await (await people.client.get("/campaigns/spring")).text()
    assert "/campaigns/spring/start" not in page
    assert (await people.client.get("/campaigns/spring/start")).status == 403
    answer = await people.client.post("/campaigns/spring/start", data={"csrf": await _csrf(people)})
    assert answer.status == 403
    assert await _state(people) is CampaignState.DRAFT


async def test_a_verb_that_does_not_fit_says_so_on_a_page(signed_in: PeopleSide) -> None:
    data = {"csrf": await _csrf(signed_in)}
    answer = await signed_in.client.post("/campaigns/spring/resume", data=data)
    assert (answer.status, answer.content_type) == (422, "text/html")
    assert await _state(signed_in) is CampaignState.DRAFT


APPROVED = CAMPAIGN.replace("strategy: standard", "strategy: {extends: standard, approvals: {need: 1}}")


@pytest.mark.parametrize(("role", "offered"), [(Role.OPERATOR, {"abort"}), (Role.APPROVER, {"approve", "reject"})])
async def test_each_role_is_offered_what_it_may_say(people: PeopleSide, role: Role, offered: set[str]) -> None:
    await people.desk.create(people.desk.parse(APPROVED), by="mara")
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    await people.sign_in(role)
    page = await (await people.client.get("/campaigns/spring")).text()
    assert set(re.findall(r'href="/campaigns/spring/([a-z]+)"', page)) == offered
    assert "mara asks for its start; one more must approve it" in page
    assert "Approve it, or reject it with a reason." in await (await people.client.get("/")).text()


async def test_an_approver_approves_by_form(people: PeopleSide) -> None:
    await people.desk.create(people.desk.parse(APPROVED), by="mara")
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    await people.sign_in(Role.APPROVER)
    data = {"csrf": await _csrf(people, "/campaigns/spring/approve"), "reason": "CHG-1"}
    await people.client.post("/campaigns/spring/approve", data=data)
    assert await _state(people) is CampaignState.RUNNING
    page = await (await people.client.get("/campaigns/spring")).text()
    assert "Approved by the approver" in page


async def test_an_emergency_is_on_the_overview_until_it_is_approved(people: PeopleSide) -> None:
    urgent = CAMPAIGN.replace(
        "strategy: standard", "strategy: {extends: standard, emergency: true, approvals: {need: 1}}"
    )
    await people.desk.create(people.desk.parse(urgent), by="mara")
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    await people.sign_in(Role.APPROVER)
    assert "still owes 1 approval; mara started it" in await (await people.client.get("/")).text()
    await people.desk.command("spring", Verb.APPROVE, by="bob", reason="")
    assert "still owes" not in await (await people.client.get("/")).text()


async def test_logs_are_asked_for_by_a_button_and_shown_on_a_page_of_their_own(signed_in: PeopleSide) -> None:
    word = await _csrf(signed_in, "/fleet/gw-1")
    assert (await signed_in.client.post("/fleet/gw-1/logs", data={"csrf": "x"})).status == 403
    answer = await signed_in.client.post("/fleet/gw-1/logs", data={"csrf": word}, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, "/fleet/gw-1#logs")
    (ask,) = await signed_in.database.read(lambda unit: unit.logs.of_target("gw-1", 9))
    text = {"text": "<script>alert(1)</script>", "reason_kind": "none", "reason": ""}
    await signed_in.database.write(lambda unit: unit.logs.close(ask.id, LogState.ANSWERED, 1.0, **text))
    page = await (await signed_in.client.get("/fleet/gw-1")).text()
    assert f'href="/fleet/gw-1/logs/{ask.id}"' in page
    shown = await (await signed_in.client.get(f"/fleet/gw-1/logs/{ask.id}")).text()
    assert "&lt;script&gt;alert(1)" in shown
    assert "<script>alert(1)" not in shown
    assert (await signed_in.client.get(f"/fleet/gw-2/logs/{ask.id}")).status == 404
    await signed_in.sign_in(Role.VIEWER)
    assert (await signed_in.client.get(f"/fleet/gw-1/logs/{ask.id}")).status == 403
