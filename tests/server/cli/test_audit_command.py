"""`otaria audit` as typed, against a running listener, and its verification without one."""

import json
from pathlib import Path

import pytest

from server.ports import Role
from tests.people_side import PeopleSide
from tests.server.audit.chains import changed, is_record, place
from tests.server.cli.test_rest_commands import Shell


@pytest.fixture
def otaria(people: PeopleSide, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(people, tmp_path, capsys)


async def test_the_trail_is_shown_taken_away_and_verified_elsewhere(otaria: Shell) -> None:
    folder = otaria.directory
    await otaria("people", "add", "bob", "--role", "viewer")
    shown = await otaria.json("audit", "show", "--kind", "access-given", "--actor", "the admin")
    assert [record["text"] for record in shown["audit"]] == ["bob was given access as viewer."]
    assert "people 1" in (await otaria("audit", "show"))[1].replace("  ", " ")
    export, key, pin = (str(folder / name) for name in ("audit.jsonl", "audit.key.json", "kept.json"))
    assert (await otaria("audit", "key", "-o", key))[0] == 0
    assert (await otaria("audit", "checkpoint", "-o", pin, role=Role.AUDITOR))[0] == 0
    assert (await otaria("audit", "checkpoint", "-o", pin))[0] == 1, "nothing is written over"
    await otaria("people", "remove", "bob")
    made = await otaria.json("audit", "export", "-o", export)
    lines = _lines(export)
    assert made["bytes"] == sum(len(line) + 1 for line in lines)
    state = await otaria.json("audit", "state")
    assert (state["checkpoint"], state["since"], state["faults"]) == (2, 0, [])
    code, out, err = await otaria.bare("audit", "verify", export, "--key", key, "--pin", pin)
    assert (code, err) == (0, "")
    assert f"Whole: {state['records']} records, 2 checkpoints, checkpoint 2" in out

    where = next(i for i, line in enumerate(lines) if is_record(line) and place(line) == ("people", 1))
    lines[where] = changed(lines[where], lambda one: one.update(actor="eve"))
    _write(export, lines)
    code, out, err = await otaria.bare("audit", "verify", export, "--key", key)
    assert (code, "NOT whole" in out) == (1, True)
    assert err == "changed: people 1 isn't what its hash is of: it was changed.\n"
    code, out, _ = await otaria.bare("audit", "verify", export, "--pin", pin, "--json")
    verdict = json.loads(out)
    assert (code, verdict["is_whole"], verdict["trusted"]) == (1, False, 1)
    code, _, err = await otaria.bare("audit", "verify", export)
    assert (code, "no-trust" in err) == (1, True)


async def test_old_records_are_removed_by_an_administrator(otaria: Shell) -> None:
    await otaria("people", "add", "bob", "--role", "viewer")
    assert (await otaria("audit", "remove", "--older-than", "2d", "--yes", role=Role.AUDITOR))[0] == 1
    assert (await otaria("audit", "remove", "--older-than", "1h", "--yes"))[0] == 1
    assert (await otaria.json("audit", "remove", "--older-than", "2d", "--yes"))["records"] == 0
    otaria.people.clock.at += 3 * 86400
    done = await otaria.json("audit", "remove", "--older-than", "2d", "--yes")
    assert done["records"] == sum(done["gone"].values()) > 0
    export, key = str(otaria.directory / "audit.jsonl"), str(otaria.directory / "audit.key.json")
    await otaria("audit", "key", "-o", key)
    await otaria("audit", "export", "-o", export)
    code, out, err = await otaria.bare("audit", "verify", export, "--key", key)
    assert (code, err) == (0, ""), out
    text = await (await otaria.people.client.get("/api/v1/audit/state", headers=otaria.people.headers())).json()
    assert text["gone"] == done["records"]


async def test_the_page_says_how_the_chains_stand(people: PeopleSide) -> None:
    await people.sign_in(Role.AUDITOR)
    assert "Not signed yet" in await (await people.client.get("/trail")).text()
    await people.keeper.sign()
    text = await (await people.client.get("/trail")).text()
    assert "It fitted together when it was signed" in text
    assert "Checkpoint 1," in text
    record = "UPDATE audit SET actor = 'eve' WHERE kind = 'signed-in'"
    await people.sign_in(Role.AUDITOR)
    await people.database.write(lambda unit: unit.audit._db.exec_driver_sql(record))  # type: ignore[attr-defined]
    await people.keeper.sign()
    assert "It does not fit together" in await (await people.client.get("/trail")).text()


def _lines(file: str) -> list[bytes]:
    return Path(file).read_bytes().splitlines()


def _write(file: str, lines: list[bytes]) -> None:
    Path(file).write_bytes(b"\n".join(lines) + b"\n")
