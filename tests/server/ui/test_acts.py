"""What is done to a part of a campaign, a release or a target: asked once more, with a reason, by whoever may."""

import re
from typing import Any

import pytest
from msgspec.structs import replace

from server.planner.decision import Decision, Put
from server.planner.rows import AssignmentRow
from server.planner.words import AssignmentState as A
from server.planner.words import CampaignState, CohortState, Verb
from server.ports import AgentStatus, ReleaseState, Role
from tests.people_side import PeopleSide

FILE = """
name: spring
product: gateway
version: "1.1.0"
strategy:
  name: judged
  cohorts:
    - {name: canary, count: 2, gates: [{kind: all, min_verified: 1}, {kind: external, name: desk}]}
    - {name: rest}
"""
COHORT, GATE = "/campaigns/spring/cohorts/canary/rollback", "/campaigns/spring/cohorts/canary/gate"


@pytest.fixture
async def started(people: PeopleSide) -> PeopleSide:
    """A campaign whose canary is open; the operator is signed in."""
    await people.desk.create(people.desk.parse(FILE), by="mara")
    await people.desk.command("spring", Verb.START, by="mara", reason="")
    await people.sign_in(Role.OPERATOR)
    return people


async def _do(people: PeopleSide, path: str, status: int = 303, **fields: str) -> str:
    """Open the question, send its form, and return the question."""
    asked = await people.client.get(path)
    text = await asked.text()
    assert asked.status == 200, text
    word = re.search(r'name="csrf" value="([^"]+)"', text).group(1)
    answer = await people.client.post(path.partition("?")[0], data={"csrf": word, **fields}, allow_redirects=False)
    assert answer.status == status, await answer.text()
    return text


async def _rows(people: PeopleSide) -> list[AssignmentRow]:
    return list((await people.database.read(lambda unit: unit.campaigns.assignments("spring"))).rows)


async def _trail(people: PeopleSide) -> str:
    """What was done, beside that somebody came and went."""
    records = await people.database.read(lambda unit: unit.audit.latest(limit=50))
    return " ".join(record.text for record in records if not record.kind.startswith("signed-"))


async def _verified(people: PeopleSide) -> None:
    """All of the canary verified, as far as its counters say."""
    rows = [row for row in await _rows(people) if row.cohort == 0]
    view = await people.desk.view("spring")
    cohort = replace(view.cohorts[0], counts={A.VERIFIED: len(rows)}, attempted=len(rows))
    changes: list[Any] = [Put(row=replace(row, state=A.VERIFIED, attempt=1)) for row in rows]
    decision = Decision(changes=(*changes, Put(row=cohort)))
    await people.database.write(lambda unit: unit.campaigns.commit(decision))


async def test_a_cohort_is_taken_back_with_a_reason(started: PeopleSide) -> None:
    page = await (await started.client.get("/campaigns/spring")).text()
    assert COHORT not in page, "nothing of it was tried, so there is nothing to take back"
    await _verified(started)
    assert COHORT in await (await started.client.get("/campaigns/spring")).text()
    await _do(started, COHORT, reason="it drops  calls")
    view = await started.desk.view("spring")
    assert view.row.state is CampaignState.PAUSED
    assert "by the operator: it drops calls" in view.cohorts[0].back_reason
    assert COHORT not in await (await started.client.get("/campaigns/spring")).text()


@pytest.mark.parametrize(("choice", "state"), [("pass", CohortState.PASSED), ("fail", CohortState.FAILED)])
async def test_an_external_gate_is_answered_on_its_campaigns_page(
    started: PeopleSide, choice: str, state: CohortState
) -> None:
    await _verified(started)
    page = await (await started.client.get("/campaigns/spring")).text()
    assert "has come to the gate desk, which waits for somebody" in await (await started.client.get("/")).text()
    path = re.search(rf'href="({GATE}[^"]*)"', page).group(1)
    await _do(started, path, 404, choice="perhaps", gate="desk")
    assert not (await started.desk.view("spring")).cohorts[0].inputs
    asked = await _do(started, path, choice=choice, gate="desk", reason="nobody complained")
    assert 'name="gate" value="desk"' in asked
    assert (await started.desk.view("spring")).cohorts[0].state is state
    assert "nobody complained" in await _trail(started)
    assert "has come to the gate desk" not in await (await started.client.get("/")).text()


async def test_a_target_is_left_out_or_rolled_back_from_its_own_page(started: PeopleSide) -> None:
    target, other = (row.target for row in await _rows(started) if row.state is A.ORDERED)
    await _do(started, f"/campaigns/spring/targets/{other}/rollback", reason="it is noisy")
    assert "it is noisy" in next(row for row in await _rows(started) if row.target == other).back_reason
    page = await (await started.client.get(f"/fleet/{target}")).text()
    path = f"/campaigns/spring/targets/{target}/skip"
    assert path in page
    await _do(started, path, reason="it is in a museum")
    assert next(row for row in await _rows(started) if row.target == target).state is A.SKIPPED
    assert "it is in a museum" in await _trail(started)
    assert path not in await (await started.client.get(f"/fleet/{target}")).text()


