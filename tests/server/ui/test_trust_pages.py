"""Approvals, keys, settings and saved views: each says what is so, to whom it may, and holds no secret."""

import re
from pathlib import Path

from server.config import load_settings
from server.config_shown import shown, without_password
from server.planner.words import CampaignState, Verb
from server.ports import Role
from tests.people_side import CAMPAIGN, PeopleSide

APPROVED = CAMPAIGN.replace("strategy: standard", "strategy: {extends: standard, approvals: {need: 1}}")
PAGES = ("/approvals", "/keys", "/settings")


async def _text(people: PeopleSide, path: str) -> str:
    answer = await people.client.get(path)
    text = await answer.text()
    assert answer.status == 200, text
    return text


async def _csrf(people: PeopleSide) -> str:
    return re.search(r'name="csrf" value="([^"]+)"', await _text(people, "/")).group(1)


async def test_every_page_is_behind_the_door_and_keeps_the_policy(people: PeopleSide) -> None:
    for path in PAGES:
        answer = await people.client.get(path, allow_redirects=False)
        assert (answer.status, answer.headers["Location"][:11]) == (303, "/login?next")
    await people.sign_in(Role.VIEWER)
    for path in PAGES:
        text = await _text(people, path)
        assert not re.search(r"<script(?! src=\"/static/)|\sstyle=|\son[a-z]+=|https?://", text), path


async def test_approvals_show_what_waits_and_what_was_agreed_to(people: PeopleSide) -> None:
    await people.desk.create(people.desk.parse(APPROVED), by="mara")
    await people.sign_in(Role.APPROVER)
    assert "Nothing waits for an approval." in await _text(people, "/approvals")
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    text = await _text(people, "/approvals")
    assert "1 waiting" in text
    assert "Asked for by mara." in text
    assert {"approve", "reject"} == set(re.findall(r'href="/campaigns/spring/([a-z]+)"', text))
    await people.sign_in(Role.OPERATOR)
    assert "/campaigns/spring/approve" not in await _text(people, "/approvals")
    await people.desk.command("spring", Verb.APPROVE, by="bob", reason="CHG-7")
    text = await _text(people, "/approvals")
    assert "Nothing waits" in text
    assert "<b>bob</b> approved" in text
    assert "CHG-7" in text


async def test_a_revision_that_waits_is_among_the_approvals(people: PeopleSide) -> None:
    await people.desk.create(people.desk.parse(APPROVED), by="mara")
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    await people.desk.command("spring", Verb.APPROVE, by="bob", reason="")
    changed = APPROVED.replace("need: 1}", "need: 1}, patience: 3h")
    await people.desk.create(people.desk.parse(changed), by="mara")
    await people.sign_in(Role.APPROVER)
    text = await _text(people, "/approvals")
    assert "Revision 2 by mara waits: 0 of 1 agreed." in text
    assert (await people.desk.view("spring")).row.state is CampaignState.RUNNING


async def test_only_administrators_see_who_has_access_and_nobody_sees_a_secret(people: PeopleSide) -> None:
    for role in (Role.VIEWER, Role.ADMIN):
        await people.sign_in(role)
        text = await _text(people, "/settings")
        assert ("the approver" in text) is (role is Role.ADMIN)
        assert not any(secret in text for secret in people.secret.values())


async def test_the_cas_are_shown_with_their_dates(people: PeopleSide) -> None:
    await people.sign_in(Role.AUDITOR)
    text = await _text(people, "/keys")
    assert re.search(r'<th scope="row">fleet</th><td>signs</td><td>.*20\d\d-\d\d-\d\d', text)
    assert "6 of 6" in text


def test_settings_are_shown_without_what_is_secret(tmp_path: Path) -> None:
    secret = tmp_path / "checks.key"
    secret.write_text("not for pages, sixteen bytes")
    file = tmp_path / "otaria.toml"
    file.write_text(
        '[storage]\nurl = "postgresql://otaria:hunter2@db.example.org/fleet?sslkey=x"\n'
        f'[checks]\nurls = {{backup = "https://b.example.org/ask"}}\nsecret_file = "{secret}"\n'
    )
    text = str(shown(load_settings(file)))
    assert "postgresql://db.example.org/fleet" in text
    assert "'backup'" in text
    for hidden in ("hunter2", "sslkey", "checks.key", "not for pages"):
        assert hidden not in text
    assert without_password("https://a@b@host:1/x?y=z") == "https://host:1/x"


async def test_a_view_of_the_fleet_is_saved_opened_and_removed(people: PeopleSide) -> None:
    await people.sign_in(Role.OPERATOR)
    word = await _csrf(people)
    assert "Save this view" not in await _text(people, "/fleet")
    assert "Save this view" in await _text(people, "/fleet?label=site%3Drome&state=")
    data = {"csrf": word, "name": "  Rome <b> ", "query": "label=site%3Drome&state=&cursor=gw-1&"}
    answer = await people.client.post("/views", data=data, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, "/fleet?label=site%3Drome")
    await people.sign_in(Role.VIEWER)
    text = await _text(people, "/fleet")
    assert '<a href="/fleet?label=site%3Drome" title="saved by the operator">Rome &lt;b&gt;</a>' in text
    assert "/views" not in text, "a viewer opens views and changes none"
    assert (await people.client.post("/views/remove", data={"csrf": await _csrf(people)})).status == 403
    await people.sign_in(Role.OPERATOR)
    data = {"csrf": await _csrf(people), "name": "Rome <b>"}
    assert (await people.client.post("/views/remove", data=data, allow_redirects=False)).status == 303
    assert "Rome" not in await _text(people, "/fleet")
    assert (await people.client.post("/views/remove", data=data)).status == 404
    trail = [record.kind for record in await people.database.read(lambda unit: unit.audit.latest(limit=9))]
    assert [kind for kind in trail if kind.startswith("view-")] == ["view-removed", "view-saved"]


async def test_a_view_takes_a_name_and_a_filter(people: PeopleSide) -> None:
    await people.sign_in(Role.OPERATOR)
    word = await _csrf(people)
    for name, query in (("", "state=missing"), ("x", ""), ("x", "cursor=gw-1"), ("\x07", "state=a")):
        answer = await people.client.post("/views", data={"csrf": word, "name": name, "query": query})
        assert answer.status == 400, (name, query)
    assert await people.database.read(lambda unit: list(unit.saved_views.list())) == []
