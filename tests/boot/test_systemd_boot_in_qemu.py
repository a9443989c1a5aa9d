"""systemd-boot itself, under OVMF in QEMU, on the entries that the back end writes: what it boots and how it renames,
against the model.

In place of kernels there are two small EFI programs (GRUB images) that say which slot they are, and restart. A boot takes
ten seconds or more without KVM, which is not used: this is part of the deep suite.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from device_agent.ports import Slot
from tests.boot import sd_boot_model
from tests.contract.boot_benches import LIMITS, SystemdBootBench
from tests.contract.power import UnsyncedEffects

LOADER = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
FIRMWARE, VARIABLES = Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")
TOOLS = ("qemu-system-x86_64", "grub-mkstandalone", "sfdisk", "mcopy", "mkfs.vfat")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
NEEDED = (LOADER, FIRMWARE, VARIABLES, Path("/usr/lib/grub/x86_64-efi/normal.mod"))
LACK = next((tool for tool in TOOLS if not shutil.which(tool, path=PATH)), None) or next(
    (str(path) for path in NEEDED if not path.exists()), None
)
WHY = f"{LACK} is not here (qemu-system-x86, ovmf, systemd-boot-efi, grub-efi-amd64-bin, mtools, fdisk)"
ESP_SECTOR, ESP_SECTORS = 2048, 98304
SAYS = re.compile(r"otaria-boots:([AB]):end")

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1200), pytest.mark.skipif(LACK is not None, reason=WHY)]


def call(*argv: str, data: bytes = b"") -> str:
    done = subprocess.run(argv, check=True, capture_output=True, timeout=60, env={"PATH": PATH}, input=data)
    return done.stdout.decode()


class Machine:
    """A disk with one ESP, made of a folder of entries before a boot and read back after it."""

    def __init__(self, folder: Path, entries: Path) -> None:
        self._folder, self._entries = folder, entries
        self._esp, self._disk = folder / "esp.img", folder / "disk.img"
        shutil.copy(VARIABLES, folder / "variables.fd")
        (folder / "loader.conf").write_text("default otaria-*\ntimeout 0\n")
        for slot in Slot:
            config = folder / f"{slot.value}.cfg"
            config.write_text(f'echo "otaria-boots:{slot.value}:end"\nreboot\n')
            modules = [
                "--install-modules=normal echo reboot",
                "--modules=normal echo reboot",
                "--fonts=",
                "--themes=",
                "--locales=",
            ]
            out = folder / f"{slot.value.lower()}.efi"
            call("grub-mkstandalone", "-O", "x86_64-efi", "-o", str(out), *modules, f"boot/grub/grub.cfg={config}")

    def boot(self) -> str:
        """The slot whose program ran."""
        self._assemble()
        flash = "if=pflash,format=raw"
        argv = [
            "qemu-system-x86_64",
            "-machine",
            "q35,accel=tcg",
            "-m",
            "256",
            "-nographic",
            "-no-reboot",
            "-net",
            "none",
        ]
        argv += [
            "-drive",
            f"{flash},readonly=on,file={FIRMWARE}",
            "-drive",
            f"{flash},file={self._folder / 'variables.fd'}",
        ]
        argv += ["-drive", f"file={self._disk},format=raw"]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=240, check=False)
        self._take()
        found = SAYS.search(done.stdout.decode(errors="replace"))
        assert found, done.stdout[-2000:]
        return found[1]

    def _assemble(self) -> None:
        self._esp.unlink(missing_ok=True)
        with self._esp.open("wb") as esp:
            esp.truncate(ESP_SECTORS * 512)
        image = ["-i", str(self._esp)]
        call("mkfs.vfat", "-F", "32", str(self._esp))
        call("mmd", *image, "::EFI", "::EFI/BOOT", "::EFI/otaria", "::loader", "::loader/entries")
        call("mcopy", *image, str(LOADER), "::EFI/BOOT/BOOTX64.EFI")
        call("mcopy", *image, str(self._folder / "a.efi"), str(self._folder / "b.efi"), "::EFI/otaria")
        call("mcopy", *image, str(self._folder / "loader.conf"), "::loader")
        call("mcopy", *image, *(str(path) for path in self._entries.glob("*.conf")), "::loader/entries")
        with self._disk.open("wb") as disk:
            disk.truncate((ESP_SECTOR + ESP_SECTORS + 2048) * 512)
        call(
            "sfdisk", "-q", str(self._disk), data=f"label: gpt\nstart={ESP_SECTOR},size={ESP_SECTORS},type=U\n".encode()
        )
        with self._disk.open("r+b") as disk:
            disk.seek(ESP_SECTOR * 512)
            disk.write(self._esp.read_bytes())

    def _take(self) -> None:
        with self._disk.open("rb") as disk:
            disk.seek(ESP_SECTOR * 512)
            self._esp.write_bytes(disk.read(ESP_SECTORS * 512))
        for path in self._entries.glob("*.conf"):
            path.unlink()
        call("mcopy", "-i", str(self._esp), "::loader/entries/*.conf", str(self._entries))


def test_systemd_boot_tries_counts_and_falls_back_as_the_model_says(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    bench = SystemdBootBench(tmp_path / "bench")
    for letter in "ab":
        (bench.folder / "templates" / f"{letter}.conf").write_text(f"efi /EFI/otaria/{letter}.efi\n")
    for path in bench.entries.glob("*.conf"):
        path.unlink()
    bench.control(UnsyncedEffects()).create(Slot.A)
    machine, model = Machine(tmp_path, bench.entries), tmp_path / "model"

    def boot() -> str:
        """Boot for real, and by the model; both must agree."""
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(bench.entries, model)
        cmdline = sd_boot_model.boot(model)
        slot = machine.boot()
        assert cmdline is not None
        assert f"otaria.slot={slot} " in cmdline
        files = {path.name: path.read_bytes() for path in bench.entries.iterdir()}
        assert files == {path.name: path.read_bytes() for path in model.iterdir()}
        bench.started(cmdline)
        return slot

    assert boot() == "A"
    bench.control(UnsyncedEffects()).try_slot(Slot.B, "t1", deadline_s=60)
    assert [boot() for _ in range(LIMITS.tries + 1)] == ["B"] * LIMITS.tries + ["A"]
    status = bench.control(UnsyncedEffects()).status()
    assert (status.outcome.value, status.trial_id, status.cause) == ("fell_back", "t1", "attempts-exhausted")
