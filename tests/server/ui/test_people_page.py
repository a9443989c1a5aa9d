"""The page of people: what administrators see and do there, and nobody else; a token is shown once."""

import re

import pytest

from server.http.routes import API
from server.ports import Role
from tests.people_side import PeopleSide

NAME = "bob <b>& 'co'"


async def press(people: PeopleSide, act: str, **fields: str) -> tuple[int, str]:
    page = await (await people.client.get("/")).text()
    csrf = re.search(r'name="csrf" value="([^"]+)"', page)
    data = {"csrf": csrf.group(1) if csrf else "", **fields}
    async with people.client.post(f"/people/{act}", data=data, allow_redirects=False) as answer:
        return answer.status, await answer.text()


async def access(people: PeopleSide, name: str = NAME) -> list[dict]:
    async with people.client.get(f"{API}/people", headers=people.headers()) as answer:
        return [one for one in (await answer.json())["people"] if one["name"] == name]


async def given(people: PeopleSide, **fields: str) -> str:
    """The secret in the answer of the form."""
    status, text = await press(people, "add", **{"name": NAME, "role": "viewer", "life": "90", **fields})
    found = re.search(r"otp1_[A-Za-z0-9_-]+", text)
    assert (status, found is not None) == (200, True), text
    return found[0] if found else ""


async def test_somebody_is_let_in_by_a_token_that_is_shown_once(people: PeopleSide) -> None:
    await people.sign_in()
    secret = await given(people)
    headers = {"Authorization": f"Bearer {secret}"}
    assert (await people.client.get(f"{API}/fleet", headers=headers)).status == 200
    (one,) = await access(people)
    assert (one["role"], one["expires_at"]) == ("viewer", people.clock.at + 90 * 86400)
    for path in ("/people", "/settings"):
        text = await (await people.client.get(path)).text()
        assert "otp1_" not in text
        assert "<b>&" not in text
    assert "until it is ended" in (await press(people, "add", name="eve", role="admin", life=""))[1]
    assert (await access(people, "eve"))[0]["expires_at"] is None
    for wrong in ({"role": "king"}, {"life": "99999"}, {"name": ""}, {"name": "x" * 129}):
        assert (await press(people, "add", **{"name": "x", "role": "viewer", "life": "7", **wrong}))[0] >= 400


async def test_roles_tokens_and_access_are_changed_by_its_buttons(people: PeopleSide) -> None:
    await people.sign_in()
    await given(people)
    await given(people, life="7")
    assert (await press(people, "role", name=NAME, role="operator"))[0] == 303
    assert {one["role"] for one in await access(people)} == {"operator"}
    token = (await access(people))[0]["id"]
    page = await (await people.client.get("/people")).text()
    assert f'name="token" value="{token}"' in page
    assert (await press(people, "expire", token=token))[0] == 303
    ended = {one["id"]: one["expires_at"] for one in await access(people)}
    assert [until == people.clock.at for name, until in ended.items() if name != token] == [False]
    assert ended[token] == people.clock.at
    asked = await people.client.get("/people/deactivate", params={"name": NAME})
    text = await asked.text()
    assert "bob &lt;b&gt;" in text
    assert 'name="reason"' not in text
    assert (await press(people, "deactivate", name=NAME))[0] == 303
    assert {one["expires_at"] for one in await access(people)} == {people.clock.at}
    page = await (await people.client.get("/people")).text()
    assert "no access" in page
    assert (await people.client.get("/people/deactivate?name=nobody")).status == 404
    assert (await press(people, "expire", token="p-none"))[0] == 404


async def test_an_administrator_is_not_offered_and_not_granted_what_would_shut_everybody_out(
    people: PeopleSide,
) -> None:
    await people.sign_in()
    page = await (await people.client.get("/people")).text()
    own = re.search(r"the admin</h2>.*?</section>", page, re.DOTALL)
    assert own is not None
    assert "/people/role" not in own[0]
    assert "/people/deactivate" not in own[0]
    for act in ("role", "deactivate"):
        status, text = await press(people, act, name="the admin", role="viewer")
        assert (status, "another administrator" in text) == (422, True)
    (mine,) = await access(people, "the admin")
    status, text = await press(people, "expire", token=mine["id"])
    assert (status, "nobody who may administer" in text) == (422, True)
    assert (await people.client.get("/people")).status == 200


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
async def test_nobody_else_sees_or_presses_anything(people: PeopleSide, role: Role) -> None:
    await people.sign_in(role)
    assert (await people.client.get("/people")).status == 403
    assert 'href="/people"' not in await (await people.client.get("/settings")).text()
    before = await access(people, "the viewer")
    for act, fields in (
        ("add", {"name": "me", "role": "admin", "life": ""}),
        ("role", {"name": "the viewer", "role": "admin"}),
        ("deactivate", {"name": "the viewer"}),
        ("expire", {"token": before[0]["id"]}),
    ):
        assert (await press(people, act, **fields))[0] == 403
    assert (await access(people, "the viewer"), await access(people, "me")) == (before, [])


async def test_without_the_word_of_the_page_nothing_is_done(people: PeopleSide) -> None:
    await people.sign_in()
    for act in ("add", "role", "deactivate", "expire"):
        data = {"name": "the viewer", "role": "admin", "life": "", "token": "x"}
        assert (await people.client.post(f"/people/{act}", data=data)).status == 403
    assert {one["role"] for one in await access(people, "the viewer")} == {"viewer"}
