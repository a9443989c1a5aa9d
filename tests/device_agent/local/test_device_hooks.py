"""Hooks are real programs: their exit codes, environment, order, bounds, and whose are run."""

import os
import time
from pathlib import Path

import pytest

from device_agent.local.hooks import Hook, Hooks, Point, Said
from tests.device_agent.health.test_runner import wait_gone

FACTS = {"order": "abc", "version": "2.0", "reason": "a\0b" + "x" * 600}


def never() -> bool:
    return False


def script(path: Path, body: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(mode)
    return path


def run(hooks: Hooks, point: Point = Point.BEFORE_ACTIVATION, *, to_the_end: bool = False) -> Said:
    return hooks.run(point, FACTS, never, to_the_end=to_the_end)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def test_no_hooks_say_nothing() -> None:
    assert run(Hooks()) == Said()
    assert not Hooks().has(Point.BEFORE_DOWNLOAD)


def test_a_directory_that_is_not_there_has_no_hooks(tmp_path: Path) -> None:
    assert run(Hooks(directory=tmp_path / "none")).fine


def test_hooks_run_in_order_configured_first_then_by_name(folder: Path) -> None:
    log = folder / "log"
    script(folder / "hooks" / "before-activation", f"echo single >> {log}")
    script(folder / "hooks" / "before-activation.d" / "20-b", f"echo b >> {log}")
    script(folder / "hooks" / "before-activation.d" / "10-a", f"echo a >> {log}")
    script(folder / "hooks" / "before-activation.d" / "README", "echo never", mode=0o644)
    script(folder / "hooks" / "before-commit", f"echo other >> {log}")
    configured = Hook(at=Point.BEFORE_ACTIVATION, argv=("sh", "-c", f"echo first >> {log}"))
    assert run(Hooks([configured], folder / "hooks")).fine
    assert log.read_text().split() == ["first", "single", "a", "b"]


@pytest.mark.parametrize("code", [75, 77, 1])
def test_the_first_that_says_no_ends_it(folder: Path, code: int) -> None:
    script(folder / "hooks" / "before-activation.d" / "1", f"echo busy with $OTARIA_VERSION; exit {code}")
    script(folder / "hooks" / "before-activation.d" / "2", f"touch {folder}/ran")
    said = run(Hooks(directory=folder / "hooks"))
    assert said == Said(code=code, text=f"Hook before-activation (1) ended with {code}: 'busy with 2.0'.")
    assert not (folder / "ran").exists()


def test_all_run_to_the_end_and_what_they_print_is_kept(folder: Path) -> None:
    script(folder / "hooks" / "on-failure.d" / "1", "echo one; exit 3")
    script(folder / "hooks" / "on-failure.d" / "2", "echo two")
    said = run(Hooks(directory=folder / "hooks"), Point.ON_FAILURE, to_the_end=True)
    assert said == Said(code=3, text="Hook on-failure (1) ended with 3: 'one'.\ntwo")


def test_security_environment_is_what_is_documented_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTARIA_SECRET", "hush")
    script(folder / "hooks" / "before-activation", f"env > {folder}/env; pwd >> {folder}/env")
    run(Hooks(directory=folder / "hooks"))
    lines = (folder / "env").read_text().splitlines()
    assert lines[-1] == "/"
    seen = dict(line.split("=", 1) for line in lines[:-1])
    seen = {name: value for name, value in seen.items() if name not in ("PWD", "SHLVL", "_", "OLDPWD")}
    assert seen.pop("OTARIA_REASON") == "ab" + "x" * 510
    assert seen == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "OTARIA_HOOK": "before-activation",
        "OTARIA_ORDER": "abc",
        "OTARIA_VERSION": "2.0",
    }


def test_security_hook_over_time_is_killed_with_its_group(folder: Path) -> None:
    pids = folder / "pids"
    hook = Hook(
        at=Point.BEFORE_COMMIT,
        argv=("sh", "-c", f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"),
        timeout_s=1.0,
    )
    said = run(Hooks([hook]), Point.BEFORE_COMMIT)
    assert (said.code, "was killed because it did not end within 1 s" in said.text) == (None, True)
    for pid in pids.read_text().split():
        assert wait_gone(int(pid))


def test_a_stop_ends_a_hook(folder: Path) -> None:
    began = time.monotonic()
    hooks = Hooks([Hook(at=Point.BEFORE_COMMIT, argv=("sleep", "60"))])
    said = hooks.run(Point.BEFORE_COMMIT, {}, lambda: time.monotonic() - began > 0.2)
    assert "because the agent stopped" in said.text
    assert time.monotonic() - began < 5


def test_security_output_is_bounded(folder: Path) -> None:
    script(folder / "hooks" / "before-activation", "head -c 5000000 /dev/zero | tr '\\0' x; exit 1")
    said = run(Hooks(directory=folder / "hooks"))
    assert said.code == 1
    assert len(said.text) < 1024


def test_hook_that_can_not_be_started_fails() -> None:
    said = run(Hooks([Hook(at=Point.BEFORE_ACTIVATION, argv=("/no/such/program",))]))
    assert not said.fine
    assert "/no/such/program" in said.text


@pytest.mark.parametrize("mode", [0o775, 0o757])
@pytest.mark.parametrize("what", ["program", "folder", "directory"])
def test_security_what_others_may_write_is_not_run(folder: Path, mode: int, what: str) -> None:
    program = script(folder / "hooks" / "before-activation.d" / "1", f"touch {folder}/ran")
    (folder / "hooks").chmod(0o755)
    {"program": program, "folder": program.parent, "directory": folder / "hooks"}[what].chmod(mode)
    said = run(Hooks(directory=folder / "hooks"))
    assert not said.fine
    assert "is not run: others may write" in said.text
    assert not (folder / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_security_what_belongs_to_another_user_is_not_run(folder: Path) -> None:
    program = script(folder / "hooks" / "before-activation", f"touch {folder}/ran")
    os.chown(program, 12345, 12345)
    assert "belongs to another user" in run(Hooks(directory=folder / "hooks")).text
    assert not (folder / "ran").exists()


def test_program_that_is_not_executable_fails_and_is_said(folder: Path) -> None:
    script(folder / "hooks" / "before-activation", "true", mode=0o644)
    assert not run(Hooks(directory=folder / "hooks")).fine
