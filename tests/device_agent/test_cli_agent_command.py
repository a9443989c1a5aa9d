"""`otaria-agent`: every wrong use is a sentence and an exit code, and changes nothing."""

import json
import os
from pathlib import Path

import pytest

from device_agent.app import compose
from device_agent.cli import run
from device_agent.config import load_config, runtime_settings
from device_agent.core.values import DataPolicy, OwnWatch
from device_agent.effects import FileEffects
from device_agent.identity import IDENTITY_FILE, Identity, load_identity, save_identity
from device_agent.journal import JOURNAL_FILE, Journal, Record
from device_agent.outbox import Outbox
from firmware.checks import HealthCheck
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.enrol import Claim, encode_claim
from tests.crash.world import IDENTITY
from tests.device_agent.core.playbook import Player


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "board" / "agent"
    folder.mkdir(parents=True)
    save_identity(folder, IDENTITY, FileEffects())
    return folder


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert out == ""
    error = json.loads(err)
    assert error["text"]
    return code, error["error"]


def test_status_before_the_first_start(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", str(directory), "status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["agent"], status["state"], status["boot"]) == ("dev-1", "unstarted", None)


def test_status_tells_state_reason_and_running_release(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    standing = Player().committed().standing
    Journal(FileEffects(), directory).store(Record(standing=standing, outbox=Outbox(journal="j")))
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert run(["--dir", str(directory), "status"]) == 0
    text = capsys.readouterr().out
    assert "state     committed" in text
    assert "running   demo 2.0 in slot B" in text
    assert "rollback  1.0" in text
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_directory_without_an_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "run"):
        assert failed(capsys, "--dir", str(tmp_path), command) == (1, "not-enrolled")
    assert failed(capsys, "--dir", str(tmp_path / "nowhere"), "run") == (1, "not-enrolled")


@pytest.mark.parametrize(
    ("damage", "kind"),
    [(b"", "malformed"), (b"[]", "malformed"), (b'{"agent":"A!"}', "malformed"), (b" " * 20000, "too-large")],
)
def test_damaged_identity(directory: Path, capsys: pytest.CaptureFixture[str], damage: bytes, kind: str) -> None:
    (directory / IDENTITY_FILE).write_bytes(damage)
    assert failed(capsys, "--dir", str(directory), "status") == (1, kind)


def test_damaged_journal_is_said_and_kept(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / JOURNAL_FILE).write_bytes(b"{}")
    assert failed(capsys, "--dir", str(directory), "status") == (1, "journal-damaged")
    assert (directory / JOURNAL_FILE).read_bytes() == b"{}"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("bogus",),
        ("enrol",),
        ("enrol", "--claim", "x"),
        ("board",),
        ("board", "b", "--capacity", "many"),
        ("status", "--nope"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(capsys, *arguments) == (2, "usage")


def test_board_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(capsys, "board", str(tmp_path / "nothing")) == (1, "no-board")
    image = tmp_path / "image"
    image.write_bytes(b"x")
    assert failed(capsys, "board", str(tmp_path / "b"), "--image", str(image)) == (2, "usage")
    assert failed(capsys, "board", str(tmp_path / "b"), "--image", str(tmp_path / "none"), "--hardware", "h")[0] == 1
    assert not (tmp_path / "b").exists()


def test_claim_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--dir", str(tmp_path / "a"), "enrol", "--claim", "garbage", "--hardware", "h")
    assert failed(capsys, *arguments) == (1, "claim-malformed")
    missing = ("--dir", str(tmp_path / "a"), "enrol", "--claim", "@/nonexistent", "--hardware", "h")
    assert failed(capsys, *missing) == (1, "os-error")


@pytest.mark.parametrize("hardware", ["", "two words", "h" * 129, "\udcff", "a\nb"])
def test_hardware_that_is_none_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hardware: str
) -> None:
    claim = encode_claim(Claim(url="https://127.0.0.1:1", id="c", secret="s" * 43, ca="a" * 64, root="b" * 64))
    arguments = ("--dir", str(tmp_path / "a"), "enrol", "--claim", claim, "--hardware", hardware)
    assert failed(capsys, *arguments) == (1, "malformed")
    assert not (tmp_path / "a").exists()