async def test_a_release_is_doubted_and_cleared_on_its_page(started: PeopleSide) -> None:
    for verdict, state, other in (
        ("suspect", ReleaseState.SUSPECT, "clear"),
        ("clear", ReleaseState.ACTIVE, "suspect"),
    ):
        path = f"/releases/gateway/1.1.0/{verdict}"
        assert path in await (await started.client.get("/releases")).text()
        await _do(started, path, reason=f"because of {verdict}")
        release = await started.database.read(lambda unit: unit.releases.get("gateway", "1.1.0"))
        assert release.state is state
        assert f"because of {verdict}" in await _trail(started)
        assert f"/releases/gateway/1.1.0/{other}" in await (await started.client.get("/releases")).text()


async def test_a_targets_standing_changes_step_by_step(started: PeopleSide) -> None:
    await _do(started, "/fleet/gw-1/quarantine", reason="two of it")
    assert (await started.client.get("/fleet/gw-1/release")).status == 403, "an operator can't lift a quarantine"
    await started.sign_in(Role.ADMIN)
    page = await (await started.client.get("/fleet/gw-1")).text()
    assert set(re.findall(r"/fleet/gw-1/(quarantine|release|revoke|decommission)", page)) == {
        "release",
        "revoke",
        "decommission",
    }
    for target, step, status in (
        ("gw-1", "release", AgentStatus.ACTIVE),
        ("gw-1", "revoke", AgentStatus.REVOKED),
        ("gw-2", "decommission", AgentStatus.DECOMMISSIONED),
    ):
        await _do(started, f"/fleet/{target}/{step}", reason="as planned")
        found = await started.database.read(lambda unit, target=target: unit.fleet.target(target))
        assert found.status is status
    assert "/fleet/gw-1/quarantine" not in await (await started.client.get("/fleet/gw-1")).text()


ACTS = [
    COHORT,
    f"{GATE}?gate=desk",
    "/campaigns/spring/targets/gw-1/rollback",
    "/campaigns/spring/targets/gw-1/skip",
    "/releases/gateway/1.1.0/suspect",
    "/releases/gateway/1.1.0/clear",
    "/fleet/gw-1/quarantine",
    "/fleet/gw-1/release",
    "/fleet/gw-1/revoke",
    "/fleet/gw-1/decommission",
]


async def test_who_may_not_is_offered_nothing_and_does_nothing_and_nobody_does_without_the_forms_word(
    started: PeopleSide,
) -> None:
    await _verified(started)
    before = await _trail(started)
    for role in (Role.VIEWER, Role.APPROVER, Role.AUDITOR):
        await started.sign_in(role)
        await _is_offered_nothing(started)
    await started.sign_in(Role.ADMIN)
    for path in ACTS:
        answer = await started.client.post(path.partition("?")[0], data={"csrf": "guess", "choice": "fail"})
        assert answer.status == 403, path
    assert await _trail(started) == before


async def _is_offered_nothing(started: PeopleSide) -> None:
    offered = "".join(
        [await (await started.client.get(path)).text() for path in ("/campaigns/spring", "/fleet/gw-1", "/releases")]
    )
    word = re.search(r'name="csrf" value="([^"]+)"', offered).group(1)
    for path in ACTS:
        assert path.partition("?")[0] not in offered
        assert (await started.client.get(path)).status == 403, path
        fields = {"csrf": word, "choice": "fail", "gate": "desk"}
        assert (await started.client.post(path.partition("?")[0], data=fields)).status == 403, path


async def test_failures_are_bars_on_the_campaigns_page(started: PeopleSide) -> None:
    rows = await _rows(started)
    changes = [Put(row=replace(row, state=A.FAILED, attempt=1, reason_kind="slot-too-small")) for row in rows[:3]]
    changes.append(Put(row=replace(rows[3], state=A.MISSING, attempt=1)))
    await started.database.write(lambda unit: unit.campaigns.commit(Decision(changes=tuple(changes))))
    found = await started.database.read(lambda unit: unit.campaigns.reasons("spring", (A.FAILED, A.MISSING), 100))
    assert found == {(A.FAILED, "slot-too-small"): 3, (A.MISSING, "none"): 1}
    page = await (await started.client.get("/campaigns/spring")).text()
    assert page.index("<b>slot-too-small</b>") < page.index("<b>no reason given</b>")
    assert 'class="fill t-bad" x="0" y="0" width="33.33"' in page
    some = await started.database.read(lambda unit: unit.campaigns.reasons("spring", (A.FAILED, A.MISSING), 2))
    assert sum(some.values()) == 2
