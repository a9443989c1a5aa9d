"""Durable side effects on a POSIX file system, the only ones the agent has.

An fsync error is fatal for that try: the kernel may have dropped the dirty pages, so a second fsync that succeeds proves
nothing. Nothing here retries; the caller starts the whole write again or gives up.
"""

import errno
import fcntl
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

TEMPORARY_SUFFIX = ".new"
PRIVATE_MODE = 0o600
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
MAX_SAID_BYTES = 500


class FileEffects:
    """`Effects` over the real file system."""

    def replace(self, path: Path, data: bytes) -> None:
        """Atomically make the file hold `data`: temp, fsync, rename, fsync of the directory. Files are private (0600)."""
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
        _fsync_directory(path.parent)

    def append(self, path: Path, data: bytes) -> None:
        """Append and fsync; a new file's directory entry is made durable too."""
        is_new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            _fsync_directory(path.parent)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Overwrite in place without fsync; the file must exist."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written
        finally:
            os.close(descriptor)

    def fsync(self, path: Path) -> None:
        """Flush one file's data and metadata; an error is final."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def drop_cache(self, path: Path) -> None:
        """Drop clean cached pages, so that the next read comes from the medium (advice; dirty pages stay)."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Remove a file durably; one that is not there is fine."""
        path.unlink(missing_ok=True)
        _fsync_directory(path.parent)

    def read(self, path: Path) -> bytes | None:
        """The whole file, or None when there is none."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while size > 0 and (part := os.pread(descriptor, size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def size(self, path: Path) -> int | None:
        """Length in bytes, or None when there is no such file."""
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def names(self, folder: Path) -> list[str]:
        """The names of the files in a folder, sorted; none when there is no such folder."""
        try:
            return sorted(path.name for path in folder.iterdir())
        except FileNotFoundError:
            return []

    def settle(self, folder: Path) -> None:
        """Freeze and thaw the file system, which empties its journal; where it has none, or we may not, it is synced alone."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            fcntl.ioctl(descriptor, FIFREEZE, 0)
            fcntl.ioctl(descriptor, FITHAW, 0)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM):
                raise
            os.sync()
        finally:
            os.close(descriptor)

    def run(self, argv: Sequence[str], *, data: bytes = b"", timeout_s: float) -> bytes:
        """Run a foreign tool; raises `OSError` with what it said when it fails or takes longer."""
        try:
            done = subprocess.run(list(argv), input=data, capture_output=True, timeout=timeout_s, check=True)
        except subprocess.TimeoutExpired as error:
            raise OSError(errno.ETIMEDOUT, f"{argv[0]} took longer than {timeout_s} s") from error
        except subprocess.CalledProcessError as error:
            said = error.stderr[-MAX_SAID_BYTES:].decode(errors="replace").strip()
            raise OSError(errno.EIO, f"{argv[0]} failed with {error.returncode}: {said}") from error
        return done.stdout


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
