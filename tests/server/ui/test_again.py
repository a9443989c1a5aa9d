"""Failed targets tried again: one click from the campaign leads to what a new campaign for just those would do."""

import html
import re
from collections.abc import Collection

import yaml

from server.planner.words import AssignmentState as A
from server.ports import ReleaseState, Role
from server.ui.bulk import free_name
from tests.people_side import CAMPAIGN, PeopleSide
from tests.server.ui.test_bulk import become, hidden, rows, started, text_of

__all__ = ["started"]
AGAIN = "/campaigns/spring/again"


async def keep(people: PeopleSide, text: str) -> str:
    """Keep what is shown; where that leads."""
    data = {name: hidden(text, name) for name in ("csrf", "mode")} | {"file": file_in(text), "do": "keep"}
    kept = await people.client.post("/draft", data=data, allow_redirects=False)
    assert kept.status == 303, await kept.text()
    return kept.headers["Location"]


def file_in(text: str) -> str:
    found = re.search(r'<textarea[^>]* name="file"[^>]*>([^<]*)</textarea>', text)
    assert found is not None
    return html.unescape(found[1])


async def members(people: PeopleSide, campaign: str) -> Collection[str]:
    found = await people.database.read(lambda unit: unit.campaigns.assignments(campaign))
    return {row.target for row in found.rows}


async def test_one_click_leads_to_a_campaign_for_those_that_failed_and_nothing_is_kept_before(
    started: PeopleSide,
) -> None:
    await become(started, A.FAILED, "gw-0", kind="slot-too-small")
    await become(started, A.MISSING, "gw-1")
    await become(started, A.FELL_BACK, "gw-2")
    await become(started, A.VERIFIED, "gw-3")
    await become(started, A.CANCELLED, "gw-4")
    before = await rows(started)
    assert f'href="{AGAIN}"' in await text_of(started, "/campaigns/spring")
    seen = await text_of(started, AGAIN)
    assert "3 targets → gateway <b>1.1.0</b>" in seen
    assert yaml.safe_load(file_in(seen)) == {
        "name": "spring-again",
        "product": "gateway",
        "version": "1.1.0",
        "selection": {"targets": ["gw-0", "gw-1", "gw-2"]},
        "strategy": "standard",
    }
    assert [one.name for one in await started.database.read(lambda unit: unit.campaigns.list())] == ["spring"]
    assert await keep(started, seen) == "/campaigns/spring-again"
    assert await members(started, "spring-again") == {"gw-0", "gw-1", "gw-2"}
    assert await rows(started) == before, "what failed stays failed"


async def test_the_name_is_free_and_who_is_in_another_campaign_by_now_is_left_to_it(started: PeopleSide) -> None:
    await become(started, A.FAILED, "gw-0", "gw-1")
    await keep(started, await text_of(started, AGAIN))
    await become(started, A.FAILED, "gw-0", campaign="spring-again")
    seen = yaml.safe_load(file_in(await text_of(started, AGAIN)))
    assert (seen["name"], seen["selection"]) == ("spring-again-2", {"targets": ["gw-1"]})


async def test_a_ready_made_strategy_is_kept(people: PeopleSide) -> None:
    await people.desk.create(people.desk.parse(CAMPAIGN.replace("standard", "cautious")), by="mara")
    await become(people, A.REFUSED, "gw-5")
    await people.sign_in(Role.OPERATOR)
    assert yaml.safe_load(file_in(await text_of(people, AGAIN)))["strategy"] == "cautious"


async def test_a_campaign_without_failures_offers_nothing(started: PeopleSide) -> None:
    await become(started, A.SKIPPED, "gw-0")
    assert AGAIN not in await text_of(started, "/campaigns/spring")
    assert "No target of spring has failed" in await text_of(started, AGAIN, 422)
    await text_of(started, "/campaigns/autumn/again", 404)


async def test_a_release_that_may_not_be_brought_any_more_is_refused_beside_the_file(started: PeopleSide) -> None:
    await become(started, A.FAILED, "gw-0")
    await started.database.write(lambda unit: unit.releases.set_state("gateway", "1.1.0", ReleaseState.WITHDRAWN))
    seen = await text_of(started, AGAIN, 400)
    assert 'id="wrong-file"' in seen
    assert "gateway 1.1.0 was withdrawn" in seen


async def test_a_viewer_is_not_offered_it(started: PeopleSide) -> None:
    await become(started, A.FAILED, "gw-0")
    await started.sign_in(Role.VIEWER)
    assert AGAIN not in await text_of(started, "/campaigns/spring")
    await text_of(started, AGAIN, 403)


def test_a_free_name_is_one_that_campaigns_can_have() -> None:
    assert free_name("Gateway-1.1.0+b", ()) == "gateway-1-1-0-b"
    assert free_name("spring", {"spring", "spring-2", "autumn"}) == "spring-3"
    long = free_name("a" * 80, {"a" * 56})
    assert long == "a" * 56 + "-2"
    assert len(long) <= 63
