"""File effects for a reader that distrusts whoever writes the files.

A file that the agent may write is opened only if it is a plain file or a block device, and never waited for: a FIFO in place of
a request would otherwise stop the boot loader, and its deadlines with it.
"""

import errno
import os
import shutil
import stat
from pathlib import Path

from device_agent.effects import FileEffects


class WaryEffects(FileEffects):
    """`Effects` of the boot loader."""

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """As `Effects.read_at`; raises `OSError` for anything but a plain file, or a block device in place of a slot."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise OSError(errno.EINVAL, "not a plain file", str(path))
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Remove whatever has this name, a folder too."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        super().unlink(path)
