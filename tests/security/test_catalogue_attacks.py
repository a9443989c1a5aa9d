"""Every attack on the catalogue: what is tried, which check stops it, what the person sees.

The attacker owns the network and the server's disk; keys only where the test says so.
"""

import io
import json
import re
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import MetaFile, Root, TargetFile

from firmware.catalogue.client import CatalogueClient
from firmware.catalogue.store import FileStore
from firmware.catalogue.web import WebFetch
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind
from tests.tuf_repository import TufRepository, serving

IMAGE = "releases/pump/1.0/pump.img"
EVIL = TargetFile(4, {"sha256": "e" * 64}, IMAGE)
REFUSED = ReasonKind.CATALOGUE_REFUSED


def refused(lab: Any, *, path: str | None = None, kind: str = REFUSED, now: float | None = None) -> str:
    """Refresh (and look up a path) and return the sentence of the refusal."""

    def use() -> None:
        client = lab.client()
        client.refresh(lab.NOW if now is None else now)
        if path is not None:
            client.file(path)

    with pytest.raises(RefusedError) as caught:
        use()
    assert caught.value.kind == kind
    return caught.value.text


def in_days(lab: Any, days: float) -> datetime:
    return datetime.fromtimestamp(lab.NOW, UTC) + timedelta(days=days)


# Arbitrary software


def test_arbitrary_software_signed_by_nobody_we_trust(lab: Any) -> None:
    """The server signs a catalogue of its own. The timestamp's signature stops it."""
    lab.publish()
    lab.served["timestamp.json"] = lab.signed(lab.repository.timestamp(), CryptoSigner.generate_ecdsa())
    assert "0 of the 1 keys" in refused(lab)


@pytest.mark.parametrize("thief", ["snapshot", "timestamp", "deltas", "director", "product-valve"])
def test_arbitrary_software_with_all_online_keys_stolen(lab: Any, thief: str) -> None:
    """Online keys, and another product's key, cannot sign a product: the delegation names the product's key only."""
    lab.publish()
    lab.client().refresh(lab.NOW)
    evil = lab.repository.targets("product-pump")
    evil.version += 1
    evil.targets[IMAGE] = EVIL
    lab.serve_targets("product-pump", evil, thief)
    assert "product-pump is signed by 0" in refused(lab, path=IMAGE)


def test_arbitrary_software_through_changed_metadata(lab: Any) -> None:
    """One hash is changed in signed metadata. Snapshot's hash of the file stops it."""
    data = lab.publish()
    lab.served["2.product-pump.json"] = data.replace(lab.repository.files(IMAGE).sha256.encode(), b"e" * 64)
    assert "another length or hash" in refused(lab, path=IMAGE)


# Rollback


def test_rollback_of_the_timestamp(lab: Any) -> None:
    """An old, correctly signed timestamp is replayed. The stored one's version stops it."""
    old = (lab.metadata / "timestamp.json").read_bytes()
    lab.publish()
    lab.client().refresh(lab.NOW)
    lab.served["timestamp.json"] = old
    assert "went back: timestamp" in refused(lab)


def test_rollback_of_the_snapshot_with_a_stolen_timestamp_key(lab: Any) -> None:
    """A new timestamp names the old snapshot. The snapshot version in the stored timestamp stops it."""
    old = lab.repository.timestamp().snapshot_meta
    lab.publish()
    lab.client().refresh(lab.NOW)

    def back(stamp: Any) -> None:
        stamp.snapshot_meta = old

    lab.serve_timestamp(back, "timestamp")
    assert "went back: snapshot" in refused(lab)


@pytest.mark.parametrize("role", ["product-pump", "targets"])
def test_rollback_of_targets_with_stolen_online_keys(lab: Any, role: str) -> None:
    """A new snapshot names an older role, hiding a fix. The versions in the stored snapshot stop it."""
    old = lab.repository.snapshot().meta[f"{role}.json"]
    newer = lab.repository.targets(role)
    newer.version += 1
    lab.serve_targets(role, newer, role)
    lab.client().refresh(lab.NOW)
    lab.serve_snapshot(lambda body: body.meta.update({f"{role}.json": old}))
    assert f"went back: {role}.json" in refused(lab)


