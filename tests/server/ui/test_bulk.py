"""What is done to all that fit the fleet's filters: asked first with how many, done to just those, and by whoever may."""

import html
import re
from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from sqlalchemy import update

from server.planner.decision import Decision, Put
from server.planner.rows import AssignmentRow
from server.planner.words import AssignmentState as A
from server.planner.words import Verb
from server.ports import Role, Unit
from server.storage.tables import TARGET
from server.ui import bulk
from server.ui.wording import fact
from tests.people_side import CAMPAIGN, PeopleSide, add_device

ALL = CAMPAIGN.replace(
    "strategy: standard",
    "strategy: {name: two, cohorts: [{name: canary, count: 2}, {name: rest}], deltas: {at_most: 0}}",
)


@pytest.fixture
async def started(people: PeopleSide) -> PeopleSide:
    """A campaign for all six, whose canary is open; the operator is signed in."""
    await people.desk.create(people.desk.parse(ALL), by="mara")
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    await people.sign_in(Role.OPERATOR)
    return people


async def rows(people: PeopleSide, campaign: str = "spring") -> Sequence[AssignmentRow]:
    return (await people.database.read(lambda unit: unit.campaigns.assignments(campaign))).rows


async def become(people: PeopleSide, state: A, *targets: str, kind: str = "none", campaign: str = "spring") -> None:
    part = [row for row in await rows(people, campaign) if row.target in targets]
    changed = [replace(row, state=state, reason_kind=kind) for row in part]

    def work(unit: Unit) -> None:
        unit.campaigns.commit(Decision(changes=tuple(Put(row=row) for row in changed)))
        held = update(TARGET).where(TARGET.c.id.in_(targets)).values(last_campaign=campaign)
        unit.audit._db.execute(held)  # type: ignore[attr-defined]

    await people.database.write(work)


async def text_of(people: PeopleSide, path: str, status: int = 200) -> str:
    async with people.client.get(path) as answer:
        text = await answer.text()
        assert answer.status == status, text
        return text


