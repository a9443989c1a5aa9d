"""Whether a boot loader would find what is written in place in a folder.

GRUB reads a file system without replaying its journal, and writes by block lists. So a block must stay where it is when it is
overwritten (not on copy-on-write file systems), and its data must not go through the journal (not with `data=journal`).
"""

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
IN_PLACE = frozenset({"vfat", "msdos", "ext2", "ext3", "ext4"})


def fault(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Why it can't hold a boot environment, with what to do; None when it can."""
    try:
        device = folder.stat().st_dev
    except OSError as error:
        return f"{error.strerror}. Make it on a file system of its own that is FAT or ext4."
    kind, options = _mounted(f"{os.major(device)}:{os.minor(device)}", mounts)
    if kind not in IN_PLACE:
        return f"its file system is {kind or 'unknown'}, where a file moves when it is overwritten. Use FAT or ext4."
    if "data=journal" in options:
        return "its file system is mounted with data=journal, which the boot loader does not replay. Mount it without."
    return None


def _mounted(device: str, mounts: Path) -> tuple[str, list[str]]:
    """Type and options of the file system on a device (`major:minor`), as the kernel lists them."""
    for line in mounts.read_text(errors="replace").splitlines():
        fields, _, rest = line.partition(" - ")
        words, after = fields.split(), rest.split()
        if len(words) > 5 and len(after) > 2 and words[2] == device:
            return after[0], [*words[5].split(","), *after[2].split(",")]
    return "", []