def test_removal_of_a_role_from_the_snapshot(lab: Any) -> None:
    """A new snapshot leaves a product out. The stored snapshot, which lists it, stops it."""
    lab.publish()
    lab.client().refresh(lab.NOW)
    lab.serve_snapshot(lambda body: body.meta.pop("product-pump.json"))
    assert "no longer lists product-pump.json" in refused(lab)


def test_rollback_of_the_root(lab: Any) -> None:
    """The old root is served as the next one. Roots are followed one version at a time."""
    lab.served["2.root.json"] = lab.repository.root_bytes(1)
    assert "says it is version 1" in refused(lab)


# Indefinite freeze


def test_indefinite_freeze_is_noticed_when_the_timestamp_expires(lab: Any) -> None:
    """The server keeps giving the same valid timestamp while a fix exists. Its expiry stops it."""
    lab.client().refresh(lab.NOW)
    lab.client().refresh(lab.NOW + 6.9 * lab.DAY)
    assert "timestamp expired" in refused(lab, kind=ReasonKind.CATALOGUE_EXPIRED, now=lab.NOW + 7 * lab.DAY)


@pytest.mark.parametrize(("role", "days"), [("root", 366), ("snapshot", 31), ("targets", 366)])
def test_freeze_of_each_role_behind_a_fresh_timestamp(lab: Any, role: str, days: int) -> None:
    """A thief of the timestamp key keeps signing; every other role has an expiry of its own."""

    def fresh(body: Any) -> None:
        body.expires = in_days(lab, 9999)

    if role == "targets":
        lab.serve_snapshot(fresh)
        lab.serve_root(fresh, "root-1", "root-2")
    lab.serve_timestamp(fresh, "timestamp")
    text = refused(lab, kind=ReasonKind.CATALOGUE_EXPIRED, now=lab.NOW + days * lab.DAY)
    assert f"{role} expired" in text


# Fast-forward


def test_fast_forward_is_healed_by_rotating_the_key(lab: Any) -> None:
    """A thief of the timestamp key signs version 2^40, so that every honest one looks like a rollback. A root with a new
    timestamp key makes the device forget what the old key signed."""
    lab.serve_timestamp(lambda stamp: setattr(stamp, "version", 1 << 40), "timestamp")
    lab.client().refresh(lab.NOW)
    lab.serve_honestly()
    assert "went back: timestamp" in refused(lab)

    new = CryptoSigner.generate_ecdsa()
    lab.serve_root(lambda root: swap(root, "timestamp", new), "root-1", "root-3")
    lab.serve_timestamp(lambda stamp: None, new)
    lab.client().refresh(lab.NOW)
    assert lab.client().refresh(lab.NOW) is None


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_fast_forward_is_healed_even_when_an_honest_key_stays(lab: Any, role: str) -> None:
    """Two keys, threshold 1; the forged metadata carries both signatures. After one key goes it would still verify, so it
    must be dropped because a threshold of keys was replaced, not because a signature fails."""
    honest = CryptoSigner.generate_ecdsa()
    lab.serve_root(lambda root: root.add_key(honest.public_key, role), "root-1", "root-2")
    if role == "timestamp":
        lab.serve_timestamp(lambda stamp: setattr(stamp, "version", 1 << 40), "timestamp", honest)
    else:
        forged = lab.repository.snapshot()
        forged.version = 1 << 40
        data = lab.signed(forged, "snapshot", honest)
        lab.served[f"{forged.version}.snapshot.json"] = data
        meta = MetaFile.from_data(forged.version, data, ["sha256"])
        lab.serve_timestamp(lambda stamp: setattr(stamp, "snapshot_meta", meta), "timestamp")
    lab.client(prefetch=()).refresh(lab.NOW)

    stolen = lab.repository.root().roles[role].keyids[0]
    lab.serve_root(lambda root: root.revoke_key(stolen, role), "root-1", "root-2")
    lab.serve_honestly()
    if role == "timestamp":
        lab.serve_timestamp(lambda stamp: None, honest)
    else:
        lab.serve_snapshot(lambda body: None, signer=honest)
    lab.client(prefetch=()).refresh(lab.NOW)


# Mix and match


def test_mix_and_match_of_an_old_snapshot_with_a_new_timestamp(lab: Any) -> None:
    """Files of different moments are combined. The timestamp's hash of the snapshot stops it."""
    lab.publish()
    lab.served["2.snapshot.json"] = (lab.metadata / "1.snapshot.json").read_bytes()
    # The old file may also be a few bytes longer than the signed length.
    assert re.search(r"snapshot has another length or hash|snapshot.json is longer", refused(lab))


