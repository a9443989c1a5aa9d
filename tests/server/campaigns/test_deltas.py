"""The delta factory: deltas from a worker process within its limits, typed errors for all that can befall it."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from firmware.delta.apply import apply_delta
from firmware.delta.format import HEADER_BYTES, read_header
from server.campaigns.deltas import DeltaFactory, DeltaFailedError, DeltaLimits, main


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def images(folder: Path, old: bytes, new: bytes) -> tuple[Path, Path, Path]:
    (folder / "old").write_bytes(old)
    (folder / "new").write_bytes(new)
    return folder / "old", folder / "new", folder / "patch"


def slow_images(folder: Path) -> tuple[Path, Path, Path]:
    """A pair whose delta takes seconds: nothing of it is where a block boundary is."""
    old = noise(6 << 20)
    return images(folder, old, b"!" + old)


async def failure(factory: DeltaFactory, paths: tuple[Path, Path, Path]) -> DeltaFailedError:
    with pytest.raises(DeltaFailedError) as failed:
        await factory.make(*paths)
    assert names(paths[2].parent) <= {"old", "new"}
    return failed.value


async def test_a_delta_is_made_and_works(tmp_path: Path) -> None:
    old, new = noise(300_000), noise(200_000) + noise(10_000, 2) + noise(300_000)[210_000:]
    paths = images(tmp_path, old, new)
    facts = await DeltaFactory().make(*paths)
    assert facts is not None
    patch = paths[2].read_bytes()
    assert facts.length == len(patch)
    assert read_header(patch[:HEADER_BYTES]).ends == facts.ends
    assert b"".join(apply_delta(iter([patch]), lambda at, size: old[at : at + size], expect=facts.ends)) == new


async def test_a_delta_that_saves_too_little_is_not_offered_and_not_kept(tmp_path: Path) -> None:
    shared, own = noise(100_000), noise(900_000, 2)
    assert await DeltaFactory().make(*images(tmp_path, shared, shared + own)) is None
    assert not (tmp_path / "patch").exists()
    assert await DeltaFactory().make(*images(tmp_path, shared * 3, shared * 3 + own)) is not None
    assert (tmp_path / "patch").exists()


async def test_a_worker_over_its_memory_is_a_typed_failure(tmp_path: Path) -> None:
    error = await failure(DeltaFactory(DeltaLimits(memory_bytes=130 << 20)), slow_images(tmp_path))
    assert error.kind == "delta-too-big"


async def test_a_worker_over_its_time_is_ended(tmp_path: Path) -> None:
    error = await failure(DeltaFactory(DeltaLimits(timeout_s=0.1)), slow_images(tmp_path))
    assert error.kind == "delta-too-slow"
    assert not workers(tmp_path)


async def test_a_missing_image_is_named(tmp_path: Path) -> None:
    error = await failure(DeltaFactory(), (tmp_path / "none", tmp_path / "none", tmp_path / "patch"))
    assert error.kind == "delta-failed"
    assert "none" in error.text


async def test_a_killed_worker_is_a_failure_and_leaves_nothing(tmp_path: Path) -> None:
    making = asyncio.create_task(failure(DeltaFactory(), slow_images(tmp_path)))
    await until_working(tmp_path)
    for pid in workers(tmp_path):
        os.kill(pid, signal.SIGKILL)
    assert (await making).kind == "delta-failed"


async def test_cancelling_ends_even_a_worker_that_stands_still(tmp_path: Path) -> None:
    making = asyncio.create_task(DeltaFactory().make(*slow_images(tmp_path)))
    await until_working(tmp_path)
    for pid in workers(tmp_path):
        os.kill(pid, signal.SIGSTOP)
    making.cancel()
    done, _ = await asyncio.wait([making], timeout=20)
    assert done, "a worker that stands still is waited for"
    assert not workers(tmp_path)
    assert names(tmp_path) == {"new", "old"}


async def test_the_loop_goes_on_while_a_delta_is_made_and_one_waits_for_the_other(tmp_path: Path) -> None:
    factory = DeltaFactory()
    old, new, out = slow_images(tmp_path)
    both = asyncio.gather(factory.make(old, new, out), factory.make(old, new, tmp_path / "second"))
    most, turns = 0, 0
    while not both.done():
        most, turns = max(most, len(workers(tmp_path))), turns + 1
        await asyncio.sleep(0.01)
    first, second = await both
    assert first is not None
    assert second is not None
    assert first.sha256 == second.sha256
    assert most == 1
    assert turns > 20


async def test_the_worker_yields_to_the_server(tmp_path: Path) -> None:
    making = asyncio.create_task(DeltaFactory(DeltaLimits(niceness=7)).make(*slow_images(tmp_path)))
    await until_working(tmp_path)
    assert [os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, 0) for pid in workers(tmp_path)] == [
        7
    ]
    making.cancel()
    with suppress(asyncio.CancelledError):
        await making


async def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """48 MiB with changes here and there: bsdiff of the whole would take 800 MiB."""
    old = noise(48 << 20)
    new = bytearray(old)
    for at in range(100_000, len(new), 8 << 20):
        new[at : at + 2000 : 3] = noise(667, at)
    facts = await DeltaFactory(DeltaLimits(memory_bytes=320 << 20)).make(*images(tmp_path, old, bytes(new)))
    assert facts is not None
    assert facts.length < 64 << 10


def test_the_server_does_without_the_numpy_of_its_workers() -> None:
    program = (
        "import server.app, sys; assert 'server.campaigns.deltas' in sys.modules; assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_worker_says_what_is_wrong_with_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["only-one"])
    assert stopped.value.code == 2


def workers(folder: Path) -> list[int]:
    """The ids of the worker processes that work on images of this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"{folder}/old".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


async def until_working(folder: Path) -> None:
    """Wait until a worker has begun to write."""
    async with asyncio.timeout(30):
        while not has_begun(folder):  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.01)


def has_begun(folder: Path) -> bool:
    return any(folder.glob(".making-*/.delta.*"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
