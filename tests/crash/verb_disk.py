"""A disk that loses power between the verbs of the ports, not between system calls: for what has a port of its own and is not
made of `device_agent.calls` yet, the folders of `Trees`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.disk import Cut, PowerCut


@dataclass
class VerbDisk:
    """`Effects`. After a cut every call raises; `survivors` are the bytes that a new machine finds."""

    files: dict[Path, bytes]
    cut: Cut | None = None
    fail: Callable[[str, Path], None] = lambda kind, path: None
    trace: list[tuple[str, Path]] = field(default_factory=list)
    _cached: dict[Path, bytearray] = field(default_factory=dict)
    _unsynced: list[tuple[Path, int, bytes]] = field(default_factory=list)
    _off: bool = False

    def __post_init__(self) -> None:
        self.files = dict(self.files)
        self._cached = {path: bytearray(data) for path, data in self.files.items()}

    def survivors(self, keep: str) -> dict[Path, bytes]:
        """Bytes on the medium; `keep` says which un-synced writes got there: none, all, all but the last, every other."""
        kept = {
            "none": [],
            "all": self._unsynced,
            "but-one": self._unsynced[:-1],
            "odd": self._unsynced[1::2],
        }[keep]
        after = {path: bytearray(data) for path, data in self.files.items()}
        for path, offset, data in kept:
            after[path][offset : offset + len(data)] = data
        return {path: bytes(data) for path, data in after.items()}

    @property
    def system(self) -> "VerbDisk":
        """What a world turns off."""
        return self

    def shut_down(self) -> None:
        return

    def replace(self, path: Path, data: bytes) -> None:
        self._operate("replace", path, lambda: self._put(path, data))

    def append(self, path: Path, data: bytes) -> None:
        old = self.files.get(path, b"")
        half = old + data[: len(data) // 2]
        self._operate("append", path, lambda: self._put(path, old + data), lambda: self._put(path, half))

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        half = data[: len(data) // 2]
        self._operate("write", path, lambda: self._write(path, offset, data), lambda: self._write(path, offset, half))

    def fsync(self, path: Path) -> None:
        self._operate("fsync", path, lambda: self._flush(path))

    def unlink(self, path: Path) -> None:
        self._operate("unlink", path, lambda: self._remove(path))

    def drop_cache(self, path: Path) -> None:
        self._alive()

    def read(self, path: Path) -> bytes | None:
        self._alive()
        return bytes(self._cached[path]) if path in self._cached else None

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        self._alive()
        if path not in self._cached:
            raise FileNotFoundError(2, "No such file", str(path))
        return bytes(memoryview(self._cached[path])[offset : offset + size])

    def size(self, path: Path) -> int | None:
        self._alive()
        return len(self._cached[path]) if path in self._cached else None

    def names(self, folder: Path) -> list[str]:
        self._alive()
        return sorted(path.name for path in self._cached if path.parent == folder)

    def settle(self, folder: Path) -> None:
        self._alive()

    def run(self, argv: Sequence[str], *, data: bytes = b"", timeout_s: float) -> bytes:
        raise AssertionError(f"this disk has no tools: {argv}")

    def _operate(
        self, kind: str, path: Path, whole: Callable[[], None], torn: Callable[[], None] = lambda: None
    ) -> None:
        self._alive()
        self.fail(kind, path)
        self.trace.append((kind, path))
        if self.cut is None or len(self.trace) != self.cut.at:
            whole()
            return
        {"before": lambda: None, "torn": torn, "after": whole}[self.cut.how]()
        self._off = True
        raise PowerCut

    def _alive(self) -> None:
        if self._off:
            raise PowerCut

    def _put(self, path: Path, data: bytes) -> None:
        self.files[path] = data
        self._cached[path] = bytearray(data)

    def _write(self, path: Path, offset: int, data: bytes) -> None:
        self._cached[path][offset : offset + len(data)] = data
        self._unsynced.append((path, offset, data))

    def _flush(self, path: Path) -> None:
        self.files[path] = bytes(self._cached[path])
        self._unsynced = [write for write in self._unsynced if write[0] != path]

    def _remove(self, path: Path) -> None:
        self.files.pop(path, None)
        self._cached.pop(path, None)
