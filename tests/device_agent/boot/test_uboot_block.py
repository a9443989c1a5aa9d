"""U-Boot's checksummed blocks against the real `fw_printenv`, and the store in a redundant environment against torn writes
of it."""

import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.boot.cells import FIRST, LAST
from device_agent.boot.fw_env import FwEnv
from device_agent.boot.ledger import Ledger, Phase, to_variables
from device_agent.boot.uboot_block import BLOCK_BYTES, UBootBlock
from device_agent.effects import FileEffects
from device_agent.ports import Slot
from firmware.errors import RefusedError, UnavailableError

needs_tools = pytest.mark.skipif(not shutil.which("fw_setenv"), reason="fw_setenv (libubootenv-tool) is not here")
FULLEST = Ledger(
    slot=Slot.B,
    whole=frozenset(Slot),
    phase=Phase.COMMITTED,
    trial_id="x" * 64,
    cause="c" * 32,
    probe="p" * 8,
    seen="s" * 8,
)


def config(folder: Path, *lines: str) -> Path:
    path = folder / "fw_env.config"
    path.write_text("# device offset size\n" + "\n".join(lines) + "\n")
    return path


@needs_tools
def test_fw_printenv_reads_what_we_write(tmp_path: Path) -> None:
    block = UBootBlock().encode({FIRST: "1", **to_variables(FULLEST), LAST: "1"})
    (tmp_path / "state").write_bytes(bytes(4096) + block)
    path = config(tmp_path, f"{tmp_path / 'state'} 0x1000 0x400")
    done = subprocess.run(["fw_printenv", "-c", str(path)], check=True, capture_output=True, text=True)
    name, _, commands = done.stdout.strip().partition("=")
    assert name == "otaria_all"
    said = dict(command.removeprefix("setenv ").partition(" ")[::2] for command in commands.split("; "))
    assert said == {FIRST: "1", **to_variables(FULLEST), LAST: "1"}


@needs_tools
def test_we_read_what_fw_setenv_writes(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(UBootBlock().encode({"first": "1"}))
    path = config(tmp_path, f"{tmp_path / 'state'} 0x0 0x400")
    script = b"otaria_all=setenv otaria_a 1; setenv otaria_b x-y; setenv otaria_c\n"
    subprocess.run(["fw_setenv", "-c", str(path), "-s", "-"], input=script, check=True)
    found = UBootBlock().decode((tmp_path / "state").read_bytes())
    assert found == {"otaria_a": "1", "otaria_b": "x-y", "otaria_c": ""}
    subprocess.run(
        ["fw_setenv", "-c", str(path), "-s", "-"], input=b"otaria_all=setenv otaria_a 1; reset\n", check=True
    )
    assert UBootBlock().decode((tmp_path / "state").read_bytes()) is None


def test_any_flipped_bit_is_noticed() -> None:
    block, dice = UBootBlock().encode(to_variables(Ledger())), random.Random(3)
    for _ in range(200):
        torn = bytearray(block)
        torn[dice.randrange(len(torn))] ^= 1 << dice.randrange(8)
        assert UBootBlock().decode(bytes(torn)) is None
    assert UBootBlock().decode(block[:-1]) is None
    assert UBootBlock().decode(b"\xff" * BLOCK_BYTES) is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        UBootBlock().encode({"x": "y" * BLOCK_BYTES})
    assert caught.value.kind == "boot-environment-full"


@pytest.fixture
def environment(tmp_path: Path) -> FwEnv:
    if not shutil.which("fw_setenv"):
        pytest.skip("fw_setenv (libubootenv-tool) is not here")
    for number in (0, 1):
        (tmp_path / f"env{number}").write_bytes(bytes(8192))
    path = config(tmp_path, *(f"{tmp_path / f'env{number}'} 0x0 0x2000" for number in (0, 1)))
    (tmp_path / "defaults").write_text("bootdelay=2\nbootcmd=boot\n")
    subprocess.run(["fw_setenv", "-c", str(path), "-f", str(tmp_path / "defaults"), "bootdelay", "0"], check=True)
    return FwEnv(FileEffects(), path)


def test_the_ledger_lies_beside_u_boots_own_variables(environment: FwEnv, tmp_path: Path) -> None:
    assert environment.load() is None
    environment.create(FULLEST)
    environment.save(replace(FULLEST, cause=""))
    assert environment.load().ledger == replace(FULLEST, cause="")  # type: ignore[union-attr]
    printed = subprocess.run(
        ["fw_printenv", "-c", str(tmp_path / "fw_env.config")], check=True, capture_output=True, text=True
    ).stdout
    assert "bootdelay=0\n" in printed
    assert "bootcmd=boot\n" in printed
    assert "otaria_cause" not in printed


@pytest.mark.parametrize("size", [0, 1, 4, 5, 100, 512, 4096, 8191])
def test_a_torn_write_of_a_redundant_environment_is_the_old_one(environment: FwEnv, tmp_path: Path, size: int) -> None:
    environment.create(Ledger())
    before = {path: path.read_bytes() for path in tmp_path.glob("env*")}
    environment.save(FULLEST)
    (changed,) = [path for path, data in before.items() if path.read_bytes() != data]
    new, old = changed.read_bytes(), before[changed]
    changed.write_bytes(new[:size] + old[size:])
    found = environment.load()
    assert found is not None
    is_same = new[:size] + old[size:] == new
    assert found.ledger == (FULLEST if is_same else Ledger())


def test_an_environment_with_one_copy_is_refused_and_one_that_was_never_saved_says_so(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        FwEnv(FileEffects(), config(tmp_path, f"{tmp_path / 'env'} 0x0 0x2000")).save(Ledger())
    assert caught.value.kind == "boot-environment-single"
    with pytest.raises(UnavailableError) as missing:
        FwEnv(FileEffects(), tmp_path / "nothing").save(Ledger())
    assert missing.value.kind == "bad-config"
    if shutil.which("fw_setenv"):
        for number in (0, 1):
            (tmp_path / f"env{number}").write_bytes(bytes(8192))
        empty = FwEnv(
            FileEffects(), config(tmp_path, *(f"{tmp_path / f'env{number}'} 0x0 0x2000" for number in (0, 1)))
        )
        with pytest.raises(UnavailableError) as never:
            empty.create(Ledger())
        assert never.value.kind == "boot-environment-lost"
