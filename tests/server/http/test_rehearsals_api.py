"""Rehearsals over REST and in the pages: started by who operates, one at a time, kept with their campaign, on the trail."""

import asyncio
import re

import msgspec
import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError
from server.campaigns.rehearsal import Basis, Casting, Understudy, unpacked
from server.campaigns.rehearsing import note_band
from server.planner.words import Verb
from server.ports import RehearsalRecord, RehearsalState, Role
from tests.people_side import CAMPAIGN, NOW, PeopleSide
from tests.rehearsed import FOUND, end_it

PATH = "/api/v1/campaigns/spring/rehearsals"


@pytest.fixture
async def drafted(people: PeopleSide) -> PeopleSide:
    await people.desk.create(people.desk.parse(CAMPAIGN), by="mara")
    return people


async def ask(people: PeopleSide, method: str = "GET", role: Role = Role.OPERATOR) -> tuple[int, dict[str, object]]:
    answer = await people.client.request(method, PATH, headers=people.headers(role))
    return answer.status, await answer.json()


async def told(people: PeopleSide, name: str, value: object) -> dict[str, object]:
    """The rehearsal once this is told of it, or as it is after many tries."""
    for _ in range(1000):
        found = (await ask(people))[1]
        if found[name] == value:
            break
    return found


async def ended(people: PeopleSide, state: str) -> dict[str, object]:
    """The rehearsal once it has ended so."""
    people.stage.curtain.set()
    return await told(people, "state", state)


async def test_a_rehearsal_is_started_followed_and_kept(drafted: PeopleSide) -> None:
    drafted.stage.gives = FOUND
    assert (await ask(drafted))[0] == 404
    status, begun = await ask(drafted, "POST")
    assert (status, begun["state"], begun["by"], begun["begins"]) == (202, "running", "the operator", NOW)
    assert (await told(drafted, "runs_done", 3))["result"] is None
    found = await ended(drafted, "done")
    assert (found["state"], found["runs_done"]) == ("done", None)
    assert found["result"]["missed"] == [{"target": "gw-3", "share": 0.35}]
    (task,) = drafted.stage.tasks
    assert (task.spec.name, task.replicas, task.image_bytes) == ("spring", 20, 16 << 20)
    assert [one.id for one in task.fleet] == [f"gw-{n}" for n in range(6)]
    assert {share for one in task.fleet for share in unpacked(one.week)} == {0.9}
    assert task.basis == Basis(presences=0, downloads=0, attempts=0)
    kinds = [one.kind for one in await drafted.database.read(lambda unit: unit.audit.latest(limit=9))]
    assert kinds[:2] == ["rehearsal-ended", "rehearsal-started"]


async def test_a_first_band_is_there_early_and_stays_when_it_is_cancelled(drafted: PeopleSide) -> None:
    drafted.stage.early = replace(FOUND, replicas=5)
    await ask(drafted, "POST")
    found = await told(drafted, "runs_done", 5)
    assert (found["state"], found["result"]["replicas"]) == ("running", 5)
    await drafted.sign_in(Role.OPERATOR)
    page = await (await drafted.client.get("/campaigns/spring")).text()
    assert "5 of 20 runs are through" in page
    assert "With so few runs that is rough." in page
    await ask(drafted, "DELETE")
    found = (await ask(drafted))[1]
    assert (found["state"], found["result"]["replicas"]) == ("cancelled", 5)
    kinds = [one.kind for one in await drafted.database.read(lambda unit: unit.audit.latest(limit=9))]
    assert kinds[:3] == ["rehearsal-ended", "signed-in", "rehearsal-started"]


