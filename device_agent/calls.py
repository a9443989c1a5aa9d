"""The system calls that durable side effects are made of.

`effects.py` reaches the disk through these alone, one call for one step: whoever gives it others sees each write, flush and
rename by itself and in order, and can let the power fail between any two of them.
"""

import fcntl
import os
import subprocess
from collections.abc import Sequence
from typing import Protocol

AnyPath = str | os.PathLike[str]
Bytes = bytes | memoryview


class Calls(Protocol):
    """As in `os`, `fcntl` and `subprocess`. Each raises `OSError` as the system would."""

    def open(self, path: AnyPath, flags: int, mode: int = 0o777) -> int: ...
    def close(self, descriptor: int) -> None: ...
    def write(self, descriptor: int, data: Bytes) -> int: ...
    def pwrite(self, descriptor: int, data: Bytes, offset: int) -> int: ...
    def pread(self, descriptor: int, size: int, offset: int) -> bytes: ...
    def preadv(self, descriptor: int, buffers: Sequence[memoryview], offset: int) -> int: ...
    def fsync(self, descriptor: int) -> None: ...
    def rename(self, old: AnyPath, new: AnyPath) -> None: ...
    def unlink(self, path: AnyPath) -> None: ...
    def stat(self, path: AnyPath) -> os.stat_result: ...
    def fstat(self, descriptor: int) -> os.stat_result: ...
    def lseek(self, descriptor: int, position: int, whence: int) -> int: ...
    def listdir(self, path: AnyPath) -> list[str]: ...
    def posix_fadvise(self, descriptor: int, offset: int, length: int, advice: int) -> None: ...
    def ioctl(self, descriptor: int, request: int, argument: int | bytes) -> int | bytes: ...
    def sync(self) -> None: ...
    def run(self, argv: Sequence[str], data: bytes, timeout_s: float) -> bytes:
        """What the tool printed. Raises `subprocess.SubprocessError` when it fails or takes longer."""
        ...


class SystemCalls:
    """`Calls` of the running system."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    write = staticmethod(os.write)
    pwrite = staticmethod(os.pwrite)
    pread = staticmethod(os.pread)
    preadv = staticmethod(os.preadv)
    fsync = staticmethod(os.fsync)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)
    stat = staticmethod(os.stat)
    fstat = staticmethod(os.fstat)
    lseek = staticmethod(os.lseek)
    listdir = staticmethod(os.listdir)
    posix_fadvise = staticmethod(os.posix_fadvise)
    sync = staticmethod(os.sync)

    def ioctl(self, descriptor: int, request: int, argument: int | bytes) -> int | bytes:
        return fcntl.ioctl(descriptor, request, argument)

    def run(self, argv: Sequence[str], data: bytes, timeout_s: float) -> bytes:
        done = subprocess.run(list(argv), input=data, capture_output=True, timeout=timeout_s, check=True)
        return done.stdout
