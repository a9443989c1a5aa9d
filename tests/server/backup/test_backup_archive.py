"""Backups as files: whole, of a server that is written to, and never half restored."""

import asyncio
import io
import json
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from firmware.catalogue.publish import Repository
from firmware.errors import RefusedError
from firmware.protocol.envelope import open_envelope, seal
from server.artifacts import ArtifactStore
from server.audit.checkpoint import FIRST, KIND, MAX_BYTES, Checkpoint
from server.audit.checkpoint import Place as Head
from server.audit.keeper import Keeper
from server.backup.archive import MANIFEST
from server.backup.making import make_backup
from server.backup.restoring import ENDING, LEAST_LEAP, Restored, restore
from server.cli import run
from server.config import Settings, load_settings
from server.foundation import CHECKPOINT, EPOCH_FILE, LeastEpoch, refuse_low_epoch, say_restored
from server.identity.authority import Authorities
from server.identity.private_files import write_private
from server.ports import Unit
from server.shelves.files import FileShelf
from server.shelves.opening import open_shelf
from server.shelves.s3 import S3Shelf
from server.storage.database import SqlDatabase
from tests.identity_store import SettableClock
from tests.s3_store import Store

NOW = 1_800_000_000.0
T = TypeVar("T")
PIECES = (b"one artifact", b"another")


