"""The page of webhooks: what administrators see and press, and nobody else."""

import re

import pytest

from server.http.routes import API
from server.ports import Role, WebhookState
from tests.people_side import PeopleSide

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
async def told(people: PeopleSide) -> PeopleSide:
    body = {"name": "pager", "url": "http://127.0.0.1:9/<b>", "types": ["otaria.key.*"]}
    async with people.client.post(f"{API}/webhooks", json=body, headers=people.headers()) as answer:
        assert answer.status == 201
    await people.database.write(lambda unit: unit.audit.add(at=1.0, kind="access-given", text=HOSTILE))
    while await people.deliveries.settle("pager"):
        continue
    return people


async def press(people: PeopleSide, act: str, **fields: str) -> int:
    text = await (await people.client.get("/")).text()
    csrf = re.search(r'name="csrf" value="([^"]+)"', text)
    assert csrf is not None
    data = {"csrf": csrf.group(1), **fields}
    async with people.client.post(f"/webhooks/pager/{act}", data=data, allow_redirects=False) as answer:
        return answer.status


async def test_it_shows_deliveries_and_their_buttons_do_what_they_say(told: PeopleSide) -> None:
    await told.sign_in()
    text = await (await told.client.get("/webhooks")).text()
    assert "otaria.key.access-given" in text
    assert "<b>" not in re.sub(r"<b>[^<]*</b>", "", text.partition("<main")[2])
    assert not re.search(r"<script(?! src=\"/static/)|\sstyle=|\son[a-z]+=", text)
    event = re.search(r'name="event" value="([^"]+)"', text)
    assert event is not None
    hook = await told.database.read(lambda unit: unit.webhooks.get("pager"))
    assert hook is not None
    for act, state in (("pause", WebhookState.PAUSED), ("resume", WebhookState.ON)):
        assert await press(told, act) == 303
        now = await told.database.read(lambda unit: unit.webhooks.get("pager"))
        assert now is not None
        assert now.state is state
    assert await press(told, "test") == 303
    assert await press(told, "replay", event=event.group(1)) == 303
    rows = await told.database.read(lambda unit: unit.webhooks.deliveries("pager"))
    assert [row.purpose for row in rows] == ["replay", "test", "event"]
    assert await press(told, "nonsense") == 404
    assert await press(told, "replay", event="evt-1-0123456789abcdef") == 404


async def test_a_new_secret_is_shown_once_and_the_old_one_can_be_ended(told: PeopleSide) -> None:
    await told.sign_in()
    asked = await (await told.client.get("/webhooks/pager/renew")).text()
    assert "Renew the secret of pager?" in asked
    assert 'name="reason"' not in asked
    csrf = re.search(r'name="csrf" value="([^"]+)"', asked)
    assert csrf is not None
    for choice, status in (("86400", 200), ("999999999", 404), ("", 404)):
        async with told.client.post("/webhooks/pager/renew", data={"csrf": csrf.group(1), "choice": choice}) as answer:
            assert answer.status == status
            text = await answer.text()
            assert ("whsec_" in text) is (status == 200)
            assert answer.headers["Cache-Control"] == "no-store"
    assert (await told.client.post("/webhooks/pager/renew", data={"choice": "0"})).status == 403
    page = await (await told.client.get("/webhooks")).text()
    assert "whsec_" not in page
    assert "The old secret signs beside the new one until" in page
    assert await press(told, "forget-old-secret") == 303
    assert "The old secret signs" not in await (await told.client.get("/webhooks")).text()


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
async def test_nobody_else_sees_or_presses_anything(told: PeopleSide, role: Role) -> None:
    await told.sign_in(role)
    assert (await told.client.get("/webhooks")).status == 403
    assert 'href="/webhooks"' not in await (await told.client.get("/")).text()
    assert await press(told, "pause") == 403
    hook = await told.database.read(lambda unit: unit.webhooks.get("pager"))
    assert hook is not None
    assert hook.state is WebhookState.ON


async def test_one_that_is_off_is_what_needs_somebody(told: PeopleSide) -> None:
    def off(unit) -> None:
        hook = unit.webhooks.get("pager")
        unit.webhooks.change(hook, state=WebhookState.OFF, reason="It took nothing.")

    await told.database.write(off)
    await told.sign_in()
    text = await (await told.client.get("/")).text()
    assert "is switched off: nobody is told what happens through it." in text
    await told.sign_in(Role.VIEWER)
    assert "/webhooks" not in await (await told.client.get("/")).text(), "a viewer may not go there"
