"""The boot loaders that guests are started by, each set up as docs/howto/boot.md says: what is on the boot partition, the agent's
`[boot]`, and the first environment, made by the agent's own code."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_agent.boot.backend import grub_store
from device_agent.boot.ledger import Ledger
from device_agent.effects import FileEffects
from tests.boot.guest import AMD64, PROJECT, Arch, Guests, call
from tests.boot.machine import Board, accelerator

OVMF = Path("/usr/share/OVMF/OVMF_CODE.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS.fd")
CONSOLE = "console=ttyS0 quiet loglevel=4 systemd.show_status=false net.ifnames=0 panic=2"
EMBEDDED = "search --no-floppy --set=root --file /grub/grub.cfg\nset prefix=($root)/grub\nconfigfile /grub/grub.cfg\n"
GRUB_MODULES = """part_gpt fat squash4 linux normal configfile search search_fs_file search_label test echo loadenv reboot sleep
serial terminal gzio"""
GRUB_CFG = f"""\
serial --unit=0 --speed=115200
terminal_output serial
set otaria_disk=$root
set otaria_dir=($otaria_disk)/otaria
source $otaria_dir/otaria.cfg
if [ "$otaria_run" = A ]; then set otaria_root=root-a; set root=(hd0,gpt2); else set otaria_root=root-b; set root=(hd0,gpt3); fi
if linux /boot/vmlinuz root=PARTLABEL=$otaria_root ro {CONSOLE} $otaria_args; then
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


def _pc(guests: Guests, work: Path) -> Board:
    """A PC with UEFI firmware."""
    how = accelerator(guests.kernel(AMD64)[0])
    shutil.copy(VARIABLES, work / "variables.fd")
    flash = "if=pflash,format=raw"
    return Board(
        program="qemu-system-x86_64",
        machine=("-M", f"q35,accel={how}", "-cpu", "host" if how == "kvm" else "max", "-smp", "1"),
        firmware=(
            *("-drive", f"{flash},readonly=on,file={OVMF}"),
            *("-drive", f"{flash},file={work / 'variables.fd'}"),
        ),
    )


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
ALL = (GRUB,)