def test_claim_file_without_an_end_is_read_no_further_than_a_claim(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--dir", str(tmp_path / "a"), "enrol", "--claim", "@/dev/zero", "--hardware", "h")
    assert failed(capsys, *arguments) == (1, "claim-malformed")


@pytest.mark.parametrize("capacity", ["0", "-1", "99", "1" + "0" * 30])
def test_capacity_that_is_none_makes_no_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], capacity: str
) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * 100)
    arguments = ("board", str(tmp_path / "b"), "--image", str(image), "--hardware", "h", "--capacity", capacity)
    assert failed(capsys, *arguments)[0] == 1
    assert not (tmp_path / "b").exists()


def test_health_without_a_known_manifest(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(capsys, "--dir", str(directory), "health") == (1, "no-boot-status")


@pytest.mark.parametrize("command", ["run", "enrol", "status", "health", "board"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run([command, "--help"])
    assert stop.value.code == 0
    assert "Example: otaria-agent" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "board = 7",
        "unknown = 1",
        "[intervals]\nask_min_s = -1",
        "[intervals]\nask_min_s = nan",
        "board = ",
        "\xff",
        'board = "a\\u0000b"',
        "board = " + "[" * 30_000,
        "board = " + "9" * 30_000,
        '[[health.checks]]\nkind = "dance"',
        '[[health.checks]]\nkind = "tcp"',
        '[[health.checks]]\nkind = "server"\nretries = 3',
        "[health]\nsoak_s = -1",
        '[health]\non_regression = "pray"',
        "[labels]\n" + "".join(f'l{n} = "{"x" * 128}"\n' for n in range(64)).replace("x", r"\u4e2d"),
    ],
    ids=[
        "type",
        "unknown",
        "negative",
        "nan",
        "empty",
        "no-utf8",
        "nul",
        "deep",
        "long-number",
        "kind",
        "lacks",
        "field",
        "soak",
        "policy",
        "many-labels",
    ],
)
def test_bad_configuration_names_the_file(directory: Path, text: str) -> None:
    (directory / "agent.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RefusedError) as caught:
        load_config(directory)
    assert caught.value.kind == "bad-config"
    assert "agent.toml" in caught.value.text


def test_configuration_is_optional_and_read(directory: Path) -> None:
    assert load_config(directory).board == ".."
    (directory / "agent.toml").write_text('[labels]\nsite = "berlin"\n[intervals]\nask_min_s = 0.5\n')
    config = load_config(directory)
    assert (config.labels, config.intervals.ask_min_s) == ({"site": "berlin"}, 0.5)


def test_configured_health_reaches_the_runtime(directory: Path) -> None:
    (directory / "agent.toml").write_text(
        '[health]\nsoak_s = 60\non_regression = "rollback"\n[[health.checks]]\nkind = "systemd"\nunits = ["a.service"]\n'
    )
    settings = runtime_settings(load_config(directory), "1")
    assert settings.tuning.own_watch == OwnWatch(soak_s=60, on_regression="rollback")
    assert settings.own_checks == (HealthCheck(kind="systemd", units=["a.service"]),)


def test_composition_names_what_enrolment_left_out(directory: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        compose(directory)
    assert caught.value.kind == "not-enrolled"


def test_directory_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    save_identity(folder, IDENTITY, FileEffects())
    with pytest.raises(RefusedError) as caught:
        compose(folder)
    assert caught.value.kind == "bad-directory"


def test_identity_comes_back(tmp_path: Path) -> None:
    save_identity(tmp_path, IDENTITY, FileEffects())
    assert load_identity(tmp_path) == IDENTITY
    assert isinstance(IDENTITY, Identity)


def test_configured_data_reaches_the_core_and_none_is_none(directory: Path) -> None:
    assert runtime_settings(load_config(directory), "1").tuning.data is None
    (directory / "agent.toml").write_text('[data]\ndirectory = "/data"\nschema = 3\nkeep_previous_s = 60\n')
    assert runtime_settings(load_config(directory), "1").tuning.data == DataPolicy(factory_schema=3, keep_s=60)


def test_the_data_path_is_said_once_it_is_shown(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", str(directory), "data", "path", "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"] == "no-data"
    link = directory / "link"
    (directory / "agent.toml").write_text(f'[data]\ndirectory = "/data"\nlink = "{link}"\n')
    assert run(["--dir", str(directory), "data", "path", "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"] == "data-not-ready"
    link.symlink_to("/data/v3")
    assert run(["--dir", str(directory), "data", "path", "--wait", "5s"]) == 0
    assert capsys.readouterr().out == "/data/v3\n"