def test_mix_and_match_of_product_versions(lab: Any) -> None:
    """An older product role is served under the newer name. The snapshot's hash stops it, so nothing of it is used."""
    lab.publish()
    lab.served["2.product-pump.json"] = (lab.metadata / "1.product-pump.json").read_bytes()
    assert "product-pump has another length or hash" in refused(lab, path=IMAGE)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_mix_and_match_where_the_parent_lists_no_hash(lab: Any, role: str) -> None:
    """Hashes are optional in TUF. Another version under the listed name is stopped by the version inside."""
    lab.served[f"2.{role}.json"] = (lab.metadata / f"1.{role}.json").read_bytes()
    if role == "snapshot":
        lab.serve_timestamp(lambda stamp: setattr(stamp, "snapshot_meta", MetaFile(2)), "timestamp")
    else:
        lab.serve_snapshot(lambda body: body.meta.update({"targets.json": MetaFile(2)}))
    assert f"{role} has version 1 where version 2 is listed" in refused(lab)


def test_metadata_of_one_role_served_as_another(lab: Any) -> None:
    """Valid deltas metadata is served as the product's, with the online keys stolen. The product's delegation stops it."""
    lab.publish()
    deltas = lab.repository.targets("deltas")
    deltas.version = 3
    lab.serve_targets("product-pump", deltas, "deltas")
    assert "product-pump is signed by 0" in refused(lab, path=IMAGE)


# Endless data


