"""Making a campaign in the browser: looked at before it exists, kept as a draft, refused beside the field, for who operates."""

import re

import pytest

from server.ports import Role
from tests.people_side import PeopleSide

FIELDS = {
    "name": "spring",
    "release": "gateway 1.1.0",
    "labels": "",
    "start": "",
    "strategy": "standard",
    "mode": "fields",
}


async def send(people: PeopleSide, do: str, **fields: str) -> tuple[int, str]:
    """Send the form; the status, and the page or where it leads."""
    page = await (await people.client.get("/draft")).text()
    csrf = re.search(r'name="csrf" value="([^"]+)"', page).group(1)
    data = {**FIELDS, "csrf": csrf, "do": do, **fields}
    answer = await people.client.post("/draft", data=data, allow_redirects=False)
    return answer.status, answer.headers.get("Location") or await answer.text()


async def test_a_look_says_what_it_would_do_and_keeps_nothing(people: PeopleSide) -> None:
    await people.sign_in(Role.OPERATOR)
    status, text = await send(people, "preview", labels="site=berlin")
    assert status == 200
    assert "4 targets → gateway <b>1.1.0</b>" in text
    assert re.findall(r"<b>(canary|wave|rest)</b> <span>(\d) target", text) == [
        ("canary", "3"),
        ("wave", "1"),
        ("rest", "0"),
    ]
    assert "the next one opens when every target that tries verifies, 2 targets at least" in text
    assert "site: berlin" in text
    assert await people.desk.list() == []


async def test_what_is_kept_is_a_draft_by_who_sent_it(people: PeopleSide) -> None:
    await people.sign_in(Role.OPERATOR)
    assert await send(people, "keep") == (303, "/campaigns/spring")
    (view,) = await people.desk.list()
    assert (view.name, view.created_by, view.row.state) == ("spring", "the operator", "draft")
    assert sum(cohort.size for cohort in view.cohorts) == 6
    text = await (await people.client.get("/")).text()
    assert 'href="/draft"' in text


async def test_a_form_goes_on_as_the_file_that_it_stands_for(people: PeopleSide) -> None:
    await people.sign_in(Role.OPERATOR)
    status, text = await send(people, "file", labels="site=rome")
    assert status == 200
    file = re.search(r"<textarea[^>]*>(.*?)</textarea>", text, re.DOTALL).group(1).replace("&#39;", "'")
    assert "site: rome" in file
    assert await send(people, "keep", mode="file", file=file.replace("spring", "autumn")) == (303, "/campaigns/autumn")


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"name": "No!"}, "name", "must be lower-case"),
        ({"labels": "site=paris"}, "labels", "No active target fits"),
        ({"release": "gateway 9.9"}, "release", "9.9"),
        ({"strategy": "own", "own": "name: x\n"}, "own", "cohorts must be given"),
        ({"strategy": "own", "own": "<script>alert(1)</script>"}, "own", "strategy must be"),
    ],
)
async def test_what_is_refused_is_said_beside_its_field_and_nothing_is_lost(
    people: PeopleSide, fields: dict[str, str], field: str, says: str
) -> None:
    await people.sign_in(Role.OPERATOR)
    for do in ("preview", "keep"):
        status, text = await send(people, do, **fields)
        assert status == 400
        assert says in re.search(rf'id="wrong-{field}">([^<]*)<', text).group(1)
        assert re.search(rf'id="{field}"[^>]* aria-invalid="true"', text)
        assert "<script>alert" not in text
    assert await people.desk.list() == []


async def test_the_same_name_again_says_what_it_would_change(people: PeopleSide) -> None:
    await people.sign_in(Role.OPERATOR)
    await send(people, "keep")
    _, text = await send(people, "preview")
    assert "nothing changes" in text
    _, text = await send(people, "preview", strategy="cautious")
    assert "this changes it" in text
    assert re.search(r'<ul class="changes"><li>.*(patience|cohorts)', text)


async def test_a_link_fills_in_what_it_names(people: PeopleSide) -> None:
    await people.sign_in(Role.OPERATOR)
    text = await (await people.client.get("/draft?release=gateway%201.0.0&labels=site%3Drome")).text()
    assert '<option selected value="gateway 1.0.0">' in text
    assert 'value="site=rome"' in text
    assert 'value="gateway-1-0-0"' in text
    releases = await (await people.client.get("/releases")).text()
    assert "/draft?release=gateway%201.1.0" in releases


@pytest.mark.parametrize("role", [Role.VIEWER, Role.APPROVER, Role.AUDITOR])
async def test_who_does_not_operate_makes_none(people: PeopleSide, role: Role) -> None:
    await people.sign_in(role)
    assert (await people.client.get("/draft")).status == 403
    text = await (await people.client.get("/")).text()
    csrf = re.search(r'name="csrf" value="([^"]+)"', text).group(1)
    assert (await people.client.post("/draft", data={**FIELDS, "csrf": csrf, "do": "keep"})).status == 403
    for path in ("/", "/releases"):
        assert "/draft" not in await (await people.client.get(path)).text()
    assert await people.desk.list() == []


async def test_a_form_without_its_word_does_nothing(people: PeopleSide) -> None:
    await people.sign_in(Role.OPERATOR)
    assert (await people.client.post("/draft", data={**FIELDS, "do": "keep"})).status == 403
    assert await people.desk.list() == []
