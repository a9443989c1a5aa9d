"""A campaign's file applied again: a draft made anew, a revision of what runs, and the plan that says so before."""

from typing import Any

import pytest

from firmware.errors import RefusedError
from server.planner.states import TransitionError
from server.planner.words import AssignmentState, CampaignState, Verb
from tests.server.campaigns.conftest import CAMPAIGN

WIDER = CAMPAIGN.replace("limit: 2", "limit: 3")
NOBODY_ELSE = CAMPAIGN + "selection: {labels: {agent.ring: beta}}\n"
APPROVED = CAMPAIGN.replace("patience:", "approvals: {need: 1}\n  patience:")


async def running(stage: Any, text: str = CAMPAIGN, names: int = 4) -> None:
    await stage.enrol(*(f"t{number}" for number in range(names)))
    await stage.publish_releases(delta=True)
    await stage.settle()
    await stage.start(text)
    await stage.settle()


async def apply(stage: Any, text: str, by: str = "ann") -> Any:
    return await stage.service.create(stage.service.parse(text), by=by)


async def planned(stage: Any, text: str) -> Any:
    return await stage.service.plan(stage.service.parse(text))


async def test_the_same_file_plans_and_changes_nothing(stage: Any) -> None:
    await running(stage)
    await stage.enrol("later")
    found = await planned(stage, CAMPAIGN)
    assert found.is_same
    before = await stage.service.view("spring")
    assert await apply(stage, CAMPAIGN) == before


async def test_a_plan_tells_what_a_revision_then_does(stage: Any) -> None:
    await running(stage)
    found = await planned(stage, WIDER)
    assert [one.text for one in found.differences] == ["budgets[campaign].limit: 2 → 3"]
    assert (found.number, found.needed, found.refused) == (2, 0, "")
    assert found.effects[0].startswith(
        "3 targets not ordered yet and 1 that wait for a permit go by the new rules; 0 are"
    )
    assert found.effects[-1] == "It takes effect at once."
    assert (await stage.service.view("spring")).row.revision == 1
    view = await apply(stage, WIDER)
    assert (view.row.revision, view.row.strategy.budgets[0].limit) == (2, 3)
    assert (await planned(stage, WIDER)).is_same
    first, second = await stage.service.revisions("spring")
    assert (first.number, first.strategy.budgets[0].limit, first.by) == (1, 2, "ann")
    assert (second.state, second.changes) == ("accepted", ("budgets[campaign].limit: 2 → 3",))
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    await stage.check_books()


async def test_a_gate_that_was_decided_is_told_to_stay_and_the_file_is_not_seen_as_new_again(stage: Any) -> None:
    await running(stage)
    strict = CAMPAIGN.replace("count: 1", "count: 1, gate: {kind: share, max_failure_rate: 50%}")
    found = await planned(stage, strict)
    assert "The gates of canary stay" in " ".join(found.effects)
    view = await apply(stage, strict)
    assert view.row.strategy.cohorts[0].gate.kind == "all"
    assert (await planned(stage, strict)).is_same


async def test_who_enrolled_since_comes_in_with_a_revision_and_is_updated(stage: Any) -> None:
    await running(stage)
    await stage.enrol("later")
    await stage.settle()
    found = await planned(stage, WIDER)
    assert (list(found.members.gained), list(found.members.lost)) == (["later"], [])
    await apply(stage, WIDER)
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    assert (await stage.states())["later"] == "verified"
    await stage.check_books()


async def test_a_narrower_selection_drops_who_has_no_order_and_keeps_who_has(stage: Any) -> None:
    await running(stage)
    stage.broker.devices["t0"].introduce(ring="beta")
    await stage.settle()
    found = await planned(stage, NOBODY_ELSE)
    assert found.selection.text == "selection: all → agent.ring=beta"
    await apply(stage, NOBODY_ELSE)
    states = await stage.states()
    ordered = [name for name, state in states.items() if state != "skipped"]
    assert len(ordered) in (1, 2)
    skipped = [row for row in await rows(stage) if row.state is AssignmentState.SKIPPED]
    assert {row.reason_kind for row in skipped} == {"deselected"}
    assert {row.target for row in skipped} == set(found.members.lost)
    view = await stage.service.view("spring")
    assert dict(view.selection.labels) == {"agent.ring": "beta"}


