"""The pages in a real browser, over a real server and fleet: they live, they obey, and nothing in them runs but our script."""

import os
import re
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect

from server.ports import Role
from tests.ui.site import HOSTILE, MAIN, ODD, Site, Visitor

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
PHONE = {"width": 390, "height": 844}
FOLLOW = """
window.stayed = true;
window.seen = [];
const count = () => {
  const found = [...document.querySelectorAll(".cohort .legend li")].filter((li) => /\\d+\\s+verified/.test(li.textContent));
  const sum = found.reduce((all, li) => all + Number(li.querySelector("b").textContent), 0);
  if (sum !== seen.at(-1)) seen.push(sum);
};
count();
new MutationObserver(count).observe(document.querySelector("main"), {subtree: true, childList: true, characterData: true});
"""


@pytest.fixture(scope="module")
def odd_campaign(site: Site) -> str:
    """The path of a draft for the targets with the hostile label, in which nobody is ever verified."""
    return site.campaign("odd", version="3.0.0", group="odd", healthy="6h")


def _pages(site: Site, campaign: str) -> list[str]:
    odd = next(target["id"] for target in site.lab.rest.fleet() if target["labels"]["group"] == "odd")
    one = "/releases/gateway/3.0.0/suspect"
    fixed = [
        "/",
        "/fleet?label=group%3Dmain",
        f"/fleet/{odd}",
        "/releases",
        "/trail",
        "/approvals",
        "/keys",
        "/settings",
        "/draft",
    ]
    return [*fixed, "/webhooks", "/people", "/bulk/skip?query=hardware:*", campaign, one, "/nothing"]


def _tab_to(page: Page, name: str, *, most: int) -> None:
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == name:
            return
    raise AssertionError(f"{most} presses of Tab did not reach {name}")


def test_an_empty_server_says_what_to_type_first(bare: Site) -> None:
    """Runs first in this module, before the fleet that the other tests share."""
    with bare.visitor(viewport=PHONE) as visitor:
        page = visitor.sign_in(bare.tokens[Role.ADMIN])
        for path, command in (
            ("/", "otaria campaign apply -f campaign.yaml --dry-run"),
            ("/fleet", "otaria fleet token create --uses 20 > claim.txt"),
            ("/releases", "otaria release publish DIR --repository REPOSITORY"),
        ):
            page.goto(bare.url + path)
            expect(page.locator("pre").last).to_contain_text(command)
            assert _fits(page), path
        assert visitor.complaints == []


def test_a_wrong_token_is_told_apart_and_a_good_one_leads_on_to_what_was_asked_for(site: Site) -> None:
    with site.visitor() as visitor:
        page = visitor.open("/fleet?version=1.0.0")
        expect(page).to_have_url(re.compile("/login"))
        page.get_by_label("Token").fill("otp1_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not a valid token")
        page.get_by_label("Token").fill(site.tokens[Role.ADMIN])
        page.keyboard.press("Enter")
        page.wait_for_url(site.url + "/fleet?version=1.0.0")
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(re.compile("/login"))
        page.goto(site.url + "/releases")
        expect(page).to_have_url(re.compile("/login"))


def test_a_viewer_sees_everything_and_is_offered_nothing(site: Site, odd_campaign: str) -> None:
    with site.visitor() as visitor:
        page = visitor.sign_in(site.tokens[Role.VIEWER], odd_campaign)
        expect(page.get_by_role("heading", level=1)).to_have_text("odd")
        assert page.locator("main a.button, main button").count() == 0
        page.goto(f"{site.url}{odd_campaign}/start")
        expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")
        expect(page.locator("main")).to_contain_text("Your token has the role viewer")
        status = page.evaluate(
            """async (path) => {
              const door = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
              const csrf = door.querySelector("input[name=csrf]").value;
              return (await fetch(path, {method: "POST", body: new URLSearchParams({csrf, reason: "mine"})})).status;
            }""",
            f"{odd_campaign}/start",
        )
        assert status == 403
        assert site.state(odd_campaign) == "draft"


