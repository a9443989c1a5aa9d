"""What the API answers when it is used well."""

import asyncio
import base64
import hashlib
from dataclasses import replace

import pytest

from firmware.protocol.order import Counter
from server.http.changes import Changes
from server.http.routes import API
from server.ports import EncryptedImage, LogAsk, Role, StoredFile, Unit
from tests.people_side import CAMPAIGN, RELEASE_KEY, PeopleSide, add_device, release, run_first_release


async def _get(people: PeopleSide, path: str) -> dict:
    answer = await people.client.get(API + path, headers=people.headers(Role.VIEWER))
    assert answer.status == 200, await answer.text()
    return await answer.json()


async def _post(people: PeopleSide, path: str, body: object = None, status: int = 200) -> dict:
    send = {"data": body} if isinstance(body, str) else {"json": body}
    answer = await people.client.post(API + path, headers=people.headers(), **send)
    assert answer.status == status, await answer.text()
    return await answer.json()


async def test_the_fleet_comes_in_pages_and_filtered(people: PeopleSide) -> None:
    first = await _get(people, "/fleet?limit=4")
    second = await _get(people, f"/fleet?limit=4&cursor={first['next']}")
    assert [target["id"] for target in first["targets"] + second["targets"]] == [f"gw-{n}" for n in range(6)]
    assert (second["next"], first["count"], first["count_is_exact"], second["count"]) == (None, 6, True, None)
    assert await _get(people, "/fleet-summary") == {"count": 6, "versions": {"unknown": 6}, "drifted": 0}
    romans = await _get(people, "/fleet?query=site:rome")
    assert [target["id"] for target in romans["targets"]] == ["gw-4", "gw-5"]


async def test_a_target_and_why_it_is_not_moving(people: PeopleSide) -> None:
    assert (await _get(people, "/fleet/gw-1"))["labels"] == {"site": "berlin"}
    why = await _get(people, "/fleet/gw-1/explain")
    assert why["kind"] == "no-campaign"
    assert why["text"]


async def test_a_dry_run_says_what_it_would_take_and_keeps_nothing(people: PeopleSide) -> None:
    plan = await _post(people, "/campaigns?dry_run=1", CAMPAIGN)
    assert sum(cohort["size"] for cohort in plan["cohorts"]) == 6
    assert (await _get(people, "/campaigns"))["campaigns"] == []


async def test_a_campaign_is_made_started_paused_and_aborted_with_reasons_on_the_trail(people: PeopleSide) -> None:
    made = await _post(people, "/campaigns", CAMPAIGN, 201)
    assert (made["id"], made["state"], made["created_by"]) == ("spring", "draft", "the admin")
    assert (await _post(people, "/campaigns/spring/start"))["state"] == "running"
    assert (await _post(people, "/campaigns/spring/pause", {"reason": "an alarm"}))["state"] == "paused"
    assert (await _post(people, "/campaigns/spring/abort", {"reason": "wrong notes"}))["state"] == "aborted"
    rows = (await _get(people, "/campaigns/spring/assignments?cohort=0"))["assignments"]
    assert rows
    assert {row["campaign"] for row in rows} == {"spring"}
    trail = [record["text"] for record in (await _get(people, "/audit?campaign=spring"))["audit"]]
    assert any("an alarm" in text for text in trail)


async def test_a_started_campaign_says_what_its_targets_download(people: PeopleSide) -> None:
    await run_first_release(people, 4)
    made = await _post(people, "/campaigns", CAMPAIGN, 201)
    assert made["downloads"] is None
    shown = (await _post(people, "/campaigns/spring/start"))["downloads"]
    legs = [(leg["source_version"], leg["targets"], leg["need"], leg["delta_bytes"]) for leg in shown.pop("legs")]
    assert legs == [("1.0.0", 4, "made", 1 << 20), ("", 2, "left_out", None)]
    assert shown == {
        "made": 1,
        "refused": 0,
        "wanted": 0,
        "full_bytes": 6 * (16 << 20),
        "expected_bytes": 4 * (1 << 20) + 2 * (16 << 20),
    }


async def test_a_verb_its_state_does_not_allow_is_refused_and_changes_nothing(people: PeopleSide) -> None:
    await _post(people, "/campaigns", CAMPAIGN, 201)
    problem = await _post(people, "/campaigns/spring/resume", None, 422)
    assert problem["detail"]
    assert (await _get(people, "/campaigns/spring"))["state"] == "draft"


