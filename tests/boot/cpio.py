"""An initrd: an archive in the format that Linux unpacks (newc; Documentation/driver-api/early-userspace/buffer-format.rst)."""

import gzip
import stat
from collections.abc import Iterable, Mapping


def archive(files: Mapping[str, tuple[bytes, int]], *, folders: Iterable[str]) -> bytes:
    """A packed archive of folders, and of files with their content and permissions."""
    parts = [_member(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    parts += [_member(name, stat.S_IFREG | mode, content) for name, (content, mode) in files.items()]
    return gzip.compress(b"".join(parts) + _member("TRAILER!!!", 0, b""), compresslevel=6, mtime=0)


def _member(name: str, mode: int, content: bytes) -> bytes:
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (0, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
