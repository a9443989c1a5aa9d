"""The shipped boot script, run by Debian's U-Boot for arm64 in QEMU, against `ledger.choose`.

Its state lies on a raw partition, as where the environment is not redundant. In place of a kernel the script says what it
would boot, and resets. A boot takes about five seconds, so this is part of the deep suite.
"""

import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.boot.backend import uboot_store
from device_agent.boot.ledger import Ledger, Phase, choose
from device_agent.ports import Slot
from tests.boot.ledgers import some_ledger
from tests.contract.power import UnsyncedEffects

SCRIPT = Path(__file__).parents[2] / "deploy/boot/u-boot/otaria.cmd"
UBOOT = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
SAYS = re.compile(r"otaria-boots:([AB]?):(.*?):end")
STATE_SECTOR, FILES_SECTOR, STATE_BYTES = 2048, 4096, 32768
LAYOUT = "label: gpt\nstart=2048,size=2048\nstart=4096,size=20480,attrs=LegacyBIOSBootable\n"
BOARD = """\
setenv otaria_if virtio
setenv otaria_dev 0
setenv otaria_part 1
setenv otaria_addr 42000000
load virtio 0:2 44000000 otaria.scr && source 44000000
echo "otaria-boots:${otaria_run}:${otaria_args}:end"
MORE
reset
"""
FAILS = "setenv otaria_event failed; load virtio 0:2 44000000 otaria.scr && source 44000000"
TOOLS = ("qemu-system-aarch64", "mkimage", "sfdisk", "mcopy", "mkfs.vfat")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
LACK = next((tool for tool in TOOLS if not shutil.which(tool, path=PATH)), None if UBOOT.exists() else str(UBOOT))

WHY = f"{LACK} is not here (qemu-system-arm, u-boot-qemu, u-boot-tools, mtools, fdisk)"
pytestmark = [pytest.mark.deep, pytest.mark.timeout(300), pytest.mark.skipif(LACK is not None, reason=WHY)]


class UBootMachine:
    """A disk with the state in its first partition and the scripts in its second."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._disk = folder, folder / "disk.img"
        self.state = folder / "state.img"
        self.state.write_bytes(bytes(STATE_BYTES))

    def boot(self, more: str = "") -> tuple[str, str]:
        """One boot: the slot and the kernel's command line."""
        self._assemble(more)
        run = ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-m", "256", "-nographic", "-no-reboot"]
        drive = ["-drive", f"file={self._disk},format=raw,if=none,id=d", "-device", "virtio-blk-device,drive=d"]
        argv = [*run, "-bios", str(UBOOT), *drive, "-net", "none"]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=90, check=False)
        with self._disk.open("rb") as disk:
            disk.seek(STATE_SECTOR * 512)
            self.state.write_bytes(disk.read(STATE_BYTES))
        found = SAYS.search(done.stdout.decode(errors="replace"))
        assert found, done.stdout[-3000:]
        assert b"Usage:" not in done.stdout
        return found[1], found[2]

    def _assemble(self, more: str) -> None:
        files, board = self._folder / "files.img", self._folder / "boot.cmd"
        board.write_text(BOARD.replace("MORE", more))
        for source, script in ((SCRIPT, "otaria.scr"), (board, "boot.scr")):
            _call("mkimage", "-A", "arm64", "-T", "script", "-d", str(source), str(self._folder / script))
        files.unlink(missing_ok=True)
        with files.open("wb") as file:
            file.truncate(10 << 20)
        _call("mkfs.vfat", str(files))
        _call("mcopy", "-i", str(files), *(str(self._folder / name) for name in ("otaria.scr", "boot.scr")), "::")
        with self._disk.open("wb") as disk:
            disk.truncate(16 << 20)
        _call("sfdisk", "-q", str(self._disk), data=LAYOUT.encode())
        with self._disk.open("r+b") as disk:
            for sector, part in ((STATE_SECTOR, self.state), (FILES_SECTOR, files)):
                disk.seek(sector * 512)
                disk.write(part.read_bytes())


def _call(*argv: str, data: bytes = b"") -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=30, env={"PATH": PATH}, input=data)


def test_u_boot_chooses_and_counts_as_the_rules_say(tmp_path: Path) -> None:
    machine, dice = UBootMachine(tmp_path), random.Random(20260103)
    store = uboot_store(UnsyncedEffects(), machine.state)
    for number in range(12):
        before = some_ledger(dice)
        store.save(before)
        expected, slot = choose(before)
        booted = machine.boot()
        after = store.load()
        assert after is not None
        assert (after.ledger, booted[0]) == (expected, slot.value), (number, before)
        assert booted[1] == f"otaria.slot={slot.value} otaria.canary={expected.seen} otaria.cause="


def test_a_torn_copy_is_passed_over_and_written_anew(tmp_path: Path) -> None:
    machine = UBootMachine(tmp_path)
    store = uboot_store(UnsyncedEffects(), machine.state)
    for victim in (0, 4096):
        store.save(replace(Ledger(), whole=frozenset(Slot), phase=Phase.TRIAL, trial_id="t1", tries=2))
        data = bytearray(machine.state.read_bytes())
        data[victim + 100 : victim + 512] = bytes(412)
        machine.state.write_bytes(data)
        assert machine.boot()[0] == "B"
        after = store.load()
        assert after is not None
        assert (after.ledger.tries, after.is_sound) == (1, True)


def test_with_both_copies_lost_only_a_slot_that_is_marked_complete_boots(tmp_path: Path) -> None:
    machine = UBootMachine(tmp_path)
    assert machine.boot()[0] == ""
    uboot_store(UnsyncedEffects(), machine.state).save(Ledger(slot=Slot.B, whole=frozenset({Slot.B})))
    machine.state.write_bytes(bytes(8192) + machine.state.read_bytes()[8192:])
    assert machine.boot() == ("B", "otaria.slot=B otaria.canary= otaria.cause=loader-state-lost")


def test_a_kernel_that_does_not_load_ends_the_trial(tmp_path: Path) -> None:
    machine = UBootMachine(tmp_path)
    store = uboot_store(UnsyncedEffects(), machine.state)
    store.save(replace(Ledger(), whole=frozenset(Slot), phase=Phase.TRIAL, trial_id="t1", tries=3))
    assert machine.boot(FAILS)[0] == "B"
    ledger = store.load().ledger  # type: ignore[union-attr]
    assert (ledger.phase, ledger.cause, ledger.whole) == (Phase.ENDED, "boot-failed", frozenset({Slot.A}))
    assert machine.boot()[0] == "A"
