"""Artifacts on their way: what is told to be here is here, also after a cut, and nothing half is ever seen."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from firmware.errors import OtariaError, RefusedError, UnavailableError
from server.artifacts import ArtifactStore
from server.config_limits import LimitSettings
from server.errors import ConflictError, NotFoundError, StoreError
from server.shelves.files import FileShelf
from server.uploads import ChecksumError, Note, Uploads
from tests.people_side import SetClock

DATA = bytes(range(256)) * 64
SHA256 = hashlib.sha256(DATA).hexdigest()
FEW = LimitSettings(uploads=2, upload_bytes=3 * len(DATA), upload_s=100)


class BrokenOffError(Exception):
    """The connection ended."""


class Desk:
    """Uploads over one directory; `restart` is what a new process finds."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.clock, self.trail = directory, SetClock(), list[str]()
        self.restart()

    def restart(self) -> None:
        self.store = ArtifactStore(self.directory)
        self.uploads = Uploads(self.store, self.clock, FEW, max_bytes=2 * len(DATA))

    async def begin(self, by: str = "mara", sha256: str = SHA256, length: int = len(DATA)) -> Note:
        return await self.uploads.begin(sha256=sha256, length=length, by=by, record=self.record("begun"))

    async def append(
        self, note: Note, data: bytes, at: int, *, breaks: bool = False, checksum: bytes | None = None
    ) -> Note:
        return await self.uploads.append(
            note.id,
            note.by,
            pieces(data, breaks=breaks),
            at=at,
            interrupt=lambda: None,
            checksum=checksum,
            record=self.record("stored"),
        )

    def record(self, word: str):
        async def record() -> None:
            self.trail.append(word)

        return record

    def files(self) -> set[str]:
        return {path.suffix for path in (self.directory / "uploads").iterdir()}

    def stored(self) -> bytes | None:
        path = self.store.find(SHA256)
        return path.read_bytes() if path else None


async def pieces(data: bytes, *, breaks: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]
    if breaks:
        raise BrokenOffError


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "artifacts")


@pytest.mark.parametrize("restart", [False, True])
async def test_an_upload_goes_on_where_it_broke_off(desk: Desk, restart: bool) -> None:
    note = await desk.begin()
    with pytest.raises(BrokenOffError):
        await desk.append(note, DATA[:5000], 0, breaks=True)
    assert desk.stored() is None
    if restart:
        desk.restart()
    found = await desk.uploads.settled(note.id, "mara")
    assert (found.offset, found.length) == (5000, len(DATA))
    done = await desk.append(note, DATA[5000:], 5000)
    assert done.offset == len(DATA)
    assert desk.stored() == DATA
    assert desk.trail == ["begun", "stored"]
    assert desk.files() == set()
    with pytest.raises(NotFoundError):
        desk.uploads.find(note.id, "mara")


@pytest.mark.parametrize("tail", [b"", bytes(3000), b"x" * 20_000], ids=["none", "zeros", "garbage"])
async def test_what_a_power_cut_left_beyond_what_was_flushed_is_forgotten(desk: Desk, tail: bytes) -> None:
    note = await desk.begin()
    with pytest.raises(BrokenOffError):
        await desk.append(note, DATA[:5000], 0, breaks=True)
    with (desk.directory / "uploads" / f"{note.id}.part").open("ab") as file:
        file.write(tail)
    desk.restart()
    assert (await desk.uploads.settled(note.id, "mara")).offset == 5000
    await desk.append(note, DATA[5000:], 5000)
    assert desk.stored() == DATA


