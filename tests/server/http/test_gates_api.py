"""Gates over REST: what is warned about, answered, compared, and shown as evidence."""

from server.http.routes import API
from server.ports import Role
from tests.people_side import PeopleSide

GATED = """
name: spring
product: gateway
version: "{version}"
strategy:
  name: gated
  cohorts:
    - name: canary
      count: 2
      gates:
        - {{kind: all}}
        - {{kind: external, name: ward}}
    - {{name: rest, gate: {{kind: rate, max_failure_rate: 5%, small_cohort: {small}}}}}
  deltas: {{at_most: 0}}
"""


def gated(people: PeopleSide, *, small: str = "all") -> str:
    from tests.people_side import CAMPAIGN

    version = CAMPAIGN.partition('version: "')[2].partition('"')[0]
    product = CAMPAIGN.partition("product: ")[2].partition("\n")[0]
    return GATED.format(version=version, small=small).replace("product: gateway", f"product: {product}")


async def post(people: PeopleSide, path: str, body: object, status: int, role: Role = Role.OPERATOR) -> dict:
    send = {"data": body} if isinstance(body, str) else {"json": body}
    answer = await people.client.post(API + path, headers=people.headers(role), **send)
    assert answer.status == status, await answer.text()
    return await answer.json()


def kind(problem: dict) -> str:
    return problem["type"].rpartition(":")[2].rpartition("/")[2]


async def test_what_a_gate_lacks_power_for_is_told_or_refused_when_the_campaign_is_made(people: PeopleSide) -> None:
    made = await post(people, "/campaigns?dry_run=1", gated(people), 200)
    assert ["so all of it must verify" in text for text in made["warnings"]] == [True]
    problem = await post(people, "/campaigns?dry_run=1", gated(people, small="hold"), 422)
    assert kind(problem) == "gate-without-power"
    assert "could never pass" in problem["detail"]


async def test_a_word_on_an_external_gate_is_kept_with_who_gave_it(people: PeopleSide) -> None:
    await post(people, "/campaigns", gated(people), 201)
    path = "/campaigns/spring/cohorts/canary/gate"
    assert kind(await post(people, path, {"verdict": "pass"}, 422)) == "wrong-state"
    await post(people, "/campaigns/spring/start", {}, 200)
    await post(people, path, {"verdict": "maybe"}, 400)
    assert kind(await post(people, path, {"verdict": "pass", "gate": "board"}, 422)) == "no-such-gate"
    view = await post(people, path, {"verdict": "pass", "reason": "quiet"}, 200)
    canary = view["cohorts"][0]
    said = canary["inputs"]["ward"]
    assert (said["verdict"], said["reason"], said["by"]) == ("pass", "quiet", "the operator")
    assert [one["kind"] for one in canary["evidence"]] == ["all", "external"]
    assert canary["evidence"][1]["by"] == "the operator"
    assert "strata" not in canary
    rest = view["cohorts"][1]["evidence"][0]
    assert rest["judged_by"] == "all"
    assert rest["strata"][0]["power"] == 0
    answer = await people.client.get(API + "/audit?campaign=spring", headers=people.headers(Role.VIEWER))
    texts = [record["text"] for record in (await answer.json())["audit"]]
    assert "Gate ward of cohort canary: pass, by the operator: quiet" in texts


async def test_a_no_fails_the_cohort_and_pauses_the_campaign(people: PeopleSide) -> None:
    await post(people, "/campaigns", gated(people), 201)
    await post(people, "/campaigns/spring/start", {}, 200)
    view = await post(people, "/campaigns/spring/cohorts/canary/gate", {"verdict": "fail", "reason": "alarms"}, 200)
    assert (view["state"], view["cohorts"][0]["state"]) == ("paused", "failed")
    assert view["cohorts"][0]["evidence"][1]["verdict"] == "fail"


async def test_only_a_verified_target_with_a_control_is_compared(people: PeopleSide) -> None:
    await post(people, "/campaigns", gated(people), 201)
    change = {"changes": {"restarts": {"own": 1.0, "control": 0.0}}}
    path = "/campaigns/spring/comparisons/"
    assert kind(await post(people, path + "gw-1", change, 422)) == "not-compared"
    await post(people, path + "nobody", change, 404)
    await post(people, path + "gw-1", {"changes": {}}, 400)