def test_open_pages_follow_a_campaign_to_its_end_without_a_reload(site: Site) -> None:
    path = site.campaign("follow", version="2.0.0")
    with site.visitor() as visitor:
        overview = visitor.sign_in(site.tokens[Role.VIEWER])
        page = visitor.open(path)
        for watched in (overview, page):
            expect(watched.get_by_role("status")).to_have_text("live")
        expect(overview.locator(".needs")).to_contain_text("nothing happens until somebody starts it")
        expect(page.locator(".cells .cell.t-waiting")).to_have_count(MAIN)
        page.evaluate(FOLLOW)
        overview.evaluate("window.stayed = true")
        site.command(path, "start")
        expect(page.locator(".cells .cell.t-verified")).to_have_count(MAIN, timeout=90_000)
        expect(page.locator(".verdictbox")).to_contain_text(f"Completed: {MAIN} targets verified on 2.0.0.")
        expect(page.locator(".cohort.is-passed")).to_have_count(2)
        seen = page.evaluate("window.seen")
        assert (seen[0], seen[-1]) == (0, MAIN)
        assert seen == sorted(seen)
        assert any(0 < number < MAIN for number in seen)
        overview.bring_to_front()
        expect(overview.locator(".legend").first).to_contain_text(f"2.0.0 {MAIN}")
        expect(overview.locator(".needs")).not_to_contain_text("follow")
        assert [watched.evaluate("window.stayed") for watched in (overview, page)] == [True, True]
        assert visitor.complaints == []


def test_a_target_says_where_it_stands_and_what_happened(site: Site, odd_campaign: str) -> None:
    with site.visitor() as visitor:
        page = visitor.sign_in(site.tokens[Role.VIEWER], odd_campaign)
        page.locator(".cells a.cell").first.click()
        name = page.get_by_role("heading", level=1).inner_text()
        why = site.lab.rest.get(f"/fleet/{name}/explain")["text"]
        expect(page.locator(".why .sentence")).to_have_text(why)
        expect(page.locator(".timeline")).to_contain_text(f"{name} (gateway-r1) enrolled with the claim token")
        expect(page.locator(".slotcard.active")).to_contain_text("1.0.0")


def test_the_keyboard_alone_starts_pauses_resumes_and_aborts(site: Site, odd_campaign: str) -> None:
    verbs = (("Start", "running"), ("Pause", "paused"), ("Resume", "running"), ("Abort", "aborted"))
    with site.visitor() as visitor:
        page = visitor.sign_in(site.tokens[Role.OPERATOR], odd_campaign)
        for verb, state in verbs:
            page.goto(site.url + odd_campaign)
            _tab_to(page, "Skip to content", most=1)
            page.keyboard.press("Enter")
            _tab_to(page, verb, most=5)
            page.keyboard.press("Enter")
            expect(page.get_by_label("Reason")).to_be_focused()
            page.keyboard.type(f"{verb} it {HOSTILE}")
            page.keyboard.press("Enter")
            expect(page.locator(".head .state")).to_have_text(state)
            expect(page.locator(".timeline")).to_contain_text(f"{verb} it {HOSTILE}")
            assert site.state(odd_campaign) == state
        assert page.evaluate("window.ran") is None
        assert visitor.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone_runs_nothing_foreign_and_gives_no_cause_for_complaint(
    site: Site, odd_campaign: str, scheme: str
) -> None:
    with site.visitor(viewport=PHONE, color_scheme=scheme) as visitor:
        page = visitor.sign_in(site.tokens[Role.ADMIN])
        for path in _pages(site, odd_campaign):
            page.goto(site.url + path)
            if page.locator("main[data-live]").count():
                expect(page.get_by_role("status")).to_have_text("live")
            assert _fits(page), path
            assert _barriers(page) == [], path
            _keep(page, f"{re.sub(r'[^a-z0-9]+', '-', path).strip('-') or 'overview'}-{scheme}")
            assert page.evaluate("window.violations") == [], path
            assert page.evaluate("window.ran") is None, path
            assert (_lightness(page, "background-color") > 0.5) is (scheme == "light"), path
            assert (_lightness(page, "color") < 0.5) is (scheme == "light"), path
        assert [said for said in visitor.complaints if "404" not in said] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_operator_makes_a_campaign_mends_a_mistake_and_rehearses_it(site: Site, scheme: str) -> None:
    name = f"made-{scheme}"
    with site.visitor(color_scheme=scheme) as visitor:
        page = visitor.sign_in(site.tokens[Role.OPERATOR], "/draft")
        page.get_by_label("Release").select_option("gateway 3.0.0")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Targets with these labels").fill("group=nobody")
        page.get_by_role("button", name="See what it would do").click()
        expect(page.locator("#wrong-labels")).to_be_visible()
        assert _barriers(page) == []
        page.get_by_label("Targets with these labels").fill("group=main")
        page.get_by_role("button", name="See what it would do").click()
        expect(page.locator("#preview .sentence").first).to_contain_text(f"{MAIN} targets → gateway 3.0.0")
        assert _barriers(page) == []
        _keep(page, f"draft-seen-{scheme}")
        page.get_by_role("button", name="Keep it as a draft").click()
        expect(page.locator(".head .state")).to_have_text("draft")
        page.get_by_role("button", name="Rehearse it").click()
        expect(page.get_by_role("button", name="Rehearse it again")).to_be_visible(timeout=60_000)
        expect(page.locator("section", has=page.locator("#rehearsal"))).to_contain_text(f"over {MAIN} targets")
        assert _barriers(page) == []
        _keep(page, f"rehearsed-{scheme}")
        page.set_viewport_size(PHONE)
        assert _fits(page)
        _keep(page, f"rehearsed-phone-{scheme}")
        assert [said for said in visitor.complaints if "400" not in said] == []  # Chromium's word for the mistake
    assert {row["name"] for row in site.lab.rest.get("/campaigns")["campaigns"]} >= {name}


