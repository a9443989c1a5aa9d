"""The reports' way back is a copy: made beside the bundle when that can be written, and missed by nobody when it can't."""

from pathlib import Path

import pytest

from device_agent import outbox as box
from device_agent.bundle.returns import FOLDER, Returns, text_of, write_reports
from device_agent.bundle.shelf import Shelf
from device_agent.effects import FileEffects
from device_agent.outbox import Entry, Outbox
from firmware.bundle.evidence import address, from_text, parse_line
from firmware.errors import RefusedError
from tests.firmware.bundle.makers import whole
from tests.firmware.bundle.test_bundle_evidence import reports

JOURNAL = "a-journal-with-a-long-name"


@pytest.fixture
def filled() -> Outbox:
    filled = Outbox(journal=JOURNAL)
    for seq, (leaf, envelope) in enumerate(reports(3), start=1):
        filled = box.add(filled, Entry(seq=seq, hash="ab" * 32, leaf=leaf, envelope=envelope))
    return filled


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    path = tmp_path / "stick" / "spring.bundle"
    path.parent.mkdir()
    path.write_bytes(whole())
    return path


@pytest.fixture
def returns(tmp_path: Path, stick: Path) -> Returns:
    shelf = Shelf(FileEffects(), tmp_path)
    shelf.put(stick, shelf.open(stick))
    return Returns(FileEffects(), shelf, "dev-1")


def test_what_waits_is_written_beside_the_bundle(returns: Returns, filled: Outbox, stick: Path) -> None:
    path = stick.parent / FOLDER / "dev-1-a-journal-with-a.jsonl"
    assert returns.write(filled)
    lines = path.read_bytes().splitlines()
    assert [address(parse_line(line))[1] for line in lines] == [entry.envelope for entry in filled.entries]
    assert returns.write(filled)
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_written_where_the_stick_is_not(
    returns: Returns, filled: Outbox, stick: Path, tmp_path: Path
) -> None:
    """Else the files would end up under the mount point, in the device's own storage."""
    stick.unlink()
    again = Returns(FileEffects(), Shelf(FileEffects(), tmp_path), "dev-1")
    assert not again.write(filled)
    assert not (stick.parent / FOLDER).exists()


def test_a_stick_that_cannot_be_written_is_left_alone(returns: Returns, filled: Outbox, stick: Path) -> None:
    (stick.parent / FOLDER).write_bytes(b"a file where the folder should be")
    assert not returns.write(filled)


def test_a_link_on_a_stick_is_not_followed(returns: Returns, filled: Outbox, stick: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (stick.parent / FOLDER).symlink_to(elsewhere)
    assert not returns.write(filled)
    assert not list(elsewhere.iterdir())


def test_an_empty_outbox_has_nothing_to_give(returns: Returns, stick: Path) -> None:
    empty = Outbox(journal=JOURNAL)
    assert returns.write(empty)
    assert not (stick.parent / FOLDER).exists()
    for give in (lambda: text_of(empty), lambda: write_reports(FileEffects(), stick.parent, "dev-1", empty)):
        with pytest.raises(RefusedError) as caught:
            give()
        assert caught.value.kind == "no-reports"


def test_the_text_carries_the_same(filled: Outbox) -> None:
    sent = from_text("\n".join(text_of(filled)))
    assert [address(one)[1] for one in sent] == [entry.envelope for entry in filled.entries]