@pytest.mark.parametrize("name", ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"])
def test_endless_data(lab: Any, name: str) -> None:
    """A file has no end. No more than the signed length, or our own limit, plus one byte is read; then it is refused."""
    lab.served[name] = b" " * 6_000_000
    assert "longer than the" in refused(lab)
    limit = lab.asked[-1][1]
    known = {"1.snapshot.json", "1.targets.json"}
    assert limit == (len((lab.metadata / name).read_bytes()) if name in known else limit)
    assert limit <= 512_000


# Slow retrieval


class Dripping(TufRepository):
    """Gives one file byte by byte, always a little before the connection would count as silent."""

    slow = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        data = self.files.get(request.path.removeprefix("/"), b"")
        if not self.slow or self.slow not in request.path:
            super().answer(request)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        for number in range(len(data)):
            request.wfile.write(data[number : number + 1])
            time.sleep(0.02)


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
def test_slow_retrieval_of_metadata(tmp_path: Path, name: str) -> None:
    """The server drips, so that no refresh ever ends and no fix is ever seen. The time for a whole file ends it."""
    repository = Dripping()
    store = FileStore(tmp_path / "metadata")
    CatalogueClient.initialise(store, repository.files["metadata/1.root.json"])
    with serving(repository) as url:
        repository.slow = name
        client = CatalogueClient(store, WebFetch(f"{url}/metadata", total_s=0.2), prefetch=())
        with pytest.raises(UnavailableError) as caught:
            client.refresh(time.time())
    assert caught.value.kind == ReasonKind.UNREACHABLE
    assert f"{name} cannot be fetched now: it took more than 0.2 s" in caught.value.text


def test_slow_retrieval_of_a_target(tmp_path: Path) -> None:
    """As above, with the target itself, by hand: a least speed on the whole ends it. (A device installs as slowly as its link
    is; there the campaign's horizon makes a failure of it.)"""
    repository = Dripping()
    repository.files["targets/file"], repository.slow = b"x" * 100, "file"
    with serving(repository) as url, pytest.raises(UnavailableError, match=r"it took more than 0\.19"):
        WebFetch(f"{url}/targets", total_s=0.1).download("file", 100, io.BytesIO())


# Wrong software


def test_wrong_software_from_a_product_key_outside_its_paths(lab: Any) -> None:
    """The valve's key lists a pump image. No lookup of a pump path ever asks the valve's role."""
    lab.publish()
    evil = lab.repository.targets("product-valve")
    evil.version += 1
    evil.targets["releases/pump/9.9/pump.img"] = EVIL
    lab.serve_targets("product-valve", evil, "product-valve")
    client = lab.client()
    client.refresh(lab.NOW)
    assert client.file("releases/pump/9.9/pump.img") is None
    with pytest.raises(RefusedError, match="outside its paths"):
        lab.server().accept_product(lab.served["2.product-valve.json"], product="valve", now=lab.NOW)


def test_wrong_software_through_the_deltas_key(lab: Any) -> None:
    """The online deltas key lists a release path. The delegation of `deltas/*` does not reach it."""
    evil = lab.repository.targets("deltas")
    evil.version += 1
    evil.targets[IMAGE] = EVIL
    lab.serve_targets("deltas", evil, "deltas")
    client = lab.client()
    client.refresh(lab.NOW)
    assert client.file(IMAGE) is None


# Key compromise below the threshold


def test_one_of_three_root_keys_stolen(lab: Any) -> None:
    """One stolen root key signs a new root with the thief's keys. The 2-of-3 threshold stops it."""
    thief = CryptoSigner.generate_ecdsa()
    lab.serve_root(lambda root: swap(root, "targets", thief), "root-1")
    assert "root is signed by 1 of the 2 keys" in refused(lab)
    assert json.loads(lab.store.files["root.json"])["signed"]["version"] == 1


def test_one_root_key_signing_under_two_key_ids(lab: Any) -> None:
    """A root lists one key twice under two ids, so that its owner alone could reach the threshold. Keys are counted, not
    ids; even written in another PEM wrapping."""
    first = lab.signer("root-1")
    public = first.public_key.keyval["public"].replace("\n", "\n\n", 1).rstrip("\n")
    other = SSlibKey("other-id", "ecdsa", "ecdsa-sha2-nistp256", {"public": public})

    def both(root: Root) -> None:
        root.keys[other.keyid] = other
        root.roles["timestamp"].keyids = [first.public_key.keyid, other.keyid]
        root.roles["timestamp"].threshold = 2
        root.keys[first.public_key.keyid] = first.public_key

    lab.serve_root(both, "root-1", "root-2")
    again = CryptoSigner(first._private_key, other)
    lab.serve_timestamp(lambda stamp: None, first, again)
    assert "timestamp is signed by 1 of the 2 keys" in refused(lab)


def test_new_root_signed_only_by_the_new_keys(lab: Any) -> None:
    """A root replaces all root keys and is signed by them alone. The old threshold counts too."""
    thieves = [CryptoSigner.generate_ecdsa() for _ in range(2)]

    def replace_all(root: Root) -> None:
        for keyid in list(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        for thief in thieves:
            root.add_key(thief.public_key, "root")

    lab.serve_root(replace_all, *thieves)
    assert "root is signed by 0 of the 2 keys" in refused(lab)


def test_new_root_whose_own_keys_did_not_sign(lab: Any) -> None:
    """Old root keys alone install root keys that nobody proved to hold, which would lock every later root out."""
    strangers = [CryptoSigner.generate_ecdsa() for _ in range(2)]

    def replace_two(root: Root) -> None:
        for keyid in root.roles["root"].keyids[1:]:
            root.revoke_key(keyid, "root")
        for stranger in strangers:
            root.add_key(stranger.public_key, "root")

    lab.serve_root(replace_two, "root-1", "root-2", "root-3")
    assert "root is signed by 1 of the 2 keys" in refused(lab)


# Ambiguous bytes


@pytest.mark.parametrize("name", ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"])
def test_duplicate_json_keys(lab: Any, name: str) -> None:
    """A key occurs twice, so that two readers may see two catalogues. Refused before anything looks at it."""
    path = lab.metadata / name
    data = path.read_bytes() if path.exists() else lab.repository.root_bytes(1)
    doubled = data.replace(b'"spec_version":', b'"spec_version":"1.0.31","spec_version":', 1)
    if name.endswith(("snapshot.json", "targets.json")):
        list_bytes(lab, name, doubled)
    lab.served[name] = doubled
    assert "repeats a key" in refused(lab)


def list_bytes(lab: Any, name: str, data: bytes) -> None:
    """Let the parent list the changed bytes, so that only the parser is left to stop them."""
    role = name.split(".")[1]
    meta = MetaFile.from_data(1, data, ["sha256"])
    if role == "snapshot":
        lab.serve_timestamp(lambda stamp: setattr(stamp, "snapshot_meta", meta), "timestamp")
    else:
        lab.serve_snapshot(lambda body: body.meta.update({f"{role}.json": meta}))


def swap(root: Root, role: str, new: CryptoSigner) -> None:
    """Replace the only key of a role."""
    root.revoke_key(root.roles[role].keyids[0], role)
    root.add_key(new.public_key, role)
