"""Publishing over a real catalogue, store and delta worker: what comes in, what is refused, and that repeating is safe."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import update

from firmware.catalogue.publish import Repository
from firmware.delta.format import HEADER_BYTES, read_header
from firmware.errors import OtariaError, UnavailableError
from firmware.manifest import Image, Manifest, Requires, describe, encode_manifest
from firmware.protocol.topics import CATALOGUE
from server.artifacts import ArtifactStore
from server.campaigns.deltas import DeltaFactory
from server.campaigns.releases import ReleaseService, delta_sources
from server.cli import run
from server.ports import ReleaseRecord, Requirements
from server.storage.database import SqlDatabase
from server.storage.tables import RELEASE
from tests.people_side import NOW, SetClock, release
from tests.trail import everything, files_in, newest_record, trail_refusing

PROGRAM = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(20_000))


@dataclass(kw_only=True)
class Bench:
    """A release service on real parts, and the workshop where releases are signed."""

    service: ReleaseService
    database: SqlDatabase
    artifacts: ArtifactStore
    online: Repository
    workshop: Repository
    rings: list[int]

    def build(
        self,
        version: str,
        counter: int,
        data: bytes,
        *,
        stored: bool = True,
        requires: Requires | None = None,
        root: str = "root",
        **others: bytes,
    ) -> tuple[bytes, bytes]:
        """A signed release of these bytes: manifest and product metadata. `others`: images of more slot sets."""
        images = []
        for slot, content in {root: data, **others}.items():
            hasher = describe([content])
            shape = {"length": hasher.length, "sha256": hasher.sha256, "windows": hasher.windows}
            images.append(Image(slot=slot, path=f"releases/gateway/{version}/{slot}.img", **shape))
        manifest = encode_manifest(
            Manifest(
                product="gateway",
                version=version,
                counter=counter,
                hardware=["r1"],
                images=images,
                requires=requires,
            )
        )
        if stored:
            for content in (data, *others.values()):
                self.artifacts.add([content])
        return manifest, self.workshop.sign_release("gateway", manifest, now=NOW)

    async def publish(self, version: str, signed: tuple[bytes, bytes]) -> None:
        await self.service.publish(
            product="gateway", version=version, manifest=signed[0], metadata=signed[1], by="mara"
        )

    async def refused(self, version: str, signed: tuple[bytes, bytes]) -> str:
        """The kind with which it is refused; nothing may have changed."""
        before = (self.online.timestamp().version, await self._records())
        with pytest.raises(OtariaError) as caught:
            await self.publish(version, signed)
        assert (self.online.timestamp().version, await self._records()) == before
        return caught.value.kind

    async def _records(self) -> list[object]:
        return await self.database.read(lambda unit: [*unit.releases.list(), *unit.outbox.pending(100)])


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    assert run(["keys", "init", str(tmp_path / "workshop"), "--product", "gateway"]) == 0
    clock = SetClock(Repository.workspace(tmp_path / "workshop").timestamp().expires.timestamp() - 86400)
    database = SqlDatabase.open(f"sqlite:///{tmp_path / 'releases.db'}")
    artifacts, rings = ArtifactStore(tmp_path / "artifacts"), list[int]()
    keys = tmp_path / "workshop" / "keys" / "online"
    online = Repository(tmp_path / "workshop" / "metadata", online_keys=keys)
    service = ReleaseService(
        database=database,
        repository=online,
        artifacts=artifacts,
        factory=DeltaFactory(),
        clock=clock,
        on_outbox=lambda: rings.append(1),
    )
    yield Bench(
        service=service,
        database=database,
        artifacts=artifacts,
        online=online,
        workshop=Repository.workspace(tmp_path / "workshop"),
        rings=rings,
    )
    await database.close()


async def test_a_release_comes_into_the_catalogue_the_store_and_the_records_and_rings(bench: Bench) -> None:
    manifest, metadata = bench.build("1.0", 1, PROGRAM)
    await bench.publish("1.0", (manifest, metadata))
    record = await bench.database.read(lambda unit: unit.releases.get("gateway", "1.0"))
    listed = bench.online.files("releases/gateway/1.0/manifest.json")
    assert (listed.sha256, listed.length) == (record.manifest.sha256, record.manifest.length)
    assert bench.artifacts.find(record.manifest.sha256).read_bytes() == manifest
    waiting = await bench.database.read(lambda unit: unit.outbox.pending(10))
    assert [(item.topic, item.retain) for item in waiting] == [(CATALOGUE, True)]
    assert bench.rings


async def test_publishing_again_changes_nothing_also_with_later_releases_in_between(bench: Bench) -> None:
    first = bench.build("1.0", 1, PROGRAM)
    await bench.publish("1.0", first)
    await bench.publish("1.1", bench.build("1.1", 2, PROGRAM + b"!"))
    version = bench.online.timestamp().version
    await bench.publish("1.0", first)
    assert bench.online.timestamp().version == version
    assert len(await bench.database.read(lambda unit: unit.releases.list())) == 2
    assert len(await bench.database.read(lambda unit: unit.outbox.pending(10))) == 2


async def test_what_a_target_could_not_fetch_is_not_published(bench: Bench) -> None:
    signed = bench.build("1.0", 1, PROGRAM, stored=False)
    assert await bench.refused("1.0", signed) == "artifact-missing"
    bench.artifacts.add([PROGRAM])
    await bench.publish("1.0", signed)


async def test_a_manifest_that_nobody_signed_is_refused(bench: Bench) -> None:
    manifest, metadata = bench.build("1.0", 1, PROGRAM)
    forged = encode_manifest(msgspec.structs.replace(msgspec.json.decode(manifest, type=Manifest), floor=9))
    assert await bench.refused("1.0", (forged, metadata)) == "catalogue-mismatch"


async def test_metadata_whose_signature_is_broken_is_refused(bench: Bench) -> None:
    manifest, metadata = bench.build("1.0", 1, PROGRAM)
    value = msgspec.json.decode(metadata)
    value["signatures"][0]["sig"] = "00" * 64
    assert await bench.refused("1.0", (manifest, msgspec.json.encode(value))) == "catalogue-refused"
    assert await bench.refused("1.0", (manifest, b"{}")) == "catalogue-refused"
    assert await bench.refused("1.0", (manifest, b"\xff")) == "catalogue-refused"


async def test_a_manifest_of_another_release_or_with_other_windows_is_refused(bench: Bench) -> None:
    manifest, metadata = bench.build("1.0", 1, PROGRAM)
    assert await bench.refused("1.1", (manifest, metadata)) == "wrong-release"
    facts = msgspec.json.decode(manifest, type=Manifest)
    image = msgspec.structs.replace(facts.images[0], windows=["0" * 64])
    wrong = encode_manifest(msgspec.structs.replace(facts, images=[image]))
    assert await bench.refused("1.0", (wrong, metadata)) == "artifact-changed"
    assert await bench.refused("1.0", (b"not json", metadata)) == "malformed"


async def test_a_delta_is_made_stored_listed_and_rung_for_once(bench: Bench) -> None:
    await bench.publish("1.0", bench.build("1.0", 1, PROGRAM))
    changed = PROGRAM[:300_000] + b"changed" + PROGRAM[300_000:]
    await bench.publish("1.1", bench.build("1.1", 2, changed))
    made = await bench.service.make_deltas("gateway", "1.1")
    assert len(made) == 1
    file = made[0].file
    assert file.length < len(changed) / 10
    assert bench.online.files(file.path).sha256 == file.sha256
    assert bench.artifacts.find(file.sha256).stat().st_size == file.length
    assert list(bench.artifacts.incoming.iterdir()) == []
    version = bench.online.timestamp().version
    assert await bench.service.make_deltas("gateway", "1.1") == made
    assert bench.online.timestamp().version == version
    with pytest.raises(OtariaError):
        await bench.service.make_deltas("gateway", "9.9")


async def test_a_delta_that_would_save_too_little_is_noted_and_not_tried_again(bench: Bench) -> None:
    await bench.publish("1.0", bench.build("1.0", 1, PROGRAM))
    other = b"".join(hashlib.sha256(f"other {n}".encode()).digest() for n in range(20_000))
    await bench.publish("1.1", bench.build("1.1", 2, other))
    assert await bench.service.make_deltas("gateway", "1.1") == []
    assert await bench.service.make_deltas("gateway", "1.1") == []
    notes = [one for one in await bench.database.read(lambda unit: unit.audit.latest()) if "too little" in one.text]
    assert len(notes) == 1


async def test_a_disk_that_refuses_costs_the_delta_and_not_the_server(bench: Bench) -> None:
    await bench.publish("1.0", bench.build("1.0", 1, PROGRAM))
    await bench.publish("1.1", bench.build("1.1", 2, PROGRAM + b"changed"))
    bench.artifacts.incoming.rmdir()
    with pytest.raises(UnavailableError) as caught:
        await bench.service.make_deltas("gateway", "1.1")
    assert caught.value.kind == "storage-fault"
    running = asyncio.create_task(bench.service.run())
    done, _ = await asyncio.wait({running}, timeout=0.5)
    assert not done
    bench.artifacts.incoming.mkdir()
    assert len(await bench.service.make_deltas("gateway", "1.1")) == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_disk_that_refuses_a_release_is_told_in_words(bench: Bench) -> None:
    signed = bench.build("1.0", 1, PROGRAM)
    bench.artifacts.incoming.rmdir()
    assert await bench.refused("1.0", signed) == "storage-fault"
    bench.artifacts.incoming.mkdir()
    await bench.publish("1.0", signed)


async def test_a_delta_that_the_catalogue_has_and_the_database_forgot_is_taken_up_as_it_is(bench: Bench) -> None:
    old, new = bench.build("1.0", 1, PROGRAM), bench.build("1.1", 2, PROGRAM + b"changed")
    await bench.publish("1.0", old)
    await bench.publish("1.1", new)
    sha256, length = bench.artifacts.add([b"as an earlier version of the delta maker wrote it"])
    images = [msgspec.json.decode(manifest, type=Manifest).images[0].sha256[:16] for manifest, _ in (old, new)]
    path = f"deltas/{images[0]}-{images[1]}.otd"
    bench.online.add_delta(path, length=length, sha256=sha256, now=NOW)
    version = bench.online.timestamp().version
    (made,) = await bench.service.make_deltas("gateway", "1.1")
    assert (made.file.path, made.file.length, made.file.sha256) == (path, length, sha256)
    assert bench.online.timestamp().version == version


async def test_what_a_manifest_requires_is_in_the_record(bench: Bench) -> None:
    await bench.publish("1.0", bench.build("1.0", 1, PROGRAM))
    asks = Requires(min_counter=1, through=[1])
    await bench.publish("1.1", bench.build("1.1", 2, PROGRAM + b"!", requires=asks))
    records = await bench.database.read(lambda unit: unit.releases.list())
    assert [record.requires for record in records] == [Requirements(), Requirements(min_counter=1, through=(1,))]


async def test_what_older_records_lack_is_read_from_their_manifests(bench: Bench) -> None:
    await bench.publish("1.1", bench.build("1.1", 2, PROGRAM, requires=Requires(through=[1])))
    forget = update(RELEASE).values(requires=None)
    await bench.database.write(lambda unit: unit.releases._db.execute(forget))
    running = asyncio.create_task(bench.service.run())
    for _ in range(1000):
        if (await _record(bench, "1.1")).requires is not None:
            break
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await _record(bench, "1.1")).requires == Requirements(through=(1,))


async def test_a_release_that_the_trail_does_not_take_is_in_no_catalogue(bench: Bench, tmp_path: Path) -> None:
    signed = bench.build("1.0", 1, PROGRAM)
    files = lambda: files_in(tmp_path / "artifacts", tmp_path / "workshop" / "metadata")  # noqa: E731
    before, rows, newest = files(), await everything(bench.database), await newest_record(bench.database)
    async with trail_refusing(bench.database):
        with pytest.raises(OtariaError):
            await bench.publish("1.0", signed)
    assert (files(), await everything(bench.database)) == (before, rows)
    await bench.publish("1.0", signed)
    assert await newest_record(bench.database) > newest


async def test_a_delta_that_the_trail_does_not_take_is_in_no_catalogue(bench: Bench, tmp_path: Path) -> None:
    await bench.publish("1.0", bench.build("1.0", 1, PROGRAM))
    await bench.publish("1.1", bench.build("1.1", 2, PROGRAM + b"!"))
    files = lambda: files_in(tmp_path / "artifacts", tmp_path / "workshop" / "metadata")  # noqa: E731
    before, rows, newest = files(), await everything(bench.database), await newest_record(bench.database)
    async with trail_refusing(bench.database):
        with pytest.raises(OtariaError):
            await bench.service.make_deltas("gateway", "1.1")
    assert (files(), await everything(bench.database)) == (before, rows)
    (delta,) = await bench.service.make_deltas("gateway", "1.1")
    assert bench.online.files(delta.file.path) is not None
    said = await bench.database.read(lambda unit: unit.audit.page(after=newest))
    assert [record.kind for record in said] == ["delta-offered", "delta-made"]


async def _record(bench: Bench, version: str) -> ReleaseRecord:
    record = await bench.database.read(lambda unit: unit.releases.get("gateway", version))
    assert record is not None
    return record


async def test_a_delta_is_made_once_and_says_what_memory_it_asks_for(bench: Bench) -> None:
    await bench.publish("1.0", bench.build("1.0", 1, PROGRAM))
    await bench.publish("1.1", bench.build("1.1", 2, PROGRAM + b"changed"))
    old, new = await _record(bench, "1.0"), await _record(bench, "1.1")
    assert await bench.service.make_delta(old, new, "root") == ""
    version = bench.online.timestamp().version
    assert await bench.service.make_delta(old, new, "root") == ""
    assert bench.online.timestamp().version == version
    (delta,) = await bench.database.read(lambda unit: unit.releases.deltas())
    header = read_header(bench.artifacts.find(delta.file.sha256).read_bytes()[:HEADER_BYTES])
    assert delta.memory_bytes == 1 << header.window_log


async def test_of_a_damaged_image_no_delta_is_made_until_it_is_whole_again(bench: Bench) -> None:
    await bench.publish("1.0", bench.build("1.0", 1, PROGRAM))
    await bench.publish("1.1", bench.build("1.1", 2, PROGRAM + b"changed"))
    old, new = await _record(bench, "1.0"), await _record(bench, "1.1")
    stored = bench.artifacts.find(old.sha256)
    stored.chmod(0o600)
    stored.write_bytes(PROGRAM[:-1] + b"?")
    assert "damaged" in await bench.service.make_delta(old, new, "root")
    assert await bench.database.read(lambda unit: unit.releases.deltas()) == []
    stored.unlink()
    assert await bench.service.make_delta(old, new, "root") == "The image of 1.0 is not here."
    bench.artifacts.add([PROGRAM])
    assert await bench.service.make_delta(old, new, "root") == ""


def test_deltas_start_from_what_the_fleet_runs_and_from_the_release_before() -> None:
    releases = [release(f"1.{number}", number) for number in range(5)]
    foreign = replace(release("1.1", 1), product="other")
    runs = {releases[0].sha256: 50, releases[4].sha256: 9, releases[1].sha256: 60}
    sources = delta_sources(releases[3], [*releases, foreign], runs)
    assert [(one.product, one.version) for one in sources] == [
        ("gateway", "1.1"),
        ("gateway", "1.0"),
        ("gateway", "1.2"),
    ]
