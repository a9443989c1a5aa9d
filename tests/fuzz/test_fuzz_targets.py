"""Foreign bytes: no parser crashes, hangs, grows past its bound or writes outside its place; the guard notices each."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.guard import check, mutated
from tests.fuzz.inputs import Target, targets

NAMES = (
    *("images", "manifest", "local-request", "want", "block", "delta", "metadata", "catalogue", "encrypted"),
    *("log-request", "order", "install", "permit", "ack", "grub-block", "u-boot-block", "boot-entry"),
    *("bundle", "report-text", "report-line", "typed-code"),
    *(f"image-{name}" for name in ("slot-image", "tar", "elf", "squashfs", "ext", "fat", "mcuboot", "esp32")),
    *(f"image-{name}" for name in ("gpt", "mbr", "wrapped")),
)


Targets = dict[str, Target]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Targets:
    return targets(tmp_path_factory.mktemp("fuzz"))


def test_every_target_is_listed_here(known: Targets) -> None:
    assert set(known) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_is_understood(known: Targets, name: str) -> None:
    """A target that refuses everything would find nothing."""
    words = {known[name].run(seed).split("/")[0] for seed in known[name].seeds}
    assert words - {"none", "unknown", "malformed", "catalogue-refused", "catalogue-expired"}, words


@pytest.mark.parametrize("name", NAMES)
@given(chance=st.randoms(use_true_random=False))
def test_mutated_input_gets_a_word(known: Targets, name: str, chance: object) -> None:
    target = known[name]
    assert target.run(mutated(chance.choice(target.seeds), chance))  # type: ignore[attr-defined, arg-type]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=3000))
def test_noise_gets_a_word(known: Targets, name: str, data: bytes) -> None:
    assert known[name].run(data)


def test_in_a_process_of_their_own_the_targets_keep_to_their_bounds() -> None:
    command = [sys.executable, "-m", "tests.fuzz.run", "--engine", "plain", "--runs", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(NAMES)} targets, 60 runs each, 0 findings" in done.stdout


def crashing(data: bytes) -> str:
    raise IndexError(data)


def hanging(_data: bytes) -> str:
    time.sleep(60)
    return "late"


def growing(_data: bytes) -> str:
    return str(len(b"\x01" * (80 << 20)))


@pytest.mark.parametrize(("run", "said"), [(crashing, "IndexError"), (hanging, "hangs"), (growing, "grew by")])
def test_the_guard_notices(run: object, said: str) -> None:
    target = Target(run=run, seeds=(b"x",), seconds=0.1)  # type: ignore[arg-type]
    if said == "grew by":
        code = "from tests.fuzz import test_fuzz_targets as t; t.say_growth()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert said in done.stdout
    else:
        assert said in check("planted", target, runs=0, seed=0)[0]


def say_growth() -> None:
    """In a process of its own, whose peak nobody raised before."""
    print(check("planted", Target(run=growing, seeds=(b"x",)), runs=0, seed=0))


@pytest.mark.parametrize("act", ["(there / 'x').write_bytes(b'')", "there.mkdir()", "os.system('true')", "pass"])
def test_the_guard_notices_a_file_outside(tmp_path: Path, act: str) -> None:
    (tmp_path / "in").mkdir()
    code = f"""
import os
from pathlib import Path
from tests.fuzz.guard import ForbiddenError, forbid_writes_outside
inside, there = Path({str(tmp_path / "in")!r}), Path({str(tmp_path / "out")!r})
forbid_writes_outside(inside)
(inside / "fine").write_bytes(b"")
try:
    {act}
    print("passed")
except ForbiddenError:
    print("noticed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ("passed" if act == "pass" else "noticed")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
