"""Encrypted releases from the maker's command line into a real catalogue, store and delta worker, and out again."""

import copy
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from firmware.catalogue.publish import Repository
from firmware.delta.apply import apply_delta
from firmware.delta.format import DeltaEnds
from firmware.encryption.chunked import Decryption
from firmware.encryption.content_key import ContentKey
from firmware.encryption.layout import plain_length
from firmware.errors import OtariaError, RefusedError
from firmware.manifest import parse_manifest
from firmware.protocol.codec import canonical
from server.artifacts import ArtifactStore
from server.campaigns.deltas import DeltaFactory
from server.campaigns.private_deltas import Opener, Secrets
from server.campaigns.release_keys import ReleaseKeys
from server.campaigns.releases import ReleaseService
from server.cli import run
from server.ports import DeltaRecord, ReleaseRecord
from server.storage.database import SqlDatabase
from tests.people_side import SetClock

OLD = Random(1).randbytes(700_000)
NEW = OLD[:300_000] + b"a secret that came with the new release" + OLD[300_000:]


@dataclass(kw_only=True)
class Bench:
    """A release service on real parts, and the maker's workshop."""

    folder: Path
    service: ReleaseService
    database: SqlDatabase
    artifacts: ArtifactStore
    keys: ReleaseKeys
    online: Repository

    async def build(
        self,
        version: str,
        counter: int,
        data: bytes,
        *,
        encrypted: bool = True,
        spoil: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Path:
        """What the maker does, with the real commands and without the server."""
        image, key, out = self.folder / "pump.img", self.folder / "server.key", self.folder / version
        image.write_bytes(data)
        key.write_text(await self.service.release_key() + "\n")
        arguments = ["release", "build", "--product", "pump", "--version", version, "--counter", str(counter)]
        arguments += ["--hardware", "pump-a", "--image", str(image), "-o", str(out)]
        assert run([*arguments, *(["--encrypt-to", str(key)] if encrypted else [])]) == 0
        manifest = json.loads((out / "manifest.json").read_bytes())
        spoil(manifest)
        (out / "manifest.json").write_bytes(canonical(manifest))
        assert run(["release", "sign", str(out), "--repository", str(self.folder / "workshop")]) == 0
        return out

    async def publish(self, built: Path, content_key: bytes | None = None, *, upload: bool = True) -> ReleaseRecord:
        """What `otaria release publish` hands in."""
        manifest = (built / "manifest.json").read_bytes()
        facts = parse_manifest(manifest)
        file = built / "content-key.bin"
        if upload:
            self.artifacts.add_file(built / Path((facts.encryption_of(facts.images[0]) or facts.images[0]).path).name)
        return await self.service.publish(
            product="pump",
            version=facts.version,
            manifest=manifest,
            metadata=Repository.workspace(self.folder / "workshop").signed_release("pump", manifest),
            by="mara",
            content_key=content_key if content_key is not None else file.read_bytes() if file.exists() else None,
        )

    async def refused(self, built: Path, content_key: bytes | None = None) -> str:
        with pytest.raises(OtariaError) as caught:
            await self.publish(built, content_key)
        assert await self.database.read(lambda unit: unit.releases.list()) == []
        return caught.value.kind

    async def key_of(self, version: str) -> ContentKey:
        release, wrapped = await self.database.read(
            lambda unit: (unit.releases.get("pump", version), unit.releases.content_key("pump", version))
        )
        return self.keys.open(release, wrapped)

    def stored(self) -> list[bytes]:
        """Every file of the store, those in the making too."""
        return [path.read_bytes() for path in self.artifacts.incoming.parent.rglob("*") if path.is_file()]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    assert run(["keys", "init", str(tmp_path / "workshop"), "--product", "pump"]) == 0
    clock = SetClock(Repository.workspace(tmp_path / "workshop").timestamp().expires.timestamp() - 86400)
    database = SqlDatabase.open(f"sqlite:///{tmp_path / 'releases.db'}")
    artifacts, online_keys = ArtifactStore(tmp_path / "artifacts"), tmp_path / "workshop" / "keys" / "online"
    keys = ReleaseKeys(online_keys)
    online = Repository(tmp_path / "workshop" / "metadata", online_keys=online_keys)
    service = ReleaseService(
        database=database,
        repository=online,
        artifacts=artifacts,
        factory=DeltaFactory(),
        release_keys=keys,
        clock=clock,
    )
    yield Bench(folder=tmp_path, service=service, database=database, artifacts=artifacts, keys=keys, online=online)
    await database.close()


def shares_bytes(file: bytes, plain: bytes) -> bool:
    """Whether any 32 bytes of the plain image (at every 997th place, and its secret) occur in the file."""
    places = [*range(0, len(plain) - 32, 997), max(0, plain.find(b"a secret"))]
    return any(plain[at : at + 32] in file for at in places)


async def test_the_maker_writes_the_image_encrypted_only_and_no_key(bench: Bench) -> None:
    built = await bench.build("1.0", 1, NEW)
    assert sorted(path.name for path in built.iterdir()) == ["content-key.bin", "manifest.json", "pump.img.enc"]
    files = [path.read_bytes() for path in built.iterdir()]
    assert not any(shares_bytes(file, NEW) for file in files)
    await bench.publish(built)
    key = (await bench.key_of("1.0")).reveal()
    assert not any(form in file for file in files for form in (key, key.hex().encode()))


async def test_only_the_encrypted_file_comes_into_catalogue_and_store(bench: Bench) -> None:
    built = await bench.build("1.0", 1, NEW)
    record = await bench.publish(built)
    facts = parse_manifest((built / "manifest.json").read_bytes())
    (encrypted,) = facts.encrypted
    assert facts.crit == ["encrypted"]
    assert bench.online.files("releases/pump/1.0/pump.img") is None
    listed = bench.online.files("releases/pump/1.0/pump.img.enc")
    assert (listed.length, listed.sha256) == (encrypted.length, encrypted.sha256)
    (image,) = record.images
    assert image.encrypted is not None
    assert image.encrypted.file.sha256 == encrypted.sha256
    assert record.sha256 == facts.images[0].sha256
    data = bench.artifacts.find(encrypted.sha256).read_bytes()
    opened = Decryption(await bench.key_of("1.0"), encrypted.salt, len(NEW)).decrypt([data])
    assert b"".join(opened) == NEW, "other bytes"
    assert not any(shares_bytes(file, NEW) for file in bench.stored())
    assert await bench.publish(built) == record


async def test_a_release_without_its_key_or_with_anothers_is_refused(bench: Bench) -> None:
    built, other = await bench.build("1.0", 1, NEW), await bench.build("1.1", 2, NEW)
    key = (built / "content-key.bin").read_bytes()
    assert await bench.refused(built, (other / "content-key.bin").read_bytes()) == "cannot-decrypt"
    assert await bench.refused(built, key[:-1]) == "cannot-decrypt"
    (built / "content-key.bin").unlink()
    assert await bench.refused(built) == "content-key-missing"
    await bench.publish(built, key)


async def test_a_file_that_does_not_decrypt_to_the_manifests_image_is_refused(bench: Bench) -> None:
    """Signed as it is: the maker's own tools are at fault, or somebody between them and the signature."""

    def spoil(manifest: dict[str, Any]) -> None:
        manifest["images"][0]["windows"] = ["0" * 64]

    assert await bench.refused(await bench.build("1.0", 1, NEW, spoil=spoil)) == "artifact-changed"


async def test_a_manifest_that_contradicts_itself_about_encryption_is_refused(bench: Bench) -> None:
    def not_critical(manifest: dict[str, Any]) -> None:
        manifest["crit"] = []

    def longer(manifest: dict[str, Any]) -> None:
        manifest["encrypted"][0]["length"] += 1

    def of_nothing(manifest: dict[str, Any]) -> None:
        manifest["encrypted"][0]["image"] += "x"

    def twice(manifest: dict[str, Any]) -> None:
        manifest["encrypted"] *= 2

    def in_its_place(manifest: dict[str, Any]) -> None:
        manifest["encrypted"][0]["path"] = manifest["images"][0]["path"]

    built = await bench.build("1.0", 1, NEW)
    good = json.loads((built / "manifest.json").read_bytes())
    for spoil in (not_critical, longer, of_nothing, twice, in_its_place):
        bad = copy.deepcopy(good)
        spoil(bad)
        with pytest.raises(RefusedError) as caught:
            parse_manifest(json.dumps(bad).encode())
        assert caught.value.kind == "malformed"
    good["encrypted"][0]["cipher"] = "later"
    with pytest.raises(RefusedError) as caught:
        parse_manifest(json.dumps(good).encode())
    assert caught.value.kind == "not-understood"


async def test_building_again_shares_no_key(bench: Bench) -> None:
    first, second = await bench.build("1.0", 1, NEW), await bench.build("1.1", 2, NEW)
    one, other = (parse_manifest((path / "manifest.json").read_bytes()).encrypted[0] for path in (first, second))
    assert len({one.salt, other.salt, one.key_check, other.key_check, one.sha256, other.sha256}) == 6


def test_a_changed_file_is_not_signed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = ReleaseKeys(tmp_path)
    (tmp_path / "server.key").write_text(key.public())
    (tmp_path / "pump.img").write_bytes(NEW)
    assert run(["keys", "init", str(tmp_path / "workshop"), "--product", "pump"]) == 0
    arguments = ["release", "build", "--product", "pump", "--version", "1.0", "--counter", "1", "--hardware", "pump-a"]
    arguments += ["--image", str(tmp_path / "pump.img"), "--encrypt-to", str(tmp_path / "server.key")]
    assert run([*arguments, "-o", str(tmp_path / "1.0")]) == 0
    with (tmp_path / "1.0" / "pump.img.enc").open("r+b") as file:
        file.write(b"\0\0\0\0")
    assert run(["release", "sign", str(tmp_path / "1.0"), "--repository", str(tmp_path / "workshop")]) == 1
    assert "image-changed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "not a key", "A" * 44, "-----BEGIN PUBLIC KEY-----\n"])
def test_a_file_that_is_no_release_key_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "server.key").write_text(text)
    (tmp_path / "pump.img").write_bytes(NEW)
    arguments = ["release", "build", "--product", "pump", "--version", "1.0", "--counter", "1", "--hardware", "pump-a"]
    arguments += ["--image", str(tmp_path / "pump.img"), "--encrypt-to", str(tmp_path / "server.key")]
    assert run([*arguments, "-o", str(tmp_path / "1.0")]) == 1
    assert "bad-encryption-key" in capsys.readouterr().err
    assert not (tmp_path / "1.0").exists()


