"""Signed envelopes over REST, on the target's page and as typed: seen, checked, and taken along as they are."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from bench.reports import report
from firmware.protocol.codec import canonical
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.report import REPORT_KIND, Report
from firmware.protocol.words import AgentState
from server.cli import run
from server.http.routes import API
from server.ports import AgentRecord, AgentStatus, EnvelopeKind, Role, SignedEnvelope, Unit
from tests.people_side import CAMPAIGN, NOW, PeopleSide


@pytest.fixture
async def said(people: PeopleSide) -> tuple[PeopleSide, CryptoSigner]:
    """A device that reported once, and the key of its reports."""
    signer = CryptoSigner.generate_ecdsa()
    key = signer.public_key

    def add(unit: Unit) -> None:
        agent = AgentRecord(
            id="gw-9",
            status=AgentStatus.ACTIVE,
            report_keyid=key.keyid,
            report_key=key.to_dict(),
            certificate_serial="9",
            enrolled_at=NOW,
        )
        unit.identities.add_agent(agent, hardware="gateway-r1", labels={"note": "<b>"})

    await people.database.write(add)
    envelope = seal(report("gw-9", seq=1, state=AgentState.IDLE, order_hash=None), REPORT_KIND, signer)
    body = {"reports": [{"leaf": "report", "envelope": json.loads(envelope)}]}
    async with people.client.post(f"{API}/reports", json=body, headers=people.headers()) as answer:
        assert answer.status == 200, await answer.text()
    return people, signer


async def get(people: PeopleSide, path: str, role: Role = Role.VIEWER) -> tuple[int, dict]:
    async with people.client.get(f"{API}{path}", headers=people.headers(role)) as answer:
        return answer.status, await answer.json()


async def test_a_report_is_listed_shown_and_can_be_checked_by_anybody(said: tuple[PeopleSide, CryptoSigner]) -> None:
    people, signer = said
    status, listed = await get(people, "/fleet/gw-9/signed")
    (one,) = listed["signed"]
    assert (status, one["kind"], one["keyid"]) == (200, "report", signer.public_key.keyid)
    _, whole = await get(people, f"/fleet/gw-9/signed/{one['id']}")
    assert (whole["verified"], whole["why"], whole["says"]["seq"]) == (True, "", 1)
    keys = {signer.public_key.keyid: signer.public_key}
    opened = open_envelope(canonical(whole["envelope"]), REPORT_KIND, Report, keys)
    assert (opened.hash, opened.message.target) == (one["hash"], "gw-9")
    _, trail = await get(people, f"/audit?after={whole['record'] - 1}&limit=1")
    assert one["hash"] in json.dumps(trail["audit"][0]["data"])


async def test_kinds_can_be_chosen_and_pages_follow_each_other(said: tuple[PeopleSide, CryptoSigner]) -> None:
    people, _ = said
    text = CAMPAIGN.replace("strategy: standard", "strategy: {name: all, cohorts: [{name: all}], deltas: {at_most: 0}}")
    for path, body in (("/campaigns", text), ("/campaigns/spring/start", None)):
        async with people.client.post(f"{API}{path}", data=body, headers=people.headers()) as answer:
            assert answer.status < 300, await answer.text()
    await people.engine.settle()
    _, listed = await get(people, "/fleet/gw-9/signed?kind=order")
    assert {one["kind"] for one in listed["signed"]} <= {"order"}
    _, page = await get(people, "/fleet/gw-9/signed?limit=1")
    assert len(page["signed"]) == 1
    assert (await get(people, "/fleet/gw-9/signed?kind=letter"))[0] == 400


@pytest.mark.parametrize("path", ["gw-8x/signed", "gw-9/signed/999999", "gw-9/signed/x", "gw-1/signed/1"])
async def test_what_is_not_there_is_not_found(said: tuple[PeopleSide, CryptoSigner], path: str) -> None:
    assert (await get(said[0], f"/fleet/{path}"))[0] == 404


async def test_the_page_leads_to_the_envelope_its_record_and_a_file(said: tuple[PeopleSide, CryptoSigner]) -> None:
    people, _ = said
    await people.sign_in(Role.VIEWER)
    text = await (await people.client.get("/fleet/gw-9")).text()
    link = re.search(r'href="(/fleet/gw-9/signed/\d+)"', text)
    assert link is not None
    page = await (await people.client.get(link[1])).text()
    assert "Its signature holds" in page
    assert "<b>" not in page.partition("<main")[2]
    record = re.search(r'href="(/trail\?record=(\d+))"', page)
    assert record is not None
    trail = await (await people.client.get(record[1])).text()
    assert "A signed report was stored." in trail
    async with people.client.get(f"{link[1]}/download") as answer:
        assert answer.headers["Content-Disposition"].startswith('attachment; filename="gw-9-report-')
        envelope = await answer.json()
    number = link[1].rpartition("/")[2]
    assert envelope == (await get(people, f"/fleet/gw-9/signed/{number}"))[1]["envelope"]
    for wrong in ("/fleet/gw-1/signed/1", "/fleet/gw-9/signed/x", "/fleet/gw-9/signed/99999/download"):
        assert (await people.client.get(wrong)).status == 404


async def test_one_whose_signature_does_not_hold_says_so(said: tuple[PeopleSide, CryptoSigner]) -> None:
    people, _ = said
    forged = seal(
        report("gw-9", seq=2, state=AgentState.IDLE, order_hash=None), REPORT_KIND, CryptoSigner.generate_ecdsa()
    )
    kept = SignedEnvelope(
        target="gw-9", kind=EnvelopeKind.REPORT, at=NOW, hash="0" * 64, campaign=None, envelope=forged
    )
    await people.database.write(lambda unit: unit.envelopes.add(kept))
    _, listed = await get(people, "/fleet/gw-9/signed?limit=1")
    _, one = await get(people, f"/fleet/gw-9/signed/{listed['signed'][0]['id']}")
    assert (one["verified"], one["record"]) == (False, None)
    await people.sign_in(Role.AUDITOR)
    page = await (await people.client.get(f"/fleet/gw-9/signed/{one['id']}")).text()
    assert "Not verified" in page
    assert "no record is kept of it" in page


async def test_as_typed(
    said: tuple[PeopleSide, CryptoSigner], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people, _ = said
    token, out = tmp_path / "token", tmp_path / "report.json"
    await asyncio.to_thread(token.write_text, people.secret[Role.VIEWER])

    async def otaria(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(
            run, ["fleet", "signed", *words, "--server", people.url, "--token-file", str(token)]
        )
        return code, capsys.readouterr().out

    code, text = await otaria("gw-9", "--kind", "report", "--json")
    (one,) = json.loads(text)["signed"]
    assert "report" in (await otaria("gw-9"))[1]
    code, text = await otaria("gw-9", str(one["id"]), "-o", str(out))
    assert (code, "holds" in text) == (0, True)
    written = json.loads(await asyncio.to_thread(out.read_text))
    assert written == (await get(people, f"/fleet/gw-9/signed/{one['id']}"))[1]["envelope"]
    assert (await otaria("gw-9", "-o", str(out)))[0] == 2
    assert (await otaria("gw-9", "99999"))[0] == 1
