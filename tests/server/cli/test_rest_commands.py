"""`otaria fleet` and `otaria campaign` as typed, against a running listener."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from firmware.errors import RefusedError
from firmware.protocol.enrol_key import parse_introduction
from server.cli import run
from server.cli.output import emit, table
from server.planner.words import Verb
from server.ports import LogState, Role
from tests.people_side import CAMPAIGN, RELEASE_KEY, PeopleSide, run_first_release
from tests.rehearsed import FOUND, end_it

Words = tuple[int, str, str]


class Shell:
    """Types `otaria` commands as one role."""

    def __init__(self, people: PeopleSide, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.people = people
        self.directory = directory
        self._capsys = capsys

    async def __call__(self, *words: str, role: Role = Role.ADMIN) -> Words:
        token = self.directory / f"{role}.token"
        token.write_text(self.people.secret[role] + "\n")
        return await self.bare(*words, "--server", self.people.url, "--token-file", str(token))

    async def bare(self, *words: str) -> Words:
        self._capsys.readouterr()
        code = await asyncio.to_thread(run, list(words))
        said = self._capsys.readouterr()
        return code, said.out, said.err

    async def json(self, *words: str) -> dict:
        code, out, err = await self(*words, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def otaria(people: PeopleSide, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    (tmp_path / "spring.yaml").write_text(CAMPAIGN)
    return Shell(people, tmp_path, capsys)


async def test_a_campaign_from_file_to_abort(otaria: Shell) -> None:
    file = str(otaria.directory / "spring.yaml")
    assert (
        sum(cohort["size"] for cohort in (await otaria.json("campaign", "apply", "-f", file, "--dry-run"))["cohorts"])
        == 6
    )
    assert (await otaria.json("campaign", "list"))["campaigns"] == []
    code, out, _ = await otaria("campaign", "apply", "-f", file)
    assert code == 0
    assert "otaria campaign start spring" in out
    assert (await otaria.json("campaign", "start", "spring"))["state"] == "running"
    code, out, _ = await otaria("campaign", "pause", "spring", "--reason", "an alarm")
    assert code == 0
    assert "paused" in out
    assert "an alarm" in out
    assert (await otaria.json("campaign", "resume", "spring"))["state"] == "running"
    code, out, _ = await otaria("campaign", "show", "spring")
    assert code == 0
    assert "canary" in out
    assert (await otaria.json("campaign", "abort", "spring"))["state"] == "aborted"
    assert "aborted" in (await otaria("campaign", "list"))[1]


async def test_a_part_of_a_campaign_is_taken_back(otaria: Shell) -> None:
    await otaria("campaign", "apply", "-f", str(otaria.directory / "spring.yaml"))
    await otaria("campaign", "start", "spring")
    rows = (await otaria.json("campaign", "show", "spring"))["cohorts"]
    assert (await otaria("campaign", "rollback", "spring", "--cohort", "canary", "--target", "x"))[0] == 2
    code, out, _ = await otaria("campaign", "rollback", "spring", "--cohort", "canary", "--reason", "it hums")
    assert (code, "paused" in out, "it hums" in out) == (0, True, True)
    fleet = (await otaria.json("fleet", "list"))["targets"]
    waiting = {one["id"] for one in fleet} - {one["id"] for one in fleet if one["state"] == "cancelled"}
    assert len(fleet) - len(waiting) == rows[0]["size"]
    name = sorted(waiting)[0]
    code, out, _ = await otaria("campaign", "skip", "spring", name, "--reason", "in repair")
    assert (code, out.strip()) == (0, f"{name} is skipped.")
    code, _, error = await otaria("campaign", "rollback", "spring", "--target", name)
    assert (code, "nothing-to-roll-back" in error) == (1, True)


async def test_a_release_is_suspect_until_somebody_clears_it(otaria: Shell) -> None:
    await otaria("campaign", "apply", "-f", str(otaria.directory / "spring.yaml"))
    assert (await otaria("release", "suspect", "gateway", "1.1.0"))[0] == 2
    code, out, _ = await otaria("release", "suspect", "gateway", "1.1.0", "--reason", "heat")
    assert (code, out.strip()) == (0, "gateway 1.1.0 is suspect.")
    assert "1.1.0 is suspect: the admin says: heat" in " ".join((await otaria("campaign", "show", "spring"))[1].split())
    assert (await otaria("campaign", "start", "spring"))[0] == 1
    code, out, _ = await otaria("release", "clear", "gateway", "1.1.0", "--reason", "a fan")
    assert (code, out.strip()) == (0, "gateway 1.1.0 is active.")
    assert (await otaria("campaign", "start", "spring"))[0] == 0


async def test_a_started_campaign_shows_what_its_deltas_save(otaria: Shell, people: PeopleSide) -> None:
    await run_first_release(people, 4)
    await otaria("campaign", "apply", "-f", str(otaria.directory / "spring.yaml"))
    assert "download" not in (await otaria("campaign", "show", "spring"))[1]
    await otaria("campaign", "start", "spring")
    out = " ".join((await otaria("campaign", "show", "spring"))[1].split())
    assert "1 of 1 deltas made; 37.7 MB to download instead of 100.7 MB." in out


async def test_explaining_says_what_binds_a_target_and_what_would_change_that(otaria: Shell) -> None:
    await otaria("campaign", "apply", "-f", str(otaria.directory / "spring.yaml"))
    code, out, _ = await otaria("campaign", "explain", "gw-1")
    assert code == 0
    assert out == "The campaign is draft.\nWhat would change that: someone starts the campaign.\n"
    assert (await otaria.json("campaign", "explain", "gw-1"))["release_by"] == "someone starts the campaign"


def test_a_hash_is_never_cut_off_in_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    digest = "0123456789abcdef" * 4
    emit(None, as_json=False, text=table(("fact", "value"), [("sha256", digest)]))
    assert digest in "".join(line.removeprefix(" sha256").strip() for line in capsys.readouterr().out.splitlines())


async def test_following_ends_when_the_campaign_rests(otaria: Shell) -> None:
    await otaria("campaign", "apply", "-f", str(otaria.directory / "spring.yaml"))
    await otaria("campaign", "start", "spring")
    following = asyncio.create_task(otaria.json("campaign", "show", "spring", "--follow"))
    await asyncio.sleep(0.3)
    assert not following.done()
    await otaria.people.desk.command("spring", Verb.PAUSE, by="mara", reason="enough")
    async with asyncio.timeout(10):
        assert (await following)["state"] == "paused"


async def test_the_fleet_and_its_tokens(otaria: Shell) -> None:
    listed = await otaria.json("fleet", "list", "--label", "site=rome")
    assert [target["id"] for target in listed["targets"]] == ["gw-4", "gw-5"]
    assert "gw-4" in (await otaria("fleet", "list", "--limit", "5"))[1]
    assert "gw-5" not in (await otaria("fleet", "list", "--limit", "5"))[1]
    assert "berlin" in (await otaria("fleet", "show", "gw-1"))[1]
    words = ("fleet", "token", "create", "--uses", "2", "--expires", "12h", "--label", "site=oslo")
    assert (await otaria(*words))[:2] == (0, "otc1.paper-1\n")
    assert "site=oslo" in (await otaria("fleet", "token", "list"))[1]


async def test_tokens_for_a_table_of_sites(otaria: Shell) -> None:
    sites = otaria.directory / "sites.csv"
    sites.write_text("site,uses,pair\nber,2,ber\nrom,3,\n")
    code, out, err = await otaria("fleet", "token", "create", "--from", str(sites), "--label", "ring=field")
    assert code == 0, err
    header, ber, rom = (line.split(",") for line in out.splitlines())
    assert header == ["token", "uses", "pair", "site"]
    assert (ber[1:], rom[1:]) == (["2", "ber", "ber"], ["3", "", "rom"])
    listed = (await otaria.json("fleet", "token", "list"))["claim_tokens"]
    assert sorted((one["uses_left"], one["labels"]["ring"]) for one in listed) == [(2, "field"), (3, "field")]
    assert len((await otaria.json("fleet", "token", "create", "--from", str(sites)))["claim_tokens"]) == 2
    sites.write_text("site,uses\nber,1\nrom,none\n")
    code, _, err = await otaria("fleet", "token", "create", "--from", str(sites))
    assert code != 0
    assert "Line 3" in err
    assert len((await otaria.json("fleet", "token", "list"))["claim_tokens"]) == 4


async def test_the_release_key_goes_into_a_file_that_build_takes(otaria: Shell, tmp_path: Path) -> None:
    file = tmp_path / "server.key"
    facts = await otaria.json("release", "key", "-o", str(file))
    assert facts == {"file": str(file), "key_id": hashlib.sha256(RELEASE_KEY.encode()).hexdigest()}
    (tmp_path / "pump.img").write_bytes(b"an image")
    words = ["release", "build", "--product", "pump", "--version", "1", "--counter", "1", "--hardware", "pump-a"]
    words += ["--image", str(tmp_path / "pump.img"), "--encrypt-to", str(file), "-o", str(tmp_path / "pump-1")]
    code, out, err = await otaria.bare(*words, "--json")
    assert code == 0, err
    assert json.loads(out)["encrypted_to"] == facts["key_id"]
    assert (await otaria("release", "key", "-o", str(file), role=Role.VIEWER))[0] == 0


async def test_a_target_is_quarantined_released_and_revoked_for_ever(otaria: Shell) -> None:
    words = ("fleet", "quarantine", "gw-1", "--reason", "seen in two places")
    assert (await otaria(*words))[:2] == (0, "gw-1 is quarantined.\n")
    assert (await otaria.json("fleet", "show", "gw-1"))["status"] == "quarantined"
    assert (await otaria(*words))[0] == 0
    assert (await otaria("fleet", "release", "gw-1"))[:2] == (0, "gw-1 is active.\n")
    assert (await otaria("fleet", "revoke", "gw-1", "--reason", "stolen"))[:2] == (0, "gw-1 is revoked.\n")
    for verb in ("release", "quarantine"):
        code, _, err = await otaria("fleet", verb, "gw-1")
        assert (code, "enrol the device anew" in err) == (1, True)
    assert (await otaria("fleet", "revoke", "gw-99"))[0] == 1
    trail = await otaria.people.database.read(lambda unit: unit.audit.page(target="gw-1"))
    assert [(line.kind, line.actor) for line in trail] == [
        ("target-quarantined", "the admin"),
        ("target-active", "the admin"),
        ("target-revoked", "the admin"),
    ]
    assert "seen in two places" in trail[0].text


@pytest.mark.parametrize(
    "words",
    [
        ("campaign", "apply"),
        ("campaign", "apply", "-f", "/no/such/file.yaml"),
        ("campaign", "destroy", "spring"),
        ("fleet", "token", "create", "--uses", "0"),
        ("fleet", "token", "create", "--uses", "1e9"),
        ("fleet", "token", "create", "--expires", "soon"),
        ("fleet", "token", "create", "--expires", "99999999999999d"),
        ("fleet", "token", "create", "--label", "site"),
        ("fleet", "list", "--limit", "0"),
        ("fleet", "show"),
    ],
)
async def test_wrong_use_ends_with_2_and_a_sentence(otaria: Shell, words: tuple[str, ...]) -> None:
    code, out, err = await otaria(*words)
    assert (code, out) == (2, "")
    assert err.startswith("otaria: ")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("fleet", "show", "gw-99"), "not-found"),
        (("fleet", "show", "../../etc"), "malformed"),
        (("fleet", "show", "a/b?c=d#e"), "malformed"),
        (("campaign", "show", "none"), "not-found"),
        (("campaign", "start", "none"), "not-found"),
        (("campaign", "explain", "gw-99"), "not-found"),
    ],
)
async def test_what_the_server_refuses_ends_with_1_and_its_own_words(
    otaria: Shell, words: tuple[str, ...], kind: str
) -> None:
    code, out, err = await otaria(*words, "--json")
    assert (code, out) == (1, "")
    assert json.loads(err)["error"] == kind


async def test_a_viewer_may_look_and_not_touch(otaria: Shell) -> None:
    assert (await otaria("fleet", "list", role=Role.VIEWER))[0] == 0
    code, _, err = await otaria("fleet", "token", "create", role=Role.VIEWER)
    assert code == 1
    assert "forbidden" in err


async def test_hostile_campaign_files_end_with_1(otaria: Shell) -> None:
    for name, data in (("bad", b"\xff\xfe"), ("big", b"#" * 300_000), ("list", b"- x\n"), ("empty", b"")):
        file = otaria.directory / name
        file.write_bytes(data)
        code, _, err = await otaria("campaign", "apply", "-f", str(file))
        assert code == 1, name
        assert err.startswith("otaria: ")


async def test_how_the_server_is_found(otaria: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = await otaria.bare("fleet", "list")
    assert code == 2
    assert "--state" in err
    state = tmp_path / "state"
    state.mkdir()
    code, _, err = await otaria.bare("fleet", "list", "--state", str(state))
    assert code == 1
    assert "not-running" in err
    (state / "run.json").write_text(json.dumps({"people_url": otaria.people.url}))
    (state / "admin.token").write_text(otaria.people.secret[Role.ADMIN])
    assert (await otaria.bare("fleet", "list", "--state", str(state)))[0] == 0
    assert (await otaria.bare("fleet", "list"))[0] == 0
    (state / "run.json").write_text("[]")
    assert (await otaria.bare("fleet", "list", "--state", str(state)))[0] == 1
    monkeypatch.setenv("OTARIA_SERVER", otaria.people.url)
    monkeypatch.setenv("OTARIA_TOKEN_FILE", str(state / "admin.token"))
    assert (await otaria.bare("fleet", "list"))[0] == 0


@pytest.mark.parametrize(
    ("server", "code"), [("ftp://x", 2), ("file:///etc/passwd", 2), ("http://127.0.0.1:9", 1), ("nonsense", 2)]
)
async def test_a_server_that_is_none(otaria: Shell, server: str, code: int) -> None:
    token = otaria.directory / "t"
    token.write_text("otp1_x")
    assert (await otaria.bare("fleet", "list", "--server", server, "--token-file", str(token)))[0] == code


@pytest.mark.parametrize("content", [b"", b"\xff", b"two words", b"a\nb"])
async def test_a_token_file_that_holds_none(otaria: Shell, content: bytes) -> None:
    token = otaria.directory / "t"
    token.write_bytes(content)
    assert (await otaria.bare("fleet", "list", "--server", otaria.people.url, "--token-file", str(token)))[0] == 1


async def test_serve_refuses_a_missing_or_wrong_config(otaria: Shell) -> None:
    code, _, err = await otaria.bare("serve", "--config", str(otaria.directory / "none.toml"))
    assert (code, "config" in err) == (1, True)
    (otaria.directory / "wrong.toml").write_text("[htttp]\n")
    code, _, err = await otaria.bare("serve", "--config", str(otaria.directory / "wrong.toml"), "--json")
    assert code == 1
    assert "htttp" in json.loads(err)["text"]


async def test_logs_are_asked_for_and_printed_when_they_are_there(otaria: Shell) -> None:
    code, out, _ = await otaria("fleet", "logs", "gw-1", "--wait", "1s", "--what", "trial")
    assert code == 0
    assert "hasn't answered yet" in out
    known = out.rpartition("--request ")[2].split("`")[0]
    database = otaria.people.database
    answered = {"text": "== trial ==\nbooted 2.0\n", "reason_kind": "none", "reason": ""}
    await database.write(lambda unit: unit.logs.close(known, LogState.ANSWERED, 1.0, **answered))
    assert (await otaria("fleet", "logs", "gw-1", "--request", known))[:2] == (0, "== trial ==\nbooted 2.0\n")
    other = (await otaria.json("fleet", "logs", "gw-1", "--wait", "1s"))["id"]
    refused = {"text": "", "reason_kind": "logs-not-allowed", "reason": "logs.allow is false."}
    await database.write(lambda unit: unit.logs.close(other, LogState.REFUSED, 1.0, **refused))
    code, _, err = await otaria("fleet", "logs", "gw-1", "--request", other)
    assert (code, "logs.allow is false." in err) == (1, True)


async def test_a_changed_file_is_planned_and_becomes_a_revision(otaria: Shell) -> None:
    file = otaria.directory / "spring.yaml"
    _, out, _ = await otaria("campaign", "plan", str(file))
    assert "There is no campaign spring" in out
    await otaria("campaign", "apply", "-f", str(file))
    await otaria("campaign", "start", "spring")
    _, out, _ = await otaria("campaign", "plan", str(file))
    assert "nothing changes" in out
    file.write_text(CAMPAIGN.replace("standard", "{extends: standard, patience: 2h}"))
    code, out, _ = await otaria("campaign", "plan", str(file))
    assert code == 0
    assert "spring, revision 1 → 2\n  patience: 1h → 2h\n" in out
    assert "It takes effect at once." in out
    code, out, _ = await otaria("campaign", "apply", "-f", str(file))
    assert "Campaign spring is running, at revision 2." in out
    found = await otaria.json("campaign", "revisions", "spring")
    assert [(one["number"], one["changes"]) for one in found["revisions"]] == [(1, []), (2, ["patience: 1h → 2h"])]
    _, out, _ = await otaria("campaign", "revisions", "spring")
    assert "patience: 1h" in out
    assert await otaria.json("campaign", "evidence", "spring") == {"evidence": []}
    file.write_text(CAMPAIGN.replace('"1.1.0"', '"1.0.0"'))
    code, out, _ = await otaria("campaign", "plan", str(file))
    assert (code, "another release is another campaign" in out) == (1, True)


async def test_a_word_about_a_target_or_a_label_is_kept_with_who_gave_it(otaria: Shell) -> None:
    target = (await otaria.json("fleet", "list"))["targets"][0]["id"]
    said = await otaria.json("fleet", "word", "backup", "good", "--target", target, "--expires", "12h")
    assert (said["key"], said["good"], said["by"]) == (target, True, "the admin")
    assert said["expires_at"] - said["at"] == 12 * 3600
    code, out, _ = await otaria("fleet", "word", "backup", "bad", "--label", "site=berlin", "--reason", "job 7")
    assert (code, out) == (0, "backup of site=berlin is bad.\n")
    assert (await otaria("fleet", "word", "backup", "good", "--target", "nobody"))[0] == 1
    assert (await otaria("fleet", "word", "backup", "good"))[0] == 2
    assert (await otaria("fleet", "word", "backup", "good", "--target", target, role=Role.VIEWER))[0] == 1


async def test_a_forecast_is_told_alone_and_beside_the_campaign(otaria: Shell) -> None:
    file = str(otaria.directory / "spring.yaml")
    assert (await otaria("campaign", "apply", "-f", file))[0] == 0
    code, _, err = await otaria("campaign", "forecast", "spring")
    assert code == 1
    assert "nothing-learned" in err
    assert "Forecast" not in (await otaria("campaign", "show", "spring"))[1]
    await otaria.people.database.write(
        lambda unit: [unit.presences.heard(f"gw-{n}", online=n < 5, at=otaria.people.clock.now()) for n in range(6)]
    )
    code, out, _ = await otaria("campaign", "forecast", "spring")
    assert code == 0
    assert "Cohort canary is decided by " in out
    assert "The last target that comes is verified by " in out
    assert "of 6 are expected not to come" in out
    assert "Taken for granted" in out
    found = await otaria.json("campaign", "forecast", "spring")
    assert (found["targets"], found["known"]) == (6, 1.0)
    assert found["done"]["p50"] <= found["done"]["p90"]
    assert "Forecast: the last target that comes" in (await otaria("campaign", "show", "spring"))[1]


async def test_a_campaign_is_rehearsed_over_the_fleet_and_changes_nothing(otaria: Shell) -> None:
    file = str(otaria.directory / "spring.yaml")
    found = await otaria.json("campaign", "rehearse", file, "--replicas", "4")
    assert (found["targets"], found["replicas"], found["broken"]) == (6, 4, 0)
    assert found["verified"]["p50"] == 1.0
    assert sum(found["site_bytes"].values()) == 6 * (16 << 20)
    assert found["done_s"]["p90"] > found["cohorts"][0]["decided_s"]["p10"] > 0
    assert (await otaria.json("campaign", "list"))["campaigns"] == []
    code, out, _ = await otaria("campaign", "rehearse", file, "--replicas", "2", role=Role.OPERATOR)
    assert code == 0
    assert "100% bad: " in out
    assert "Availability: no history; targets are taken to be there nine hours in ten." in out
    await otaria.people.database.write(
        lambda unit: [unit.presences.heard(f"gw-{n}", online=False, at=otaria.people.clock.now()) for n in range(6)]
    )
    code, out, _ = await otaria("campaign", "rehearse", file, "--replicas", "2")
    assert (code, "Availability: as presence taught of 6 targets." in out) == (0, True)
    learned = await otaria.json("campaign", "rehearse", file, "--replicas", "4")
    always = await otaria.json("campaign", "rehearse", file, "--replicas", "4", "--there", "1")
    assert learned["basis"] == {"presences": 6, "downloads": 0, "attempts": 0}
    assert always["basis"] is None
    assert learned["done_s"]["p10"] > always["done_s"]["p90"] > 0
    code, out, _ = await otaria("campaign", "rehearse", file, "--replicas", "2", "--there", "1")
    assert (code, "Without --there it goes by what the server has learned of that." in out) == (0, True)
    found = await otaria.json("campaign", "rehearse", file, "--replicas", "2", "--defect-on", "gateway-r1")
    assert (found["defect_on"], found["blast"][-1]["harmed"]["p50"] >= 1) == ("gateway-r1", True)
    shares = ("--defect-share", "1", "--defect-share", "0.5")
    found = await otaria.json("campaign", "rehearse", file, "--replicas", "2", *shares)
    assert [one["rate"] for one in found["blast"]] == [0.5, 1.0]
    code, _, err = await otaria("campaign", "rehearse", file, "--defect-on", "another")
    assert (code, "has the hardware another" in err) == (1, True)
    (otaria.directory / "other.yaml").write_text(CAMPAIGN.replace("1.1.0", "9.9.9"))
    code, _, err = await otaria("campaign", "rehearse", str(otaria.directory / "other.yaml"))
    assert (code, "not-found" in err) == (1, True)


async def test_the_server_rehearses_a_draft_of_its_own(otaria: Shell) -> None:
    await otaria.json("campaign", "apply", "-f", str(otaria.directory / "spring.yaml"))
    otaria.people.stage.gives, otaria.people.stage.early = FOUND, FOUND
    otaria.people.stage.curtain.set()
    code, out, err = await otaria("campaign", "rehearse", "--draft", "spring")
    assert (code, err) == (0, "")
    assert "20 runs over 6 targets." in out
    assert "Missed most often over all its days, in so many of the runs (50 are named at most): gw-3 35%." in out
    assert "Downloads most, without deltas: berlin 67.1 MB, no site 2.0 kB." in out
    shown = await otaria.json("campaign", "rehearse", "--draft", "spring")
    assert (shown["state"], shown["result"]["replicas"]) == ("done", 20)
    assert (await otaria("campaign", "hindsight"))[1].strip() == "No campaign that was rehearsed has ended yet."
    await otaria.people.database.write(end_it)
    code, out, _ = await otaria("campaign", "hindsight")
    assert code == 0
    assert "Ends: 1 of 1 within the band, 0 before it, 0 behind it." in out
    assert (await otaria.json("campaign", "hindsight"))["cohorts"]["before"] == 1
    shown = (await otaria("campaign", "show", "spring"))[1]
    assert "Rehearsed: the end after 1.0 h to 3.0 h; it happened after 1.9 h, within the band." in shown


async def test_a_rehearsal_that_fails_or_is_misspelt_says_why(otaria: Shell) -> None:
    await otaria.json("campaign", "apply", "-f", str(otaria.directory / "spring.yaml"))
    otaria.people.stage.curtain.set()
    otaria.people.stage.gives = RefusedError("not-rehearsable", "It can't do gates of kind sli.")
    code, _, err = await otaria("campaign", "rehearse", "--draft", "spring")
    assert (code, "The rehearsal failed. It can't do gates of kind sli." in err) == (1, True)
    for more in (
        [],
        ["--draft", "spring", "--there", "0.5"],
        [str(otaria.directory / "spring.yaml"), "--draft", "spring"],
    ):
        assert (await otaria("campaign", "rehearse", *more))[0] == 2


async def test_devices_are_made_known_from_a_table(otaria: Shell) -> None:
    file = otaria.directory / "batch.csv"
    file.write_text(f"key_sha256,serial,site\n{'a' * 64},,rome\n,SN-7,\n")
    assert await otaria.json("fleet", "known", "add", "--from", str(file)) == {"added": 2, "known": 2}
    code, out, _ = await otaria("fleet", "known", "add", "--from", str(file))
    assert (code, out.strip()) == (0, "0 devices are known now, 2 were already.")
    found = (await otaria.json("fleet", "known", "list"))["known_devices"]
    assert {(one["key_sha256"], one["serial"], one["labels"].get("site")) for one in found} == {
        ("a" * 64, None, "rome"),
        (None, "SN-7", None),
    }
    assert "SN-7" in (await otaria("fleet", "known", "list"))[1]
    code, _, error = await otaria("fleet", "known", "allow", found[0]["id"], "--reason", "why not")
    assert (code, "not-enrolled" in error) == (1, True)
    assert (await otaria("fleet", "known", "remove", found[0]["id"]))[0] == 0
    assert (await otaria("fleet", "known", "remove", found[0]["id"]))[0] == 1
    file.write_text("key_sha256,serial\nx,y\n")
    assert (await otaria("fleet", "known", "add", "--from", str(file)))[0] == 1
    word = (await otaria("fleet", "known", "introduction"))[1]
    assert parse_introduction(word).url == "https://127.0.0.1:8443"


async def test_people_change_and_end(otaria: Shell) -> None:
    assert (await otaria("people", "add", "bob", "--role", "viewer"))[0] == 0
    assert (await otaria("people", "change", "bob", "--role", "operator"))[1] == "bob has the role operator now.\n"
    (bob,) = [one for one in (await otaria.json("people", "list"))["people"] if one["name"] == "bob"]
    assert (bob["role"], bob["id"][:2]) == ("operator", "p-")
    assert (await otaria("people", "expire", bob["id"]))[1] == f"The token {bob['id']} of bob has ended.\n"
    assert (await otaria("people", "deactivate", "bob"))[1] == "The access of bob has ended.\n"
    assert (await otaria("people", "deactivate", "nobody"))[0] == 1
