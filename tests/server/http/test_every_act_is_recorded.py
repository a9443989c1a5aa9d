"""Every route that changes something leaves a record in the transaction that changes it: both, or neither.

Each is called twice: while the trail takes no record (a trigger of the database sees to that) it must fail and leave every table
as it was; then it must succeed and leave a record.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse
from securesystemslib.signer import CryptoSigner

from bench.reports import report
from firmware.protocol.codec import parse_json
from firmware.protocol.envelope import seal
from firmware.protocol.report import REPORT_KIND
from firmware.protocol.words import AgentState
from server.http.routes import API
from server.ports import AgentRecord, AgentStatus, KnownDevice, Role, Unit
from server.webhooks.events import id_of, type_of
from tests.people_side import CAMPAIGN, NOW, PeopleSide
from tests.server.http.test_people_access import EVERY
from tests.trail import everything, files_in, newest_record, trail_refusing

SAFE = ("GET", "HEAD", "OPTIONS", "*")
CHANGES_NOTHING = {"POST /plan", "POST /campaigns/{campaign}/bundle"}
"""They answer questions whose bodies are too long for an address."""
ELSEWHERE = {
    "POST /fleet/{target}/code",  # tests/server/campaigns/test_bundles_given_out.py
    "POST /campaigns/{campaign}/comparisons/{target}",  # tests/server/campaigns/test_comparing.py
    "POST /releases",  # tests/server/campaigns/test_release_service.py
    "POST /releases/{product}/{version}/deltas",  # likewise
}
"""They need a device's keys, its metrics, or a catalogue, and are tried in the same way where those are: `trail_refusing`."""
ARTIFACT, PARTS = b"an image", b"an image in parts"
PLAN = CAMPAIGN.replace(
    "strategy: standard",
    "strategy: {name: two, cohorts: [{name: canary, count: 5, gates: [{kind: all}, {kind: external, name: ward}]}, "
    "{name: rest}], deltas: {at_most: 0}, unattended: {expires: 14d}}",
)
APPROVED = CAMPAIGN.replace(
    "strategy: standard", "strategy: {name: two, cohorts: [{name: all}], deltas: {at_most: 0}, approvals: {need: 1}}"
)

Call = Callable[[], Awaitable[ClientResponse]]


async def test_every_route_that_changes_something_leaves_a_record_or_changes_nothing(
    people: PeopleSide, tmp_path: Path
) -> None:
    tried = set()
    signer = CryptoSigner.generate_ecdsa()
    await people.database.write(lambda unit: _add_device(unit, "gw-9", signer))
    await people.database.write(_add_known)
    for route, call in _calls(people, signer):
        before, files = await everything(people.database), _files(tmp_path)
        async with trail_refusing(people.database):
            answer = await call()
            assert answer.status >= 400, route
        assert await everything(people.database) == before, route
        assert _files(tmp_path) == files, route
        newest = await newest_record(people.database)
        answer = await call()
        assert answer.status < 400, (route, await answer.text())
        assert await newest_record(people.database) > newest, route
        tried.add(route)
    assert tried == _changing(people) - CHANGES_NOTHING - ELSEWHERE


async def test_what_only_asks_changes_nothing(people: PeopleSide) -> None:
    before = await everything(people.database)
    answer = await people.client.post(f"{API}/plan", data=CAMPAIGN, headers=people.headers())
    assert answer.status == 200
    assert await everything(people.database) == before


