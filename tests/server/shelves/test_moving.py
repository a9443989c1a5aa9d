"""Artifacts that move from files to another shelf: they are there all the while, and afterwards only there."""

import hashlib
from pathlib import Path

import pytest

from server.errors import StoreError
from server.ports import Resting
from server.shelves.files import FileShelf
from server.shelves.moving import MovingShelf


class BrokenShelf(FileShelf):
    """Takes so many artifacts, and then is gone."""

    takes = 1

    def put(self, path: Path, sha256: str) -> None:
        if not self.takes:
            raise StoreError("store-unreachable", "The store is gone.")
        self.takes -= 1
        super().put(path, sha256)


def kept(shelf: FileShelf, folder: Path, *texts: bytes) -> list[str]:
    names = []
    for text in texts:
        path = folder / "staged"
        path.write_bytes(text)
        names.append(hashlib.sha256(text).hexdigest())
        shelf.put(path, names[-1])
    return names


def test_what_was_there_is_given_before_and_after_it_moved(tmp_path: Path) -> None:
    old, new = FileShelf(tmp_path / "old"), FileShelf(tmp_path / "new")
    moving = MovingShelf(old, new)
    names = kept(old, tmp_path, b"one", b"two")
    names += kept(moving, tmp_path, b"six")
    assert new.length(names[2]) == 3
    for _ in range(2):
        assert [moving.read(name, 0, 3) for name in names] == [b"one", b"two", b"six"]
        assert [moving.length(name) for name in names] == [3, 3, 3]
        assert list(moving.listed()) == [Resting(sha256=name, length=3) for name in sorted(names)]
        moving.tidy(0.0)
    assert list(old.listed()) == []
    assert [one.sha256 for one in new.listed()] == sorted(names)


def test_what_is_on_both_shelves_is_listed_once(tmp_path: Path) -> None:
    """As after a crash between the put and the removal."""
    old, new = FileShelf(tmp_path / "old"), FileShelf(tmp_path / "new")
    (name,) = kept(old, tmp_path, b"one")
    kept(new, tmp_path, b"one")
    moving = MovingShelf(old, new)
    assert [one.sha256 for one in moving.listed()] == [name]
    moving.tidy(0.0)
    assert (old.length(name), new.length(name)) == (None, 3)


def test_a_store_that_goes_away_loses_nothing(tmp_path: Path) -> None:
    old, new = FileShelf(tmp_path / "old"), BrokenShelf(tmp_path / "new")
    names = kept(old, tmp_path, b"one", b"two", b"six")
    moving = MovingShelf(old, new)
    with pytest.raises(StoreError):
        moving.tidy(0.0)
    assert len(list(old.listed())) == 2
    assert sorted(moving.read(name, 0, 3) for name in names) == [b"one", b"six", b"two"]
    new.takes = 9
    moving.tidy(0.0)
    assert list(old.listed()) == []
