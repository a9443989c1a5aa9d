"""Changes of who signs what: what a proposal needs, who may sign it, what is put in force, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from firmware.catalogue import changes
from firmware.catalogue.adopt import adopt
from firmware.catalogue.client import EPOCH, CatalogueClient
from firmware.catalogue.describe import diff
from firmware.catalogue.keyfiles import Keyring, generate
from firmware.catalogue.proposal import Proposal, decode
from firmware.catalogue.publish import Repository
from firmware.errors import OtariaError, RefusedError

IMAGE = "releases/pump/1.0/pump.img"


class Cut(Exception):  # noqa: N818 - a power cut is no error of the code's
    """The machine went down before this write."""


class BrokenRepository(Repository):
    """Loses power before its n-th write."""

    writes = 0
    last = 1 << 30

    def write(self, name: str, data: bytes) -> None:
        if self.writes >= self.last:
            raise Cut
        self.writes += 1
        super().write(name, data)


def kind_of(work: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as caught:
        work()
    return caught.value.kind


def ring(lab: Any, *names: str) -> Keyring:
    """Some of the lab's keys, as if they were the only ones on a machine."""
    return Keyring([], uris=[f"file:{next((lab.directory / 'keys').glob(f'*/{name}.pem'))}" for name in names])


def new_key(lab: Any, name: str, *, where: str = "offline") -> Any:
    return generate(lab.directory / "keys" / where / f"{name}.pem").public_key


def workspace(lab: Any) -> Repository:
    return Repository.workspace(lab.directory)


def put(lab: Any, proposal: Proposal) -> list[str]:
    """Everybody signs and it is put in force."""
    proposal.sign(workspace(lab).keyring)
    return adopt(workspace(lab), proposal, now=lab.NOW)


def refreshed(lab: Any, store: Any = None) -> CatalogueClient:
    client: CatalogueClient = lab.client(store)
    client.refresh(lab.NOW)
    return client


# Signatures gather


def test_signers_sign_apart_and_copies_are_merged(lab: Any) -> None:
    data = changes.rotate(workspace(lab), "root", new_key(lab, "dora"), old="root-3", now=lab.NOW).encode()
    one, two, none = decode(data), decode(data), decode(data)
    assert one.sign(ring(lab, "root-1")) == {"root": [lab.signer("root-1").public_key.keyid]}
    assert two.sign(ring(lab, "root-2", "targets")).keys() == {"root"}
    assert none.sign(ring(lab, "targets", "director")) == {}
    assert one.missing() == [
        "root (the root before) has 1 of 2 signatures",
        "root (the new root) has 1 of 2 signatures",
    ]
    assert kind_of(lambda: adopt(workspace(lab), one, now=lab.NOW)) == "signatures-missing"
    merged = decode(one.encode())
    merged.merge(decode(two.encode()))
    assert merged.missing() == []
    assert adopt(workspace(lab), merged, now=lab.NOW) == ["root"]
    assert refreshed(lab).versions()["root"] == 2


def test_the_new_root_needs_its_own_threshold_too(lab: Any) -> None:
    """Two new keys in the place of two: the old pair alone is not enough, nor the new pair."""
    first = changes.rotate(workspace(lab), "root", new_key(lab, "dora"), old="root-2", now=lab.NOW)
    put(lab, first)
    for name in ("root-2",):
        next((lab.directory / "keys").glob(f"*/{name}.pem")).rename(lab.directory / f"{name}.gone")
    proposal = changes.rotate(workspace(lab), "root", new_key(lab, "erik"), old="root-3", now=lab.NOW)
    data = proposal.encode()
    for names, expected in (
        (("dora", "erik"), "before"),
        (("root-3", "root-1"), "new root"),
        (("dora", "root-1"), None),
    ):
        tried = decode(data)
        tried.sign(ring(lab, *names))
        text = "; ".join(tried.missing())
        assert (expected in text) if expected else not text


def test_a_signature_that_does_not_verify_counts_for_nothing(lab: Any) -> None:
    proposal = changes.renew(workspace(lab), ["targets"], now=lab.NOW)
    proposal.sign(ring(lab, "targets"))
    value = json.loads(proposal.encode())
    value["roles"]["targets"]["signed"]["expires"] = "2099-01-01T00:00:00Z"
    changed = decode(json.dumps(value).encode())
    assert changed.missing() == ["targets has 0 of 1 signatures"]
    assert kind_of(lambda: adopt(workspace(lab), changed, now=lab.NOW)) == "signatures-missing"
    assert kind_of(lambda: proposal.merge(changed)) == "other-proposal"
    own = changes.renew(workspace(lab), ["targets"], now=lab.NOW)
    own.merge(proposal)
    assert own.missing() == []