def _calls(people: PeopleSide, signer: CryptoSigner) -> list[tuple[str, Call]]:
    """Every route with a call that succeeds, in an order in which they all do."""
    out: list[tuple[str, Call]] = []

    def api(route: str, path: str = "", body: Any = None, role: Role = Role.ADMIN, **more: str) -> None:
        method, pattern = route.split(" ")
        sent = {"data": body} if isinstance(body, str | bytes) else {"json": body or {}}
        address, headers = API + (path or pattern), {**people.headers(role), **more}
        out.append((route, lambda: people.client.request(method, address, headers=headers, **sent)))

    def form(route: str, path: str, fields: dict[str, str], *, before: bool = True) -> None:
        async def post() -> ClientResponse:
            csrf = await _csrf(people) if before else {}
            return await people.client.post(path, data={**fields, **csrf}, allow_redirects=False)

        out.append((f"form {route}", post))

    api("POST /people", body={"name": "bob", "role": "viewer"})
    api("PATCH /people", body={"name": "bob", "role": "operator"})
    out.append(("POST /people/{token}/expire", lambda: _expire(people, "bob")))
    api("DELETE /people", body={"name": "bob"})
    api("POST /claim-tokens")
    api("POST /known-devices", body={"devices": [{"serial": "SN-3"}]})
    api("POST /known-devices/{known}/allow", "/known-devices/k-1/allow", {"reason": "r"})
    api("DELETE /known-devices/{known}", "/known-devices/k-2")
    word = {"name": "backup", "verdict": "good", "expires_s": 3600, "target": "gw-1", "reason": "done"}
    api("POST /words", body=word)
    for step in ("quarantine", "release", "revoke"):
        api(f"POST /fleet/{{target}}/{step}", f"/fleet/gw-5/{step}", {"reason": "r"})
    api("POST /fleet/{target}/decommission", "/fleet/gw-4/decommission", {"reason": "r"})
    api("POST /fleet/{target}/logs", "/fleet/gw-0/logs")
    digest = hashlib.sha256(ARTIFACT).hexdigest()
    api("PUT /artifacts/sha256/{hash}", f"/artifacts/sha256/{digest}", ARTIFACT)
    promised = f"sha256 {b64encode(hashlib.sha256(PARTS).hexdigest().encode()).decode()}"
    begun = {"Upload-Length": str(len(PARTS)), "Upload-Metadata": promised}
    api("POST /uploads", **{"Tus-Resumable": "1.0.0"}, **begun)
    out.append(("PATCH /uploads/{upload}", lambda: _send_rest(people)))
    promise = {"Upload-Length": "9", "Upload-Metadata": f"sha256 {b64encode(b'0' * 64).decode()}"}
    api("POST /uploads", **{"Tus-Resumable": "1.0.0"}, **promise)
    out.append(("DELETE /uploads/{upload}", lambda: _give_up(people)))
    for step in ("suspect", "clear"):
        api(f"POST /releases/{{product}}/{{version}}/{step}", f"/releases/gateway/1.1.0/{step}", {"reason": "r"})
    said = report("gw-9", seq=1, state=AgentState.IDLE, order_hash=None)
    envelope = parse_json(seal(said, REPORT_KIND, signer), max_bytes=1 << 20)
    api("POST /reports", body={"reports": [{"leaf": "report", "envelope": envelope}]})
    api("POST /authorities/{kind}/{step}", "/authorities/fleet/rotate", {"force": True})
    api("POST /campaigns", body=PLAN)
    one = "/campaigns/spring"
    api("POST /campaigns/{campaign}/start", f"{one}/start")
    api("POST /campaigns/{campaign}/bundle/orders", f"{one}/bundle/orders", {"targets": ["gw-0", "gw-1", "gw-2"]})
    gate = {"verdict": "pass", "reason": "quiet"}
    api("POST /campaigns/{campaign}/cohorts/{cohort}/gate", f"{one}/cohorts/canary/gate", gate)
    for verb in ("pause", "resume"):
        api(f"POST /campaigns/{{campaign}}/{verb}", f"{one}/{verb}", {"reason": "r"})
    api("POST /campaigns/{campaign}/skip", f"{one}/skip", {"target": "gw-3", "reason": "r"})
    api("POST /campaigns/{campaign}/rollback", f"{one}/rollback", {"reason": "r"})
    for name, verb in (("autumn", "approve"), ("winter", "reject")):
        api("POST /campaigns", body=APPROVED.replace("spring", name))
        api("POST /campaigns/{campaign}/start", f"/campaigns/{name}/start", role=Role.OPERATOR)
        api(f"POST /campaigns/{{campaign}}/{verb}", f"/campaigns/{name}/{verb}", {"reason": "r"}, Role.APPROVER)
    api("POST /campaigns/{campaign}/abort", "/campaigns/autumn/abort", {"reason": "r"})
    api("POST /webhooks", body={"name": "ops", "url": "http://127.0.0.1:9/hook", "types": ["otaria.campaign.*"]})
    api("PATCH /webhooks/{webhook}", "/webhooks/ops", {"state": "paused", "reason": "r"})
    api("POST /webhooks/{webhook}/test", "/webhooks/ops/test")
    out.append(("POST /webhooks/{webhook}/replay", lambda: _replay(people)))
    form("POST /login", "/login", {"token": people.secret[Role.ADMIN]}, before=False)
    form("POST /fleet/{target}/logs", "/fleet/gw-1/logs", {})
    form("POST /people/add", "/people/add", {"name": "eve", "role": "viewer", "life": "7"})
    form("POST /people/role", "/people/role", {"name": "eve", "role": "auditor"})
    out.append(("form POST /people/expire", lambda: _csrf_and_token(people, "eve")))
    form("POST /people/add", "/people/add", {"name": "eve", "role": "viewer", "life": ""})
    form("POST /people/deactivate", "/people/deactivate", {"name": "eve"})
    api("POST /campaigns", body=PLAN.replace("spring", "october"))
    api("POST /campaigns/{campaign}/start", "/campaigns/october/start")
    one = "/campaigns/october"
    form("POST /campaigns/{campaign}/targets/{target}/skip", f"{one}/targets/gw-3/skip", {"reason": "r"})
    form("POST /campaigns/{campaign}/targets/{target}/rollback", f"{one}/targets/gw-1/rollback", {"reason": "r"})
    form("POST /bulk/skip", "/bulk/skip", {"targets": "october/gw-2", "reason": "r"})
    answered = {"reason": "r", "choice": "pass", "gate": "ward"}
    form("POST /campaigns/{campaign}/cohorts/{cohort}/gate", f"{one}/cohorts/canary/gate", answered)
    form("POST /campaigns/{campaign}/cohorts/{cohort}/rollback", f"{one}/cohorts/canary/rollback", {"reason": "r"})
    form("POST /fleet/{target}/{step}", "/fleet/gw-2/quarantine", {"reason": "r"})
    api("POST /campaigns", body=CAMPAIGN.replace("spring", "summer"))
    rehearsals = "/campaigns/{campaign}/rehearsals"
    for method in ("POST", "DELETE"):
        api(f"{method} {rehearsals}", "/campaigns/summer/rehearsals")
    form("POST /campaigns/{campaign}/rehearse", "/campaigns/summer/rehearse", {})
    form("POST /campaigns/{campaign}/rehearse/cancel", "/campaigns/summer/rehearse/cancel", {})
    form("POST /campaigns/{campaign}/{verb}", "/campaigns/summer/start", {"reason": "r"})
    drafted = {"name": "harvest", "release": "gateway 1.1.0", "strategy": "bench", "do": "keep"}
    form("POST /draft", "/draft", drafted)
    form("POST /releases/{product}/{version}/{verdict}", "/releases/gateway/1.1.0/suspect", {"reason": "r"})
    form("POST /views", "/views", {"name": "berlin", "query": "hardware=gateway-r1"})
    form("POST /views/remove", "/views/remove", {"name": "berlin"})
    form("POST /webhooks/{webhook}/renew", "/webhooks/ops/renew", {"choice": "3600"})
    form("POST /webhooks/{webhook}/{act}", "/webhooks/ops/resume", {})
    api("DELETE /webhooks/{webhook}", "/webhooks/ops")
    form("POST /logout", "/logout", {})
    out.append(("POST /audit/removal", lambda: _remove_old(people)))
    return out


