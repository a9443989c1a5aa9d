"""`otaria delta`: what a person types, and what they are told when it cannot be done."""

import json
import os
import pty
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from firmware.delta.format import HEADER_BYTES
from server.cli import run

OLD = random.Random(1).randbytes(60_000)
NEW = OLD[:20_000] + b"a few new bytes" + OLD[20_100:]


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two images and the delta between them, where the commands are run."""
    monkeypatch.chdir(tmp_path)
    Path("old").write_bytes(OLD)
    Path("new").write_bytes(NEW)
    assert run(["delta", "make", "old", "new", "-o", "patch"]) == 0
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one JSON value printed last, on stdout or as an error on stderr."""
    captured = capsys.readouterr()
    value: dict[str, Any] = json.loads((captured.out or captured.err).splitlines()[-1])
    return value


def test_a_patch_made_and_applied_gives_the_new_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["delta", "make", "old", "new", "-o", "again", "--json"]) == 0
    made = said(capsys)
    assert made["length"] == Path("again").stat().st_size
    assert made["output_length"] == len(NEW)
    assert run(["delta", "apply", "old", "again", "-o", "made", "--json"]) == 0
    assert said(capsys) == {"image": "made", "length": len(NEW), "sha256": made["output_sha256"]}
    assert Path("made").read_bytes() == NEW


def test_inspect_tells_what_the_patch_joins(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["delta", "inspect", "patch", "--json"]) == 0
    facts = said(capsys)
    assert facts["format"] == "otd1"
    assert (facts["source_length"], facts["output_length"]) == (len(OLD), len(NEW))
    assert run(["delta", "inspect", "patch"]) == 0
    assert facts["output_sha256"] in capsys.readouterr().out


def test_the_wrong_source_is_named_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["delta", "apply", "new", "patch", "-o", "made", "--json"]) == 1
    error = said(capsys)
    assert error["error"] == "wrong-source"
    assert "new is not the image" in error["text"]
    assert names() == ["new", "old", "patch"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda data: data[:-3], "artifact-truncated"),
        (lambda data: data + b"!", "artifact-too-long"),
        (lambda data: data[: HEADER_BYTES + 30] + b"\xff" * 8 + data[HEADER_BYTES + 38 :], None),
        (lambda data: data[:56] + bytes(32) + data[88:], "artifact-changed"),
        (lambda data: data[:40], "artifact-truncated"),
        (lambda data: b"#!/bin/sh" + bytes(100), "malformed"),
        (lambda data: b"", "artifact-truncated"),
    ],
    ids=["cut", "tail", "flipped", "other-promise", "half-header", "no-patch", "empty"],
)
def test_a_bad_patch_is_refused_and_leaves_what_was_there(
    capsys: pytest.CaptureFixture[str], change: Any, kind: str | None
) -> None:
    Path("bad").write_bytes(change(Path("patch").read_bytes()))
    Path("made").write_bytes(b"precious")
    assert run(["delta", "apply", "old", "bad", "-o", "made", "--json"]) == 1
    assert said(capsys)["error"] in ({kind} if kind else {"malformed", "artifact-changed", "artifact-too-long"})
    assert Path("made").read_bytes() == b"precious"
    assert names() == ["bad", "made", "new", "old", "patch"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["make", "old", "new", "-o", "old"],
        ["make", "old", "new", "-o", "./new"],
        ["make", "old", "new", "-o", "link"],
        ["apply", "old", "patch", "-o", "old"],
        ["apply", "old", "patch", "-o", "patch"],
    ],
)
def test_an_output_that_is_an_input_is_wrong_use(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    Path("link").symlink_to("old")
    assert run(["delta", *arguments, "--json"]) == 2
    assert "would overwrite" in said(capsys)["text"]
    assert (Path("old").read_bytes(), Path("new").read_bytes()) == (OLD, NEW)


@pytest.mark.parametrize(
    "arguments",
    [
        ["make", "none", "new", "-o", "p"],
        ["make", "old", "none", "-o", "p"],
        ["make", "old", "new"],
        ["make", "old", "new", "-o", "no/such/place"],
        ["make", "old", "new", "-o", "p", "--level", "23"],
        ["make", "old", "new", "-o", "."],
        ["make", ".", "new", "-o", "p"],
        ["apply", "old", "none", "-o", "p"],
        ["inspect", "none"],
        ["inspect"],
        ["unmake"],
    ],
)
def test_wrong_use_is_exit_code_2_with_a_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(["delta", *arguments, "--json"]) == 2
    assert said(capsys)["error"] == "usage"
    assert names() == ["new", "old", "patch"]


def test_applying_takes_less_than_48_megabytes_with_all_that_is_imported() -> None:
    program = """if True:
        import sys
        from pathlib import Path
        from server.cli import run
        assert run(["delta", "apply", "old", "patch", "-o", "made"]) == 0
        assert "numpy" not in sys.modules
        print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60, text=True)
    assert int(done.stdout.split()[-1]) * 1024 < 48_000_000


@pytest.mark.parametrize("command", [[], ["make"], ["apply"], ["inspect"]])
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert run(["delta", *command, "--help"]) == 0
    assert "Example: otaria delta" in capsys.readouterr().out


def test_a_person_who_watches_sees_progress_and_a_script_does_not() -> None:
    command = [sys.executable, "-m", "server.cli", "delta", "make", "old", "new", "-o", "shown"]
    command[1:3] = ["-c", "from server.cli import main; main()"]
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}
    subprocess.run(command, stderr=follower, stdout=subprocess.DEVNULL, check=True, timeout=60, env=environment)
    subprocess.run([*command, "--json"], stderr=follower, stdout=subprocess.DEVNULL, check=True, timeout=60)
    os.write(follower, b"the end")
    shown = os.read(leader, 1 << 16)
    os.close(leader)
    os.close(follower)
    assert b"Making the delta" in shown
    silent = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert silent.stderr == b""