@pytest.mark.parametrize("width", [900, 1000, 1100, 1280])
def test_the_navigation_stays_on_one_line(site: Site, width: int) -> None:
    with site.visitor(viewport={"width": width, "height": 700}) as visitor:
        page = visitor.sign_in(site.tokens[Role.ADMIN])
        expect(page.get_by_role("status")).to_have_text("live")
        tops = page.evaluate(
            "[...document.querySelectorAll('.top > *, nav a')].map(one => one.getBoundingClientRect())"
        )
        middles = [(one["top"] + one["bottom"]) / 2 for one in tops]
        assert max(middles) - min(middles) < 12, middles
        assert page.evaluate("document.querySelector('nav').scrollWidth <= document.querySelector('nav').clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        _keep(page, f"navigation-{width}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_administrator_lets_somebody_in_and_out_again(site: Site, scheme: str) -> None:
    name = f"Mara of {scheme}"
    with site.visitor(color_scheme=scheme) as visitor:
        page = visitor.sign_in(site.tokens[Role.ADMIN], "/settings")
        page.get_by_role("link", name="Change who has access").click()
        page.get_by_label("Name").fill(name)
        page.locator("#role").select_option("viewer")
        page.get_by_role("button", name="Make a token").click()
        secret = page.get_by_label("Token").input_value()
        assert secret.startswith("otp1_")
        assert _barriers(page) == []
        _keep(page, f"token-once-{scheme}")
        page.get_by_role("link", name="I have it").click()
        with site.visitor() as other:
            other.sign_in(secret)
        page.locator("section", has_text=name).locator("select[name=role]").select_option("operator")
        page.get_by_role("button", name=f"Change the role of {name}").click()
        expect(page.locator("section", has_text=name).locator(".state").first).to_have_text("operator")
        assert _barriers(page) == []
        _keep(page, f"people-{scheme}")
        page.get_by_role("link", name=f"End the access of {name}").click()
        assert _barriers(page) == []
        page.get_by_role("button", name="End it").click()
        expect(page.locator("section", has_text=name).locator(".state").first).to_have_text("no access")
        with site.visitor() as other:
            door = other.open("/")
            door.get_by_label("Token").fill(secret)
            door.get_by_role("button", name="Sign in").click()
            expect(door.get_by_role("alert")).to_contain_text("not a valid token")
        page.set_viewport_size(PHONE)
        assert _fits(page)
        assert [said for said in visitor.complaints if "401" not in said] == []


def test_hostile_labels_are_words(site: Site, odd_campaign: str) -> None:
    with site.visitor() as visitor:
        page = visitor.sign_in(site.tokens[Role.ADMIN], _pages(site, odd_campaign)[2])
        expect(page.locator(".facts")).to_contain_text(HOSTILE)
        page.goto(site.url + "/fleet")
        page.get_by_label("Label").fill(f"site={HOSTILE}")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("table.fleet tbody tr")).to_have_count(ODD)
        expect(page.get_by_label("Label")).to_have_value(f"site={HOSTILE}")
        assert page.evaluate("window.ran") is None
        assert visitor.complaints == []


def test_axe_sees_a_barrier_where_there_is_one(site: Site) -> None:
    """The other tests find none; this one shows that they would."""
    with site.visitor() as visitor:
        page = visitor.sign_in(site.tokens[Role.VIEWER])
        assert _barriers(page) == []
        page.evaluate("document.querySelector('main').append(document.createElement('input'))")
        assert any(found.startswith("label: ") for found in _barriers(page))


