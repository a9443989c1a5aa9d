"""Rolling back a part of a campaign, and skipping a target, over REST and by command."""

from server.ports import Role
from tests.people_side import CAMPAIGN, PeopleSide
from tests.server.http.test_gates_api import kind, post

PLAN = CAMPAIGN.replace(
    "strategy: standard",
    "strategy: {name: two, cohorts: [{name: canary, count: 1}, {name: rest}], deltas: {at_most: 0}}",
)


async def started(people: PeopleSide) -> list[str]:
    """The targets of a started campaign by cohort and rank."""
    await post(people, "/campaigns", PLAN, 201)
    await post(people, "/campaigns/spring/start", {}, 200)
    answer = await people.client.get("/api/v1/campaigns/spring/assignments", headers=people.headers(Role.VIEWER))
    return [row["target"] for row in (await answer.json())["assignments"]]


async def test_a_target_a_cohort_or_all_of_it_is_rolled_back(people: PeopleSide) -> None:
    await started(people)
    both = {"cohort": "canary", "target": "x"}
    assert kind(await post(people, "/campaigns/spring/rollback", both, 400)) == "malformed"
    assert kind(await post(people, "/campaigns/spring/rollback", {"cohort": "rest"}, 422)) == "nothing-to-roll-back"
    assert kind(await post(people, "/campaigns/spring/rollback", {"cohort": "wave"}, 404)) == "not-found"
    await post(people, "/campaigns/spring/rollback", {"cohort": "canary"}, 403, Role.VIEWER)
    view = await post(people, "/campaigns/spring/rollback", {"cohort": "canary", "reason": "it hums"}, 200)
    assert view["state"] == "paused"
    assert view["cohorts"][0]["state"] == "rolled_back"
    assert "it hums" in view["cohorts"][0]["back_reason"]
    view = await post(people, "/campaigns/spring/rollback", {"reason": "all of it"}, 200)
    assert view["state"] == "rolled_back"


async def test_a_release_is_marked_and_cleared_with_a_reason(people: PeopleSide) -> None:
    one = "/releases/gateway/1.1.0"
    await post(people, f"{one}/suspect", {"reason": ""}, 400)
    await post(people, f"{one}/suspect", {"reason": "heat"}, 403, Role.VIEWER)
    assert (await post(people, f"{one}/suspect", {"reason": "heat"}, 200))["state"] == "suspect"
    await post(people, "/campaigns", PLAN, 201)
    assert kind(await post(people, "/campaigns/spring/start", {}, 422)) == "release-suspect"
    assert (await post(people, f"{one}/clear", {"reason": "a fan"}, 200))["state"] == "active"
    assert kind(await post(people, f"{one}/clear", {"reason": "a fan"}, 422)) == "release-not-suspect"
    assert (await post(people, "/campaigns/spring/start", {}, 200))["state"] == "running"


async def test_one_target_is_taken_back_and_one_is_skipped(people: PeopleSide) -> None:
    first, second, *_ = await started(people)
    view = await post(people, "/campaigns/spring/rollback", {"target": first}, 200)
    assert view["state"] == "running"
    assert view["cohorts"][0]["counts"] == {"cancelled": 1}
    await post(people, "/campaigns/spring/skip", {"target": second, "reason": "in repair"}, 200)
    answer = await people.client.get(f"/api/v1/fleet/{second}/explain", headers=people.headers(Role.VIEWER))
    assert (await answer.json())["state"] in ("skipped", "free")
    assert kind(await post(people, "/campaigns/spring/skip", {"target": second}, 422)) == "wrong-state"
    assert kind(await post(people, "/campaigns/spring/skip", {"target": "nobody"}, 404)) == "not-found"
