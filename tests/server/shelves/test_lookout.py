"""Whether the artifact store is reached: asked in the background, one question at a time, and told in words without addresses."""

import asyncio
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from server.errors import StoreError
from server.shelves.files import FileShelf
from server.shelves.lookout import Lookout
from server.shelves.moving import MovingShelf
from server.shelves.s3 import S3Shelf
from tests.s3_store import Store, spoilt_line


class Shelf:
    """One that fails as it is told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.asked = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def reach(self) -> None:
        self.asked += 1
        assert self.goes_on.wait(60)
        if self.fault is not None:
            raise self.fault


def cut(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Nothing of the answer comes."""
    yield from ()


async def looked(reach: Callable[[], None]) -> str:
    lookout = Lookout(reach)
    await lookout.look()
    assert lookout.is_reached is (not lookout.missing)
    return lookout.missing


async def test_it_is_not_reached_before_it_was_asked() -> None:
    lookout = Lookout(Shelf().reach)
    assert (lookout.missing, lookout.is_reached) == ("the artifact store, which has not been asked yet", False)
    await lookout.look()
    assert (lookout.missing, lookout.is_reached) == ("", True)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("store-unreachable", "which is not reached"),
        ("store-denied", "refuses the server's keys"),
        ("store-credentials-missing", "has no keys"),
        ("store-bucket-missing", "bucket is gone"),
        ("store-refused", "refuses what it is asked"),
    ],
)
async def test_why_is_told_without_what_only_the_log_may_say(
    kind: str, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf()
    shelf.fault = StoreError(kind, "bucket-of-ours at s3.internal")
    lookout = Lookout(shelf.reach)
    for _ in range(3):
        await lookout.look()
    assert word in lookout.missing
    assert "ours" not in lookout.missing
    shelf.fault = None
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await lookout.look()
    assert [record.getMessage() for record in caplog.records if record.name == "server.shelves.lookout"] == [
        "the artifact store is not reached: bucket-of-ours at s3.internal",
        "the artifact store is reached",
    ]


async def test_one_that_is_busy_is_reached() -> None:
    shelf = Shelf()
    shelf.fault = StoreError("store-busy", "Ask again.")
    assert await looked(shelf.reach) == ""


async def test_what_nobody_foresaw_ends_the_lookout() -> None:
    shelf = Shelf()
    shelf.fault = LookupError("a fault of ours")
    with pytest.raises(LookupError):
        await Lookout(shelf.reach).run()


async def test_a_store_that_hangs_is_asked_once_and_its_answer_counts_when_it_comes() -> None:
    shelf = Shelf()
    shelf.goes_on.clear()
    lookout = Lookout(shelf.reach, limit_s=0.01)
    try:
        for _ in range(5):
            await lookout.look()
            assert lookout.missing == "the artifact store, which has not answered for 0.01 s"
        assert shelf.asked == 1
    finally:
        shelf.goes_on.set()
    async with asyncio.timeout(30):
        while not lookout.is_reached:
            await lookout.look()
    assert shelf.asked == 1


async def test_it_looks_again_and_again_until_it_is_cancelled() -> None:
    shelf, fault = Shelf(), StoreError("store-unreachable", "Gone.")
    lookout = Lookout(shelf.reach, every_s=0.001)
    running = asyncio.create_task(lookout.run())
    try:
        async with asyncio.timeout(30):
            for wanted in (None, fault, None):
                shelf.fault = wanted
                while lookout.is_reached is not (wanted is None):  # noqa: ASYNC110 (the task looks meanwhile)
                    await asyncio.sleep(0)
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_files_whose_directory_is_gone_are_not_reached(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    root.mkdir()
    for shelf in (FileShelf(root), MovingShelf(FileShelf(tmp_path / "old"), FileShelf(root))):
        assert await looked(shelf.reach) == ""
    shutil.rmtree(root)
    for shelf in (FileShelf(root), MovingShelf(FileShelf(tmp_path), FileShelf(root))):
        said = await looked(shelf.reach)
        assert said == "the artifact store, whose directory can't be used: No such file or directory"


async def test_a_bucket_is_asked_for_over_its_line(s3_store: Store, tmp_path: Path) -> None:
    bucket = s3_store.make_bucket()
    with (
        spoilt_line(s3_store) as line,
        closing(S3Shelf(s3_store.settings(bucket, port=line.port), attempts=1)) as shelf,
    ):
        lookout = Lookout(shelf.reach)
        await lookout.look()
        assert lookout.missing == ""
        assert [head.split(b" ")[0] for head in line.heads] == [b"HEAD"]
        line.spoil = lambda number, head: cut
        await lookout.look()
        assert lookout.missing == "the artifact store, which is not reached"
        line.spoil = lambda number, head: None
        await lookout.look()
        assert lookout.missing == ""
        s3_store.client.delete_bucket(Bucket=bucket)
        await lookout.look()
        assert lookout.missing == "the artifact store, whose bucket is gone"