def test_a_person_quarantines_doubts_saves_a_view_and_reads_the_keys(site: Site) -> None:
    odd = next(target["id"] for target in site.lab.rest.fleet() if target["labels"]["group"] == "odd")
    with site.visitor() as visitor:
        page = visitor.sign_in(site.tokens[Role.ADMIN], f"/fleet/{odd}")
        for label, status in (("Quarantine", "quarantined"), ("Release from quarantine", "active")):
            page.get_by_role("link", name=label).click()
            page.get_by_label("Reason").fill(f"{label}, says the test")
            page.get_by_role("button", name=label).click()
            expect(page.locator(".timeline")).to_contain_text(f"{label}, says the test")
            assert site.lab.rest.get(f"/fleet/{odd}")["status"] == status
        page.goto(f"{site.url}/releases")
        for label, state in (("Mark it suspect", "suspect"), ("Clear it", "active")):
            page.locator("article", has_text="3.0.0").get_by_role("link", name=label).click()
            page.get_by_label("Reason").fill(label)
            page.get_by_role("button", name=label).click()
            expect(page.locator("article", has_text="3.0.0").locator(".state")).to_have_text(state)
        page.goto(f"{site.url}/fleet?label=group%3Dodd")
        page.get_by_label("Save this view as").fill("the odd ones")
        page.get_by_role("button", name="Save").click()
        page.goto(f"{site.url}/fleet")
        page.get_by_role("link", name="the odd ones").click()
        expect(page.locator("table.fleet tbody tr")).to_have_count(ODD)
        page.goto(f"{site.url}/keys")
        online = page.locator("tr", has_text="online, on this server").locator("th")
        assert {text.split()[0] for text in online.all_inner_texts()} == {"snapshot", "timestamp", "director", "deltas"}
        assert {text.split()[0] for text in page.locator("tr", has_text="offline").locator("th").all_inner_texts()} == {
            "root",
            "targets",
            "product-gateway",
        }
        assert visitor.complaints == []


def test_the_policy_stops_what_a_page_does_not_bring_itself(site: Site) -> None:
    """The other tests find no violations; this one shows that they would see some."""
    with site.visitor() as visitor:
        page = visitor.sign_in(site.tokens[Role.ADMIN])
        page.evaluate(
            """() => {
              const image = document.createElement("img");
              image.setAttribute("onerror", "window.ran = 1");
              image.src = "https://elsewhere.invalid/x.png";
              const script = document.createElement("script");
              script.textContent = "window.ran = 1";
              document.body.append(image, script);
            }"""
        )
        page.wait_for_function("window.violations.length >= 2")
        assert page.evaluate("window.ran") is None
        assert visitor.complaints


def test_a_page_says_that_the_server_is_gone_and_finds_it_again(site: Site) -> None:
    """Sessions end with the server: the open page notices that by itself and leads to the door."""
    with site.visitor() as visitor:
        page = visitor.sign_in(site.tokens[Role.ADMIN], "/fleet")
        expect(page.get_by_role("status")).to_have_text("live")
        site.lab.stop_server()
        expect(page.get_by_role("status")).to_have_text("reconnecting")
        expect(page.locator("table.fleet tbody tr")).to_have_count(MAIN + ODD)
        site.lab.start_server()
        page.wait_for_url(re.compile("/login"))
        _sign_in_again(visitor, page, site)


def _sign_in_again(visitor: Visitor, page: Page, site: Site) -> None:
    page.get_by_label("Token").fill(site.tokens[Role.ADMIN])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(visitor.url + "/fleet")
    expect(page.get_by_role("status")).to_have_text("live")


def _barriers(page: Page) -> list[str]:
    """What axe finds that keeps people out, with the elements it is about."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['html']} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def _keep(page: Page, name: str) -> None:
    """Keep a picture of the page where `OTARIA_SCREENSHOTS` says, to be looked at."""
    if directory := os.environ.get("OTARIA_SCREENSHOTS"):
        page.screenshot(path=Path(directory) / f"{name}.png", full_page=True)


def _fits(page: Page) -> bool:
    """Whether nothing of the page is to the right of a phone's screen."""
    return int(page.evaluate("document.documentElement.scrollWidth")) <= PHONE["width"]


def _lightness(page: Page, style: str) -> float:
    """How light the body's colour is, 0 to 1."""
    text = page.evaluate("(style) => getComputedStyle(document.body).getPropertyValue(style)", style)
    return sum(int(part) for part in re.findall(r"\d+", text)[:3]) / (3 * 255)