async def test_a_band_that_comes_after_the_end_changes_nothing(drafted: PeopleSide) -> None:
    running = RehearsalRecord(
        campaign="spring", revision=1, state=RehearsalState.RUNNING, by="mara", at=NOW, begins=NOW
    )
    for kept in (replace(running, state=RehearsalState.CANCELLED), replace(running, at=NOW + 1)):
        await drafted.database.write(lambda unit, kept=kept: unit.rehearsals.put(kept))
        await drafted.database.write(lambda unit: note_band(unit, running, FOUND))
        assert await drafted.database.read(lambda unit: unit.rehearsals.get("spring")) == kept
    await drafted.database.write(lambda unit: unit.rehearsals.put(running))
    await drafted.database.write(lambda unit: note_band(unit, running, FOUND))
    assert (await ask(drafted))[1]["result"]["replicas"] == 20


async def test_one_that_fails_keeps_what_it_had_found(drafted: PeopleSide) -> None:
    drafted.stage.early = FOUND
    await ask(drafted, "POST")
    await told(drafted, "runs_done", 5)
    found = await ended(drafted, "failed")
    assert (found["text"], found["result"]["replicas"]) == ("Nothing was set.", 20)


async def test_one_at_a_time_and_until_it_is_cancelled(drafted: PeopleSide) -> None:
    assert (await ask(drafted, "DELETE"))[0] == 404
    await ask(drafted, "POST")
    status, said = await ask(drafted, "POST")
    assert (status, said["type"]) == (422, "rehearsal-running")
    assert "is being rehearsed" in said["detail"]
    status, said = await ask(drafted, "DELETE")
    assert (status, said["state"], said["text"]) == (200, "cancelled", "the operator cancelled it.")
    assert (await ask(drafted, "POST"))[0] == 202
    await ended(drafted, "failed")


async def test_what_is_refused_is_kept_in_its_own_words(drafted: PeopleSide) -> None:
    drafted.stage.gives = RefusedError("not-rehearsable", "It can't do gates of kind sli.")
    await ask(drafted, "POST")
    found = await ended(drafted, "failed")
    assert (found["state"], found["text"], found["result"]) == ("failed", "It can't do gates of kind sli.", None)


async def test_a_campaign_that_has_begun_is_not_rehearsed(drafted: PeopleSide) -> None:
    await drafted.desk.command("spring", Verb.START, by="mara", reason="")
    status, said = await ask(drafted, "POST")
    assert (status, said["type"]) == (422, "rehearsal-late")
    assert "has not begun" in said["detail"]


@pytest.mark.parametrize("role", [Role.VIEWER, Role.APPROVER, Role.AUDITOR])
async def test_who_does_not_operate_looks_on(drafted: PeopleSide, role: Role) -> None:
    for method in ("POST", "DELETE"):
        assert (await ask(drafted, method, role))[0] == 403
    assert drafted.stage.tasks == []
    await drafted.sign_in(role)
    assert "Rehearse it" not in await (await drafted.client.get("/campaigns/spring")).text()


async def test_what_a_server_left_under_way_has_failed(drafted: PeopleSide) -> None:
    left = RehearsalRecord(campaign="spring", revision=1, state=RehearsalState.RUNNING, by="mara", at=NOW, begins=NOW)
    await drafted.database.write(
        lambda unit: (unit.rehearsals.put(left), unit.audit.add(at=NOW, kind="x", text="x", actor="x"))
    )
    running = asyncio.create_task(drafted.rehearsals.run())
    found = await told(drafted, "state", "failed")
    assert (found["state"], found["text"]) == ("failed", "The server ended meanwhile; rehearse it again.")
    running.cancel()