def test_a_forged_before_does_not_help(lab: Any) -> None:
    """A proposal whose base is the thief's own root, which one stolen key would be enough for."""
    proposal = changes.remove(workspace(lab), "root", "root-1", threshold=1, now=lab.NOW)
    value = json.loads(proposal.encode())
    for part in ("base", "roles"):
        value[part]["root"]["signed"]["roles"]["root"]["threshold"] = 1
    forged = decode(json.dumps(value).encode())
    forged.sign(ring(lab, "root-3"))
    assert forged.missing() == []
    assert kind_of(lambda: adopt(workspace(lab), forged, now=lab.NOW)) == "proposal-outdated"
    forged = Proposal(title="x", roles=forged.roles, base={"root": workspace(lab).metadata_of("root")})
    assert kind_of(lambda: adopt(workspace(lab), forged, now=lab.NOW)) == "signatures-missing"


def test_a_forged_root_below_a_change_of_targets_does_not_help(lab: Any) -> None:
    """The proposal claims that the thief's key is the targets key; the root that is in force says otherwise."""
    thief = new_key(lab, "thief")
    value = json.loads(changes.renew(workspace(lab), ["targets"], now=lab.NOW).encode())
    signed = value["base"]["root"]["signed"]
    signed["keys"][thief.keyid] = thief.to_dict()
    signed["roles"]["targets"]["keyids"] = [thief.keyid]
    forged = decode(json.dumps(value).encode())
    forged.sign(ring(lab, "thief"))
    assert forged.missing() == []
    assert kind_of(lambda: adopt(workspace(lab), forged, now=lab.NOW)) == "catalogue-refused"


# What each change does


def test_a_targets_key_is_rotated(lab: Any) -> None:
    refreshed(lab)
    proposal = changes.rotate(workspace(lab), "targets", new_key(lab, "targets-2"), now=lab.NOW)
    assert list(proposal.roles) == ["root", "targets"]
    assert put(lab, proposal) == ["root", "targets"]
    assert refreshed(lab).versions() == {"root": 2, "timestamp": 2, "snapshot": 2, "targets": 2}
    (lab.directory / "keys" / "offline" / "targets-2.pem").unlink()
    again = changes.renew(workspace(lab), ["targets"], now=lab.NOW)
    assert again.sign(ring(lab, "targets")) == {}


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_an_online_key_is_rotated_and_a_fast_forward_of_the_thief_forgotten(lab: Any, role: str) -> None:
    lab.publish()
    if role == "timestamp":
        lab.serve_timestamp(lambda stamp: setattr(stamp, "version", 1 << 40), "timestamp")
    else:
        lab.serve_snapshot(lambda snapshot: setattr(snapshot, "version", 1 << 40))
    refreshed(lab)
    lab.serve_honestly()
    with pytest.raises(RefusedError, match="went back"):
        refreshed(lab)
    put(lab, changes.rotate(workspace(lab), role, new_key(lab, f"{role}-2", where="online"), now=lab.NOW))
    client = refreshed(lab)
    assert client.file(IMAGE)
    (lab.directory / "keys" / "online" / f"{role}.pem").unlink()
    lab.server().add_delta("deltas/a.otd", length=1, sha256="a" * 64, now=lab.NOW)
    assert refreshed(lab).file("deltas/a.otd")


def test_the_deltas_key_is_rotated_and_its_deltas_stay(lab: Any) -> None:
    lab.server().add_delta("deltas/a.otd", length=1, sha256="a" * 64, now=lab.NOW)
    put(lab, changes.rotate(workspace(lab), "deltas", new_key(lab, "deltas-2", where="online"), now=lab.NOW))
    assert lab.server().targets("deltas").version == 3
    assert refreshed(lab).file("deltas/a.otd")


def test_a_second_key_for_a_role_costs_only_its_delegator(lab: Any) -> None:
    lab.publish()
    proposal = changes.add(workspace(lab), "product-pump", new_key(lab, "second"), now=lab.NOW)
    assert list(proposal.roles) == ["targets"]
    put(lab, proposal)
    assert refreshed(lab).file(IMAGE)
    proposal = changes.remove(workspace(lab), "product-pump", lab.signer("second").public_key.keyid[:8], now=lab.NOW)
    assert list(proposal.roles) == ["targets"]
    put(lab, proposal)
    proposal = changes.add(workspace(lab), "product-pump", lab.signer("second").public_key, threshold=2, now=lab.NOW)
    assert list(proposal.roles) == ["targets", "product-pump"]
    put(lab, proposal)
    assert refreshed(lab).file(IMAGE)


