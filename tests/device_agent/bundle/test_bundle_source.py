"""Artifacts from the stick first: it may be away, be another one, or lie; then others are asked, and what is wrong is said."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.bundle.shelf import Noted, Shelf
from device_agent.bundle.source import BundleFirst
from device_agent.effects import FileEffects
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.order import FileRef
from tests.firmware.bundle.makers import IMAGE, IMAGE_SHA256, whole

FILE = FileRef(path="releases/demo/2.0/image", length=len(IMAGE), sha256=IMAGE_SHA256)


class Others:
    """A source that has one thing to give, or nobody who answers."""

    def __init__(self, data: bytes | None = None) -> None:
        self.data, self.blamed = data, False
        self.rate: int | None = None

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        if self.data is None:
            raise UnavailableError("unreachable", "There is no network here.")
        yield self.data[offset:]

    def allow(self, bytes_per_s: int | None) -> None:
        self.rate = bytes_per_s

    def again(self, file: FileRef, *, wrong: bool) -> bool:
        self.blamed = wrong
        return False

    def evidence(self) -> dict[str, object]:
        return {"fetched_bytes": {"server": 5}}


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    path = tmp_path / "stick" / "spring.bundle"
    path.parent.mkdir()
    path.write_bytes(whole())
    return path


@pytest.fixture
def shelf(tmp_path: Path, stick: Path) -> Shelf:
    shelf = Shelf(FileEffects(), tmp_path)
    shelf.put(stick, shelf.open(stick))
    return shelf


def read(source: BundleFirst, offset: int = 0) -> bytes:
    return b"".join(source.open(FILE, offset=offset))


def test_the_stick_is_asked_first_and_counted(shelf: Shelf) -> None:
    source = BundleFirst(shelf, Others(b"from the server"))
    assert read(source, 100) == IMAGE[100:]
    assert source.evidence() == {"fetched_bytes": {"server": 5, "bundle": len(IMAGE) - 100}}


def test_after_a_restart_the_noted_stick_is_found_again(shelf: Shelf, tmp_path: Path) -> None:
    assert read(BundleFirst(Shelf(FileEffects(), tmp_path), Others())) == IMAGE


def test_without_a_bundle_the_others_are_asked(tmp_path: Path) -> None:
    source = BundleFirst(Shelf(FileEffects(), tmp_path), Others(b"from the server"))
    assert read(source) == b"from the server"
    assert source.evidence() == {"fetched_bytes": {"server": 5}}


def test_a_stick_that_is_away_leaves_it_to_the_others_or_says_that_it_is(shelf: Shelf, stick: Path) -> None:
    data = stick.read_bytes()
    stick.unlink()
    shelf.forget_opened()
    assert read(BundleFirst(shelf, Others(b"from the server"))) == b"from the server"
    with pytest.raises(UnavailableError, match="Put it back") as caught:
        read(BundleFirst(shelf, Others()))
    assert caught.value.kind == "unreachable"
    stick.write_bytes(data)
    assert read(BundleFirst(shelf, Others())) == IMAGE


def test_a_stick_pulled_out_while_it_is_read_is_looked_at_anew(shelf: Shelf, stick: Path) -> None:
    source = BundleFirst(shelf, Others())
    pieces = source.open(FILE, offset=0)
    stick.write_bytes(b"")
    with pytest.raises(UnavailableError):
        list(pieces)
    stick.write_bytes(whole())
    assert read(source) == IMAGE


def test_another_bundle_in_its_place_is_not_the_one_that_was_installed(shelf: Shelf, stick: Path) -> None:
    stick.write_bytes(whole(["dev-7"]))
    shelf.forget_opened()
    with pytest.raises(UnavailableError, match="another bundle"):
        read(BundleFirst(shelf, Others()))


def test_a_stick_that_lied_is_left_for_that_file_until_it_is_installed_anew(shelf: Shelf) -> None:
    others = Others(b"from the server")
    source = BundleFirst(shelf, others)
    read(source)
    assert source.again(FILE, wrong=True)
    assert read(source) == b"from the server"
    assert not source.again(FILE, wrong=True)
    assert others.blamed, "then the server is to blame, not the stick"
    source.forgive()
    assert read(source) == IMAGE


def test_a_stick_that_lied_and_nobody_else_there_delays_and_says_why(shelf: Shelf) -> None:
    source = BundleFirst(shelf, Others())
    read(source)
    source.again(FILE, wrong=True)
    with pytest.raises(UnavailableError) as caught:
        read(source)
    assert caught.value.kind == "artifact-changed"


def test_one_that_broke_off_is_not_left(shelf: Shelf) -> None:
    source = BundleFirst(shelf, Others())
    read(source)
    assert not source.again(FILE, wrong=False)
    assert read(source) == IMAGE


def test_a_bundle_without_the_file_says_so(shelf: Shelf) -> None:
    other = FileRef(path="releases/demo/3.0/image", length=1, sha256="ef" * 32)
    with pytest.raises(UnavailableError, match=r"has no releases/demo/3\.0/image"):
        list(BundleFirst(shelf, Others()).open(other, offset=0))


def test_a_damaged_note_is_none(shelf: Shelf, tmp_path: Path) -> None:
    assert isinstance(shelf.noted(), Noted)
    (tmp_path / "bundle.json").write_bytes(b"{")
    assert Shelf(FileEffects(), tmp_path).current() is None


def test_what_is_no_file_is_no_bundle(shelf: Shelf, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RefusedError):
        shelf.open(tmp_path / "pipe")
    with pytest.raises(UnavailableError):
        shelf.open(tmp_path)
