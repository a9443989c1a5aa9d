"""The agent updates itself as part of the slot: v1, v2 and v1 again, each a real process from the wheel in its slot's image.

v1 is this package. v2 is a copy that differs in its version and in the journal's schema: a field more, with the step there and
back that `device_agent/lineage.py` asks for.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version as installed
from pathlib import Path

import pytest

from firmware.images.slot_image import build_slot_image
from firmware.manifest import HealthCheck
from simulator.lab import PRODUCT, Firmware, Lab, running
from tests.e2e.rig import GOOD, INTERVALS, PROGRAMS

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
BAD = (HealthCheck(kind="command", argv=["false"], tries=1),)
V1, V2 = installed("otaria"), "99.0.0"
STEP = """
STEPS: Mapping[int, Step] = {
    2: Step(
        up=lambda body: {**body, "second": "made of " + str(body["schema"])},
        down=lambda body: {name: value for name, value in body.items() if name != "second"},
    )
}
"""
STRATEGY = """
strategy:
  name: one
  cohorts: [{name: all}]
  patience: 60s
  trial: 30s
  horizon: 60s
  healthy: 1s
  retry: 1s
  on_failure: pause
  deltas: {wait: 0s, at_most: 0}
"""
Edit = Callable[[str], str]


def replaced(before: str, after: str) -> Edit:
    def edit(text: str) -> str:
        assert text.count(before) == 1, f"{before!r} isn't there once"
        return text.replace(before, after)

    return edit


SECOND: Mapping[str, tuple[Edit, ...]] = {
    "device_agent/lineage.py": (
        replaced("SCHEMA = 1\n", "SCHEMA = 2\n"),
        replaced("STEPS: Mapping[int, Step] = {}\n", STEP),
    ),
    "device_agent/journal.py": (
        replaced('    inventory_hash: str = ""\n', '    inventory_hash: str = ""\n    second: str = "new"\n'),
    ),
    "device_agent/app.py": (lambda text: text + '\nprint("this is the second agent", flush=True)\n',),
}


def wheel(version: str, edits: Mapping[str, tuple[Edit, ...]]) -> bytes:
    """A wheel of the agent with what it needs of ours."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in ("device_agent", "firmware"):
            for path in sorted((ROOT / package).rglob("*.py")):
                name, text = str(path.relative_to(ROOT)), path.read_text()
                for edit in edits.get(name, ()):
                    text = edit(text)
                archive.writestr(name, text)
        metadata = f"Metadata-Version: 2.1\nName: otaria\nVersion: {version}\n"
        archive.writestr(f"otaria-{version}.dist-info/METADATA", metadata)
    return out.getvalue()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("agents")
    with running(Lab(directory)) as started:
        first, second = wheel(V1, {}), wheel(V2, SECOND)
        for counter, (name, agent, health) in enumerate(
            [("1.0.0", first, GOOD), ("2.0.0", second, GOOD), ("3.0.0", second, BAD)], start=1
        ):
            path = directory / f"{name}.img"
            program = (PROGRAMS / "gateway-1.0.0.py").read_bytes()
            build_slot_image(
                path, product=PRODUCT, version=name, counter=counter, program=program, payload=[], agent=agent
            )
            started.publish(Firmware(version=name, counter=counter, path=path, health=health))
        yield started


def journal(agent_directory: Path) -> dict[str, object]:
    held: dict[str, object] = json.loads((agent_directory / "journal.json").read_bytes())
    return held


def schemas(agent_directory: Path) -> tuple[int, int | None]:
    held = journal(agent_directory)
    record, later = held["record"], held.get("later")
    assert isinstance(record, dict)
    return record["schema"], later["schema"] if isinstance(later, dict) else None


def test_a_new_agent_in_the_slot_takes_over_the_journal_and_gives_it_back(lab: Lab) -> None:
    board = lab.board("self", lab.directory / "1.0.0.img", labels={"self": "yes"})
    (board.agent_directory / "agent.toml").write_text(INTERVALS)
    board.power_on()

    def view() -> dict[str, object]:
        found: dict[str, object] = lab.rest.get(f"/fleet/{board.target}")
        return found

    def explain() -> str:
        return f"{view()}\n{board.log()}\n{lab.server_log()}"

    def wait(condition: Callable[[], object], what: str) -> None:
        lab.wait(condition, PATIENCE_S, what, on_failure=explain)

    def start(version: str) -> str:
        name = f"to-{version.replace('.', '-')}"
        text = f"name: {name}\nproduct: {PRODUCT}\nversion: {version}\nselection: {{labels: {{self: 'yes'}}}}\n"
        return lab.apply_campaign(text + STRATEGY)

    def journal_id() -> object:
        record = journal(board.agent_directory)["record"]
        assert isinstance(record, dict)
        return record["outbox"]["journal"]

    try:
        wait(lambda: view()["running_version"] == "1.0.0", "its first report")
        first_journal = journal_id()
        assert schemas(board.agent_directory) == (1, None)
        assert "second agent" not in board.log()

        start("3.0.0")  # the second agent on trial, and back to the first
        wait(lambda: view()["state"] == "fell_back", "the trial of the bad release ended")
        assert board.log().count("this is the second agent") >= 1
        wait(lambda: view()["running_version"] == "1.0.0", "the first agent reports again")
        assert (schemas(board.agent_directory), journal_id()) == ((1, None), first_journal)

        campaign = start("2.0.0")
        wait(lambda: view()["state"] == "verified", "the second agent committed")
        assert (schemas(board.agent_directory), journal_id()) == ((1, 2), first_journal)
        board.power_cut()
        board.power_on()
        seconds = board.log().count("this is the second agent")

        lab.rest.post(f"/campaigns/{campaign}/rollback", {"reason": "the test says so"})
        wait(lambda: view()["state"] == "rolled_back", "the first agent committed again")
        assert (view()["running_version"], view()["status"]) == ("1.0.0", "active")
        wait(lambda: schemas(board.agent_directory) == (1, None), "the first agent wrote the journal")
        assert journal_id() == first_journal
        board.kill_agent()
        wait(lambda: view()["status"] == "active", "it goes on")
        assert board.log().count("this is the second agent") >= seconds
        assert "journal damaged" not in board.log()
    finally:
        board.power_cut()