def test_a_product_is_begun_later(lab: Any) -> None:
    put(lab, changes.add(workspace(lab), "product-tap", new_key(lab, "product-tap"), now=lab.NOW))
    lab.publish(product="tap")
    assert refreshed(lab).file("releases/tap/1.0/tap.img")
    assert lab.repository.products() == ["pump", "valve", "tap"]
    assert kind_of(lambda: changes.add(workspace(lab), "product-A/b", new_key(lab, "x"), now=lab.NOW)) == "bad-product"


def test_the_director_epoch_rises_with_every_key_taken_away(lab: Any) -> None:
    put(lab, changes.add(workspace(lab), "director", new_key(lab, "d2", where="online"), now=lab.NOW))
    assert lab.repository.director_epoch() == 1
    old = lab.signer("director").public_key.keyid
    put(lab, changes.remove(workspace(lab), "director", old, now=lab.NOW))
    assert (lab.repository.director_epoch(), refreshed(lab).director_epoch()) == (2, 2)
    assert list(refreshed(lab).director_keys()) == [lab.signer("d2").public_key.keyid]


def test_renewal_after_everything_expired(lab: Any) -> None:
    later = lab.NOW + 400 * lab.DAY
    proposal = changes.renew(workspace(lab), ["root", "targets"], now=later)
    proposal.sign(workspace(lab).keyring)
    assert adopt(workspace(lab), proposal, now=later) == ["root", "targets"]
    client = lab.client()
    client.refresh(later)
    assert client.versions()["targets"] == 2


def test_changes_that_make_no_sense_are_refused(lab: Any) -> None:
    key, now, repository = CryptoSigner.generate_ecdsa().public_key, lab.NOW, workspace(lab)
    held = lab.signer("root-1").public_key
    refused = {
        "unknown-role": [
            lambda: changes.rotate(repository, "mirror", key, now=now),
            lambda: changes.renew(repository, ["timestamp"], now=now),
            lambda: changes.bins(repository, "tap", 4, now=now),
        ],
        "unknown-key": [
            lambda: changes.rotate(repository, "root", key, now=now),
            lambda: changes.rotate(repository, "root", key, old="nobody", now=now),
            lambda: changes.remove(repository, "root", held.keyid[:3], now=now),
        ],
        "bad-threshold": [
            lambda: changes.add(repository, "root", key, threshold=5, now=now),
            lambda: changes.remove(repository, "targets", lab.signer("targets").public_key.keyid, now=now),
            lambda: changes.add(repository, "director", key, threshold=2, now=now),
        ],
        "key-in-use": [
            lambda: changes.add(repository, "root", held, now=now),
            lambda: changes.rotate(repository, "director", lab.signer("timestamp").public_key, now=now),
        ],
    }
    for kind, works in refused.items():
        assert [kind_of(work) for work in works] == [kind] * len(works)


# Putting in force


def test_of_two_proposals_on_one_state_the_second_is_outdated(lab: Any) -> None:
    first = changes.renew(workspace(lab), ["root", "targets"], now=lab.NOW)
    second = changes.rotate(workspace(lab), "director", new_key(lab, "d2", where="online"), now=lab.NOW)
    third = changes.renew(workspace(lab), ["root"], now=lab.NOW + 9)
    put(lab, first)
    assert put(lab, first) == []
    assert kind_of(lambda: put(lab, second)) == "proposal-outdated"
    assert kind_of(lambda: put(lab, third)) == "proposal-outdated"


def test_nothing_is_written_before_everything_is_signed_and_checked(lab: Any) -> None:
    before = {path.name: path.read_bytes() for path in lab.metadata.iterdir()}
    proposal = changes.renew(workspace(lab), ["root", "targets"], now=lab.NOW)
    proposal.sign(workspace(lab).keyring)
    online = Repository(lab.metadata, online_keys=lab.directory / "keys" / "offline")
    assert kind_of(lambda: adopt(online, proposal, now=lab.NOW)) == "key-missing"
    assert kind_of(lambda: adopt(workspace(lab), proposal, now=lab.NOW + 500 * lab.DAY)) == "catalogue-expired"
    assert before == {path.name: path.read_bytes() for path in lab.metadata.iterdir()}


def test_a_proposal_takes_no_release_and_no_epoch_back(lab: Any) -> None:
    lab.publish()
    proposal = changes.renew(workspace(lab), ["product-pump"], now=lab.NOW)
    del proposal.body("product-pump").targets[IMAGE]
    assert kind_of(lambda: put(lab, proposal)) == "release-exists"
    proposal = changes.renew(workspace(lab), ["targets"], now=lab.NOW)
    proposal.body("targets").unrecognized_fields[EPOCH] = 0
    assert kind_of(lambda: put(lab, proposal)) == "catalogue-refused"
    proposal = changes.renew(workspace(lab), ["targets"], now=lab.NOW)
    proposal.body("targets").version = 7
    assert kind_of(lambda: put(lab, proposal)) == "proposal-outdated"


