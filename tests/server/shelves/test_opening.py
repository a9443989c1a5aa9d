"""The server and its artifact store at the start: what is wrong is said, and nothing begins."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from firmware.errors import RefusedError
from server.app import Server
from server.cli import run
from server.config import load_settings
from server.config_shown import shown
from server.shelves.files import FileShelf
from server.shelves.opening import check_artifacts, open_artifacts, open_shelf
from tests.s3_store import KEY, SECRET, Store, spoilt_line

REQUESTS_OF_THE_CHECK = 4
"""The bucket is asked for; a probe is put, read and removed."""


def settings_file(folder: Path, store: Store, bucket: str, *, port: int | None = None, more: str = "") -> Path:
    path = folder / "otaria.toml"
    path.write_text(
        '[http]\npeople = "127.0.0.1:0"\ndevices = "127.0.0.1:0"\n[broker]\nkind = "embedded"\n'
        '[catalogue]\nrepository = "repository/metadata"\nonline_keys = "repository/keys/online"\n'
        f'[artifacts]\nstore = "s3"\nendpoint = "http://127.0.0.1:{port or store.port}"\nbucket = "{bucket}"\n'
        f'region = "eu-central-1"\ntimeout_s = 2.0\n{more}'
    )
    return path


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["keys", "init", str(tmp_path / "repository"), "--product", "gateway"]) == 0
    capsys.readouterr()
    return tmp_path


def test_a_server_does_not_start_without_its_bucket_and_says_what_to_do(
    folder: Path, s3_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with spoilt_line(s3_store) as line:
        closed = line.port
    keys = f'credentials_file = "{s3_store.keys}"\n'
    for bucket, port, more, kind, word in (
        ("nowhere", None, keys, "store-bucket-missing", "nowhere"),
        ("any", closed, keys, "store-unreachable", f"127.0.0.1:{closed}"),
        ("any", None, 'credentials_file = "none.keys"\n', "store-credentials-missing", "AWS_ACCESS_KEY_ID"),
    ):
        path = settings_file(folder, s3_store, bucket, port=port, more=more)
        assert run(["serve", "--config", str(path), "--json"]) == 1, kind
        said = json.loads(capsys.readouterr().err.splitlines()[-1])
        assert said["error"] == kind
        assert word in said["text"]
    assert not (folder / "state" / "otaria.db").exists()
    assert not (folder / "state" / "run.json").exists()


async def test_a_running_server_whose_store_breaks_off_is_not_ready_and_says_why(folder: Path, s3_store: Store) -> None:
    def spoil(number: int, head: bytes) -> Callable[[Iterator[bytes]], Iterator[bytes]] | None:
        return None if number < REQUESTS_OF_THE_CHECK else lambda pieces: iter(())

    with spoilt_line(s3_store, spoil) as line:
        keys = f'credentials_file = "{s3_store.keys}"\n'
        path = settings_file(folder, s3_store, s3_store.make_bucket(), port=line.port, more=keys)
        async with Server(load_settings(path)) as server, aiohttp.ClientSession() as session, asyncio.timeout(60):
            said, status = list[str](), 503
            while "the artifact store, which is not reached" not in said:
                async with session.get(f"{server.running.people_url}/readyz") as answer:
                    said, status = (await answer.json())["waiting_for"], answer.status
            assert status == 503
            assert str(line.port) not in str(said)
            async with session.get(f"{server.running.people_url}/healthz") as answer:
                assert answer.status == 200


def test_without_the_library_it_says_what_to_install(
    folder: Path, s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("server.shelves.s3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "botocore", None)
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(RefusedError, match=r"otaria\[s3\]") as refused:
        open_shelf(load_settings(settings_file(folder, s3_store, "any")))
    assert refused.value.kind == "s3-missing"


def test_a_store_of_files_loads_nothing_of_s3(tmp_path: Path) -> None:
    (tmp_path / "otaria.toml").write_text("")
    settings = load_settings(tmp_path / "otaria.toml")
    assert isinstance(open_shelf(settings), FileShelf)
    check_artifacts(settings)
    assert dict(shown(settings))["Artifacts"] == (("kept", "as files in the state"),)


async def test_what_lay_in_files_is_in_the_bucket_after_the_first_tidying(folder: Path, s3_store: Store) -> None:
    files = FileShelf(folder / "state" / "artifacts")
    (folder / "one").write_bytes(b"one")
    sha256 = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    files.put(folder / "one", sha256)
    bucket = s3_store.make_bucket()
    path = settings_file(folder, s3_store, bucket, more=f'prefix = "a/b/"\ncredentials_file = "{s3_store.keys}"\n')
    with closing(await asyncio.to_thread(open_artifacts, load_settings(path), lambda shelf: shelf)) as store:
        assert await store.read(sha256, 0, 3) == b"one"
        assert store.find(sha256) is not None
        await store.tidy(0.0)
        assert store.find(sha256) is None
        assert await store.read(sha256, 0, 3) == b"one"
    assert s3_store.client.get_object(Bucket=bucket, Key=f"a/b/{sha256}")["Body"].read() == b"one"


def test_the_settings_as_shown_have_no_keys(folder: Path, s3_store: Store) -> None:
    settings = load_settings(
        settings_file(folder, s3_store, "firmware-of-ours", more=f'credentials_file = "{s3_store.keys}"\n')
    )
    text = f"{shown(settings)} {settings!r}"
    assert "firmware-of-ours" in text
    assert KEY not in text
    assert SECRET not in text