@dataclass
class Place:
    """A server's directories, without the server."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "otaria.toml"

    @property
    def settings(self) -> Settings:
        return load_settings(self.config)

    def backup(self, *, artifacts: bool = False) -> bytes:
        out = io.BytesIO()
        make_backup(out, self.settings, self.config, artifacts=artifacts, now=NOW)
        return out.getvalue()

    def lose(self, *names: str) -> None:
        for name in names:
            shutil.rmtree(self.root / name)

    def restore(self, data: bytes, now: float = NOW + 100, checkpoint: bytes | None = None) -> Restored:
        return restore(io.BytesIO(data), self.settings, now=now, checkpoint=checkpoint)

    def do(self, work: Callable[[Unit], T]) -> T:
        """In one transaction."""

        async def run() -> T:
            database = SqlDatabase.open(f"sqlite:///{self.settings.state}/otaria.db")
            done = await database.write(work)
            await database.close()
            return done

        return asyncio.run(run())

    def lines(self) -> list[str]:
        return self.do(lambda unit: [line.kind for line in unit.audit.page()])

    def say(self, *kinds: str) -> None:
        for kind in kinds:
            self.do(lambda unit, kind=kind: unit.audit.add(at=NOW, kind=kind, text=kind))

    def everything(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    (root / "otaria.toml").write_text(
        '[catalogue]\nrepository = "acme/metadata"\nonline_keys = "acme/keys/online"\n[webhooks]\nca_file = "ca.pem"\n'
    )
    assert run(["keys", "init", str(root / "acme"), "--product", "pump", "--json"]) == 0
    state = root / "state"
    Authorities.open_or_create(state / "identity")
    store = ArtifactStore(state / "artifacts")
    for piece in PIECES:
        asyncio.run(store.receive(_stream(piece), _sha256(piece), max_bytes=1 << 20))
    write_private(state / "admin.token", b"otp1_x\n")
    (state / "run.json").write_text("{}")
    (state / "broker").mkdir()
    (state / "broker" / "ports.json").write_text('{"agents": 1, "services": 2}')
    (state / "broker" / "broker.log").write_text("noise")
    place = Place(root)
    place.say("one", "two")
    place.do(lambda unit: unit.outbox.add("otaria/v1/x", b"an order of then", retain=True))
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Place:
    shutil.copytree(made, tmp_path / "server")
    return Place(tmp_path / "server")


async def _stream(piece: bytes) -> "Iterator[bytes]":
    yield piece


def _sha256(piece: bytes) -> str:
    import hashlib

    return hashlib.sha256(piece).hexdigest()


def test_a_server_that_lost_everything_is_what_it_was(place: Place) -> None:
    before = place.everything()
    data = place.backup(artifacts=True)
    assert place.everything() == before, "a backup leaves nothing behind"
    for name, content in before.items():
        if b"PRIVATE KEY" in content and "offline" in name:
            assert content not in data, "offline keys are no part of a server"
    place.lose("state", "acme")
    done = place.restore(data)
    after = place.everything()
    same = {name for name in before if name.startswith(("state/identity", "state/artifacts", "acme/keys/online"))}
    same = {name for name in same if not name.endswith("/.lock")} | {"state/admin.token", "state/broker/ports.json"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert {"state/run.json", "state/broker/broker.log"} & set(after) == set()
    assert place.lines() == ["one", "two", "server-restored"]
    assert place.do(lambda unit: unit.outbox.pending(9)) == [], "what waited to be sent then is not sent now"
    assert (done.kept_catalogue, done.missing, done.epoch, done.epoch_wanted) == (False, (), 1, 2)
    modes = {path.stat().st_mode & 0o077 for path in (place.root / "state").rglob("*") if path.is_file()}
    assert modes == {0}
    assert not list(place.root.rglob(f"*{ENDING}"))


def test_a_restored_catalogue_is_ahead_of_whatever_was_signed_since(place: Place) -> None:
    data = place.backup()
    before = Repository(place.settings.repository, online_keys=place.settings.online_keys)
    versions = before.timestamp().version, before.snapshot().version, before.targets("deltas").version
    place.lose("acme", "state")
    place.restore(data, now=NOW + 500)
    after = Repository(place.settings.repository, online_keys=place.settings.online_keys)
    leapt = after.timestamp().version, after.snapshot().version, after.targets("deltas").version
    assert all(new - old >= LEAST_LEAP + 500 for old, new in zip(versions, leapt, strict=True))
    signed = Metadata.from_file(str(place.settings.repository / f"{leapt[1]}.snapshot.json"))
    after.root().verify_delegate("snapshot", signed.signed_bytes, signed.signatures)
    assert after.snapshot().meta["deltas.json"].version == leapt[2]
    assert after.renew(NOW + 501) == [], "they are as fresh as any"


def test_a_newer_catalogue_is_kept_and_an_older_one_is_refused(place: Place) -> None:
    old = place.backup()
    place.lose("state")
    assert run(["keys", "raise-epoch", "--repository", str(place.root / "acme"), "--yes", "--json"]) == 0
    newer = place.everything()
    done = place.restore(old)
    assert (done.kept_catalogue, done.epoch, done.epoch_wanted) == (True, 2, 3)
    after = place.everything()
    assert {name: after[name] for name in newer if name.startswith("acme")} == {
        name: newer[name] for name in newer if name.startswith("acme")
    }
    new = place.backup()
    place.lose("state", "acme")
    place.restore(old)  # as if somebody had put the older one back first
    place.lose("state")
    with tarfile.open(fileobj=io.BytesIO(old), mode="r|") as tar:
        (content,) = [tar.extractfile(one).read() for one in tar if one.name == "metadata/timestamp.json"]  # type: ignore[union-attr]
    (place.settings.repository / "timestamp.json").write_bytes(content)
    with pytest.raises(RefusedError) as refused:
        place.restore(new)
    assert refused.value.kind == "catalogue-older"
    assert not place.settings.state.exists()


def test_the_server_waits_for_the_director_epoch_and_forgets_that_once_it_has_risen(place: Place) -> None:
    data = place.backup()
    place.lose("state")
    place.restore(data)
    settings = place.settings
    repository = Repository(settings.repository, online_keys=settings.online_keys)
    with pytest.raises(RefusedError, match="raise-epoch") as refused:
        refuse_low_epoch(settings, repository)
    assert refused.value.kind == "director-epoch-behind"
    assert run(["keys", "raise-epoch", "--repository", str(place.root / "acme"), "--yes", "--json"]) == 0
    repository = Repository(settings.repository, online_keys=settings.online_keys)
    assert repository.director_epoch() == 2
    assert refuse_low_epoch(settings, repository) == LeastEpoch(least=2), "SQLite's database was told by the restore"
    (settings.state / EPOCH_FILE).unlink()
    assert refuse_low_epoch(settings, repository) is None


async def test_a_database_that_others_restored_is_told_once_by_the_server(place: Place) -> None:
    database = SqlDatabase.open(f"sqlite:///{place.settings.state}/otaria.db")
    for wanted in (LeastEpoch(least=2, made_at=int(NOW)), None, LeastEpoch(least=2)):
        (place.settings.state / EPOCH_FILE).write_text("{}")
        await say_restored(place.settings, wanted, database, NOW + 5)
        assert not (place.settings.state / EPOCH_FILE).exists()
    lines = await database.read(lambda unit: unit.audit.page())
    assert [(line.kind, line.at) for line in lines][2:] == [("server-restored", NOW + 5)]
    await database.close()


def test_the_trail_says_where_it_ended_in_the_backup_and_a_kept_checkpoint_is_compared(place: Place) -> None:
    heads = place.do(lambda unit: unit.audit.heads())
    data = place.backup()
    place.lose("state")
    with pytest.raises(RefusedError):
        place.restore(data, checkpoint=b"not one")
    assert not place.settings.state.exists()
    checkpoint = Checkpoint(number=9, at=int(NOW), previous=FIRST, heads={"planner": Head(number=7, hash="a" * 64)})
    signer = CryptoSigner.generate_ecdsa()
    envelope = seal(checkpoint, KIND, signer)
    place.restore(data, checkpoint=envelope)
    assert (place.settings.state / CHECKPOINT).read_bytes() == envelope
    record = place.do(lambda unit: unit.audit.latest(limit=1)[0])
    assert record.kind == "server-restored"
    assert record.data["heads"] == {
        name: {"number": head.number, "hash": head.hash} for name, head in heads.items() if head.number
    }
    assert record.data["checkpoint"] is None

    async def sign() -> None:
        database = SqlDatabase.open(f"sqlite:///{place.settings.state}/otaria.db")
        clock = SettableClock(NOW + 200)
        stored = await Keeper(database, clock, signer, place.settings.state / CHECKPOINT).sign()
        assert stored is not None
        keys = {signer.public_key.keyid: signer.public_key}
        lost = open_envelope(stored.envelope, KIND, Checkpoint, keys, max_bytes=MAX_BYTES).message.lost
        assert lost is not None
        assert lost.number == 9
        await database.close()

    asyncio.run(sign())
    assert place.lines()[-1] == "audit-went-back"


def test_nothing_is_written_over(place: Place) -> None:
    data = place.backup()
    with pytest.raises(RefusedError) as refused:
        place.restore(data)
    assert refused.value.kind == "state-not-empty"
    place.lose("state")
    key = sorted(place.settings.online_keys.glob("*.pem"))[0]
    key.write_bytes(key.read_bytes()[:-3] + b"\n")
    before = place.everything()
    with pytest.raises(RefusedError) as refused:
        place.restore(data)
    assert refused.value.kind == "other-keys"
    assert place.everything() == before


def _cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def _flip(data: bytes) -> bytes:
    at = data.index(b"SQLite format 3") + 5000
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _rebuilt(change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Callable[[bytes], bytes]:
    def rebuild(data: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            parts = [(one, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
        change(parts)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for info, body in parts:
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
        return out.getvalue()

    return rebuild


def _more(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    parts.append((tarfile.TarInfo("state/identity/more.pem"), b"x"))


def _fewer(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    parts.pop()


def _linked(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info, _ = parts[3]
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    parts[3] = (info, b"")


def _renamed(wanted: str) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def rename(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        manifest = json.loads(parts[0][1])
        info, body = parts[1]
        manifest["members"][0]["name"] = info.name = wanted
        parts[0] = (parts[0][0], json.dumps(manifest).encode())
        parts[1] = (info, body)

    return rename


def _torn_database(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """With hashes that fit: made of a file that was torn already."""
    manifest = json.loads(parts[0][1])
    for index, (info, body) in enumerate(parts):
        if info.name == "state/otaria.db":
            torn = body[:8192] + b"\xff" * (len(body) - 8192)
            parts[index] = (info, torn)
            (entry,) = [one for one in manifest["members"] if one["name"] == info.name]
            entry["sha256"] = _sha256(torn)
    parts[0] = (parts[0][0], json.dumps(manifest).encode())


@pytest.mark.parametrize(
    "spoil",
    [
        _cut,
        _flip,
        lambda data: b"",
        lambda data: b"\0" * 10240,
        lambda data: b"nothing like it" * 100,
        _rebuilt(_more),
        _rebuilt(_fewer),
        _rebuilt(_linked),
        _rebuilt(lambda parts: parts.reverse()),
        _rebuilt(_renamed("state/../../outside")),
        _rebuilt(_renamed("/etc/outside")),
        _rebuilt(_renamed("state/otaria.db")),
        _rebuilt(_renamed("elsewhere/file")),
        _rebuilt(_renamed("state//x")),
        _rebuilt(_renamed("state")),
        _rebuilt(_torn_database),
    ],
)
def test_security_a_backup_that_is_not_whole_restores_nothing(place: Place, spoil: Callable[[bytes], bytes]) -> None:
    data = spoil(place.backup())
    place.lose("state", "acme")
    before = place.everything()
    with pytest.raises(RefusedError) as refused:
        place.restore(data)
    assert refused.value.kind in ("backup-damaged", "database-damaged")
    assert place.everything() == before
    assert not place.settings.state.exists()
    assert not (place.root.parent / "outside").exists()


def test_a_backup_of_a_server_that_writes_is_one_moment_of_it(place: Place) -> None:
    """Each transaction adds two lines: no copy has one of them."""
    path, over = place.settings.state / "otaria.db", threading.Event()

    def write() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        insert = (
            "INSERT INTO audit (at, kind, text, actor, data, partition, number, previous, hash) "
            "VALUES (1, 'x', '', '', '{}', 'x', ?, x'', x'')"
        )
        numbers = count(1)
        while not over.is_set():
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(insert, (next(numbers),))
            connection.execute(insert, (next(numbers),))
            connection.execute("COMMIT")
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [place.backup() for _ in range(3)]
    finally:
        over.set()
        writer.join()
    counts = []
    for data in copies:
        place.lose("state")
        place.restore(data)
        counts.append(len([kind for kind in place.lines() if kind == "x"]))
    assert counts == sorted(counts)
    assert counts[-1] > 0
    assert all(count % 2 == 0 for count in counts)


def test_keys_below_the_state_directory_come_with_it(place: Place) -> None:
    shutil.move(place.root / "acme/keys/online", place.root / "state/online")
    shutil.move(place.root / "acme/metadata", place.root / "state/metadata")
    place.config.write_text('[catalogue]\nrepository = "state/metadata"\nonline_keys = "state/online"\n')
    data = place.backup()
    place.lose("state")
    place.restore(data)
    Repository(place.settings.repository, online_keys=place.settings.online_keys).director_signer()
    assert place.lines()[-1] == "server-restored"


def test_backup_and_restore_as_typed(place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, config = tmp_path / "monday.tar", str(place.config)
    assert run(["backup", str(file), "--config", config]) == 0
    said = capsys.readouterr().out
    assert "is not encrypted" in said
    assert "2 artifacts are listed, not included" in said
    assert "Not included" in said
    assert "ca.pem" in said
    assert file.stat().st_mode & 0o777 == 0o600
    assert run(["backup", str(file), "--config", config]) == 1, "a backup is never written over"
    place.lose("state", "acme")
    place.config.unlink()
    capsys.readouterr()
    assert run(["restore", str(file), "--config", config]) == 0
    said = capsys.readouterr().out
    assert "must rise from 1 to 2" in said
    assert "2 artifacts are missing" in said
    assert place.config.is_file()
    assert run(["restore", str(file), "--config", config, "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"] == "state-not-empty"
    with tarfile.open(file) as tar:
        assert tar.getnames()[0] == MANIFEST


def test_a_database_elsewhere_is_not_in_the_archive(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    text = place.config.read_text() + '[storage]\nurl = "postgresql://otaria@db.example.org/otaria"\n'
    place.config.write_text(text)
    assert run(["backup", str(place.root / "x.tar"), "--config", str(place.config)]) == 0
    assert "pg_dump" in capsys.readouterr().out
    with tarfile.open(place.root / "x.tar") as tar:
        assert "state/otaria.db" not in tar.getnames()
    place.lose("state")
    assert run(["restore", str(place.root / "x.tar"), "--config", str(place.config)]) == 0
    assert "pg_restore" in capsys.readouterr().out


@pytest.fixture
def in_bucket(place: Place, s3_store: Store) -> S3Shelf:
    """The server's artifacts are in a bucket."""
    settings = s3_store.settings(s3_store.make_bucket())
    names = ("store", "endpoint", "bucket", "region", "prefix")
    lines = [f'{name} = "{getattr(settings, name)}"\n' for name in names]
    text = "".join(["[artifacts]\n", *lines, f'credentials_file = "{settings.credentials_file}"\n'])
    place.config.write_text(place.config.read_text() + text)
    with closing(open_shelf(place.settings)) as shelf:
        shelf.tidy(0.0)
    return S3Shelf(settings)