def test_what_a_device_would_refuse_is_not_put_in_force(lab: Any) -> None:
    """Signed by everybody it needs, but a product that is in force would lose its only key's signature."""
    lab.publish()
    proposal = changes.renew(workspace(lab), ["targets"], now=lab.NOW)
    other = new_key(lab, "other")
    body = proposal.body("targets")
    body.delegations.roles["product-pump"].keyids = [other.keyid]
    body.delegations.keys[other.keyid] = other
    assert kind_of(lambda: put(lab, proposal)) == "catalogue-refused"
    assert refreshed(lab).file(IMAGE)


@pytest.mark.parametrize("role", ["targets", "snapshot", "director", "deltas"])
def test_power_cuts_while_it_is_put_in_force(lab: Any, role: str) -> None:
    """Before every write: devices follow the old catalogue or the new, and doing the same again ends well."""
    where = "offline" if role == "targets" else "online"
    proposal = changes.rotate(workspace(lab), role, new_key(lab, f"{role}-2", where=where), now=lab.NOW)
    proposal.sign(workspace(lab).keyring)
    before = {path.name: path.read_bytes() for path in lab.metadata.iterdir()}
    for cut in range(20):
        for path in lab.metadata.iterdir():
            path.unlink()
        for name, data in before.items():
            (lab.metadata / name).write_bytes(data)
        broken = BrokenRepository(lab.metadata, keyring=workspace(lab).keyring)
        broken.last = cut
        try:
            adopt(broken, proposal, now=lab.NOW)
        except Cut:
            pass
        else:
            break
        roots = sorted(lab.metadata.glob("*.root.json"))
        if len(roots) == 1:
            assert refreshed(lab, lab.MemoryStore(lab.store.files)).versions()["timestamp"] == 1
        assert adopt(workspace(lab), proposal, now=lab.NOW)
        assert refreshed(lab, lab.MemoryStore(lab.store.files)).versions()["timestamp"] == 2
    assert 2 < cut < 20


# Files


def test_the_diff_names_keys_thresholds_and_files(lab: Any) -> None:
    lab.publish()
    text = diff(changes.rotate(workspace(lab), "root", new_key(lab, "dora"), old="root-3", now=lab.NOW))
    assert ("+", f"    root key {lab.signer('dora').public_key.keyid[:16]} (ecdsa-sha2-nistp256)") in text
    assert ("-", f"    root key root-3 {lab.signer('root-3').public_key.keyid[:16]} (ecdsa-sha2-nistp256)") in text
    assert (" ", "  root: 2 of 3 keys") in text
    proposal = changes.renew(workspace(lab), ["product-pump"], now=lab.NOW + lab.DAY)
    proposal.body("product-pump").targets.pop(IMAGE)
    assert [mark for mark, line in diff(proposal) if line.startswith(f"  file {IMAGE}, 3000 bytes, sha256 ")] == ["-"]


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_any_bytes_as_a_proposal_are_refused(data: bytes) -> None:
    with pytest.raises(OtariaError):
        decode(data)


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8), lambda v: st.dictionaries(st.text(max_size=8), v), max_leaves=8
    )
)
def test_any_json_in_a_proposal_is_refused(value: Any) -> None:
    for fields in (
        {"base": value, "roles": value, "title": value},
        {"base": {"root": value}, "roles": {"root": value}, "title": "t"},
        {"base": {}, "roles": {"targets": {"signed": value, "signatures": []}}, "title": "t"},
    ):
        with pytest.raises(OtariaError):
            decode(json.dumps({"kind": "otaria-proposal", "format": 1, **fields}).encode())


def test_hostile_proposals_are_refused(lab: Any) -> None:
    good = json.loads(changes.renew(workspace(lab), ["root", "targets"], now=lab.NOW).encode())
    for part, role in (("base", "root"), ("roles", "targets")):
        value = json.loads(json.dumps(good))
        value[part][role] = good["roles"]["targets" if role == "root" else "root"]
        assert kind_of(lambda value=value: decode(json.dumps(value).encode())) == "catalogue-refused"
    doubled = json.dumps(good).replace('"title":', '"title": "harmless", "title":')
    assert kind_of(lambda: decode(doubled.encode())) == "not-a-proposal"
    orphan = {**good, "roles": {"bin-none-0": good["roles"]["targets"]}}
    assert kind_of(lambda: decode(json.dumps(orphan).encode()).missing()) == "catalogue-refused"
    root: Metadata[Root] = decode(json.dumps(good).encode()).roles["root"]
    assert root.signed.version == 2
    assert not list(Path(lab.directory).glob("*.proposal.json"))