APPROVED = CAMPAIGN.replace("strategy: standard", "strategy: {extends: standard, approvals: {need: 1}}")


async def test_two_people_start_a_campaign_that_takes_approval(people: PeopleSide) -> None:
    await _post(people, "/campaigns", APPROVED, 201)
    asked = await _post(people, "/campaigns/spring/start", {"reason": "CHG-1"})
    assert (asked["state"], asked["approvals_needed"], asked["owed_approvals"]) == ("awaiting_approval", 1, 0)
    problem = await _post(people, "/campaigns/spring/approve", None, 422)
    assert problem["type"] == "approval-not-yours"
    answer = await people.client.post(
        f"{API}/campaigns/spring/approve", headers=people.headers(Role.APPROVER), json={"reason": "fine"}
    )
    assert (await answer.json())["state"] == "running"
    shown = await _get(people, "/campaigns/spring")
    assert [(one["by"], one["reason"]) for one in shown["approvals"]] == [("the approver", "fine")]


async def test_an_emergency_runs_and_shows_what_it_owes(people: PeopleSide) -> None:
    urgent = "strategy: {extends: standard, emergency: true, approvals: {need: 2}}"
    await _post(people, "/campaigns", CAMPAIGN.replace("strategy: standard", urgent), 201)
    started = await _post(people, "/campaigns/spring/start")
    assert (started["state"], started["owed_approvals"]) == ("running", 2)


async def test_rules_by_label_look_at_who_is_selected(people: PeopleSide) -> None:
    rules = "rules: [{need: 2, labels: {site: rome}}, {need: 3, labels: {site: nowhere}}]"
    strategy = f"strategy: {{extends: standard, approvals: {{{rules}}}}}"
    made = await _post(people, "/campaigns?dry_run=1", CAMPAIGN.replace("strategy: standard", strategy))
    assert made["approvals_needed"] == 2
    berlin = "selection: {labels: {site: berlin}}\n"
    made = await _post(people, "/campaigns?dry_run=1", berlin + CAMPAIGN.replace("strategy: standard", strategy))
    assert made["approvals_needed"] == 0


async def test_a_start_time_is_kept_and_waited_for(people: PeopleSide) -> None:
    await _post(people, "/campaigns", CAMPAIGN + 'start_at: "2100-01-01T02:00+01:00"\n', 201)
    started = await _post(people, "/campaigns/spring/start")
    assert (started["state"], started["start_at"]) == ("scheduled", 4102448400.0)
    problem = await _post(people, "/campaigns", CAMPAIGN.replace("spring", "other") + "start_at: 2100-01-01\n", 422)
    assert "with its offset" in problem["detail"]


async def test_access_is_given_listed_and_taken_away(people: PeopleSide) -> None:
    made = await _post(people, "/people", {"name": "bob", "role": "approver", "expires_s": 3600}, 201)
    assert (await people.client.get(f"{API}/fleet", headers={"Authorization": f"Bearer {made['token']}"})).status == 200
    answer = await people.client.get(f"{API}/people", headers=people.headers())
    listed = {one["name"]: one for one in (await answer.json())["people"]}
    assert (listed["bob"]["role"], "token" in listed["bob"]) == ("approver", False)
    gone = await people.client.delete(f"{API}/people", headers=people.headers(), json={"name": "bob"})
    assert gone.status == 200
    assert (await people.client.get(f"{API}/fleet", headers={"Authorization": f"Bearer {made['token']}"})).status == 401
    again = await people.client.delete(f"{API}/people", headers=people.headers(), json={"name": "bob"})
    assert again.status == 404
    own = await people.client.delete(f"{API}/people", headers=people.headers(), json={"name": "the admin"})
    assert (await own.json())["type"] == "own-token"
    trail = [record["text"] for record in (await _get(people, "/audit"))["audit"]]
    assert "bob was given access as approver." in trail
    assert "The access of bob was taken away." in trail


