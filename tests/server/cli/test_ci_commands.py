"""What a CI job types, as the docs have it: each command twice changes what one time does, and exit codes tell it how it went."""

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from server.campaigns.strategy_file import parse_campaign
from server.cli import run
from server.planner.words import Verb
from server.ports import Role
from tests.people_side import CAMPAIGN, PeopleSide

HOWTO = Path(__file__).parents[3] / "docs" / "howto" / "ci.md"


class Job:
    """A shell with the token of an operator in its environment."""

    def __init__(self, people: PeopleSide, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.people, self.directory, self._capsys = people, directory, capsys

    async def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = await asyncio.to_thread(run, list(words))
        said = self._capsys.readouterr()
        return code, said.out, said.err

    async def trail(self) -> list[str]:
        return await self.people.database.read(lambda unit: [line.kind for line in unit.audit.page(limit=1000)])


@pytest.fixture
def job(people: PeopleSide, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Job:
    (tmp_path / "ci.token").write_text(people.secret[Role.OPERATOR])
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    monkeypatch.setenv("OTARIA_SERVER", people.url)
    monkeypatch.setenv("OTARIA_TOKEN_FILE", str(tmp_path / "ci.token"))
    monkeypatch.chdir(tmp_path)
    return Job(people, tmp_path, capsys)


async def test_applying_and_starting_twice_is_doing_it_once(job: Job) -> None:
    apply = ("campaign", "apply", "-f", "campaign.yaml", "--start", "--json")
    code, out, error = await job(*apply)
    assert (code, json.loads(out)["state"]) == (0, "running"), error
    before = await job.trail()
    assert before.count("campaign-created") == before.count("campaign-started") == 1
    code, out, _ = await job(*apply)
    assert (code, json.loads(out)["state"], json.loads(out)["revision"]) == (0, "running", 1)
    assert await job.trail() == before
    await job.people.desk.command("spring", Verb.PAUSE, by="ann", reason="an alarm")
    code, out, _ = await job(*apply)
    assert (code, json.loads(out)["state"]) == (0, "paused"), "a job doesn't resume what a person paused"


async def test_applying_a_draft_twice_makes_one_draft_and_a_changed_file_changes_it(job: Job) -> None:
    apply = ("campaign", "apply", "-f", "campaign.yaml")
    assert (await job(*apply))[0] == 0
    before = await job.trail()
    assert (await job(*apply))[0] == 0
    assert await job.trail() == before
    (job.directory / "campaign.yaml").write_text(CAMPAIGN.replace("standard", "{extends: standard, patience: 2h}"))
    assert (await job(*apply))[0] == 0
    assert await job.trail() != before


async def test_what_was_stopped_for_good_is_not_started_again(job: Job) -> None:
    apply = ("campaign", "apply", "-f", "campaign.yaml", "--start", "--json")
    await job(*apply)
    await job.people.desk.command("spring", Verb.ABORT, by="ann", reason="wrong notes")
    code, _, error = await job(*apply)
    assert (code, json.loads(error)["error"]) == (1, "campaign-ended")
    assert "wrong notes" in error
    assert (await job(*apply[:-1], "--dry-run"))[0] == 2


async def test_waiting_ends_with_how_it_went(job: Job) -> None:
    await job("campaign", "apply", "-f", "campaign.yaml")
    code, _, error = await job("campaign", "wait", "spring", "--json")
    assert (code, json.loads(error)["error"]) == (1, "campaign-stopped"), "a draft starts by nobody"
    await job("campaign", "apply", "-f", "campaign.yaml", "--start")
    code, _, error = await job("campaign", "wait", "spring", "--timeout", "1s", "--json")
    assert (code, json.loads(error)["error"]) == (1, "timeout")
    await job.people.desk.command("spring", Verb.PAUSE, by="ann", reason="an alarm")
    code, _, error = await job("campaign", "wait", "spring")
    assert (code, "an alarm" in error) == (1, True)


@pytest.mark.parametrize(
    ("state", "until", "code"),
    [
        ("watching", "decided", 0),
        ("completed", "decided", 0),
        ("completed", "completed", 0),
        ("watching", "completed", 1),
    ],
)
async def test_waiting_is_over_when_all_is_decided(job: Job, state: str, until: str, code: int) -> None:
    await job("campaign", "apply", "-f", "campaign.yaml", "--start")

    def end(unit) -> None:
        unit.campaigns._db.exec_driver_sql("UPDATE campaign SET state = ?", (state,))

    await job.people.database.write(end)
    assert (await job("campaign", "wait", "spring", "--until", until, "--timeout", "1s"))[0] == code


async def test_publishing_twice_uploads_once_and_hands_the_same_in(job: Job) -> None:
    (job.directory / "gateway.img").write_bytes(b"an image" * 1000)
    assert (await job("keys", "init", "acme", "--product", "gateway", "--json"))[0] == 0
    lines = [line for line in _script().splitlines() if line.startswith("otaria release")]
    words = [line.replace('"$1"', "2.4.0").replace('"$2"', "7").split()[1:] for line in lines]
    said = []
    for _ in range(2):
        shutil.rmtree(job.directory / "out", ignore_errors=True)  # as in a new checkout
        for command in words:
            code, out, error = await job(*command)
            assert code == 0, error
        said.append(out)
    assert ["2 files were new" in said[0], "0 files were new" in said[1]] == [True, True]
    first, second = job.people.publisher.published
    assert first == second


def _script() -> str:
    found = re.search(r"```sh\n(set -eu\n.*?)```", HOWTO.read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_documented_jobs_are_yaml_that_runs_the_script() -> None:
    (campaign,) = re.findall(r"```yaml\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    github, gitlab = re.findall(r"```yml\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    assert parse_campaign(campaign).name == "gateway-2-4-0"
    steps = yaml.safe_load(github)["jobs"]["release"]["steps"]
    assert any("sh release.sh" in step.get("run", "") for step in steps)
    assert any("sh release.sh" in line for line in yaml.safe_load(gitlab)["release"]["script"])
    assert [line.split()[1:3] for line in _script().splitlines() if line.startswith("otaria")] == [
        ["release", "build"],
        ["release", "sign"],
        ["release", "publish"],
        ["campaign", "apply"],
        ["campaign", "wait"],
    ]
