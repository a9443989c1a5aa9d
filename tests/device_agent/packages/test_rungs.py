"""The lower rungs of the way back: snapshots and the previous kernel, by the commands that we ship and the real tools below them.

The package to go back to can't be installed again, so neither its file nor dpkg's force leads back.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from device_agent.effects import FileEffects
from device_agent.packages.host import Host
from device_agent.packages.transaction import HostPolicy
from device_agent.ports import BootOutcome, Slot
from tests.device_agent.packages.bed import Bed
from tests.device_agent.packages.faults import NEW, OLD, Fault, end_of, prepare

SCRIPTS = Path(__file__).parents[3] / "deploy/hosts"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
NEVER_BACK = Fault(package="beta", side="old", script="postinst", how="fails", moment="back")
OLDER, NEWER = "6.1.0-9-amd64", "6.1.0-10-amd64"
DISK_BYTES = 256 << 20
GRUB_CFG = """\
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
set timeout=0
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-2f' {
	linux	/boot/vmlinuz-6.1.0-10-amd64 root=UUID=2f ro quiet
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-2f' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-10-amd64' --class debian $menuentry_id_option 'gnulinux-6.1.0-10-amd64-advanced-2f' {
		linux	/boot/vmlinuz-6.1.0-10-amd64 root=UUID=2f ro quiet
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-9-amd64' --class debian $menuentry_id_option 'gnulinux-6.1.0-9-amd64-advanced-2f' {
		linux	/boot/vmlinuz-6.1.0-9-amd64 root=UUID=2f ro quiet
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-9-amd64 (recovery mode)' --class debian $menuentry_id_option 'gnulinux-6.1.0-9-amd64-recovery-2f' {
		linux	/boot/vmlinuz-6.1.0-9-amd64 root=UUID=2f ro single
	}
}
"""  # noqa: E501 - as grub-mkconfig writes it
OLDER_ENTRY = "gnulinux-advanced-2f>gnulinux-6.1.0-9-amd64-advanced-2f"


def lacks(*tools: str) -> str | None:
    missing = [tool for tool in tools if shutil.which(tool, path=PATH) is None]
    return f"{', '.join(missing)} is not here; deploy/test-tools.sh installs it" if missing else None


def call(*argv: str | Path) -> str:
    words = [str(word) for word in argv]
    return subprocess.run(words, check=True, capture_output=True, text=True, env={"PATH": PATH}).stdout


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How its root is kept and taken back. `boot`: what a boot does with the root. `halve`: leave of what `restore` did what a
    kill in the middle would."""

    snapshot: tuple[str, ...]
    restore: tuple[str, ...]
    boot: Callable[[], object] = lambda: None
    halve: Callable[[], object] = lambda: None


@contextmanager
def copied(bed: Bed, folder: Path) -> Iterator[Machine]:
    """By copies of folders, wherever they are."""
    words = ("sh", "-c")
    yield Machine(
        snapshot=(*words, 'rm -rf "$1.kept"; cp -a "$1" "$1.kept"', "sh", str(bed.root)),
        restore=(*words, 'rm -rf "$1"; cp -a "$1.kept" "$1"', "sh", str(bed.root)),
    )