def test_artifacts_in_a_bucket_are_listed_and_looked_for(
    place: Place, in_bucket: S3Shelf, s3_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(FileShelf(place.settings.state / "artifacts").listed()) == []
    file, config = place.root / "x.tar", str(place.config)
    assert run(["backup", str(file), "--config", config, "--artifacts"]) == 0
    said = capsys.readouterr().out
    assert "2 artifacts are listed, not included: the bucket" in said
    assert "s3.keys" in said
    with tarfile.open(file) as tar:
        assert not [name for name in tar.getnames() if "artifacts" in name]
    assert b"a-secret" not in file.read_bytes()
    place.lose("state")
    assert place.restore(file.read_bytes()).missing == ()
    place.lose("state")
    gone, cut = (_sha256(piece) for piece in PIECES)
    bucket = str(place.settings.artifacts.bucket)
    s3_store.client.delete_object(Bucket=bucket, Key=f"firmware/{gone}")
    s3_store.client.put_object(Bucket=bucket, Key=f"firmware/{cut}", Body=b"cut")
    done = place.restore(file.read_bytes())
    assert (sorted(done.missing), done.unseen) == (sorted([gone, cut]), None)
    in_bucket.close()


def test_a_bucket_that_cannot_be_asked_stops_no_restore_but_a_backup(
    place: Place, in_bucket: S3Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    file, config = place.root / "x.tar", str(place.config)
    assert run(["backup", str(file), "--config", config]) == 0
    place.config.write_text(place.config.read_text().replace(str(place.settings.artifacts.bucket), "nowhere"))
    assert run(["backup", str(place.root / "y.tar"), "--config", config]) == 1
    assert not (place.root / "y.tar").exists()
    place.lose("state")
    capsys.readouterr()
    assert run(["restore", str(file), "--config", config]) == 0
    said = capsys.readouterr().out
    assert "could not be seen" in said
    assert "nowhere" in said
    assert "missing" not in said
    in_bucket.close()
