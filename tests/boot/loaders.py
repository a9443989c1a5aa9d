"""The boot loaders that guests are started by, each set up as docs/howto/boot.md says: what is on the boot partition, the agent's
`[boot]`, and the first environment, made by the agent's own code."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_agent.boot.backend import grub_store, make_environment, uboot_store
from device_agent.boot.ledger import Ledger
from device_agent.boot.settings import SystemdBootSettings
from device_agent.effects import FileEffects
from device_agent.ports import Slot
from tests.boot.guest import AMD64, ARM64, HERE, PROJECT, Arch, Guests, call
from tests.boot.machine import Board, accelerator

OVMF = Path("/usr/share/OVMF/OVMF_CODE.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS.fd")
SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
UBOOT = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
CONSOLE = "console=ttyS0 quiet loglevel=4 systemd.show_status=false net.ifnames=0 panic=2 mitigations=off"
NO_TIMER_CHECK = "no_timer_check"
"""Linux on a PC panics when its timer brought no ten ticks in a while, which an emulator on a busy machine may fail to bring: a
trial was restarted once by that. Under KVM Linux leaves the check out by itself."""
EMBEDDED = "search --no-floppy --set=root --file /grub/grub.cfg\nset prefix=($root)/grub\nconfigfile /grub/grub.cfg\n"
UBOOT_CMD = f"""\
setenv otaria_if virtio
setenv otaria_dev 0
setenv otaria_part 5
setenv otaria_addr 48000000
load virtio 0:1 ${{scriptaddr}} otaria.scr && source ${{scriptaddr}}

if test "${{otaria_run}}" = A; then setenv otaria_root root-a; fi
if test "${{otaria_run}}" = B; then setenv otaria_root root-b; fi
setenv bootargs "root=PARTLABEL=${{otaria_root}} ro {CONSOLE.replace("ttyS0", "ttyAMA0")} ${{otaria_args}}"
if load virtio 0:1 ${{kernel_addr_r}} vmlinuz && load virtio 0:1 ${{ramdisk_addr_r}} initrd.img; then
	booti ${{kernel_addr_r}} ${{ramdisk_addr_r}}:${{filesize}} ${{fdtcontroladdr}}
fi

# We are here because the kernel did not load or did not start.
setenv otaria_event failed
load virtio 0:1 ${{scriptaddr}} otaria.scr && source ${{scriptaddr}}
sleep 5
reset
"""
GRUB_MODULES = """part_gpt fat squash4 linux normal configfile search search_fs_file search_label test echo loadenv reboot sleep
serial terminal gzio"""
GRUB_CFG = f"""\
serial --unit=0 --speed=115200
terminal_output serial
set otaria_disk=$root
set otaria_dir=($otaria_disk)/otaria
source $otaria_dir/otaria.cfg
if [ "$otaria_run" = A ]; then set otaria_root=root-a; set root=(hd0,gpt2); else set otaria_root=root-b; set root=(hd0,gpt3); fi
if linux /boot/vmlinuz root=PARTLABEL=$otaria_root ro {CONSOLE} {NO_TIMER_CHECK} $otaria_args; then
  initrd /boot/initrd.img
  boot
fi
# We are here because the kernel could not be loaded or started.
otaria_failed
"""


@dataclass(frozen=True, kw_only=True)
class Loader:
    """A boot loader. `boot`: the section of agent.toml. `esp`: the boot partition's files by path, made in a work folder."""

    name: str
    arch: Arch
    boot: str
    esp: Callable[[Guests, Path], dict[str, Path | bytes]]
    board: Callable[[Guests, Path], Board]
    unreadable: str
    """The cause when the slot on trial can't be read."""
    state: Callable[[Path], Path] | None = None
    """Makes the first content of a raw partition for the environment."""
    state_part: str = "esp"
    """The partition that holds the environment."""
    tools: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    """What it needs on this machine, beside what every guest needs."""


def _grub_esp(_guests: Guests, work: Path) -> dict[str, Path | bytes]:
    (work / "embedded.cfg").write_text(EMBEDDED)
    image, environment = work / "grub.efi", work / "environment"
    environment.mkdir()
    words = ("-O", "x86_64-efi", "-p", "/grub", "-c", work / "embedded.cfg", "-o", image)
    call("grub-mkimage", *words, *GRUB_MODULES.split())
    grub_store(FileEffects(), environment, judge=lambda _: None).create(Ledger(probe="factory"))
    return {
        "EFI/BOOT/BOOTX64.EFI": image,
        "grub/grub.cfg": GRUB_CFG.encode(),
        "otaria/otaria.cfg": PROJECT / "deploy/boot/grub/otaria.cfg",
        **{f"otaria/{path.name}": path for path in environment.iterdir()},
    }