# Deltas


async def test_a_delta_between_encrypted_releases_is_encrypted_too(bench: Bench) -> None:
    await bench.publish(await bench.build("1.0", 1, OLD))
    await bench.publish(await bench.build("1.1", 2, NEW))
    (delta,) = await bench.service.make_deltas("pump", "1.1")
    assert_delta(bench, delta, await bench.key_of("1.1"))
    assert await bench.service.make_deltas("pump", "1.1") == [delta]
    assert not any(shares_bytes(file, plain) for file in bench.stored() for plain in (OLD, NEW))


async def test_a_delta_from_a_plain_to_an_encrypted_release_is_encrypted(bench: Bench) -> None:
    await bench.publish(await bench.build("1.0", 1, OLD, encrypted=False))
    await bench.publish(await bench.build("1.1", 2, NEW))
    (delta,) = await bench.service.make_deltas("pump", "1.1")
    assert_delta(bench, delta, await bench.key_of("1.1"))


async def test_no_delta_leads_from_an_encrypted_to_a_plain_release(bench: Bench) -> None:
    await bench.publish(await bench.build("1.0", 1, OLD))
    await bench.publish(await bench.build("1.1", 2, NEW, encrypted=False))
    assert await bench.service.make_deltas("pump", "1.1") == []
    lines = await bench.database.read(lambda unit: unit.audit.latest())
    assert {line.kind for line in lines} == {"release-offered", "release-published"}, "a delta was tried"