async def test_the_page_has_a_button_and_draws_what_came_out(drafted: PeopleSide) -> None:
    drafted.stage.gives = FOUND
    await drafted.sign_in(Role.OPERATOR)

    async def page() -> str:
        return await (await drafted.client.get("/campaigns/spring")).text()

    async def press(path: str) -> None:
        csrf = re.search(r'name="csrf" value="([^"]+)"', await page()).group(1)
        answer = await drafted.client.post(f"/campaigns/spring/{path}", data={"csrf": csrf}, allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (303, "/campaigns/spring#rehearsal")

    assert ">Rehearse it<" in await page()
    await press("rehearse")
    assert re.search(r"\d of 20 runs are through", await page())
    await press("rehearse/cancel")
    assert "It was cancelled. the operator cancelled it." in await page()
    await press("rehearse")
    await ended(drafted, "done")
    text = await page()
    assert "as likely as not, by" in text
    assert "About 1 target would not be reached before the order expires." in text
    assert "Missed most often over all its days</dt>" in text
    assert "1 harmed as likely as not, 3 in nine of ten runs; stopped in 50%" in text
    assert re.search(r'<a href="/fleet/gw-3">gw-3</a> 35 %', text)
    assert re.search(r"Downloads most, without deltas</dt><dd>berlin 64.0 MiB", text)
    assert "too many are down at once 100 %" in text
    assert ">Rehearse it again<" in text
    drafted.stage.gives = replace(FOUND, targets=20_000)
    await press("rehearse")
    await ended(drafted, "done")
    text = await page()
    assert "Missed most often over all its days, of those played</dt>" in text
    assert "Downloads most, without deltas, of the sites played</dt>" in text
    await drafted.desk.create(drafted.desk.parse(CAMPAIGN.replace("standard", "cautious")), by="mara")
    assert "The campaign was changed since." in await page()
    await drafted.desk.command("spring", Verb.START, by="mara", reason="")
    begun = await page()
    assert "1 harmed as likely as not" in begun
    assert "Rehearse it" not in begun


async def test_what_happened_stands_beside_what_was_foretold(drafted: PeopleSide) -> None:
    async def hindsight() -> dict[str, object]:
        answer = await drafted.client.get("/api/v1/rehearsals", headers=drafted.headers(Role.VIEWER))
        assert answer.status == 200
        return await answer.json()

    assert (await hindsight())["campaigns"] == []
    drafted.stage.gives = FOUND
    await ask(drafted, "POST")
    assert (await ended(drafted, "done"))["reality"] == []
    await drafted.database.write(end_it)
    found = await told(drafted, "state", "done")
    (canary, done) = found["reality"]
    assert canary == {"name": "canary", "p10": 3600.0, "p90": 10800.0, "real": 3000.0, "fell": "before"}
    assert (done["name"], done["real"], done["fell"]) == ("done", 7000.0, "within")
    looked_back = await hindsight()
    assert looked_back["done"] == {"before": 0, "within": 1, "behind": 0}
    assert looked_back["cohorts"] == {"before": 1, "within": 0, "behind": 0}
    await drafted.sign_in(Role.VIEWER)
    page = await (await drafted.client.get("/campaigns/spring")).text()
    assert "The last that came was verified: 116 min after the start, within the band (60 min to 3 h)." in page
    assert "Cohort canary was decided: 50 min after the start, before the band (60 min to 3 h)." in page
    assert "Of all campaigns, the end fell: 1 of 1 within the band" in page


async def test_who_rehearses_elsewhere_is_told_what_the_servers_own_rehearsal_is(drafted: PeopleSide) -> None:
    await drafted.database.write(
        lambda unit: [unit.presences.heard(f"gw-{n}", online=n < 5, at=NOW - 3600) for n in range(6)]
    )
    await ask(drafted, "POST")
    await ended(drafted, "failed")
    (task,) = drafted.stage.tasks
    path = "/api/v1/releases/gateway/{}/cast"
    answer = await drafted.client.get(path.format("1.1.0"), headers=drafted.headers(Role.OPERATOR))
    head, *fleet = (await answer.text()).splitlines()
    told = Casting(targets=6, image_bytes=task.image_bytes, frailties=task.frailties, basis=task.basis)
    assert msgspec.json.decode(head, type=Casting) == told
    assert told.basis == Basis(presences=6, downloads=0, attempts=0)
    assert tuple(msgspec.json.decode(line, type=Understudy) for line in fleet) == task.fleet
    assert [bool(one.returns_s) for one in task.fleet] == [False] * 5 + [True]
    answer = await drafted.client.get(path.format("9.9.9"), headers=drafted.headers(Role.OPERATOR))
    assert answer.status == 404
