"""Real files whose power is cut: `Effects` that count durable operations and stop before, in or after one of them.

A torn write leaves its first 0, 100, 512, half or all but one of its bytes. What was written and not flushed may be on the medium
or not. A replaced file may be there under both names, under the temporary one alone, or empty: FAT's renames are not atomic.
A tool that is run writes one copy of its environment; the bytes that it changed are torn alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_agent.effects import TEMPORARY_SUFFIX, FileEffects

SECTOR = 512
INSIDE = 100
TORN = ("torn-0", "torn-inside", "torn-sector", "torn-half", "torn-but-one")
HOWS = ("before", *TORN, "after")


class PowerCut(BaseException):
    """The power is off. Not an `Exception`: nothing in the agent may catch it."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """At operation `at` (from 1). `keeps`: un-flushed writes got to the medium."""

    at: int
    how: str
    keeps: bool = True


def every_cut(operations: int) -> Iterator[Cut]:
    for at in range(1, operations + 1):
        for how in HOWS:
            for keeps in (True, False):
                yield Cut(at=at, how=how, keeps=keeps)


class UnsyncedEffects(FileEffects):
    """Does not wait for the disk: what a power cut leaves is modelled here, not tried on the disk under the tests."""

    def replace(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        temporary.write_bytes(data)
        temporary.rename(path)

    def fsync(self, path: Path) -> None:
        return

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def settle(self, folder: Path) -> None:
        return


class CutEffects(UnsyncedEffects):
    """`is_fat`: renames and removals may be half done."""

    def __init__(self, cut: Cut | None = None, *, is_fat: bool = False) -> None:
        self.operations = 0
        self.trace: list[str] = []
        self._cut, self._is_fat = cut, is_fat
        self._unflushed: list[tuple[Path, int, bytes]] = []
        self._off = False

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        before = FileEffects.read_at(self, path, offset, len(data))

        def write(size: int) -> None:
            FileEffects.write_at(self, path, offset, data[:size])
            self._unflushed.append((path, offset, before))

        self._operate(f"write {path.name}", lambda: write(len(data)), lambda how: write(_torn(how, len(data))))

    def fsync(self, path: Path) -> None:
        def flush() -> None:
            UnsyncedEffects.fsync(self, path)
            self._unflushed = [write for write in self._unflushed if write[0] != path]

        self._operate(f"fsync {path.name}", flush, lambda how: None)

    def replace(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)

        def half(how: str) -> None:
            temporary.write_bytes(data[: _torn(how, len(data))])
            if how == "torn-but-one" and self._is_fat:
                temporary.write_bytes(data)
                path.write_bytes(data)
            elif how == "torn-half" and self._is_fat:
                temporary.unlink()
                path.write_bytes(b"")

        self._operate(f"replace {path.name}", lambda: UnsyncedEffects.replace(self, path, data), half)

    def unlink(self, path: Path) -> None:
        self._operate(f"unlink {path.name}", lambda: UnsyncedEffects.unlink(self, path), lambda how: None)

    def run(self, argv: Sequence[str], *, data: bytes = b"", timeout_s: float) -> bytes:
        if argv[0] != "fw_setenv":
            return self._alive() or FileEffects.run(self, argv, data=data, timeout_s=timeout_s)
        folder = Path(argv[2]).parent
        before = {path: path.read_bytes() for path in folder.glob("env*")}

        def tear(how: str) -> None:
            FileEffects.run(self, argv, data=data, timeout_s=timeout_s)
            for path, old in before.items():
                new = path.read_bytes()
                size = _torn(how, len(new))
                path.write_bytes(new[:size] + old[size:])

        self._operate("fw_setenv", lambda: FileEffects.run(self, argv, data=data, timeout_s=timeout_s), tear)
        return b""

    def lose_unflushed(self) -> None:
        """Power goes later: what was never flushed is not on the medium."""
        for path, offset, before in reversed(self._unflushed):
            FileEffects.write_at(self, path, offset, before)
        self._unflushed.clear()

    def read(self, path: Path) -> bytes | None:
        self._alive()
        return FileEffects.read(self, path)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        self._alive()
        return FileEffects.read_at(self, path, offset, size)

    def _operate(self, what: str, whole: Callable[[], None], torn: Callable[[str], None]) -> None:
        self._alive()
        self.operations += 1
        self.trace.append(what)
        if self._cut is None or self.operations != self._cut.at:
            whole()
            return
        if self._cut.how == "after":
            whole()
        elif self._cut.how != "before":
            torn(self._cut.how)
        if not self._cut.keeps:
            self.lose_unflushed()
        self._off = True
        raise PowerCut

    def _alive(self) -> None:
        if self._off:
            raise PowerCut


def _torn(how: str, size: int) -> int:
    sizes = {
        "torn-0": 0,
        "torn-inside": INSIDE,
        "torn-sector": SECTOR,
        "torn-half": size // 2,
        "torn-but-one": size - 1,
    }
    return min(sizes[how], size)