def _add_known(unit: Unit) -> None:
    unit.identities.add_known_device(KnownDevice(id="k-1", serial="SN-1"))
    unit.identities.bind_known_device("k-1", agent="gw-5", key_sha256="a" * 64)
    unit.identities.add_known_device(KnownDevice(id="k-2", serial="SN-2"))


async def _remove_old(people: PeopleSide) -> ClientResponse:
    people.clock.at = NOW + 3 * 86400
    return await people.client.post(f"{API}/audit/removal", json={"older_than_s": 86400}, headers=people.headers())


async def _replay(people: PeopleSide) -> ClientResponse:
    """Of the newest event that there is."""
    records = await people.database.read(lambda unit: unit.audit.latest(limit=1000))
    event = next(id_of(record) for record in records if type_of(record))
    return await people.client.post(f"{API}/webhooks/ops/replay", json={"event": event}, headers=people.headers())


async def _send_rest(people: PeopleSide) -> ClientResponse:
    """What is missing of the upload: all at first, and nothing once all is here and only its record is missing."""
    (note,) = people.artifacts.on_their_way.glob("*.json")
    path, spoken = f"{API}/uploads/{note.stem}", {**people.headers(), "Tus-Resumable": "1.0.0"}
    begin = (await people.client.head(path, headers=spoken)).headers["Upload-Offset"]
    headers = {**spoken, "Upload-Offset": begin, "Content-Type": "application/offset+octet-stream"}
    return await people.client.patch(path, data=PARTS[int(begin) :], headers=headers)