async def test_long_requests_are_flushed_on_the_way(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill in the middle would find it: the process never gets to the end of the request."""
    monkeypatch.setattr("server.uploads.SYNC_BYTES", 4000)
    note = await desk.begin()
    seen: list[int] = []

    async def watched() -> AsyncIterator[bytes]:
        async for piece in pieces(DATA):
            seen.append(Uploads(desk.store, desk.clock, FEW, max_bytes=1 << 20).find(note.id, "mara").offset)
            yield piece

    await desk.uploads.append(
        note.id, "mara", watched(), at=0, interrupt=lambda: None, checksum=None, record=desk.record("stored")
    )
    assert seen[:9] == [0, 0, 0, 0, 4000, 4000, 4000, 4000, 8000]


async def test_whole_bytes_that_were_not_made_an_artifact_are_by_the_next_request(desk: Desk) -> None:
    """The trail took no record, or the process ended just then."""
    note = await desk.begin()

    async def refuses() -> None:
        raise UnavailableError("made-up", "The trail takes no record.")

    with pytest.raises(UnavailableError, match="trail"):
        await desk.uploads.append(
            note.id, "mara", pieces(DATA), at=0, interrupt=lambda: None, checksum=None, record=refuses
        )
    assert desk.stored() is None
    desk.restart()
    await desk.append(note, b"", len(DATA))
    assert desk.stored() == DATA


async def test_the_wrong_bytes_leave_nothing(desk: Desk) -> None:
    note = await desk.begin()
    with pytest.raises(RefusedError) as refused:
        await desk.append(note, DATA[:-1] + b"!", 0)
    assert refused.value.kind == "artifact-changed"
    assert (desk.stored(), desk.files()) == (None, set())
    assert desk.trail == ["begun"]


async def test_a_part_with_a_checksum_counts_as_a_whole_or_not_at_all(desk: Desk) -> None:
    note = await desk.begin()
    await desk.append(note, DATA[:2000], 0, checksum=hashlib.sha256(DATA[:2000]).digest())
    with pytest.raises(ChecksumError):
        await desk.append(note, b"?" * 2000, 2000, checksum=hashlib.sha256(DATA[2000:4000]).digest())
    assert (await desk.uploads.settled(note.id, "mara")).offset == 2000
    with pytest.raises(BrokenOffError):
        await desk.append(note, DATA[2000:3000], 2000, breaks=True, checksum=hashlib.sha256(DATA[2000:4000]).digest())
    assert (await desk.uploads.settled(note.id, "mara")).offset == 2000
    await desk.append(note, DATA[2000:], 2000, checksum=hashlib.sha256(DATA[2000:]).digest())
    assert desk.stored() == DATA


async def test_more_than_was_promised_is_refused_and_the_upload_can_go_on(desk: Desk) -> None:
    note = await desk.begin()
    with pytest.raises(RefusedError) as refused:
        await desk.append(note, DATA + b"more", 0)
    assert refused.value.kind == "too-large"
    offset = (await desk.uploads.settled(note.id, "mara")).offset
    await desk.append(note, DATA[offset:], offset)
    assert desk.stored() == DATA


async def test_an_upload_is_its_senders_and_goes_on_nowhere_else(desk: Desk) -> None:
    note = await desk.begin()
    with pytest.raises(NotFoundError):
        desk.uploads.find(note.id, "tom")
    for at in (1, len(DATA), 1 << 60):
        with pytest.raises(ConflictError) as refused:
            await desk.append(note, b"x", at)
        assert refused.value.kind == "wrong-offset"
    await desk.uploads.remove(note.id, "mara", desk.record("removed"))
    assert desk.files() == set()


async def test_how_many_and_how_much_is_bounded(desk: Desk) -> None:
    with pytest.raises(RefusedError) as large:
        await desk.begin(length=2 * len(DATA) + 1)
    assert large.value.kind == "too-large"
    await desk.begin(length=2 * len(DATA))
    with pytest.raises(UnavailableError) as much:
        await desk.begin(length=len(DATA) + 1)
    assert much.value.kind == "too-many-uploads"
    await desk.begin(length=0)
    with pytest.raises(UnavailableError):
        await desk.begin(length=0)
    assert desk.trail == ["begun", "begun"]


async def test_who_rests_too_long_is_removed_and_gives_its_room_back(desk: Desk) -> None:
    one, two = await desk.begin(), await desk.begin()
    desk.clock.at += 60
    await desk.append(two, DATA[:100], 0)
    desk.clock.at += 60
    desk.restart()
    sweeping = asyncio.create_task(desk.uploads.run())
    await asyncio.sleep(0)
    sweeping.cancel()
    with pytest.raises(NotFoundError):
        desk.uploads.find(one.id, "mara")
    assert desk.uploads.find(two.id, "mara").offset == 100
    assert len(list((desk.directory / "uploads").iterdir())) == 2


async def test_leftovers_of_a_crash_are_swept_at_the_start(desk: Desk) -> None:
    note = await desk.begin()
    folder = desk.directory / "uploads"
    (folder / "0123.part").write_bytes(b"bytes without a note")
    (folder / "4567.json").write_text("{not json")
    (folder / f".{note.id}.json.x.part").write_bytes(b"a note in the making")
    (folder / f"{'8' * 32}.json").write_text((folder / f"{note.id}.json").read_text().replace(note.id, "8" * 32))
    desk.restart()
    assert {path.name for path in folder.iterdir()} == {f"{note.id}.json", f"{note.id}.part"}


async def test_an_artifact_that_is_here_needs_no_upload(desk: Desk) -> None:
    desk.store.add([DATA])
    with pytest.raises(ConflictError) as refused:
        await desk.begin()
    assert refused.value.kind == "artifact-exists"


async def test_bytes_that_are_gone_are_told_as_a_fault_of_the_disk(desk: Desk) -> None:
    note = await desk.begin()
    await desk.append(note, DATA[:5000], 0)
    (desk.directory / "uploads" / f"{note.id}.part").write_bytes(b"")
    desk.restart()
    with pytest.raises(OtariaError) as fault:
        await desk.append(note, DATA[5000:], 5000)
    assert fault.value.kind == "storage-fault"
    assert desk.stored() is None


class BrokenShelf(FileShelf):
    """A store elsewhere: it is away for so many puts, and may end just after one."""

    def __init__(self, root: Path, *, away: int = 0, dies: bool = False) -> None:
        super().__init__(root)
        self.away, self.dies = away, dies

    def put(self, path: Path, sha256: str) -> None:
        if self.away:
            self.away -= 1
            raise StoreError("store-unreachable", "The store is away.")
        if self.length(sha256) is None:
            copy = path.with_suffix(".copy")
            copy.write_bytes(path.read_bytes())
            super().put(copy, sha256)
        if self.dies:
            raise BrokenOffError
        path.unlink()


def shelved(desk: Desk, shelf: BrokenShelf) -> None:
    """What a new process finds that keeps artifacts there."""
    desk.store = ArtifactStore(desk.directory, shelf)
    desk.uploads = Uploads(desk.store, desk.clock, FEW, max_bytes=2 * len(DATA))


async def test_a_store_that_is_away_costs_no_bytes_and_one_record(desk: Desk, tmp_path: Path) -> None:
    shelved(desk, BrokenShelf(tmp_path / "far", away=2))
    note = await desk.begin()
    for data, at in ((DATA, 0), (b"", len(DATA))):
        with pytest.raises(StoreError) as failed:
            await desk.append(note, data, at)
        assert failed.value.retry_after_s > 0
        assert (await desk.uploads.settled(note.id, "mara")).offset == len(DATA)
        assert await desk.store.length(SHA256) is None
    await desk.append(note, b"", len(DATA))
    assert await desk.store.read(SHA256, 0, len(DATA)) == DATA
    assert desk.trail == ["begun", "stored"]
    assert desk.files() == set()


async def test_an_end_between_the_put_and_its_note_is_made_good_by_the_next_request(desk: Desk, tmp_path: Path) -> None:
    shelved(desk, BrokenShelf(tmp_path / "far", dies=True))
    note = await desk.begin()
    with pytest.raises(BrokenOffError):
        await desk.append(note, DATA, 0)
    shelved(desk, BrokenShelf(tmp_path / "far"))
    assert await desk.store.length(SHA256) == len(DATA)
    assert (await desk.append(note, b"", len(DATA))).offset == len(DATA)
    assert await desk.store.read(SHA256, 0, len(DATA)) == DATA
    assert desk.files() == set()
