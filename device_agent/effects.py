"""Durable side effects on a POSIX file system, the only ones the agent has.

An fsync error is fatal for that try: the kernel may have dropped the dirty pages, so a second fsync that succeeds proves
nothing. Nothing here retries; the caller starts the whole write again or gives up.

What slots are on is opened once and held: each close of a block device that was open for writing makes the system look at it
anew, and while a device is held exclusively nobody can mount it.
"""

import contextlib
import errno
import mmap
import os
import signal
import stat
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from device_agent.calls import Calls, SystemCalls

TEMPORARY_SUFFIX = ".new"
SYSTEM = SystemCalls()
PRIVATE_MODE = 0o600
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
MAX_SAID_BYTES = 500
DIRECT_BYTES = 1 << 20
DIRECT_ALIGNMENT = 4096
"""Reads past the page cache start and end on multiples of this, which every sector size divides."""
_BLKSSZGET, _BLKFLSBUF, _BLKROGET = 0x1268, 0x1261, 0x125E


class FileEffects:
    """`Effects` over the real file system."""

    _calls: Calls = SYSTEM

    def __init__(self, calls: Calls = SYSTEM) -> None:
        self._calls = calls

    def replace(self, path: Path, data: bytes) -> None:
        """Atomically make the file hold `data`: temp, fsync, rename, fsync, fsync of the directory. Files are private (0600).

        Linux's FAT writes the renamed file's new entry without its size and clusters, and fills them in when the file is
        flushed next: without that flush a power cut half a minute later still finds an empty file.
        """
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        descriptor = self._calls.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            self._write_all(descriptor, data)
            self._calls.fsync(descriptor)
            self._calls.rename(temporary, path)
            self._calls.fsync(descriptor)
        finally:
            self._calls.close(descriptor)
        self._fsync_directory(path.parent)

    def append(self, path: Path, data: bytes) -> None:
        """Append and fsync; a new file's directory entry is made durable too."""
        is_new = self.size(path) is None
        descriptor = self._calls.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            self._write_all(descriptor, data)
            self._calls.fsync(descriptor)
        finally:
            self._calls.close(descriptor)
        if is_new:
            self._fsync_directory(path.parent)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Overwrite in place without fsync; the file must exist."""
        descriptor = self._calls.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            view = memoryview(data)
            while view:
                written = self._calls.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written
        finally:
            self._calls.close(descriptor)

    def fsync(self, path: Path) -> None:
        """Flush one file's data and metadata; an error is final."""
        descriptor = self._calls.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._calls.fsync(descriptor)
        finally:
            self._calls.close(descriptor)

    def drop_cache(self, path: Path) -> None:
        """Drop clean cached pages, so that the next read comes from the medium (advice; dirty pages stay)."""
        descriptor = self._calls.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._calls.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            self._calls.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Remove a file durably; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._calls.unlink(path)
        self._fsync_directory(path.parent)

    def read(self, path: Path) -> bytes | None:
        """The whole file, or None when there is none."""
        try:
            descriptor = self._calls.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return self._read_on(descriptor, 0, self._calls.fstat(descriptor).st_size + 1)
        finally:
            self._calls.close(descriptor)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        descriptor = self._calls.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return self._read_on(descriptor, offset, size)
        finally:
            self._calls.close(descriptor)

    def size(self, path: Path) -> int | None:
        """Length in bytes, or None when there is no such file."""
        try:
            return self._calls.stat(path).st_size
        except FileNotFoundError:
            return None

    def names(self, folder: Path) -> list[str]:
        """The names of the files in a folder, sorted; none when there is no such folder."""
        try:
            return sorted(self._calls.listdir(folder))
        except FileNotFoundError:
            return []

    def settle(self, folder: Path) -> None:
        """Freeze and thaw the file system, which empties its journal; where it has none, or we may not, it is synced alone."""
        descriptor = self._calls.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._calls.ioctl(descriptor, FIFREEZE, 0)
            self._calls.ioctl(descriptor, FITHAW, 0)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM):
                raise
            self._calls.sync()
        finally:
            self._calls.close(descriptor)

    def run(self, argv: Sequence[str], *, data: bytes = b"", timeout_s: float) -> bytes:
        """Run a foreign tool; raises `OSError` with what it said when it fails or takes longer, `InterruptedError` when SIGTERM
        ended it."""
        try:
            return self._calls.run(argv, data, timeout_s)
        except subprocess.TimeoutExpired as error:
            raise OSError(errno.ETIMEDOUT, f"{argv[0]} took longer than {timeout_s} s") from error
        except subprocess.CalledProcessError as error:
            said = error.stderr[-MAX_SAID_BYTES:].decode(errors="replace").strip()
            kind = errno.EINTR if error.returncode == -signal.SIGTERM else errno.EIO
            raise OSError(kind, f"{argv[0]} failed with {error.returncode}: {said}") from error

    def _write_all(self, descriptor: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._calls.write(descriptor, view) :]

    def _read_on(self, descriptor: int, offset: int, size: int) -> bytes:
        parts = []
        while size > 0 and (part := self._calls.pread(descriptor, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def _fsync_directory(self, directory: Path) -> None:
        descriptor = self._calls.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._calls.fsync(descriptor)
        finally:
            self._calls.close(descriptor)


class FileMedia:
    """`Media` over the real system."""

    def __init__(self, calls: Calls = SYSTEM) -> None:
        self._calls = calls

    def open(self, path: Path, *, writing: bool, exclusive: bool = False) -> "FileMedium":
        """Open a block device or regular file. `exclusive`: a block device that is mounted or used otherwise raises `OSError`
        (`EBUSY`). Nothing is created or cut. What is neither is never opened and raises `OSError` (`ENOTBLK`)."""
        found = self._calls.stat(path)
        _require_medium(path, found.st_mode)
        flags = (os.O_RDWR if writing else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        descriptor = self._calls.open(path, flags | (os.O_EXCL if exclusive and stat.S_ISBLK(found.st_mode) else 0))
        try:
            _require_medium(path, self._calls.fstat(descriptor).st_mode)
            return FileMedium(descriptor, self._calls)
        except BaseException:
            self._calls.close(descriptor)
            raise


class FileMedium:
    """`Medium` over an open descriptor, which it owns."""

    def __init__(self, descriptor: int, calls: Calls = SYSTEM) -> None:
        self._calls = calls
        self._descriptor = descriptor
        self._direct: int | None = None
        self._buffer = mmap.mmap(-1, DIRECT_BYTES)
        found = self._calls.fstat(descriptor)
        self.is_block = stat.S_ISBLK(found.st_mode)
        if self.is_block:
            self.number: tuple[int, int] | None = (os.major(found.st_rdev), os.minor(found.st_rdev))
            self.store = f"{self.number[0]}:{self.number[1]}"
            self.size_bytes = self._calls.lseek(descriptor, 0, os.SEEK_END)
            self.sector_bytes = self._ioctl_number(descriptor, _BLKSSZGET, 512)
            self.is_read_only = bool(self._ioctl_number(descriptor, _BLKROGET, 0))
        else:
            self.number = None
            self.store = file_store(found)
            self.size_bytes, self.sector_bytes, self.is_read_only = found.st_size, 512, False

    def write_at(self, offset: int, data: bytes) -> None:
        """Overwrite in place without fsync; never beyond the end."""
        if offset < 0 or offset + len(data) > self.size_bytes:
            raise OSError(errno.ENOSPC, "the write would go beyond the end of the medium")
        view = memoryview(data)
        while view:
            written = self._calls.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def flush(self) -> None:
        """Flush data, metadata and the device's own cache; an error is final."""
        self._calls.fsync(self._descriptor)

    def drop_cache(self) -> None:
        """Make the next reads come from the medium. A block device's buffers are flushed and forgotten (`BLKFLSBUF`), a file's
        clean pages are (advice); and from now on reads go past the cache (`O_DIRECT`) where the system can."""
        if self.is_block:
            try:
                self._calls.ioctl(self._descriptor, _BLKFLSBUF, 0)
            except PermissionError:
                self._calls.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            self._calls.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if self._direct is None:
            self._open_direct()

    @property
    def is_direct(self) -> bool:
        """Whether reads go past the page cache."""
        return self._direct is not None

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end."""
        size = max(0, min(size, self.size_bytes - offset))
        if self._direct is not None:
            return self._read_direct(self._direct, offset, size)
        parts = []
        while size > 0 and (part := self._calls.pread(self._descriptor, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Let go of it; harmless when that was done."""
        if self._direct is not None:
            self._calls.close(self._direct)
            self._direct = None
        self._buffer.close()
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            self._calls.close(descriptor)

    def _open_direct(self) -> None:
        """Open the very same device or file once more, past the cache; without it where the file system has no such thing."""
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT
            self._direct = self._calls.open(f"/proc/self/fd/{self._descriptor}", flags)
        except OSError:
            self._direct = None

    def _read_direct(self, direct: int, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            start = offset - offset % DIRECT_ALIGNMENT
            skip = offset - start
            wanted = min(DIRECT_BYTES, -(-(skip + size) // DIRECT_ALIGNMENT) * DIRECT_ALIGNMENT)
            part = self._direct_block(direct, start, wanted)[skip : skip + size]
            if not part:
                break
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def _direct_block(self, direct: int, start: int, wanted: int) -> bytes:
        with memoryview(self._buffer) as whole, whole[:wanted] as into:
            return bytes(into[: self._calls.preadv(direct, [into], start)])

    def _ioctl_number(self, descriptor: int, request: int, otherwise: int) -> int:
        """The number that the system answers with, or `otherwise` where it does not know the question."""
        try:
            answer = self._calls.ioctl(descriptor, request, bytes(4))
            return int(struct.unpack("i", answer)[0]) if isinstance(answer, bytes) else otherwise
        except OSError:
            return otherwise


def file_store(found: os.stat_result) -> str:
    """How a regular file is named among the places that bytes can be: by device and inode."""
    return f"file {os.major(found.st_dev)}:{os.minor(found.st_dev)}/{found.st_ino}"


def _require_medium(path: Path, mode: int) -> None:
    if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
        raise OSError(errno.ENOTBLK, "neither a block device nor a regular file", str(path))
