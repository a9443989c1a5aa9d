"""Pages: they render what is there, escape what is hostile, hold at any fleet size, and let in only who signed in."""

import re
from dataclasses import replace

import pytest
from msgspec import structs
from yarl import URL

from server.planner.decision import Decision, Put
from server.planner.words import AssignmentState, Verb
from server.ports import DeltaRecord, ReleaseImage, Role, StoredFile, Unit
from server.ui.sessions import COOKIE
from tests.people_side import CAMPAIGN, PeopleSide, add_device, release, run_first_release

PAGES = ("/", "/fleet", "/fleet/gw-1", "/releases", "/trail", "/campaigns/spring")
HOSTILE = "<script>alert('x')</script>\"&"


async def _campaign(people: PeopleSide, text: str = CAMPAIGN) -> None:
    await people.desk.create(people.desk.parse(text), by="mara")


async def _text(people: PeopleSide, path: str, status: int = 200) -> str:
    answer = await people.client.get(path, allow_redirects=False)
    assert answer.status == status, await answer.text()
    return await answer.text()


@pytest.mark.parametrize("path", [*PAGES, "/campaigns/spring/start", "/live"])
async def test_who_is_not_signed_in_is_sent_to_the_door_and_back(people: PeopleSide, path: str) -> None:
    answer = await people.client.get(path, allow_redirects=False)
    assert answer.status == 303
    assert answer.headers["Location"].startswith("/login?next=")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ADMIN])
async def test_every_page_renders_under_a_strict_policy_without_inline_code(people: PeopleSide, role: Role) -> None:
    await _campaign(people)
    await people.sign_in(role)
    for path in PAGES:
        answer = await people.client.get(path)
        text = await answer.text()
        assert answer.status == 200, text
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<script(?! src=\"/static/)|\sstyle=|\son[a-z]+=|https?://", text), path


async def test_hostile_words_are_shown_never_run(people: PeopleSide) -> None:
    def plant(unit: object) -> None:
        add_device(unit, "gw-9", {"site": HOSTILE})
        unit.releases.add(release("9.9.9", 9, notes=HOSTILE))
        unit.audit.add(at=1.0, kind="x", text=HOSTILE, actor=HOSTILE, target="gw-9", campaign="spring")
        unit.fleet.set_progress("gw-9", HOSTILE)

    await people.database.write(plant)
    await _campaign(people)
    await people.sign_in()
    for path in (
        "/fleet/gw-9",
        "/releases",
        "/trail",
        "/campaigns/spring",
        f"/fleet?label=site={HOSTILE.replace('&', '%26')}",
    ):
        text = await _text(people, path)
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text, path


async def test_a_release_of_several_images_shows_each_with_its_deltas(people: PeopleSide) -> None:
    one, two = release("8.0.0", 8), release("8.1.0", 9)
    app = StoredFile(path="releases/gateway/8.1.0/app.img", length=8 << 20, sha256="a" * 64)
    two = replace(two, images=(*two.images, ReleaseImage(slot="app", file=app)))
    file = StoredFile(path="deltas/app.otd", length=1 << 20, sha256="d" * 64)
    saved = DeltaRecord(file=file, source_sha256="b" * 64, source_length=5, target_sha256="a" * 64)

    def plant(unit: Unit) -> None:
        unit.releases.add(one)
        unit.releases.add(two)
        unit.releases.add_delta(saved)

    await people.database.write(plant)
    await people.sign_in()
    text = await _text(people, "/releases")
    assert "24.0 MiB in 2 images that switch together" in text
    assert '<b>app</b> <code title="' + "a" * 64 in text
    assert "app from <b>" + "b" * 12 in text
    assert "<b>1.0 MiB</b> instead of 8.0 MiB: saves 87.5 %" in text


async def test_the_overview_says_what_needs_somebody(people: PeopleSide) -> None:
    await people.sign_in()
    assert "Nothing. Publish a release" in await _text(people, "/")
    await _campaign(people)
    assert "nothing happens until somebody starts it" in await _text(people, "/")


async def test_the_campaign_page_has_a_cell_for_every_target_and_says_why_one_waits(people: PeopleSide) -> None:
    await _campaign(people)
    await people.sign_in()
    text = await _text(people, "/campaigns/spring")
    assert [f'title="gw-{n}: planned"' in text for n in range(6)] == [True] * 6

    def miss(unit: object) -> None:
        row = next(row for row in unit.campaigns.assignments("spring").rows if row.target == "gw-2")
        missing = structs.replace(row, state=AssignmentState.MISSING, reason="Silent since its permit.")
        unit.campaigns.commit(Decision(changes=(Put(row=missing),)))

    await people.desk.command("spring", Verb.START, by="mara", reason="")
    await people.database.write(miss)
    text = await _text(people, "/campaigns/spring")
    assert 'title="gw-2: missing"' in text
    why = (await people.desk.explain("gw-2")).text
    assert why.split("'")[0] in text


