"""GRUB's own ext4 reader on a mounted, journaled file system: it does not replay the journal, and finds what was written in
place.

`grub-fstest` reads the image while Linux has it mounted, which is what GRUB finds after a power cut at that moment.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.boot import medium
from device_agent.boot.backend import grub_store
from device_agent.boot.grub_block import GrubBlock
from device_agent.boot.ledger import Ledger, from_variables
from device_agent.effects import FileEffects
from device_agent.ports import Slot


@pytest.fixture
def boot_partition(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An ext4 image and where it is mounted."""
    if not shutil.which("grub-fstest"):
        pytest.skip("grub-fstest (grub-common) is not here")
    image, mounted = tmp_path / "boot.img", tmp_path / "boot"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=60)
    done = subprocess.run(
        ["mount", "-o", "loop,commit=300", str(image), str(mounted)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"loop devices can't be mounted here: {done.stderr.decode().strip()}")
    try:
        (mounted / "otaria").mkdir()
        yield image, mounted / "otaria"
    finally:
        subprocess.run(["umount", str(mounted)], check=True, timeout=60)


def grub_reads(image: Path, name: str) -> bytes | None:
    """The file as GRUB's ext4 driver finds it now, or None when it finds none."""
    run = ["grub-fstest", str(image), "cat", f"(loop0)/otaria/{name}"]
    done = subprocess.run(run, capture_output=True, timeout=30, check=False)
    return done.stdout if done.returncode == 0 else None


def grub_finds(image: Path) -> Ledger | None:
    return from_variables(GrubBlock().decode(grub_reads(image, "state-0.env") or b"") or {})


def test_grub_finds_the_environment_and_every_change_of_it_without_the_journal(
    boot_partition: tuple[Path, Path],
) -> None:
    image, folder = boot_partition
    store = grub_store(FileEffects(), folder)
    store.create(Ledger(probe="first"))
    assert grub_finds(image) == Ledger(probe="first")
    for number in range(5):
        store.save(Ledger(slot=list(Slot)[number % 2], probe=f"p{number}"))
        assert grub_finds(image) == Ledger(slot=list(Slot)[number % 2], probe=f"p{number}")


def test_mutation_a_rename_is_news_to_linux_only(boot_partition: tuple[Path, Path]) -> None:
    """Why the store writes in place: the usual atomic replace is not seen by GRUB until the journal is written back."""
    image, folder = boot_partition
    store = grub_store(FileEffects(), folder)
    store.create(Ledger(probe="first"))
    old = grub_reads(image, "state-0.env")
    FileEffects().replace(folder / "state-0.env", GrubBlock().encode({"new": "1"}))
    assert (folder / "state-0.env").read_bytes() != old
    assert grub_reads(image, "state-0.env") == old
    FileEffects().settle(folder)
    assert grub_reads(image, "state-0.env") != old


def test_this_file_system_is_fit_and_others_say_what_to_do(boot_partition: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = boot_partition
    assert medium.fault(folder) is None
    mounts = tmp_path / "mountinfo"
    device = folder.stat().st_dev
    number = f"{device >> 8 & 0xFFF}:{device & 0xFF}"
    for kind, options, said in (
        ("btrfs", "rw", "btrfs"),
        ("overlay", "rw", "overlay"),
        ("ext4", "rw,data=journal", "data=journal"),
        ("vfat", "rw", None),
    ):
        mounts.write_text(f"30 1 {number} / /boot rw,relatime shared:1 - {kind} /dev/x {options}\n")
        fault = medium.fault(folder, mounts)
        assert fault is None if said is None else said in (fault or "")
    assert "No such file" in (medium.fault(tmp_path / "nothing") or "")
