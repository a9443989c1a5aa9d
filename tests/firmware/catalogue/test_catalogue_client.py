"""The client's workflow: what it asks for, what it keeps, what it answers, online and off."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, Targets

from firmware.catalogue.metadata import ForeignKey
from firmware.catalogue.trust import Limits
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind

IMAGE = "releases/pump/1.0/pump.img"


def names(lab: Any) -> list[str]:
    asked = [name for name, _ in lab.asked]
    lab.asked.clear()
    return asked


def test_refresh_asks_for_each_role_once_and_then_only_for_what_may_be_new(lab: Any) -> None:
    lab.client(prefetch=()).refresh(lab.NOW)
    assert names(lab) == ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    lab.client(prefetch=()).refresh(lab.NOW)
    assert names(lab) == ["2.root.json", "timestamp.json"]
    assert sorted(lab.store.files) == ["root.json", "snapshot.json", "targets.json", "timestamp.json"]


def test_refresh_brings_in_the_delegated_roles_that_are_wanted(lab: Any) -> None:
    lab.publish()
    lab.client(prefetch=("product-pump", "no-such-role")).refresh(lab.NOW)
    assert names(lab)[4:] == ["2.product-pump.json"]
    lab.client().refresh(lab.NOW)
    assert names(lab)[2:] == ["1.product-valve.json", "1.deltas.json"]


def test_a_delegated_role_is_fetched_when_it_is_looked_up(lab: Any) -> None:
    lab.publish()
    client = lab.client(prefetch=())
    client.refresh(lab.NOW)
    names(lab)
    file = client.file(IMAGE)
    assert file == lab.repository.files(IMAGE)
    assert file.length == 3000
    assert client.file("releases/pump/1.0/other.img") is None
    assert client.file("somewhere/else") is None
    assert names(lab) == ["2.product-pump.json"]
    assert client.custom(IMAGE) == {"kind": "image", "version": "1.0", "counter": 1, "hardware": ["hw-a"]}
    assert client.address(client.find(IMAGE)) == f"releases/pump/1.0/{file.sha256}.pump.img"


def test_the_director_is_named_by_targets_and_has_no_file(lab: Any) -> None:
    client = lab.client()
    client.refresh(lab.NOW)
    signer = lab.server().director_signer()
    assert client.director_keys() == {signer.public_key.keyid: signer.public_key.to_dict()}
    assert client.director_epoch() == 1
    assert not [name for name in names(lab) if "director" in name]
    assert not list(lab.metadata.glob("*director*"))


def test_a_director_key_of_unknown_type_is_left_out_and_the_others_count(lab: Any) -> None:
    known = lab.server().director_signer().public_key
    body = lab.repository.targets()
    body.version += 1
    body.delegations.roles["director"].keyids.append("strange")
    stranger = {"keytype": "lattice", "scheme": "lattice-1", "keyval": {"public": "00"}, "x-more": 1}
    body.delegations.keys["strange"] = ForeignKey.from_dict("strange", stranger)
    lab.serve_targets("targets", body, "targets")
    client = lab.client(prefetch=())
    client.refresh(lab.NOW)
    assert client.versions()["targets"] == 2
    assert set(client.director_keys()) == {known.keyid}
    held = json.loads(lab.store.files["targets.json"])["signed"]["delegations"]["keys"]["strange"]
    assert held == stranger


def test_nothing_is_answered_before_something_was_loaded(lab: Any) -> None:
    with pytest.raises(RefusedError, match="No catalogue is loaded"):
        lab.client().director_keys()
    with pytest.raises(RefusedError, match="no trusted root"):
        lab.client(lab.MemoryStore()).refresh(lab.NOW)
    with pytest.raises(RefusedError, match="has no timestamp"):
        lab.client().load_cached(lab.NOW)


def test_a_root_that_does_not_sign_itself_is_not_begun_with(lab: Any) -> None:
    store = lab.MemoryStore()
    root = lab.repository.root()
    with pytest.raises(RefusedError, match="1 of the 2 keys"):
        type(lab.client()).initialise(store, lab.signed(root, "root-2", "targets"))
    assert store.files == {}


def test_cached_metadata_works_without_a_network_until_it_expires(lab: Any) -> None:
    lab.publish()
    lab.client().refresh(lab.NOW)
    names(lab)
    client = lab.client()
    client.load_cached(lab.NOW + 6 * lab.DAY)
    assert client.file(IMAGE).length == 3000
    with pytest.raises(RefusedError) as caught:
        client.load_cached(lab.NOW + 8 * lab.DAY)
    assert caught.value.kind == ReasonKind.CATALOGUE_EXPIRED
    client.load_cached(lab.NOW + 4000 * lab.DAY, allow_expired=True)
    assert client.director_epoch() == 1
    assert client.director_keys()
    assert client.file(IMAGE).length == 3000
    assert names(lab) == []


def test_cached_metadata_below_an_expired_root_is_expired(lab: Any) -> None:
    soon = datetime.fromtimestamp(lab.NOW + lab.DAY, UTC)
    lab.serve_root(lambda root: setattr(root, "expires", soon), "root-1", "root-2")
    lab.client().refresh(lab.NOW)
    with pytest.raises(RefusedError, match="root expired"):
        lab.client().load_cached(lab.NOW + 2 * lab.DAY)


def test_stored_targets_beyond_the_stored_snapshot_are_not_believed(lab: Any) -> None:
    """A refresh stores the snapshot first, so this is no power cut but somebody's doing."""
    lab.client(prefetch=()).refresh(lab.NOW)
    targets = lab.repository.targets()
    for version in (1, 2):
        targets.version = version
        lab.store.files["targets.json"] = lab.signed(targets, "targets")
        with pytest.raises(RefusedError, match="not what the stored snapshot lists"):
            lab.client().load_cached(lab.NOW, allow_expired=True)