async def _expire(people: PeopleSide, name: str) -> ClientResponse:
    tokens = await people.database.read(lambda unit: unit.identities.api_tokens())
    token = next(one.id for one in tokens if one.name == name)
    return await people.client.post(f"{API}/people/{token}/expire", headers=people.headers())


async def _csrf_and_token(people: PeopleSide, name: str) -> ClientResponse:
    tokens = await people.database.read(lambda unit: unit.identities.api_tokens())
    token = next(one.id for one in tokens if one.name == name)
    data = {"token": token, **await _csrf(people)}
    return await people.client.post("/people/expire", data=data, allow_redirects=False)


async def _give_up(people: PeopleSide) -> ClientResponse:
    (note,) = people.artifacts.on_their_way.glob("*.json")
    headers = {**people.headers(), "Tus-Resumable": "1.0.0"}
    return await people.client.delete(f"{API}/uploads/{note.stem}", headers=headers)


async def _csrf(people: PeopleSide) -> dict[str, str]:
    found = re.search(r'name="csrf" value="([^"]+)"', await (await people.client.get("/")).text())
    return {"csrf": found[1] if found else ""}


def _changing(people: PeopleSide) -> set[str]:
    """Every route of the people's app whose method may change something: API and forms."""
    found = set()
    for route in people.client.server.app.router.routes():
        if route.method not in SAFE and route.resource is not None:
            path = route.resource.canonical
            found.add(f"{'' if path.startswith(API) else 'form '}{route.method} {path.removeprefix(API)}")
    assert {route for route in EVERY if route.split(" ")[0] not in SAFE} <= found
    return found


def _files(folder: Path) -> set[tuple[str, int]]:
    """The files that people's acts change: artifacts and CAs."""
    return files_in(folder / "artifacts" / "sha256", folder / "identity")


def _add_device(unit: Unit, name: str, signer: CryptoSigner) -> None:
    agent = AgentRecord(
        id=name,
        status=AgentStatus.ACTIVE,
        report_keyid=signer.public_key.keyid,
        report_key=signer.public_key.to_dict(),
        certificate_serial=name,
        enrolled_at=NOW,
    )
    unit.identities.add_agent(agent, hardware="gateway-r1", labels={"site": "berlin"})
