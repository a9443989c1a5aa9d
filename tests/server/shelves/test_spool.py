"""Copies on this machine: right or not at all, bounded together, and never removed from under who uses them."""

import asyncio
import errno
import hashlib
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from firmware.errors import RefusedError, UnavailableError
from server.errors import StoreError
from server.shelves.spool import Spool

KIB = 1024


class Elsewhere:
    """Where copies come from; says what was fetched."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def make(self, number: int, length: int) -> tuple[str, int, Callable[[], Iterator[bytes]]]:
        data = bytes([number]) * length
        sha256 = hashlib.sha256(data).hexdigest()

        def fetch() -> Iterator[bytes]:
            self.fetched.append(sha256)
            for start in range(0, length, 1000):
                yield data[start : start + 1000]

        return sha256, length, fetch


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 10 * KIB)


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "spool").iterdir())


async def on_thread(work: Callable[[], None]) -> None:
    await asyncio.to_thread(work)


async def test_a_copy_is_fetched_once_and_kept(spool: Spool, elsewhere: Elsewhere) -> None:
    one = elsewhere.make(1, 5000)
    for _ in range(3):
        async with spool.held(*one, on_thread) as path:
            assert path.read_bytes() == bytes([1]) * 5000
    assert len(elsewhere.fetched) == 1


async def test_two_who_want_the_same_wait_for_one(spool: Spool, elsewhere: Elsewhere) -> None:
    one = elsewhere.make(1, 8 * KIB)

    async def use() -> bytes:
        async with spool.held(*one, on_thread) as path:
            return path.read_bytes()

    assert set(await asyncio.gather(*(use() for _ in range(8)))) == {bytes([1]) * 8 * KIB}
    assert len(elsewhere.fetched) == 1


async def test_what_was_used_longest_ago_makes_room(spool: Spool, elsewhere: Elsewhere, tmp_path: Path) -> None:
    one, two, six = (elsewhere.make(number, 4 * KIB) for number in (1, 2, 6))
    for wanted in (one, two, one, six):
        async with spool.held(*wanted, on_thread):
            pass
    assert files(tmp_path) == sorted([one[0], six[0]])


async def test_what_is_in_use_is_never_removed(spool: Spool, elsewhere: Elsewhere, tmp_path: Path) -> None:
    one, two, six = (elsewhere.make(number, 4 * KIB) for number in (1, 2, 6))
    async with AsyncExitStack() as stack:
        path = await stack.enter_async_context(spool.held(*one, on_thread))
        await stack.enter_async_context(spool.held(*two, on_thread))
        with pytest.raises(UnavailableError) as full:
            await stack.enter_async_context(spool.held(*six, on_thread))
        assert full.value.kind == "spool-full"
        assert "artifacts.spool_bytes" in full.value.text
        assert path.read_bytes() == bytes([1]) * 4 * KIB
    async with spool.held(*six, on_thread) as path:
        assert path.read_bytes() == bytes([6]) * 4 * KIB
    assert len(files(tmp_path)) == 2


async def test_what_is_idle_goes_before_what_is_older_and_in_use(
    spool: Spool, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    one, two, six = (elsewhere.make(number, 4 * KIB) for number in (1, 2, 6))
    async with spool.held(*one, on_thread):
        async with spool.held(*two, on_thread):
            pass
        async with spool.held(*six, on_thread):
            assert files(tmp_path) == sorted([one[0], six[0]])


async def test_what_can_never_fit_removes_nothing(spool: Spool, elsewhere: Elsewhere, tmp_path: Path) -> None:
    one = elsewhere.make(1, 4 * KIB)
    async with spool.held(*one, on_thread):
        pass
    with pytest.raises(UnavailableError):
        async with spool.held(*elsewhere.make(2, 10 * KIB + 1), on_thread):
            pass
    assert files(tmp_path) == [one[0]]


async def test_other_bytes_than_the_name_says_are_no_copy(spool: Spool, elsewhere: Elsewhere, tmp_path: Path) -> None:
    sha256, length, _ = elsewhere.make(1, 5000)
    for number, size in ((2, 5000), (1, 4999), (1, 5001)):
        fetch = elsewhere.make(number, size)[2]
        with pytest.raises(RefusedError) as refused:
            async with spool.held(sha256, length, fetch, on_thread):
                pass
        assert refused.value.kind == "artifact-changed"
        assert files(tmp_path) == []
    async with spool.held(*elsewhere.make(1, 5000), on_thread) as path:
        assert path.stat().st_size == 5000


async def test_a_store_that_breaks_off_leaves_no_copy_and_no_room_taken(
    spool: Spool, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    sha256, length, fetch = elsewhere.make(1, 9 * KIB)

    def breaks() -> Iterator[bytes]:
        yield next(fetch())
        raise StoreError("store-unreachable", "It is gone.")

    for _ in range(3):
        with pytest.raises(StoreError):
            async with spool.held(sha256, length, breaks, on_thread):
                pass
    assert files(tmp_path) == []
    async with spool.held(sha256, length, fetch, on_thread) as path:
        assert path.stat().st_size == length


async def test_who_does_not_wait_any_more_leaves_no_copy_behind(
    spool: Spool, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    loop, begun, may_end, ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    sha256, length, fetch = elsewhere.make(1, 5000)

    def slow() -> Iterator[bytes]:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(10)
        yield from fetch()

    async def work(pour: Callable[[], None]) -> None:
        def all_of_it() -> None:
            try:
                pour()
            finally:
                loop.call_soon_threadsafe(ended.set)

        await asyncio.to_thread(all_of_it)

    async def use() -> None:
        async with spool.held(sha256, length, slow, work):
            raise AssertionError("nobody waits for it")

    using = asyncio.create_task(use())
    await begun.wait()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    may_end.set()
    await ended.wait()
    assert files(tmp_path) == []
    async with spool.held(sha256, length, fetch, on_thread) as path:
        assert path.stat().st_size == length


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk on which no file can be larger, as if it were full beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_told_as_that_and_costs_no_room(
    spool: Spool, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    one = elsewhere.make(1, 9 * KIB)
    with largest_file(8 * KIB), pytest.raises(UnavailableError) as full:
        async with spool.held(*one, on_thread):
            pass
    assert full.value.kind == "storage-fault"
    assert os.strerror(errno.EFBIG) in full.value.text
    assert str(tmp_path / "spool") in full.value.text
    assert files(tmp_path) == []
    assert elsewhere.fetched == []  # room is taken before anything is fetched
    async with spool.held(*one, on_thread) as path:
        assert path.stat().st_size == 9 * KIB


async def test_copies_of_an_earlier_run_are_removed(tmp_path: Path, elsewhere: Elsewhere) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    one = elsewhere.make(1, 5000)
    (folder / one[0]).write_bytes(b"half of it")
    async with Spool(folder, 10 * KIB).held(*one, on_thread) as path:
        assert path.stat().st_size == 5000


async def test_an_empty_artifact_has_a_copy_too(spool: Spool, elsewhere: Elsewhere) -> None:
    async with spool.held(*elsewhere.make(1, 0), on_thread) as path:
        assert path.read_bytes() == b""