def _systemd_boot_esp(guests: Guests, work: Path) -> dict[str, Path | bytes]:
    """systemd-boot reads no slots: both use one kernel of the boot partition."""
    kernel, initrd = guests.kernel(AMD64)
    entries = work / "entries"
    entries.mkdir()
    settings = SystemdBootSettings(entries=str(entries), templates=str(HERE / "rootfs/etc/otaria/entries"))
    make_environment(settings, work, FileEffects(), Slot.A, probe="factory")
    return {
        "EFI/BOOT/BOOTX64.EFI": SYSTEMD_BOOT,
        "EFI/otaria/vmlinuz": kernel,
        "EFI/otaria/initrd.img": initrd,
        "loader/loader.conf": b"default otaria-*\ntimeout 0\n",
        **{f"loader/entries/{path.name}": path for path in entries.iterdir()},
    }


def _uboot_esp(guests: Guests, work: Path) -> dict[str, Path | bytes]:
    """Debian's U-Boot reads no squashfs: both slots use one kernel of the boot partition."""
    kernel, initrd = guests.kernel(ARM64)
    (work / "boot.cmd").write_text(UBOOT_CMD)
    for source, script in ((PROJECT / "deploy/boot/u-boot/otaria.cmd", "otaria.scr"), (work / "boot.cmd", "boot.scr")):
        call("mkimage", "-A", "arm64", "-T", "script", "-d", source, work / script)
    return {
        "vmlinuz": kernel,
        "initrd.img": initrd,
        "otaria.scr": work / "otaria.scr",
        "boot.scr": work / "boot.scr",
    }


def _uboot_state(work: Path) -> Path:
    state = work / "state.img"
    state.write_bytes(bytes(32768))
    uboot_store(FileEffects(), state).create(Ledger(probe="factory"))
    return state


def _pc(guests: Guests, work: Path) -> Board:
    """A PC with UEFI firmware."""
    how = accelerator(guests.kernel(AMD64)[0])
    shutil.copy(VARIABLES, work / "variables.fd")
    flash = "if=pflash,format=raw"
    processor = ("-cpu", "host") if how == "kvm" else ("-cpu", "max")
    return Board(
        program="qemu-system-x86_64",
        machine=("-M", f"q35,accel={how}", *processor, "-smp", "1"),
        firmware=(
            *("-drive", f"{flash},readonly=on,file={OVMF}"),
            *("-drive", f"{flash},file={work / 'variables.fd'}"),
        ),
    )


def _virt(_guests: Guests, _work: Path) -> Board:
    """QEMU's own arm64 board, emulated."""
    machine = ("-M", "virt", "-cpu", "cortex-a53")
    return Board(program="qemu-system-aarch64", machine=machine, firmware=("-bios", str(UBOOT)))


GRUB = Loader(
    name="grub",
    arch=AMD64,
    boot='kind = "grub"\nenvironment = "/boot/otaria"\n',
    esp=_grub_esp,
    board=_pc,
    unreadable="boot-failed",
    tools=("grub-mkimage",),
    files=(OVMF, Path("/usr/lib/grub/x86_64-efi/normal.mod")),
)
SD_BOOT = Loader(
    name="systemd-boot",
    arch=AMD64,
    boot='kind = "systemd-boot"\nentries = "/boot/loader/entries"\ntemplates = "/etc/otaria/entries"\n',
    esp=_systemd_boot_esp,
    board=_pc,
    unreadable="attempts-exhausted",
    files=(OVMF, SYSTEMD_BOOT),
)
U_BOOT = Loader(
    name="u-boot",
    arch=ARM64,
    boot='kind = "u-boot"\nstate = "/dev/disk/by-partlabel/state"\n',
    esp=_uboot_esp,
    board=_virt,
    unreadable="attempts-exhausted",
    state=_uboot_state,
    state_part="state",
    tools=("qemu-system-aarch64", "mkimage"),
    files=(UBOOT,),
)
ALL = (GRUB, SD_BOOT, U_BOOT)