def test_cached_metadata_does_not_ask_for_roles_it_lacks(lab: Any) -> None:
    lab.publish()
    lab.client(prefetch=()).refresh(lab.NOW)
    names(lab)
    client = lab.client()
    client.load_cached(lab.NOW)
    with pytest.raises(UnavailableError, match="product-pump is not stored"):
        client.file(IMAGE)
    assert names(lab) == []


def test_after_a_failed_refresh_the_director_is_still_known(lab: Any) -> None:
    client = lab.client()
    client.refresh(lab.NOW)
    lab.served["timestamp.json"] = None
    with pytest.raises(UnavailableError) as caught:
        client.refresh(lab.NOW)
    assert caught.value.kind == ReasonKind.UNREACHABLE
    assert client.director_epoch() == 1


def test_after_a_failed_refresh_revoked_keys_are_not_used(lab: Any) -> None:
    """The new root arrived, then the network broke: what the old targets key signed is no longer believed."""
    client = lab.client()
    client.refresh(lab.NOW)
    new = type(lab.signer("targets")).generate_ecdsa()

    def change(root: Any) -> None:
        root.revoke_key(root.roles["targets"].keyids[0], "targets")
        root.add_key(new.public_key, "targets")

    lab.serve_root(change, "root-1", "root-2")
    lab.served["timestamp.json"] = None
    with pytest.raises(UnavailableError):
        client.refresh(lab.NOW)
    with pytest.raises(RefusedError):
        client.director_keys()


def test_many_roots_are_followed_one_by_one(lab: Any) -> None:
    for _ in range(5):
        root = lab.serve_root(lambda root: None, "root-1", "root-2")
    assert root.version == 6
    lab.client(prefetch=()).refresh(lab.NOW)
    assert names(lab)[:6] == [f"{n}.root.json" for n in range(2, 8)]
    assert lab.store.files["root.json"] == lab.repository.root_bytes(6)