def assert_delta(bench: Bench, delta: DeltaRecord, key: ContentKey) -> None:
    """It is listed, stored encrypted under a salt of its own, and makes the new image of the old one."""
    data = bench.artifacts.find(delta.file.sha256).read_bytes()
    assert delta.salt is not None
    assert re.fullmatch(r"deltas/[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]{16}\.otd\.enc", delta.file.path)
    assert bench.online.files(delta.file.path).sha256 == delta.file.sha256
    assert len(data) == delta.file.length < len(NEW) // 10
    assert b"a secret" not in data
    patch = Decryption(key, delta.salt, plain_length(len(data))).decrypt([data])
    ends = DeltaEnds(
        source_length=len(OLD),
        source_sha256=delta.source_sha256,
        output_length=len(NEW),
        output_sha256=delta.target_sha256,
    )
    made = b"".join(apply_delta(patch, lambda at, size: OLD[at : at + size], expect=ends))
    assert made == NEW, "other bytes"
    assert list(bench.artifacts.incoming.iterdir()) == []


async def test_a_wrong_key_costs_the_delta_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    await bench.publish(await bench.build("1.0", 1, OLD))
    release = await bench.database.read(lambda unit: unit.releases.get("pump", "1.0"))
    path = bench.artifacts.find(release.images[0].encrypted.file.sha256)
    wrong = Opener(key="00" * 32, salt=release.images[0].encrypted.salt, length=len(OLD))
    folder = tmp_path / "making"
    folder.mkdir()
    with pytest.raises(OtariaError) as caught:
        await DeltaFactory().make_encrypted(path, path, folder / "out", Secrets(source=wrong, target=wrong))
    assert caught.value.kind == "delta-failed"
    assert list(folder.iterdir()) == []
    assert "00" * 32 not in repr(wrong)
