"""A trail that goes on from a backup: the first record says where it ended, and a checkpoint from in between what is lost."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.audit import restored
from server.audit.verify import Verdict
from server.storage import SqlDatabase
from tests.server.audit.chains import NOW, SetClock, checked, keeper_of, lines_of, told, write

HOUR_S = 3600.0


class Story:
    """A server with two partitions, its backup, what it went on to write, and the restored one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, SetClock()
        self.kept: list[bytes] = []
        self.lines: list[bytes] = []

    async def sign(self, database: SqlDatabase) -> None:
        stored = await keeper_of(database, self.folder, self.clock).sign()
        assert stored is not None
        self.kept.append(stored.envelope)

    async def tell(self, *, record: bool = True, **lies: Any) -> "Story":
        path = self.folder / "a.db"
        database = SqlDatabase.open(f"sqlite:///{path}")
        await write(database, "p1", "p2")
        await write(database, "u1", actor="ann")
        await self.sign(database)
        await database.close()
        shutil.copy(path, self.folder / "backup.db")
        backed_up_at = self.clock.at
        database = SqlDatabase.open(f"sqlite:///{path}")
        for _ in range(2):
            self.clock.at += HOUR_S
            await write(database, "lost", "lost too")
            await self.sign(database)
        await database.close()
        (self.folder / "checkpoint.json").unlink()  # the machine is lost with all that is on it
        self.clock.at += HOUR_S
        database = SqlDatabase.open(f"sqlite:///{self.folder / 'backup.db'}")
        if record:
            await database.write(lambda unit: restored.record(unit, made_at=int(backed_up_at), now=self.clock.at))
        await self.sign(database)
        await write(database, "p3")
        await self.sign(database)
        self.lines = await lines_of(database)
        await database.close()
        return self

    def verdict(self, *pins: int) -> Verdict:
        return checked(self.lines, [self.kept[pin] for pin in pins])


def faults(verdict: Verdict) -> Sequence[tuple[str, int | None]]:
    return [(fault.kind, fault.number) for fault in verdict.faults]


async def test_the_restored_trail_is_whole_and_says_where_the_backup_ended(tmp_path: Path) -> None:
    verdict = (await Story(tmp_path).tell()).verdict()
    assert told(verdict) == []
    assert verdict.is_whole
    (note,) = verdict.notes
    assert "ended with people 1, planner 2 and checkpoint 1" in note
    assert "2027-01-15 08:00:00" in note
    assert "2027-01-15 11:00:00" in note


async def test_who_kept_a_checkpoint_from_in_between_learns_how_much_is_lost(tmp_path: Path) -> None:
    """Also where the restored server has signed another one under the same number."""
    story = await Story(tmp_path).tell()
    assert story.verdict(0).is_whole
    for pin, lost in ((1, 2), (2, 4)):
        verdict = story.verdict(pin)
        assert faults(verdict) == [("lost-by-restore", pin + 1)]
        assert f"{lost} records that it covers are lost" in verdict.faults[0].text
    assert story.verdict(3, 4).is_whole, "those from after the restore are here"


async def test_a_history_that_was_replaced_is_not_excused_by_a_restore_elsewhere(tmp_path: Path) -> None:
    without = await Story(tmp_path).tell(record=False)
    assert faults(without.verdict(1)) == [("history-replaced", 2)]
    assert without.verdict().notes == ()


@pytest.mark.parametrize(("made_at", "at", "excused"), [(0, 0, True), (7200, 0, False), (0, -9000, False)])
async def test_a_checkpoint_from_before_the_backup_or_after_the_restore_is_not_of_the_lost(
    tmp_path: Path, made_at: int, at: float, excused: bool
) -> None:
    story = await Story(tmp_path).tell()
    checkpoint = checked(story.lines, [story.kept[1]])
    assert faults(checkpoint) == [("lost-by-restore", 2)]
    from firmware.protocol.unverified import read_unverified
    from server.audit.checkpoint import KIND, MAX_BYTES, Checkpoint

    pin = read_unverified(story.kept[1], KIND, Checkpoint, max_bytes=MAX_BYTES).message
    ends = restored.Ends(made_at=int(NOW) + made_at)
    assert restored.is_between(ends, NOW + 3 * HOUR_S + at, pin) == excused
