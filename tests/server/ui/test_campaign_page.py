"""A campaign's page offers what can be done and waits for nothing that can't come any more."""

import re
from dataclasses import replace

from msgspec import structs

from server.planner.forecast import Forecast, Span
from server.planner.words import AssignmentState, Verb
from server.ports import Role
from server.ui.campaign_page import verbs_for
from server.ui.wording import forecast_sentence
from tests.people_side import CAMPAIGN, PeopleSide


async def page(people: PeopleSide) -> str:
    answer = await people.client.get("/campaigns/spring")
    assert answer.status == 200
    return await answer.text()


def offered(text: str) -> set[str]:
    return set(re.findall(r'href="/campaigns/spring/([a-z/]+)"', text))


async def test_rolling_back_is_offered_once_there_is_something_to_take_back(people: PeopleSide) -> None:
    await people.desk.create(people.desk.parse(CAMPAIGN), by="mara")
    await people.sign_in(Role.OPERATOR)
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    assert offered(await page(people)) == {"pause", "abort"}
    view = await people.desk.view("spring")
    for state in (AssignmentState.VERIFIED, AssignmentState.TRIAL, AssignmentState.MISSING):
        canary = structs.replace(view.cohorts[0], counts={state: 1})
        assert Verb.ROLLBACK in verbs_for(replace(view, cohorts=[canary, *view.cohorts[1:]]))


async def test_an_aborted_campaign_waits_for_nobody(people: PeopleSide) -> None:
    await people.desk.create(people.desk.parse(CAMPAIGN), by="mara")
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    await people.sign_in(Role.OPERATOR)
    running = await page(people)
    assert "more must verify" in running
    await people.desk.command("spring", Verb.ABORT, by="mara", reason="wrong day")
    ended = await page(people)
    assert "Its campaign ended before it was decided; its targets: 3 cancelled." in ended
    assert "not decided" in ended
    assert "never opened" in ended
    for gone in ("more must verify", "to be decided", "not enough yet", "g-open"):
        assert gone not in ended
    assert offered(ended) == set()


def test_a_forecast_whose_moment_has_passed_is_told_as_what_it_was() -> None:
    likely, latest = 1_800_000_000.0, 1_800_003_600.0
    span = Span(p50=likely, p90=latest)
    found = Forecast(
        at=likely - 60,
        runs=1,
        targets=3,
        known=1.0,
        cohorts=(),
        done=span,
        closes=span,
        never=0.0,
        never_p90=0.0,
        dominated_by={},
    )
    assert forecast_sentence(found, likely - 1).startswith("Forecast: the last target that comes is verified by 15 Jan")
    between = forecast_sentence(found, likely)
    assert between.startswith("It was forecast for 15 Jan 08:00:00 UTC")
    assert "it is through by 15 Jan 09:00:00 UTC" in between
    assert forecast_sentence(found, latest).endswith("both have passed.")
