"""`server.ports.Shelf`, and the store on top of it: over files and over a real S3 protocol."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from firmware.errors import RefusedError
from server.artifacts import ArtifactStore
from server.errors import NotFoundError
from server.ports import Resting, Shelf
from server.shelves.files import FileShelf
from server.shelves.moving import MovingShelf
from tests.s3_store import Store

PART = 5 << 20
"""The least that S3 allows: so three parts are few bytes."""
SIZES = {"nothing": 0, "a byte": 1, "a window less one": (1 << 20) - 1, "a part": PART, "three parts": 2 * PART + 4321}
OTHER = hashlib.sha256(b"another").hexdigest()


def some_bytes(length: int) -> bytes:
    return random.Random(length).randbytes(length)


@pytest.fixture(params=["files", "moving", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    if request.param == "files":
        yield FileShelf(tmp_path / "artifacts")
        return
    if request.param == "moving":
        yield MovingShelf(FileShelf(tmp_path / "old"), FileShelf(tmp_path / "artifacts"))
        return
    from server.shelves.s3 import S3Shelf

    store: Store = request.getfixturevalue("s3_store")
    opened = S3Shelf(store.settings(store.make_bucket()), part_bytes=PART)
    yield opened
    opened.close()


@pytest.fixture
def store(shelf: Shelf, tmp_path: Path) -> Iterator[ArtifactStore]:
    opened = ArtifactStore(tmp_path / "artifacts", shelf)
    yield opened
    opened.close()


def staged(tmp_path: Path, data: bytes) -> tuple[Path, str]:
    path = tmp_path / "staged"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("length", SIZES.values(), ids=SIZES)
def test_what_was_put_is_there_byte_for_byte(shelf: Shelf, tmp_path: Path, length: int) -> None:
    data = some_bytes(length)
    path, sha256 = staged(tmp_path, data)
    assert shelf.length(sha256) is None
    shelf.put(path, sha256)
    assert not path.exists()
    assert shelf.length(sha256) == length
    assert shelf.read(sha256, 0, length) == data
    for offset in {0, length // 3, max(0, length - 7)}:
        size = min(1000, length - offset)
        assert shelf.read(sha256, offset, size) == data[offset : offset + size]
    assert list(shelf.listed()) == [Resting(sha256=sha256, length=length)]


def test_putting_the_same_again_changes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    """As after a crash between the put and the record of it."""
    for _ in range(2):
        path, sha256 = staged(tmp_path, b"the same")
        shelf.put(path, sha256)
        assert not path.exists()
    assert shelf.read(sha256, 0, 8) == b"the same"


def test_what_is_not_there_is_told(shelf: Shelf, tmp_path: Path) -> None:
    path, sha256 = staged(tmp_path, b"one")
    shelf.put(path, sha256)
    assert shelf.length(OTHER) is None
    assert shelf.file(OTHER) is None
    with pytest.raises(NotFoundError):
        shelf.read(OTHER, 0, 1)


def test_many_are_listed_by_hash(shelf: Shelf, tmp_path: Path) -> None:
    names = []
    for number in range(12):
        path, sha256 = staged(tmp_path, str(number).encode())
        shelf.put(path, sha256)
        names.append(sha256)
    assert [one.sha256 for one in shelf.listed()] == sorted(names)


def test_a_shelf_that_works_is_reached_and_keeps_nothing_of_it(shelf: Shelf, store: ArtifactStore) -> None:
    for _ in range(2):
        store.reach()
    assert list(shelf.listed()) == []


def test_a_shelf_that_works_passes_its_check_and_keeps_nothing_of_it(shelf: Shelf) -> None:
    shelf.check()
    assert list(shelf.listed()) == []
    assert shelf.tidy(0.0) == 0


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 70_000):
        yield data[start : start + 70_000]


async def test_a_stream_is_hashed_and_kept(store: ArtifactStore) -> None:
    data = some_bytes(300_000)
    sha256 = hashlib.sha256(data).hexdigest()
    told = []

    async def before(length: int) -> None:
        told.append((length, await store.length(sha256)))

    assert await store.receive(pieces(data), sha256, max_bytes=1 << 20, before=before) == len(data)
    assert told == [(len(data), None)]
    assert await store.length(sha256) == len(data)
    assert await store.read(sha256, 250_000, 10) == data[250_000:250_010]
    assert b"".join(store.pieces(sha256, len(data), 100_000)) == data
    assert list(store.incoming.iterdir()) == []


@pytest.mark.parametrize(("wanted", "most", "kind"), [(OTHER, 1 << 20, "artifact-changed"), (OTHER, 9, "too-large")])
async def test_a_stream_that_is_wrong_leaves_nothing(store: ArtifactStore, wanted: str, most: int, kind: str) -> None:
    with pytest.raises(RefusedError) as refused:
        await store.receive(pieces(some_bytes(100_000)), wanted, max_bytes=most)
    assert refused.value.kind == kind
    assert await store.length(wanted) is None
    assert list(store.incoming.iterdir()) == []


async def test_who_needs_a_file_gets_one(store: ArtifactStore) -> None:
    data = some_bytes(3 << 20)
    sha256, length = await asyncio.to_thread(store.add, [data])
    assert length == len(data)
    async with store.local(sha256) as path:
        assert path.read_bytes() == data
    with pytest.raises(NotFoundError):
        async with store.local(OTHER):
            pass


@pytest.mark.parametrize("name", ["", "../x", OTHER.upper(), OTHER[:-1], OTHER + "\n"])
async def test_only_hashes_are_names(store: ArtifactStore, name: str) -> None:
    with pytest.raises(RefusedError):
        await store.length(name)
    with pytest.raises(RefusedError):
        await store.read(name, 0, 1)
    with pytest.raises(RefusedError):
        store.find(name)
    with pytest.raises(RefusedError):
        await store.receive(pieces(b""), name, max_bytes=1)