async def test_the_page_of_a_campaign_that_runs_says_when_it_will_be_through(people: PeopleSide) -> None:
    await _campaign(people)
    await people.sign_in(Role.VIEWER)
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    assert "Forecast" not in await _text(people, "/campaigns/spring"), "nobody was ever heard"
    await people.database.write(lambda unit: unit.presences.heard("gw-1", online=True, at=people.clock.now()))
    assert "Forecast: the last target that comes is verified by " in await _text(people, "/campaigns/spring")


async def test_a_large_campaign_is_drawn_as_bars_and_its_page_does_not_grow(people: PeopleSide) -> None:
    def crowd(unit: object) -> None:
        for number in range(2100):
            add_device(unit, f"crowd-{number}", {})

    await people.sign_in()
    await people.database.write(crowd)
    await _campaign(people)
    for path in ("/", "/campaigns/spring"):
        text = await _text(people, path)
        assert 'class="cells"' not in text
        assert 'class="bar"' in text
        assert len(text) < 60_000


async def test_the_fleet_page_filters_and_goes_on(people: PeopleSide) -> None:
    def crowd(unit: object) -> None:
        for number in range(150):
            add_device(unit, f"m-{number:03}", {"site": "mars"})

    await people.database.write(crowd)
    await people.sign_in()
    text = await _text(people, "/fleet?label=site%3Dmars")
    assert text.count('data-th="Target"') == 100
    onward = re.search(r'href="(/fleet\?[^"]*cursor=[^"]*)"', text).group(1).replace("&amp;", "&")
    assert (await _text(people, onward)).count('data-th="Target"') == 50
    assert "No target fits" in await _text(people, "/fleet?hardware=none")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/fleet/gw-99", 404),
        ("/campaigns/none", 404),
        ("/campaigns/spring/destroy", 404),
        ("/static/pages.py", 404),
        ("/static/..%2fpages.py", 404),
        ("/fleet?version=%00", 400),
        ("/fleet?state=flying", 200),
        ("/fleet?query=state:flying", 400),
    ],
)
async def test_wrong_addresses_get_a_page_with_a_sentence(people: PeopleSide, path: str, status: int) -> None:
    await people.sign_in()
    answer = await people.client.session.get(URL(people.url + path, encoded=True), cookies=_cookie(people))
    assert (answer.status, answer.content_type) == (status, "text/html")
    assert "Traceback" not in await answer.text()


@pytest.mark.parametrize("name", ["otaria.css", "otaria.js", "otaria.svg"])
async def test_static_files_need_no_sign_in(people: PeopleSide, name: str) -> None:
    answer = await people.client.get(f"/static/{name}")
    assert answer.status == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    text = await answer.text()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


async def test_the_live_stream_follows_writes(people: PeopleSide) -> None:
    await people.sign_in()
    async with people.client.get("/live") as stream:
        assert (await stream.content.readuntil(b"\n\n")).startswith(b"event: changed")


async def test_a_campaign_page_says_what_deltas_save_and_where_none_is(people: PeopleSide) -> None:
    await run_first_release(people, 4)
    await _campaign(people)
    await people.sign_in()
    assert "Downloads" not in await _text(people, "/campaigns/spring")
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    text = await _text(people, "/campaigns/spring")
    assert "1 of 1 delta made: 36.0 MiB to download instead of 96.0 MiB." in text
    assert "No release has the image that these targets run." in text


async def test_a_campaign_page_says_until_when_it_waits_for_deltas(people: PeopleSide) -> None:
    await run_first_release(people, 4)
    forget = "DELETE FROM delta"
    await people.database.write(lambda unit: unit.releases._db.exec_driver_sql(forget))
    await _campaign(people)
    await people.sign_in()
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    text = await _text(people, "/campaigns/spring")
    assert "Waiting for deltas, until 15 Jan 08:10:00 UTC at the latest" in text
    assert "0 of 1 delta made: 96.0 MiB to download instead of 96.0 MiB." in text
    assert "Waiting for deltas" in await _text(people, "/")


async def test_a_campaign_page_offers_what_its_state_allows_and_no_more(people: PeopleSide) -> None:
    await _campaign(people)
    await people.sign_in()
    for verb, offered in (
        (None, {"start", "abort"}),
        ("start", {"pause", "abort"}),
        ("abort", set()),
    ):
        if verb is not None:
            await people.desk.command("spring", Verb(verb), by="mara", reason="")
        text = await _text(people, "/campaigns/spring")
        assert set(re.findall(r'href="/campaigns/spring/([a-z]+)"', text)) == offered


def _cookie(people: PeopleSide) -> dict[str, str]:
    return {COOKIE: people.client.session.cookie_jar.filter_cookies(people.client.make_url("/"))[COOKIE].value}
