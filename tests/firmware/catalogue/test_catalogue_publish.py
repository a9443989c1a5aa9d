"""What the publisher and the server do to a catalogue, and what they refuse."""

import itertools
import json
import shutil
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import TargetFile

from firmware.catalogue.ceremony import initialise
from firmware.catalogue.client import CatalogueClient
from firmware.catalogue.publish import Repository
from firmware.errors import RefusedError
from firmware.protocol.order import FileRef

IMAGE = "releases/pump/1.0/pump.img"


def kind_of(work: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        work()
    return caught.value.kind


# The ceremony


def test_the_ceremony_makes_every_key_and_role(lab: Any) -> None:
    files = sorted(str(path.relative_to(lab.directory)) for path in lab.directory.rglob("*") if path.is_file())
    offline = [
        f"keys/offline/{n}.pem" for n in ("product-pump", "product-valve", "root-1", "root-2", "root-3", "targets")
    ]
    online = [f"keys/online/{n}.pem" for n in ("deltas", "director", "snapshot", "timestamp")]
    roles = ("deltas", "product-pump", "product-valve", "root", "snapshot", "targets")
    assert files == [*offline, *online, *(f"metadata/1.{role}.json" for role in roles), "metadata/timestamp.json"]
    for path in lab.directory.rglob("*.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    root = lab.repository.root()
    assert (root.roles["root"].threshold, len(root.roles["root"].keyids)) == (2, 3)
    assert lab.repository.products() == ["pump", "valve"]


@pytest.mark.parametrize("products", [[], ["Pump"], ["a/b"], ["a", "a"], ["x" * 64]])
def test_the_ceremony_refuses_bad_products_and_leaves_nothing(tmp_path: Path, products: list[str]) -> None:
    assert kind_of(lambda: initialise(tmp_path / "new", products=products, now=0)) == "bad-product"
    assert list(tmp_path.iterdir()) == []


def test_the_ceremony_never_touches_a_directory_in_use(lab: Any) -> None:
    before = {path: path.read_bytes() for path in lab.directory.rglob("*") if path.is_file()}
    assert kind_of(lambda: initialise(lab.directory, products=["pump"], now=0)) == "directory-not-empty"
    assert before == {path: path.read_bytes() for path in lab.directory.rglob("*") if path.is_file()}


# Signing releases


def test_signing_is_idempotent_and_versions_are_immutable(lab: Any) -> None:
    first = lab.repository.sign_release("pump", lab.manifest(), now=lab.NOW)
    assert lab.repository.sign_release("pump", lab.manifest(), now=lab.NOW + 5) == first
    other = lab.manifest(fill=b"y")
    assert kind_of(lambda: lab.repository.sign_release("pump", other, now=lab.NOW)) == "release-exists"
    assert lab.repository.signed_release("pump", lab.manifest()) == first
    assert kind_of(lambda: lab.repository.signed_release("pump", other)) == "not-signed"


def test_the_release_counter_has_to_rise(lab: Any) -> None:
    lab.repository.sign_release("pump", lab.manifest("1.0", 5), now=lab.NOW)
    for counter in (5, 4):
        manifest = lab.manifest("2.0", counter)
        assert (
            kind_of(lambda data=manifest: lab.repository.sign_release("pump", data, now=lab.NOW))
            == "counter-not-rising"
        )
    lab.repository.sign_release("pump", lab.manifest("2.0", 6), now=lab.NOW)


def test_a_manifest_of_another_product_or_with_paths_elsewhere_is_refused(lab: Any) -> None:
    assert kind_of(lambda: lab.repository.sign_release("valve", lab.manifest(), now=lab.NOW)) == "wrong-product"
    for path in ("releases/pump/2.0/pump.img", "releases/pump/1.0/a/b.img", "releases/pump/1.0/manifest.json"):
        value = json.loads(lab.manifest())
        value["images"][0]["path"] = path
        data = json.dumps(value).encode()
        assert kind_of(lambda data=data: lab.repository.sign_release("pump", data, now=lab.NOW)) == "malformed"


def test_signing_needs_the_offline_key_and_nothing_online(lab: Any) -> None:
    assert kind_of(lambda: lab.server().sign_release("pump", lab.manifest(), now=lab.NOW)) == "key-missing"
    shutil.rmtree(lab.directory / "keys" / "online")
    assert Repository.workspace(lab.directory).sign_release("pump", lab.manifest(), now=lab.NOW)


# Taking releases in


def test_the_server_takes_a_release_and_the_same_bytes_again(lab: Any) -> None:
    data = lab.repository.sign_release("pump", lab.manifest(), now=lab.NOW)
    added = lab.server().accept_product(data, product="pump", now=lab.NOW)
    assert [file.path for file in added] == ["releases/pump/1.0/manifest.json", IMAGE]
    stamp = (lab.metadata / "timestamp.json").read_bytes()
    assert lab.server().accept_product(data, product="pump", now=lab.NOW) == ()
    assert (lab.metadata / "timestamp.json").read_bytes() == stamp
    assert lab.server().files(IMAGE) == added[1]
    assert lab.server().files("releases/pump/1.0/x") is None
    assert lab.server().files("elsewhere") is None


def test_two_releases_signed_before_the_first_is_published(lab: Any) -> None:
    lab.repository.sign_release("pump", lab.manifest("1.0", 1), now=lab.NOW)
    data = lab.repository.sign_release("pump", lab.manifest("2.0", 2), now=lab.NOW)
    assert len(lab.server().accept_product(data, product="pump", now=lab.NOW)) == 4


def test_product_metadata_that_the_server_refuses(lab: Any) -> None:
    lab.publish()
    server, before = lab.server(), (lab.metadata / "timestamp.json").read_bytes()

    def offered(change: Any, *signers: str) -> str:
        body = lab.repository.targets("product-pump")
        body.version += 1
        change(body)
        data = lab.signed(body, *(signers or ("product-pump",)))
        return kind_of(lambda: server.accept_product(data, product="pump", now=lab.NOW))

    changed = TargetFile(1, {"sha256": "a" * 64}, IMAGE)
    assert offered(lambda body: None, "product-valve") == "catalogue-refused"
    assert offered(lambda body: None, "deltas") == "catalogue-refused"
    assert offered(lambda body: body.targets.pop(IMAGE)) == "release-exists"
    assert offered(lambda body: body.targets.update({IMAGE: changed})) == "release-exists"
    assert offered(lambda body: setattr(body, "version", 2)) == "catalogue-refused"
    assert offered(lambda body: setattr(body, "version", 1 << 30)) == "catalogue-refused"
    assert offered(lambda body: body.targets.update({"releases/valve/1/x": changed})) == "catalogue-refused"
    expired = lab.repository.targets("product-pump")
    expired.version += 1
    data = lab.signed(expired, "product-pump")
    late = lab.NOW + 366 * lab.DAY
    assert kind_of(lambda: server.accept_product(data, product="pump", now=late)) == "catalogue-expired"
    assert kind_of(lambda: server.accept_product(b"{}", product="pump", now=lab.NOW)) == "catalogue-refused"
    assert kind_of(lambda: server.accept_product(data, product="tap", now=lab.NOW)) == "catalogue-refused"
    assert (lab.metadata / "timestamp.json").read_bytes() == before


def test_deltas_are_added_with_the_online_key(lab: Any) -> None:
    server = lab.server()
    path = "deltas/aaaa-bbbb.otd"
    server.add_delta(path, length=9, sha256="a" * 64, now=lab.NOW, custom={"from": "x"})
    stamp = server.timestamp().version
    server.add_delta(path, length=9, sha256="a" * 64, now=lab.NOW, custom={"from": "x"})
    assert server.timestamp().version == stamp
    assert kind_of(lambda: server.add_delta(path, length=8, sha256="a" * 64, now=lab.NOW)) == "delta-exists"
    assert kind_of(lambda: server.add_delta(IMAGE, length=8, sha256="a" * 64, now=lab.NOW)) == "catalogue-refused"
    client = lab.client()
    client.refresh(lab.NOW)
    assert client.file(path) == FileRef(path=path, length=9, sha256="a" * 64)
    assert client.custom(path) == {"from": "x"}


def test_roles_signed_by_a_clock_that_ran_ahead_are_signed_anew_when_it_is_right_again(lab: Any) -> None:
    server = lab.server()
    year = lab.NOW + 365 * lab.DAY
    assert set(server.renew(year)) == {"deltas", "snapshot", "timestamp"}
    assert server.timestamp().expires.timestamp() > year
    assert set(server.renew(lab.NOW)) == {"deltas", "snapshot", "timestamp"}
    assert server.timestamp().expires.timestamp() <= lab.NOW + 7 * lab.DAY
    assert server.renew(lab.NOW) == []


def test_online_roles_are_renewed_before_they_expire(lab: Any) -> None:
    server, year = lab.server(), int(lab.NOW + 300 * lab.DAY)
    assert server.renew(lab.NOW + 3 * lab.DAY) == []
    assert server.renew(lab.NOW + 4 * lab.DAY) == ["timestamp"]
    for now in range(int(lab.NOW + 4 * lab.DAY), year, int(2 * lab.DAY)):
        server.renew(now)
        lab.client().refresh(now)
    assert {"deltas", "snapshot"} <= set(server.renew(year + 40 * lab.DAY))


def test_a_crash_between_files_leaves_the_older_catalogue(lab: Any) -> None:
    """Whatever part of the new files arrived, without the timestamp they change nothing and the next try succeeds."""
    before = {path.name: path.read_bytes() for path in lab.metadata.iterdir()}
    data = lab.repository.sign_release("pump", lab.manifest(), now=lab.NOW)
    lab.server().accept_product(data, product="pump", now=lab.NOW)
    after = {path.name: path.read_bytes() for path in lab.metadata.iterdir()}
    new = sorted(set(after) - set(before))
    assert [name for name in before if after[name] != before[name]] == ["timestamp.json"]
    for count in range(len(new) + 1):
        for arrived in itertools.combinations(new, count):
            _restore(lab.metadata, before | {name: after[name] for name in arrived})
            store = lab.MemoryStore(lab.store.files)
            CatalogueClient(store, lab.fetch).refresh(lab.NOW)
            assert lab.server().files(IMAGE) is None
            assert lab.server().accept_product(data, product="pump", now=lab.NOW)
            lab.client(store).refresh(lab.NOW)
            assert lab.server().files(IMAGE)


def test_the_timestamp_is_written_last(lab: Any) -> None:
    """Signing stops for want of the timestamp key after all else was written: the older catalogue stays in force."""
    data = lab.repository.sign_release("pump", lab.manifest(), now=lab.NOW)
    key = lab.directory / "keys" / "online" / "timestamp.pem"
    pem = key.read_bytes()
    key.unlink()
    assert kind_of(lambda: lab.server().accept_product(data, product="pump", now=lab.NOW)) == "key-missing"
    assert (lab.metadata / "2.snapshot.json").exists()
    client = lab.client()
    client.refresh(lab.NOW)
    assert client.file(IMAGE) is None
    key.write_bytes(pem)
    assert lab.server().accept_product(data, product="pump", now=lab.NOW)


def test_two_servers_changing_at_once_lose_nothing(lab: Any) -> None:
    def add(name: str) -> None:
        for n in range(8):
            lab.server().add_delta(f"deltas/{name}{n}.otd", length=1, sha256="a" * 64, now=lab.NOW)

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(lab.server().targets("deltas").targets) == 24


def test_unreadable_keys_are_named(lab: Any) -> None:
    (lab.directory / "keys" / "online" / "broken.pem").write_text("no key")
    assert kind_of(lambda: lab.server().director_signer()) == "key-unreadable"


def test_a_missing_catalogue_is_named(tmp_path: Path) -> None:
    assert kind_of(lambda: Repository(tmp_path).root()) == "catalogue-refused"
    assert kind_of(lambda: Repository(tmp_path).targets()) == "catalogue-refused"


def _restore(directory: Path, files: dict[str, bytes]) -> None:
    for path in directory.iterdir():
        path.unlink()
    for name, data in files.items():
        (directory / name).write_bytes(data)
