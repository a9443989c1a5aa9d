"""Folders on the real file system: what is copied, flushed in which order, renamed only onto what is free, removed in parts."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.calls import AnyPath, SystemCalls
from device_agent.core.values import Migration
from device_agent.data.store import DataStore, shown
from device_agent.data.trees import FileTrees
from firmware.errors import UnavailableError


def never() -> bool:
    return False


class Recorder(SystemCalls):
    """The real calls, written down."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self._paths: dict[int, str] = {}

    def open(self, path: AnyPath, flags: int, mode: int = 0o777) -> int:  # type: ignore[override]
        descriptor = os.open(path, flags, mode)
        self._paths[descriptor] = Path(os.fspath(path)).name
        return descriptor

    def fsync(self, descriptor: int) -> None:  # type: ignore[override]
        self.said.append(("fsync", self._paths[descriptor]))
        os.fsync(descriptor)

    def rename(self, old: AnyPath, new: AnyPath) -> None:  # type: ignore[override]
        self.said.append(("rename", Path(os.fspath(new)).name))
        Path(os.fspath(old)).rename(os.fspath(new))


class Broken(SystemCalls):
    """A medium that doesn't take what is flushed."""

    def fsync(self, descriptor: int) -> None:  # type: ignore[override]
        raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "v3" / "keys").mkdir(parents=True)
    (folder / "v3" / "readings").write_text("three")
    (folder / "v3" / "keys" / "site").write_text("berlin")
    (folder / "v3" / "keys" / "site").chmod(0o640)
    (folder / "v3" / "latest").symlink_to("readings")
    return folder


def store(data: Path, trees: FileTrees | None = None) -> DataStore:
    return DataStore(trees or FileTrees(), data, data.parent / "run" / "data")


def migration(script: str, *, timeout_s: float = 60.0, room_bytes: int = 0) -> Migration:
    return Migration(source=3, schema=4, argv=("/bin/sh", "-c", script), timeout_s=timeout_s, room_bytes=room_bytes)


def test_a_migration_makes_new_data_from_a_copy_and_leaves_the_old_alone(data: Path) -> None:
    script = (
        'printf four >> readings; printf %s "$OTARIA_DATA $OTARIA_DATA_FROM $OTARIA_DATA_SCHEMA $OTARIA_ORDER" > told'
    )
    assert store(data).migrate(migration(script), {"order": "abc"}, never) is None
    assert (data / "v4" / "readings").read_text() == "threefour"
    assert (data / "v4" / "told").read_text() == f"{data}/v4.partial 3 4 abc"
    assert (data / "v4" / "keys" / "site").stat().st_mode & 0o777 == 0o640
    assert (data / "v4" / "latest").readlink() == Path("readings")
    assert (data / "v3" / "readings").read_text() == "three"
    assert sorted(path.name for path in data.iterdir()) == ["v3", "v4"]


def test_every_file_and_folder_is_flushed_before_the_new_data_gets_its_name(data: Path) -> None:
    calls = Recorder()
    assert store(data, FileTrees(calls)).migrate(migration("true"), {}, never) is None
    at = calls.said.index(("rename", "v4"))
    flushed = {name for verb, name in calls.said[:at] if verb == "fsync"}
    assert {"readings", "site", "keys", "v4.partial"} <= flushed
    assert calls.said[at + 1] == ("fsync", "data")


def test_what_can_not_be_flushed_is_not_taken(data: Path) -> None:
    reason = store(data, FileTrees(Broken())).migrate(migration("true"), {}, never)
    assert reason is not None
    assert reason.kind == "migration-failed"
    assert not (data / "v4").exists()