def hidden(text: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', text)
    assert found is not None
    return html.unescape(found[1])


async def test_those_that_fit_and_wait_are_left_out_and_nobody_else(started: PeopleSide) -> None:
    await become(started, A.FAILED, "gw-1")
    query = "/bulk/skip?query=site:berlin"
    asked = await text_of(started, query)
    assert "Leave 3 targets out?" in asked
    assert "4 targets fit; of these only 3 wait" in asked
    assert hidden(asked, "targets").split() == ["spring/gw-0", "spring/gw-2", "spring/gw-3"]
    await started.database.write(lambda unit: add_device(unit, "gw-22", {"site": "berlin"}))
    await become(started, A.TRIAL, "gw-2")
    data = {"csrf": hidden(asked, "csrf"), "targets": hidden(asked, "targets"), "reason": "being moved"}
    async with started.client.post("/bulk/skip", data=data) as answer:
        done = await answer.text()
        assert answer.status == 200, done
    assert "2 targets left out" in done
    assert "1 could not be" in done
    found = {row.target: row.state for row in await rows(started)}
    assert (found["gw-0"], found["gw-3"]) == (A.SKIPPED, A.SKIPPED)
    assert (found["gw-1"], found["gw-2"]) == (A.FAILED, A.TRIAL)
    assert A.SKIPPED not in (found["gw-4"], found["gw-5"])
    trail = await started.database.read(lambda unit: unit.audit.latest(limit=20))
    assert sum("being moved" in record.text for record in trail) == 2


async def test_when_nobody_waits_there_is_nothing_to_confirm(started: PeopleSide) -> None:
    await become(started, A.FAILED, *(f"gw-{number}" for number in range(6)))
    asked = await text_of(started, "/bulk/skip?query=site:berlin")
    assert "Nobody to leave out" in asked
    assert '<form method="post" action="/bulk/skip"' not in asked


async def test_a_campaign_for_those_that_fit_is_looked_at_before_it_is_kept(people: PeopleSide) -> None:
    await people.sign_in(Role.OPERATOR)
    asked = await text_of(people, "/bulk/campaign?label=site%3Drome")
    assert "A campaign for 2 targets?" in asked
    assert "gateway 1.1.0 for 2 targets" in asked
    data = {name: hidden(asked, name) for name in ("csrf", "mode", "file")}
    async with people.client.post("/draft", data={**data, "do": "preview"}) as answer:
        seen = await answer.text()
        assert answer.status == 200, seen
    assert "2 targets → gateway <b>1.1.0</b>" in seen
    assert await people.database.read(lambda unit: unit.campaigns.list()) == []
    kept = await people.client.post("/draft", data={**data, "do": "keep"}, allow_redirects=False)
    assert kept.status == 303
    (view,) = await people.database.read(lambda unit: unit.campaigns.list())
    taken = await people.database.read(lambda unit: unit.campaigns.assignments(view.row.id))
    assert {row.target for row in taken.rows} == {"gw-4", "gw-5"}


@pytest.mark.parametrize("act", ["skip", "campaign"])
async def test_without_a_filter_or_with_too_many_nothing_is_offered(
    started: PeopleSide, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    assert "Filter the fleet first" in await text_of(started, f"/bulk/{act}", 422)
    assert "No target fits" in await text_of(started, f"/bulk/{act}?query=site:oslo", 422)
    monkeypatch.setattr(bulk, "MOST", 3)
    assert "too many to act on at once" in await text_of(started, f"/bulk/{act}?query=site:berlin", 413)
    assert "2 targets" in await text_of(started, f"/bulk/{act}?query=site:rome")


async def test_a_form_of_another_making_is_refused(started: PeopleSide) -> None:
    csrf = hidden(await text_of(started, "/bulk/skip?query=site:berlin"), "csrf")
    for data, status in (
        ({"csrf": csrf, "targets": ""}, 400),
        ({"csrf": csrf, "targets": "spring/gw-0 " * 1001}, 400),
        ({"targets": "spring/gw-0"}, 403),
    ):
        async with started.client.post("/bulk/skip", data=data) as answer:
            assert answer.status == status
    async with started.client.post("/bulk/skip", data={"csrf": csrf, "targets": "spring/nobody x"}) as answer:
        assert "0 targets left out" in await answer.text()
    assert A.SKIPPED not in {row.state for row in await rows(started)}


async def test_a_viewer_is_offered_none_of_it(started: PeopleSide) -> None:
    assert "/bulk/skip" in await text_of(started, "/fleet?query=site:berlin")
    assert "/bulk/" not in await text_of(started, "/fleet")
    await started.sign_in(Role.VIEWER)
    assert "/bulk/" not in await text_of(started, "/fleet?query=site:berlin")
    await text_of(started, "/bulk/skip?query=site:berlin", 403)


async def test_a_reason_leads_to_the_targets_that_failed_for_it(started: PeopleSide) -> None:
    await become(started, A.FAILED, "gw-0", "gw-1", kind="slot-too-small")
    await become(started, A.FAILED, "gw-2", kind="download-failed")
    await become(started, A.MISSING, "gw-3")
    page = await text_of(started, "/campaigns/spring")
    found = re.findall(r'<a href="(/fleet\?query=[^"]+)"><b>([^<]+)</b></a>', page)
    links = {label: html.unescape(href) for href, label in found}
    assert set(links) == {"slot-too-small", "download-failed", "no reason given"}

    async def listed(label: str) -> set[str]:
        return set(re.findall(r'<td data-th="Target"><a href="/fleet/([^"]+)"', await text_of(started, links[label])))

    assert await listed("slot-too-small") == {"gw-0", "gw-1"}
    assert await listed("download-failed") == {"gw-2"}
    assert await listed("no reason given") == {"gw-3"}


def test_free_bytes_are_told_in_a_unit_that_fits() -> None:
    assert fact("agent.free-bytes", "1610612736") == "1.5 GiB"
    assert fact("agent.free-bytes", "5242880") == "5.0 MiB"
    assert fact("agent.free-bytes", "plenty") == "plenty"
    assert fact("site", "1610612736") == "1610612736"
