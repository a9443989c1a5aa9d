"""Folders on a real file system: made, copied, flushed, renamed and removed so that a power cut leaves one of two states.

A copy is durable once `sync` returned, and only then may it get the name under which it is believed. An fsync error is final for
that try, as everywhere here.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from device_agent.calls import Calls, SystemCalls
from device_agent.ports import Ended
from device_agent.process import run_bounded

FOLDER_MODE = 0o755
KEPT_BYTES = 1024
SYSTEM = SystemCalls()
BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system's own is."""


class FileTrees:
    """`Trees` over the real file system."""

    def __init__(self, calls: Calls = SYSTEM) -> None:
        self._calls = calls

    def exists(self, path: Path) -> bool:
        """Whether there is a folder; what can't be looked at raises."""
        try:
            return stat.S_ISDIR(self._calls.stat(path).st_mode)
        except FileNotFoundError:
            return False

    def names(self, folder: Path) -> list[str]:
        """What is in a folder, sorted."""
        try:
            return sorted(self._calls.listdir(folder))
        except FileNotFoundError:
            return []

    def make(self, path: Path) -> None:
        """Make the folder and those above it that lack; each is flushed into the one above."""
        if self.exists(path):
            return
        if not self.exists(path.parent):
            self.make(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=FOLDER_MODE)
        self._flush(path.parent)

    def copy(self, source: Path, target: Path, *, is_over: Callable[[], bool]) -> None:
        """Copy with `cp`, which knows owners, modes, links, holes and, where the file system has them, shared blocks."""
        if target.exists() or target.is_symlink():
            raise FileExistsError(errno.EEXIST, "there is something already", str(target))
        argv = ["cp", "--archive", "--reflink=auto", "--no-target-directory", "--", str(source), str(target)]
        ended = run_bounded(argv, is_over)
        if ended.code is None and not ended.error:
            raise OSError(errno.ETIMEDOUT, "copying was stopped", str(source))
        if ended.code != 0:
            raise OSError(_errno_of(ended), f"copying failed{ended.said or f': {ended.error}'}", str(source))

    def sync(self, path: Path) -> None:
        """Flush every file and folder: all at once first, so that the single ones, which tell of errors, have little to do."""
        self._calls.sync()
        for folder, files in _walk(path):
            for file in files:
                self._flush(file)
            self._flush(folder)

    def rename(self, old: Path, new: Path) -> None:
        """Rename, and flush the folder that both are in. An empty folder isn't free: it is somebody's."""
        if new.exists() or new.is_symlink():
            raise FileExistsError(errno.EEXIST, "there is something already", str(new))
        self._calls.rename(old, new)
        self._flush(new.parent)

    def remove(self, path: Path, *, most: int) -> bool:
        """Remove from the leaves up. Links are removed, never followed."""
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return True
        left = _cut(path, most)
        if left <= 0:
            return False
        path.rmdir()
        self._flush(path.parent)
        return True

    def link(self, path: Path, to: Path) -> None:
        """Make the link under another name, then rename it."""
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(to)
        self._calls.rename(fresh, path)

    def unlink(self, path: Path) -> None:
        """Remove the link."""
        path.unlink(missing_ok=True)

    def bytes_in(self, path: Path) -> int:
        """Blocks of every file and folder; what is linked twice counts twice, so that there is never too little room."""
        total = 0
        for folder, files in _walk(path):
            for one in (folder, *files):
                total += one.lstat().st_blocks * BLOCK_BYTES
        return total

    def free_bytes(self, folder: Path) -> int:
        """What may still be written there."""
        return shutil.disk_usage(folder).free

    def run(
        self, argv: Sequence[str], folder: Path, environment: Mapping[str, str], *, is_over: Callable[[], bool]
    ) -> Ended:
        """Run a program there, without the agent's own environment."""
        return run_bounded(argv, is_over, environment=environment, kept_bytes=KEPT_BYTES, folder=folder)

    def _flush(self, path: Path) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = self._calls.open(path, flags)
        try:
            self._calls.fsync(descriptor)
        finally:
            self._calls.close(descriptor)


def _walk(path: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder with its regular files, the deepest first; an error is raised, not passed over."""

    def fail(error: OSError) -> None:
        raise error

    for name, _, files in os.walk(path, topdown=False, onerror=fail):
        folder = Path(name)
        yield folder, [one for one in (folder / file for file in files) if stat.S_ISREG(one.lstat().st_mode)]


def _cut(path: Path, left: int) -> int:
    """Remove what is in a folder, up to `left` entries; how many more may be removed. 0: not all is gone."""
    with os.scandir(path) as entries:
        for entry in entries:
            if left <= 0:
                return 0
            if entry.is_dir(follow_symlinks=False):
                left = _cut(Path(entry.path), left)
                if left <= 0:
                    return 0
                Path(entry.path).rmdir()
            else:
                Path(entry.path).unlink()
            left -= 1
    return left


def _errno_of(ended: Ended) -> int:
    return errno.ENOSPC if "No space left" in ended.output else errno.EIO