async def test_a_role_is_changed_and_access_ended(people: PeopleSide) -> None:
    made = await _post(people, "/people", {"name": "bob", "role": "viewer"}, 201)
    bobs = {"Authorization": f"Bearer {made['token']}"}

    async def change(**body: object) -> tuple[int, dict]:
        answer = await people.client.patch(f"{API}/people", headers=people.headers(), json={"name": "bob", **body})
        return answer.status, await answer.json()

    assert (await change(role="operator"))[1]["people"][0]["role"] == "operator"
    assert (await people.client.post(f"{API}/campaigns", headers=bobs, data=CAMPAIGN)).status == 201
    assert (await change())[0] == 400
    assert (await change(active=True))[0] == 400
    status, ended = await change(active=False)
    assert (status, ended["people"][0]["expires_at"]) == (200, people.clock.at)
    assert (await people.client.get(f"{API}/fleet", headers=bobs)).status == 401
    again = await _post(people, "/people", {"name": "bob", "role": "viewer"}, 201)
    answer = await people.client.get(f"{API}/people", headers=people.headers())
    listed = (await answer.json())["people"]
    token = next(one["id"] for one in listed if one["name"] == "bob" and one["expires_at"] is None)
    assert (await _post(people, f"/people/{token}/expire"))["expires_at"] == people.clock.at
    bobs = {"Authorization": f"Bearer {again['token']}"}
    assert (await people.client.get(f"{API}/fleet", headers=bobs)).status == 401
    mine = next(one["id"] for one in listed if one["name"] == "the admin")
    problem = await _post(people, f"/people/{mine}/expire", None, 422)
    assert problem["type"] == "last-admin"


async def test_claim_tokens_are_shown_once_and_listed_without_their_secret(people: PeopleSide) -> None:
    made = await _post(people, "/claim-tokens", {"uses": 3, "expires_s": 600, "labels": {"site": "oslo"}}, 201)
    assert made["token"] == "otc1.paper-1"
    answer = await people.client.get(f"{API}/claim-tokens", headers=people.headers())
    listed = (await answer.json())["claim_tokens"]
    assert (listed[0]["uses_left"], listed[0]["created_by"]) == (3, "the admin")
    assert "secret" not in str(listed)


async def test_an_artifact_is_kept_under_its_hash_and_found_again(people: PeopleSide) -> None:
    data = b"seal" * 50_000
    path = f"{API}/artifacts/sha256/{hashlib.sha256(data).hexdigest()}"
    assert (await people.client.head(path, headers=people.headers())).status == 404
    assert (await people.client.put(path, data=data, headers=people.headers())).status == 201
    found = await people.client.head(path, headers=people.headers())
    assert (found.status, found.headers["Content-Length"]) == (200, str(len(data)))
    assert (await people.client.put(path, data=b"", headers=people.headers())).status == 200
    assert people.artifacts.find(path.rpartition("/")[2]).read_bytes() == data


async def test_a_release_reaches_the_publisher_as_it_was_signed(people: PeopleSide) -> None:
    body = {
        "product": "gateway",
        "version": "2.0.0",
        "manifest": base64.b64encode(b"{manifest}").decode(),
        "metadata": base64.b64encode(b"{metadata}").decode(),
    }
    await _post(people, "/releases", body, 201)
    assert people.publisher.published == [("gateway", "2.0.0", b"{manifest}", b"{metadata}", "the admin")]


async def test_the_key_of_an_encrypted_release_reaches_the_publisher_and_is_never_shown(people: PeopleSide) -> None:
    body = {"product": "gateway", "version": "2.0.0", "manifest": "", "metadata": "", "content_key": "AAEC"}
    await _post(people, "/releases", body, 201)
    assert people.publisher.content_keys == [b"\0\1\2"]
    file = StoredFile(path="releases/gateway/3.0.0/root.img.enc", length=99, sha256="c" * 64)
    encrypted = EncryptedImage(file=file, salt="d" * 64, key_check="e" * 64)
    plain = release("3.0.0", 30)
    secret = replace(plain, images=(replace(plain.images[0], encrypted=encrypted),))
    await people.database.write(lambda unit: unit.releases.add(secret, content_key=b"wrapped-for-the-server"))
    for path in ("/releases", "/releases/gateway/3.0.0"):
        answer = await people.client.get(f"/api/v1{path}", headers=people.headers())
        text = await answer.text()
        assert file.path in text
        assert "wrapped" not in text
        assert base64.b64encode(b"wrapped-for-the-server").decode() not in text


async def test_makers_get_the_release_key(people: PeopleSide) -> None:
    answer = await _get(people, "/release-key")
    assert answer == {"public": RELEASE_KEY, "key_id": hashlib.sha256(RELEASE_KEY.encode()).hexdigest()}


async def test_releases_come_with_the_deltas_that_lead_to_them(people: PeopleSide) -> None:
    releases = {one["version"]: one for one in (await _get(people, "/releases"))["releases"]}
    assert [len(releases[version]["deltas"]) for version in ("1.0.0", "1.1.0")] == [0, 1]
    assert (await _get(people, "/releases/gateway/1.1.0"))["deltas"] == releases["1.1.0"]["deltas"]


