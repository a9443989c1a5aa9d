"""A machine whose boot loader is the real GRUB, run as a program: `grub-emu` executes the shipped fragment over a disk image.

Its `load_env` and `save_env` are GRUB's own code, block lists and all. Only what would start a kernel is left out: the menu says
what it would boot, and restarts.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FRAGMENT = Path(__file__).parents[2] / "deploy/boot/grub/otaria.cfg"
FILES = ("state-0.env", "state-1.env", "slot-a.env", "slot-b.env")
TOOLS = ("grub-emu", "script", "mcopy", "mkfs.vfat")
SAYS = re.compile(r"otaria-boots:([AB]?):(.*?):end")
MENU = """\
set otaria_dir=(hd0)/otaria
source $prefix/otaria.cfg
{more}
echo "otaria-boots:$otaria_run:$otaria_args:end"
reboot
"""


@dataclass(frozen=True, kw_only=True)
class Booted:
    """What GRUB would have booted: a slot's letter or nothing, and the kernel's command line."""

    slot: str
    cmdline: str


class GrubMachine:
    """`environment` is the folder that the agent writes; `boot` shows it to GRUB and takes back what GRUB made of it.
    `fragment` is the copy that GRUB reads."""

    def __init__(self, folder: Path) -> None:
        self.environment = folder / "environment"
        self._image, self._grub, self._map = folder / "disk.img", folder / "grub", folder / "map"
        for made in (self.environment, self._grub):
            made.mkdir(parents=True)
        self._map.write_text(f"(hd0) {self._image}\n")
        self.fragment = self._grub / "otaria.cfg"
        shutil.copy(FRAGMENT, self.fragment)

    def boot(self, more: str = "") -> Booted:
        """One boot; `more` is put between the fragment and the menu."""
        (self._grub / "grub.cfg").write_text(MENU.format(more=more))
        self._put()
        run = ["script", "-qec", f"grub-emu -m {self._map} -d {self._grub}", "/dev/null"]
        done = subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
        self._take()
        said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n", "", done.stdout.decode(errors="replace"))
        found = SAYS.search(said)
        assert found, f"GRUB did not come to its end: {said[-2000:]}"
        return Booted(slot=found[1], cmdline=found[2])

    def _put(self) -> None:
        self._image.unlink(missing_ok=True)
        with self._image.open("wb") as image:
            image.truncate(2 << 20)
        _call("mkfs.vfat", str(self._image))
        _call("mmd", "-i", str(self._image), "::otaria")
        present = [str(self.environment / name) for name in FILES if (self.environment / name).exists()]
        if present:
            _call("mcopy", "-i", str(self._image), *present, "::otaria")

    def _take(self) -> None:
        for name in FILES:
            if (self.environment / name).exists():
                _call("mcopy", "-n", "-o", "-i", str(self._image), f"::otaria/{name}", str(self.environment / name))


def missing_tool() -> str | None:
    """The first tool that is not here."""
    return next((tool for tool in TOOLS if shutil.which(tool, path="/usr/bin:/usr/sbin:/bin:/sbin") is None), None)


def _call(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=30, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