def test_a_timestamp_of_the_same_version_is_discarded(lab: Any) -> None:
    lab.client().refresh(lab.NOW)
    kept = lab.store.files["timestamp.json"]
    lab.served["timestamp.json"] = lab.signed(lab.repository.timestamp(), "timestamp")
    assert lab.served["timestamp.json"] != kept
    lab.client().refresh(lab.NOW)
    assert lab.store.files["timestamp.json"] == kept


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_metadata_that_is_expired_when_it_comes_is_not_kept(lab: Any, role: str) -> None:
    lab.client(prefetch=()).refresh(lab.NOW)
    kept = lab.store.files[f"{role}.json"]
    past = datetime.fromtimestamp(lab.NOW - 1, UTC)
    if role == "timestamp":
        lab.serve_timestamp(lambda body: setattr(body, "expires", past), "timestamp")
    elif role == "snapshot":
        lab.serve_snapshot(lambda body: setattr(body, "expires", past))
    else:
        targets = lab.repository.targets()
        targets.version, targets.expires = targets.version + 1, past
        lab.serve_targets("targets", targets, "targets")
    with pytest.raises(RefusedError, match=f"{role} expired"):
        lab.client(prefetch=()).refresh(lab.NOW)
    assert lab.store.files[f"{role}.json"] == kept


def test_a_new_root_is_kept_even_when_it_is_expired(lab: Any) -> None:
    """It may be the step to a later root that is not."""
    lab.serve_root(lambda root: setattr(root, "expires", datetime.fromtimestamp(lab.NOW - 1, UTC)), "root-1", "root-2")
    with pytest.raises(RefusedError, match="root expired"):
        lab.client().refresh(lab.NOW)
    assert lab.store.files["root.json"] == lab.repository.root_bytes(2)
    lab.serve_root(lambda root: setattr(root, "expires", datetime.fromtimestamp(lab.NOW + 9, UTC)), "root-1", "root-2")
    lab.client().refresh(lab.NOW)


def test_a_stored_file_that_was_damaged_is_fetched_again(lab: Any) -> None:
    lab.client(prefetch=()).refresh(lab.NOW)
    good = dict(lab.store.files)
    for name in ("timestamp.json", "snapshot.json", "targets.json"):
        lab.store.files[name] = good[name][:-9]
        lab.client(prefetch=()).refresh(lab.NOW)
        assert lab.store.files == good


def test_a_stored_snapshot_with_another_hash_than_the_timestamp_signs_is_fetched_again(lab: Any) -> None:
    lab.client(prefetch=()).refresh(lab.NOW)
    again = lab.signed(lab.repository.snapshot(), "snapshot")
    assert again != lab.store.files["snapshot.json"]
    lab.served["1.snapshot.json"] = again
    meta = MetaFile.from_data(1, again, ["sha256"])
    lab.serve_timestamp(lambda stamp: setattr(stamp, "snapshot_meta", meta), "timestamp")
    lab.client(prefetch=()).refresh(lab.NOW)
    assert lab.store.files["snapshot.json"] == again


def test_unknown_fields_are_kept_and_signed(lab: Any) -> None:
    targets = lab.repository.targets()
    targets.version += 1
    targets.unrecognized_fields["x-later"] = {"a": [1, None, True]}
    lab.serve_targets("targets", targets, "targets")
    lab.serve_timestamp(lambda stamp: stamp.unrecognized_fields.update({"x": 'é"\\\n'}), "timestamp")
    lab.client().refresh(lab.NOW)


def test_without_consistent_snapshots_the_plain_names_are_asked_for(lab: Any) -> None:
    lab.serve_root(lambda root: setattr(root, "consistent_snapshot", False), "root-1", "root-2")
    for role in ("snapshot", "targets"):
        lab.served[f"{role}.json"] = (lab.metadata / f"1.{role}.json").read_bytes()
    client = lab.client(prefetch=())
    client.refresh(lab.NOW)
    assert names(lab) == ["2.root.json", "3.root.json", "timestamp.json", "snapshot.json", "targets.json"]