async def rows(stage: Any) -> Any:
    return (await stage.service.assignments("spring", limit=100)).rows


async def test_a_revision_that_allows_more_waits_for_somebody_else(stage: Any) -> None:
    await running(stage, APPROVED)
    await stage.service.command("spring", Verb.APPROVE, by="bob", reason="")
    await stage.settle()
    wider = APPROVED.replace("limit: 2", "limit: 3")
    assert "when 1 more agree" in (await planned(stage, wider)).effects[-1]
    view = await apply(stage, wider)
    assert (view.row.revision, view.proposal.number, view.proposal.needed) == (1, 2, 1)
    with pytest.raises(TransitionError):
        await stage.service.command("spring", Verb.APPROVE, by="ann", reason="")
    await stage.service.command("spring", Verb.APPROVE, by="bob", reason="CHG-1")
    view = await stage.service.view("spring")
    assert (view.row.revision, view.proposal, view.row.strategy.budgets[0].limit) == (2, None, 3)
    narrower = await apply(stage, APPROVED.replace("limit: 2", "limit: 1"))
    assert (narrower.row.revision, narrower.proposal) == (3, None)


async def test_taking_the_rule_of_approval_away_is_itself_approved_by_the_old_rule(stage: Any) -> None:
    await running(stage, APPROVED)
    await stage.service.command("spring", Verb.APPROVE, by="bob", reason="")
    view = await apply(stage, CAMPAIGN)
    assert view.proposal.needed == 1


async def test_a_draft_is_made_anew(stage: Any) -> None:
    await stage.enrol("t0", "t1", "t2", "t3")
    await stage.publish_releases()
    first = await apply(stage, CAMPAIGN)
    found = await planned(stage, CAMPAIGN.replace("count: 1", "count: 2"))
    assert "dealt anew" in found.effects[0]
    second = await apply(stage, CAMPAIGN.replace("count: 1", "count: 2"), by="bob")
    assert [cohort.size for cohort in second.cohorts] == [2, 2, 0]
    assert (second.row.id, second.row.change_id, second.row.revision) == ("spring", first.row.change_id, 2)
    assert [row.by for row in await stage.service.revisions("spring")] == ["ann", "bob"]
    await stage.service.command("spring", Verb.START, by="ann", reason="")
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED)
    await stage.check_books()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (CAMPAIGN.replace('"2"', '"1"'), "campaign-exists"),
        (CAMPAIGN.replace("count: 1", "count: 2"), "revision-refused"),
        (CAMPAIGN.replace("patience:", "windows: [{start: '02:00', end: '02:10'}]\n  patience:"), "revision-refused"),
        (CAMPAIGN.replace("patience:", "after: [{campaign: winter}]\n  patience:"), "revision-refused"),
    ],
)
async def test_what_can_not_be_is_told_by_the_plan_and_refused_by_apply(stage: Any, text: str, kind: str) -> None:
    await running(stage)
    assert (await planned(stage, text)).refused
    with pytest.raises(RefusedError) as caught:
        await apply(stage, text)
    assert caught.value.kind == kind
    with pytest.raises(RefusedError):
        await stage.service.preview(stage.service.parse(text))
    assert (await stage.service.view("spring")).row.revision == 1


async def test_campaigns_can_not_come_after_each_other_in_a_circle(stage: Any) -> None:
    await running(stage)
    follower = CAMPAIGN.replace("spring", "summer").replace("patience:", "after: [{campaign: spring}]\n  patience:")
    await apply(stage, follower)
    found = await planned(stage, CAMPAIGN.replace("patience:", "after: [{campaign: summer}]\n  patience:"))
    assert "spring → summer → spring" in found.refused


async def test_a_campaign_that_is_over_takes_no_revision(stage: Any) -> None:
    await running(stage)
    await stage.service.command("spring", Verb.ABORT, by="ann", reason="")
    assert "aborted" in (await planned(stage, WIDER)).refused


async def test_of_a_campaign_that_is_not_there_a_plan_says_so(stage: Any) -> None:
    await stage.enrol("t0")
    await stage.publish_releases()
    found = await planned(stage, CAMPAIGN)
    assert (found.view, found.is_same) == (None, False)
