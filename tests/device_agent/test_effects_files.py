"""The real effects: what is durable in which order, seen through the system calls they make."""

import os
from pathlib import Path

import pytest

from device_agent.calls import SystemCalls
from device_agent.effects import FileEffects


class NotingCalls(SystemCalls):
    """Notes fsync and rename by the name of what they touch. `error`: raised by every fsync."""

    def __init__(self, error: OSError | None = None) -> None:
        self.seen: list[str] = []
        self._error = error

    def fsync(self, descriptor: int) -> None:  # type: ignore[override]
        self.seen.append("fsync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        if self._error:
            raise self._error
        os.fsync(descriptor)

    def rename(self, old: Path, new: Path) -> None:  # type: ignore[override]
        self.seen.append(f"rename {old.name}")
        os.rename(old, new)  # noqa: PTH104


def test_replace_is_temp_fsync_rename_fsync_and_fsync_of_the_directory(tmp_path: Path) -> None:
    calls = NotingCalls()
    FileEffects(calls).replace(tmp_path / "f", b"new")
    assert calls.seen == ["fsync f.new", "rename f.new", "fsync f", f"fsync {tmp_path.name}"]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_replace_that_fails_leaves_the_old_bytes(tmp_path: Path) -> None:
    path, calls = tmp_path / "f", NotingCalls(OSError(5, "Input/output error"))
    FileEffects().replace(path, b"old")
    with pytest.raises(OSError, match="Input/output"):
        FileEffects(calls).replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert calls.seen == ["fsync f.new"], "an fsync that failed is never tried again"


def test_append_syncs_the_directory_of_a_new_file_only(tmp_path: Path) -> None:
    calls = NotingCalls()
    effects = FileEffects(calls)
    effects.append(tmp_path / "f", b"one")
    assert calls.seen == ["fsync f", f"fsync {tmp_path.name}"]
    effects.append(tmp_path / "f", b"two")
    assert calls.seen[2:] == ["fsync f"]
    assert effects.read(tmp_path / "f") == b"onetwo"


def test_in_place_writes_reads_and_sizes(tmp_path: Path) -> None:
    effects, path = FileEffects(), tmp_path / "slot"
    effects.replace(path, b"0123456789")
    effects.write_at(path, 4, b"ab")
    effects.fsync(path)
    effects.drop_cache(path)
    assert effects.read_at(path, 3, 4) == b"3ab6"
    assert effects.read_at(path, 8, 100) == b"89"
    assert effects.size(path) == 10
    effects.unlink(path)
    effects.unlink(path)
    assert (effects.read(path), effects.size(path)) == (None, None)