GRAPHS = {
    # edges (delegator, role, terminating), and the order in which roles are visited for a path nobody lists
    "siblings": ([("targets", "a", False), ("targets", "b", False)], ["a", "b"]),
    "depth first": ([("targets", "a", False), ("targets", "b", False), ("a", "c", False)], ["a", "c", "b"]),
    "terminating": ([("targets", "a", True), ("targets", "b", False), ("a", "c", False)], ["a", "c"]),
    "terminating below": ([("targets", "a", False), ("targets", "b", False), ("a", "c", True)], ["a", "c"]),
    "cycle": ([("targets", "a", False), ("a", "b", False), ("b", "a", False)], ["a", "b"]),
    "diamond": (
        [("targets", "a", False), ("targets", "b", False), ("a", "c", False), ("b", "c", False)],
        ["a", "c", "b"],
    ),
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_delegations_are_searched_in_order(lab: Any, graph: str) -> None:
    edges, expected = GRAPHS[graph]
    serve_graph(lab, edges)
    client = lab.client(prefetch=())
    client.refresh(lab.NOW)
    names(lab)
    assert client.file("nowhere") is None
    assert [name.split(".")[1] for name in names(lab)] == expected


def test_the_search_stops_after_so_many_roles(lab: Any) -> None:
    chain = [("targets", "r0", False), *((f"r{n}", f"r{n + 1}", False) for n in range(9))]
    serve_graph(lab, chain)
    client = lab.client(prefetch=(), limits=Limits(visits=4))
    client.refresh(lab.NOW)
    names(lab)
    assert client.file("nowhere") is None
    assert names(lab) == ["1.r0.json", "1.r1.json", "1.r2.json"]


@pytest.mark.parametrize("role", ["?", "#x", "/up", "../up", "a b"])
def test_odd_role_names_are_quoted(lab: Any, role: str) -> None:
    serve_graph(lab, [("targets", role, False)])
    client = lab.client(prefetch=())
    client.refresh(lab.NOW)
    with pytest.raises(UnavailableError):
        client.file("nowhere")
    asked = names(lab)[-1]
    assert "/" not in asked
    assert "?" not in asked


@pytest.mark.parametrize("role", ["r" * 129, "\U0001f9ad" * 30, "\U0001f9ad" * 500])
def test_a_role_name_that_no_file_system_takes_is_stored_under_its_hash(lab: Any, role: str) -> None:
    key = lab.signer("product-pump").public_key
    body = lab.repository.targets()
    body.version, body.delegations = 2, Delegations({key.keyid: key}, {})
    body.delegations.roles[role] = DelegatedRole(role, [key.keyid], 1, terminating=False, paths=["*"])
    data = lab.signed(Targets(1, None, body.expires), "product-pump")
    lab.served[f"1.{quote(role, safe='')}.json"] = data
    meta = MetaFile(1)
    lab.serve_targets("targets", body, "targets")
    lab.serve_snapshot(lambda snapshot: snapshot.meta.update({f"{role}.json": meta}))
    client = lab.client(prefetch=())
    client.refresh(lab.NOW)
    assert client.file("nowhere") is None
    stored = next(name for name, held in lab.store.files.items() if held == data)
    assert stored == (f"{role}.json" if len(role) == 129 else f"{hashlib.sha256(role.encode()).hexdigest()}.json")
    lab.asked.clear()
    assert client.file("nowhere") is None
    assert names(lab) == []


def serve_graph(lab: Any, edges: list[tuple[str, str, bool]]) -> None:
    """Roles that delegate everything, all signed with the pump's key; served from the newest to the oldest parent."""
    key = lab.signer("product-pump").public_key
    bodies = {"targets": lab.repository.targets()}
    bodies["targets"].version += 1
    for delegator, role, terminating in edges:
        bodies.setdefault(role, Targets(1, None, bodies["targets"].expires))
        body = bodies[delegator]
        if body.delegations is None or "director" in body.delegations.roles:
            body.delegations = Delegations({key.keyid: key}, {})
        body.delegations.roles[role] = DelegatedRole(role, [key.keyid], 1, terminating=terminating, paths=["*"])
    for role, body in bodies.items():
        lab.serve_targets(role, body, "targets" if role == "targets" else "product-pump")