@contextmanager
def on_btrfs(bed: Bed, folder: Path) -> Iterator[Machine]:
    """The root is a subvolume of a disk of its own, by whose name each boot mounts it."""
    lack = lacks("mkfs.btrfs", "btrfs", "findmnt")
    if lack:
        pytest.skip(lack)
    disk, top = folder / "disk.img", folder / "top"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    call("mkfs.btrfs", "-q", disk)
    top.mkdir()
    if subprocess.run(["mount", "-o", "loop", disk, top], capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root, and btrfs in the kernel")
    try:
        call("btrfs", "subvolume", "create", top / "@rootfs")
        call("cp", "-a", f"{bed.root}/.", top / "@rootfs")
    finally:
        call("umount", top)
    shutil.rmtree(bed.root)
    bed.root.mkdir()

    def mount() -> None:
        call("mount", "-o", "loop,subvol=@rootfs", disk, bed.root)

    def boot() -> None:
        call("umount", bed.root)
        mount()

    def halve() -> None:
        call("mount", "-o", "loop,subvolid=5", disk, top)
        call("mv", "-T", top / "@rootfs", top / "otaria-new")
        call("umount", top)

    mount()
    script = (str(SCRIPTS / "btrfs-snapshot.sh"),)
    places = (str(bed.root), str(bed.store.files))
    try:
        snapshot, restore = (*script, "snapshot", *places), (*script, "restore", *places)
        yield Machine(snapshot=snapshot, restore=restore, boot=boot, halve=halve)
    finally:
        call("umount", bed.root)


def begin(bed: Bed, policy: HostPolicy) -> None:
    """Bring the host to its trial, by real commands."""
    host = Host(FileEffects())
    bed.host.on_hook = lambda argv, facts: host.hook(argv, facts, timeout_s=60.0)
    bed.policy = policy
    bed.open()
    prepare(bed, NEVER_BACK)
    bed.boot.switch(lambda share, text: None)


def give_up(bed: Bed) -> bool:
    """From now on the old package can't be installed; whether all was done without a restart."""
    (bed.folder / "armed").touch()
    bed.boot.give_up("one")
    bed.open()
    return bed.boot.resume()


def restarted(bed: Bed) -> bool:
    bed.host.boot += 1
    bed.open()
    return bed.boot.resume()


@pytest.mark.parametrize("kept", [copied, on_btrfs])
@pytest.mark.parametrize("again", [False, True], ids=["once", "and-again"])
def test_a_snapshot_leads_back_where_no_package_file_does(
    bed: Bed,
    tmp_path: Path,
    kept: Callable[[Bed, Path], AbstractContextManager[Machine]],
    again: bool,
) -> None:
    with kept(bed, tmp_path) as machine:
        begin(bed, HostPolicy(room_bytes=1 << 20, snapshot=machine.snapshot, restore=machine.restore))
        assert bed.versions() == NEW
        assert not give_up(bed), "the way back goes through a restart"
        assert bed.host.restarts == 1
        if again:  # the agent was killed before it could note that it had been done
            machine.halve()
            assert bed.host.hook(machine.restore, {"trial": "one"}, timeout_s=60.0) is None
        machine.boot()
        assert restarted(bed)
        assert (end_of(bed), bed.versions(), bed.audit()) == ("old", OLD, "")
        ended = bed.transactions.ledger.ended
        assert ended is not None
        assert [rung.partition(":")[0] for rung in ended.rungs] == ["undo-packages", "undo-by-force"]
        assert (bed.boot.status().outcome, bed.boot.status().slot) == (BootOutcome.FELL_BACK, Slot.A)


def test_without_its_snapshot_nothing_is_touched(bed: Bed) -> None:
    begin(bed, HostPolicy(room_bytes=1 << 20, snapshot=("sh", "-c", "echo no room for one; exit 1")))
    assert (end_of(bed), bed.versions()) == ("old", OLD)
    assert bed.boot.status().cause == "snapshot-failed"
    assert "no room for one" in bed.boot.status().text


def test_an_agent_that_is_taken_back_with_the_rest_does_not_begin_again(bed: Bed) -> None:
    """Its ledger says what it said when the snapshot was taken; it would install and go back for ever."""
    folder = bed.store.files.parent
    keep = 'for one in "$@"; do rm -rf "$one.kept"; cp -a "$one" "$one.kept"; done'
    take_back = 'for one in "$@"; do rm -rf "$one"; cp -a "$one.kept" "$one"; done'
    places = ("sh", str(bed.root), str(folder))
    begin(bed, HostPolicy(room_bytes=1 << 20, snapshot=("sh", "-c", keep, *places), restore=("true",)))
    assert bed.versions() == NEW
    assert not give_up(bed)
    call("sh", "-c", take_back, *places)  # which the command had arranged for this boot
    assert restarted(bed)
    assert (end_of(bed), bed.versions(), bed.audit()) == ("old", OLD, "")
    assert bed.boot.status().cause == "snapshot-failed"


def test_a_snapshot_that_would_take_the_agent_back_is_refused(bed: Bed, tmp_path: Path) -> None:
    with on_btrfs(bed, tmp_path) as machine:
        inside = bed.root / "var/lib/otaria"
        inside.mkdir(parents=True)
        said = Host(FileEffects()).hook((*machine.snapshot[:3], str(inside)), {"trial": "one"}, timeout_s=60.0)
        assert said is not None
        assert "is part of what would be taken back" in said


@pytest.fixture
def boot_folder(tmp_path: Path) -> Path:
    """A `/boot` with GRUB's files."""
    lack = lacks("grub-reboot", "grub-editenv")
    if lack:
        pytest.skip(lack)
    folder = tmp_path / "boot"
    (folder / "grub").mkdir(parents=True)
    (folder / "grub/grub.cfg").write_text(GRUB_CFG)
    call("grub-editenv", folder / "grub/grubenv", "create")
    return folder


def previous_kernel(boot_folder: Path) -> tuple[str, ...]:
    return (str(SCRIPTS / "previous-kernel.sh"), str(boot_folder))


def test_where_nothing_leads_back_the_previous_kernel_starts_and_a_person_is_asked(bed: Bed, boot_folder: Path) -> None:
    bed.host.running, bed.host.why_restart = OLDER, "a new kernel"
    begin(bed, HostPolicy(room_bytes=1 << 20, previous_kernel=previous_kernel(boot_folder)))
    bed.host.running, bed.host.why_restart = NEWER, None
    assert restarted(bed)
    assert end_of(bed) == "new"
    assert not give_up(bed)
    assert call("grub-editenv", boot_folder / "grub/grubenv", "list").strip() == f"next_entry={OLDER_ENTRY}"
    bed.host.running = OLDER
    assert restarted(bed)
    assert (end_of(bed), bed.boot.status().cause) == ("stuck", "rollback-failed")
    ended = bed.transactions.ledger.ended
    assert ended is not None
    assert ended.rungs[2] == "undo-snapshot: There is no snapshot to go back to."


def test_grub_starts_the_previous_kernel_once_and_then_the_usual_one(boot_folder: Path, tmp_path: Path) -> None:
    lack = lacks("grub-emu", "script", "mcopy", "mkfs.vfat")
    if lack:
        pytest.skip(lack)
    hook = Host(FileEffects()).hook
    assert hook(previous_kernel(boot_folder), {"kernel": OLDER}, timeout_s=60.0) is None
    assert [booted(boot_folder, tmp_path) for _ in range(2)] == [OLDER, NEWER]


def booted(boot_folder: Path, folder: Path) -> str:
    """The kernel that GRUB itself would start; what it wrote into its environment is in the folder afterwards."""
    disk, own = folder / "grub.img", folder / "emu"
    own.mkdir(exist_ok=True)
    (folder / "map").write_text(f"(hd0) {disk}\n")
    said = re.sub(r"(?m)^\s*linux\s+(\S+).*$", r'echo "starts:\1:"; reboot', GRUB_CFG)
    (own / "grub.cfg").write_text(f"set prefix=(hd0)/grub\n{said}")
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(2 << 20)
    call("mkfs.vfat", disk)
    call("mmd", "-i", disk, "::grub")
    call("mcopy", "-i", disk, boot_folder / "grub/grubenv", "::grub")
    run = ["script", "-qec", f"grub-emu -m {folder / 'map'} -d {own}", "/dev/null"]
    done = subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    call("mcopy", "-n", "-o", "-i", disk, "::grub/grubenv", boot_folder / "grub/grubenv")
    found = re.search(r"starts:/boot/vmlinuz-(\S+?):", done.stdout)
    assert found, done.stdout[-2000:]
    return found[1]


@pytest.mark.parametrize("kernel", ["6.1.0-1", "6.1.0-99-amd64", ""])
def test_a_kernel_that_grub_does_not_know_is_named(boot_folder: Path, kernel: str) -> None:
    """None of its entries is taken for another's, whose name merely begins like it."""
    said = Host(FileEffects()).hook(previous_kernel(boot_folder), {"kernel": kernel}, timeout_s=60.0)
    assert said is not None
    assert "kernel" in said
    assert call("grub-editenv", boot_folder / "grub/grubenv", "list") == ""


def test_a_host_whose_old_kernel_is_the_newest_again_is_restarted_into_it(bed: Bed) -> None:
    bed.host.running, bed.host.why_restart = OLDER, "a new kernel"
    bed.stage(bed.set_of("alpha=2.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    assert not bed.boot.switch(lambda share, text: None)
    bed.host.running, bed.host.newest, bed.host.why_restart = NEWER, NEWER, None
    assert restarted(bed)
    bed.boot.give_up("one")
    bed.host.newest = OLDER
    assert not bed.boot.resume()
    bed.host.running = OLDER
    assert restarted(bed)
    assert (end_of(bed), bed.host.restarts) == ("old", 2)
