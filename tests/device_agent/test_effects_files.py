"""The real effects: what is durable in which order, seen through the system calls they make."""

import os
from pathlib import Path
from typing import Any

import pytest

from device_agent.effects import FileEffects


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records fsync and rename by the name of what they touch."""
    seen: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        seen.append("fsync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_fsync(descriptor)

    def rename(self: Path, target: Any) -> Path:
        seen.append(f"rename {self.name}")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    return seen


def test_replace_is_temp_fsync_rename_fsync_of_the_directory(tmp_path: Path, calls: list[str]) -> None:
    FileEffects().replace(tmp_path / "f", b"new")
    assert calls == ["fsync f.new", "rename f.new", f"fsync {tmp_path.name}"]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_replace_that_fails_leaves_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    effects, path = FileEffects(), tmp_path / "f"
    effects.replace(path, b"old")
    tries = []

    def fsync(descriptor: int) -> None:
        tries.append(descriptor)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        effects.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(tries) == 1, "an fsync that failed is never tried again"


def test_append_syncs_the_directory_of_a_new_file_only(tmp_path: Path, calls: list[str]) -> None:
    effects = FileEffects()
    effects.append(tmp_path / "f", b"one")
    assert calls == ["fsync f", f"fsync {tmp_path.name}"]
    effects.append(tmp_path / "f", b"two")
    assert calls[2:] == ["fsync f"]
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