async def test_readiness_says_what_it_waits_for(people: PeopleSide) -> None:
    assert (await people.client.get("/readyz")).status == 200
    people.waiting_for.append("the connection to the broker")
    answer = await people.client.get("/readyz")
    waits = {"ready": False, "role": "leader", "waiting_for": ["the connection to the broker"]}
    assert (answer.status, await answer.json()) == (503, waits)
    assert (await people.client.get("/healthz")).status == 200


async def test_a_write_rings_every_open_stream(people: PeopleSide) -> None:
    async with people.client.get(f"{API}/events", headers=people.headers()) as stream:
        assert stream.content_type == "text/event-stream"
        first = await asyncio.wait_for(stream.content.readuntil(b"\n\n"), 5)
        await people.database.write(lambda unit: add_device(unit, "gw-9", {}))
        second = await asyncio.wait_for(stream.content.readuntil(b"\n\n"), 5)
    assert first.startswith(b"event: changed\n")
    assert second.startswith(b"event: changed\n")
    assert first != second


async def test_a_follower_that_leaves_is_no_error(people: PeopleSide, caplog: pytest.LogCaptureFixture) -> None:
    async with people.client.get(f"{API}/events", headers=people.headers()) as stream:
        await asyncio.wait_for(stream.content.readuntil(b"\n\n"), 5)
    async with asyncio.timeout(10):
        while people.streams.open.total():
            people.changes.ring()
            await asyncio.sleep(0.05)
    assert caplog.records == []


async def test_a_failed_write_rings_nothing(people: PeopleSide) -> None:
    before = people.changes.version
    with pytest.raises(ZeroDivisionError):
        await people.database.write(lambda _: 1 // 0)
    await people.database.read(lambda unit: unit.fleet.count())
    assert people.changes.version == before


async def test_a_closed_bell_ends_streams_at_once() -> None:
    changes = Changes()
    waiting = asyncio.create_task(changes.after(0, 60))
    await asyncio.sleep(0)
    changes.close()
    assert await asyncio.wait_for(waiting, 1) == 1


async def test_a_campaigns_evidence_is_listed_in_pages_and_nobody_elses(people: PeopleSide) -> None:
    def work(unit: Unit) -> None:
        for number, campaign in enumerate(("spring", "spring", None, "other")):
            given = {"target": "gw-1", "agent": "gw-1", "what": ["agent"], "max_bytes": 1024, "asked_by": "planner"}
            times = {"asked_at": 1.0, "expires_at": 2.0, "sent_at": 1.0, "counter": Counter(epoch=1, n=number)}
            unit.logs.add(LogAsk(id=f"log-{number}", campaign=campaign, **given, **times))

    await people.database.write(work)
    first = await _get(people, "/campaigns/spring/evidence?limit=1")
    assert [one["id"] for one in first["evidence"]] == ["log-0"]
    second = await _get(people, f"/campaigns/spring/evidence?limit=2&cursor={first['next']}")
    assert ([one["id"] for one in second["evidence"]], second["next"]) == (["log-1"], None)


async def test_logs_are_asked_for_listed_and_shown_to_whoever_operates(people: PeopleSide) -> None:
    ask = await _post(people, "/fleet/gw-1/logs", {"what": ["agent", "trial"], "max_bytes": 2048}, 201)
    assert (ask["state"], ask["what"], ask["max_bytes"]) == ("waiting", ["agent", "trial"], 2048)
    assert [one["id"] for one in (await _get(people, "/fleet/gw-1/logs"))["logs"]] == [ask["id"]]
    path = f"{API}/logs/{ask['id']}"
    shown = await people.client.get(path, headers=people.headers(Role.OPERATOR))
    assert (await shown.json())["text"] is None
    assert (await people.client.get(path, headers=people.headers(Role.VIEWER))).status == 403
    no = await people.client.post(f"{API}/fleet/gw-1/logs", json={}, headers=people.headers(Role.VIEWER))
    assert no.status == 403
    await _post(people, "/fleet/gw-99/logs", {}, 404)
    await _post(people, "/fleet/gw-1/logs", {"what": ["keys"]}, 400)
    await _post(people, "/fleet/gw-1/logs", {"max_bytes": 1 << 30}, 400)
    assert (await people.client.get(f"{API}/logs/log-none", headers=people.headers())).status == 404