@pytest.mark.parametrize(
    ("script", "timeout_s", "said"),
    [
        ("echo no such table; exit 3", 60.0, "ended with 3: 'no such table'"),
        ("sleep 600", 0.3, "was stopped for its time"),
    ],
)
def test_a_program_that_fails_or_takes_too_long_leaves_no_new_data(
    data: Path, script: str, timeout_s: float, said: str
) -> None:
    reason = store(data).migrate(migration(script, timeout_s=timeout_s), {}, never)
    assert reason is not None
    assert reason.kind == "migration-failed"
    assert said in reason.text
    assert not (data / "v4").exists()
    assert (data / "v3" / "readings").read_text() == "three"


def test_what_an_earlier_try_left_is_made_anew(data: Path) -> None:
    for leftover in ("v4", "v4.partial", "v4.gone"):
        (data / leftover).mkdir()
        (data / leftover / "stale").write_text("x")
    assert store(data).migrate(migration("true"), {}, never) is None
    assert sorted(path.name for path in data.iterdir()) == ["v3", "v4"]
    assert not (data / "v4" / "stale").exists()


def test_without_room_nothing_is_copied(data: Path) -> None:
    reason = store(data).migrate(migration("true", room_bytes=1 << 60), {}, never)
    assert reason is not None
    assert reason.kind == "data-no-room"
    assert sorted(path.name for path in data.iterdir()) == ["v3"]


def test_without_old_data_there_is_nothing_to_migrate(data: Path) -> None:
    (data / "v3").rename(data / "elsewhere")
    reason = store(data).migrate(migration("true"), {}, never)
    assert reason is not None
    assert reason.kind == "migration-failed"


def test_the_link_leads_to_what_runs_and_is_away_while_it_is_migrated(data: Path) -> None:
    here, link = store(data), data.parent / "run" / "data"
    here.show(3)
    assert shown(link) == data / "v3"
    assert here.migrate(migration(f"test ! -e {link}"), {}, never) is None
    with pytest.raises(UnavailableError) as caught:
        shown(link)
    assert caught.value.kind == "data-not-ready"
    here.show(4)
    assert shown(link, wait_s=5) == data / "v4"


def test_the_first_start_makes_the_first_folder_and_no_other(tmp_path: Path) -> None:
    here, link = store(tmp_path / "new"), tmp_path / "run" / "data"
    here.show(1)
    assert shown(link) == tmp_path / "new" / "v1"
    here.show(2)
    assert not (tmp_path / "new" / "v2").exists(), "data that is missed is not made up"
    with pytest.raises(UnavailableError):
        shown(link)


def test_removing_stops_when_asked_and_goes_on_later(data: Path) -> None:
    big = data / "v2" / "deep"
    big.mkdir(parents=True)
    for number in range(600):
        (big / str(number)).write_text("x")
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    here = store(data)
    here.remove(2, stop)
    assert not (data / "v2").exists(), "it is renamed first, so that nobody takes half of it for data"
    assert (data / "v2.gone").exists()
    here.remove(2, never)
    assert sorted(path.name for path in data.iterdir()) == ["v3"]


def test_links_are_removed_and_not_followed(data: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (data / "v2").mkdir()
    (data / "v2" / "out").symlink_to(tmp_path)
    (data / "v2" / "file").symlink_to(tmp_path / "precious")
    store(data).remove(2, never)
    assert (tmp_path / "precious").read_text() == "x"
    assert (data / "v3" / "readings").exists()


@pytest.mark.parametrize("verb", ["copy", "rename"])
def test_nothing_is_written_over(data: Path, verb: str) -> None:
    trees = FileTrees()
    (data / "v4").mkdir()
    calls: dict[str, Callable[[], None]] = {
        "copy": lambda: trees.copy(data / "v3", data / "v4", is_over=never),
        "rename": lambda: trees.rename(data / "v3", data / "v4"),
    }
    with pytest.raises(FileExistsError):
        calls[verb]()


def test_copying_ends_when_its_time_is_over(data: Path) -> None:
    with pytest.raises(OSError, match="stopped") as caught:
        FileTrees().copy(data / "v3", data / "v4", is_over=lambda: True)
    assert caught.value.errno == errno.ETIMEDOUT
