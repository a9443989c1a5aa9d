"""Hash bins below a product with many releases: devices look where the publisher put things, and fetch little."""

from typing import Any

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, TargetFile, Targets

from firmware.catalogue import changes
from firmware.catalogue.adopt import adopt
from firmware.catalogue.client import CatalogueClient
from firmware.catalogue.keyfiles import generate
from firmware.catalogue.publish import Repository
from firmware.errors import RefusedError

RELEASES = 12


def put(lab: Any, proposal: Any) -> list[str]:
    repository = Repository.workspace(lab.directory)
    proposal.sign(repository.keyring)
    return adopt(repository, proposal, now=lab.NOW)


def binned(lab: Any, bits: int = 3) -> None:
    for n in range(1, RELEASES + 1):
        lab.publish(f"{n}.0", n)
    put(lab, changes.bins(Repository.workspace(lab.directory), "pump", bits, now=lab.NOW))


def path(n: int) -> str:
    return f"releases/pump/{n}.0/pump.img"


def refreshed(lab: Any) -> CatalogueClient:
    client: CatalogueClient = lab.client()
    client.refresh(lab.NOW)
    return client


def test_devices_find_every_release_and_fetch_one_bin_for_each(lab: Any) -> None:
    before = {n: refreshed(lab).file(path(n)) for n in range(1, RELEASES + 1)}
    binned(lab)
    client = refreshed(lab)
    lab.asked.clear()
    assert client.file(path(5))
    assert len(lab.asked) == 1
    assert lab.asked[0][0].startswith("1.bin-pump-")
    found = {n: client.file(path(n)) for n in range(1, RELEASES + 1)}
    assert all(found.values())
    assert found == {n: lab.server().files(path(n)) for n in found}
    assert found.keys() == before.keys()
    assert len(lab.asked) <= 8
    client.load_cached(lab.NOW)
    assert client.file(path(5)) == found[5]
    assert client.file("releases/pump/99.0/pump.img") is None


def test_releases_go_on_and_are_moved_when_it_is_done_again(lab: Any) -> None:
    binned(lab)
    with pytest.raises(RefusedError) as caught:
        lab.publish("13.0", RELEASES)
    assert caught.value.kind == "counter-not-rising"
    with pytest.raises(RefusedError) as caught:
        lab.repository.sign_release("pump", lab.manifest("5.0", 99), now=lab.NOW)
    assert caught.value.kind == "release-exists"
    lab.publish("13.0", 13)
    assert refreshed(lab).file(path(13))
    changed = put(lab, changes.bins(Repository.workspace(lab.directory), "pump", 3, now=lab.NOW))
    assert changed[0] == "product-pump"
    assert 2 <= len(changed) <= 3
    assert lab.server().targets("product-pump").targets == {}
    assert refreshed(lab).file(path(13))
    assert refreshed(lab).file(path(5))
    assert lab.repository.signed_release("pump", lab.manifest("13.0", 13))
    for bits in (3, 4):
        with pytest.raises(RefusedError) as caught:
            changes.bins(Repository.workspace(lab.directory), "pump", bits, now=lab.NOW)
        assert caught.value.kind == "bad-bins"


def test_a_product_with_bins_is_handed_over(lab: Any) -> None:
    binned(lab)
    heir = generate(lab.directory / "keys" / "offline" / "heir.pem").public_key
    proposal = changes.rotate(Repository.workspace(lab.directory), "product-pump", heir, now=lab.NOW)
    assert len(proposal.roles) == 1 + 1 + 8
    put(lab, proposal)
    assert all(refreshed(lab).file(path(n)) for n in range(1, RELEASES + 1))
    (lab.directory / "keys" / "offline" / "product-pump.pem").unlink()
    lab.repository = Repository.workspace(lab.directory)
    lab.publish("13.0", 13)
    assert refreshed(lab).file(path(13))


def test_a_file_that_is_lost_on_the_way_into_its_bin_stops_the_change(lab: Any) -> None:
    lab.publish()
    repository = Repository.workspace(lab.directory)
    proposal = changes.bins(repository, "pump", 2, now=lab.NOW)
    holder = next(role for role, metadata in proposal.roles.items() if path(1) in metadata.signed.targets)
    kept = proposal.body(holder).targets.pop(path(1))
    with pytest.raises(RefusedError, match="in no hash bin") as caught:
        put(lab, proposal)
    assert caught.value.kind == "release-exists"
    wrong = next(role for role in proposal.roles if role.startswith("bin-") and role != holder)
    proposal.body(wrong).targets[path(1)] = kept
    with pytest.raises(RefusedError, match="in no hash bin"):
        put(lab, proposal)


def test_a_bin_lists_nothing_outside_its_product_or_its_share(lab: Any) -> None:
    """The product's key signs a bin that lists another product's path, or a path of another bin: devices never look there."""
    binned(lab)
    client = refreshed(lab)
    bins = lab.repository.targets("product-pump").delegations.succinct_roles
    other = "releases/valve/9.0/valve.img"
    for stray in (other, path(50)):
        for name in bins.get_roles():
            if stray == path(50) and name == bins.get_role_for_target(stray):
                continue
            body = lab.repository.targets(name)
            body.version += 1
            body.targets[stray] = TargetFile(1, {"sha256": "a" * 64}, stray)
            lab.serve_targets(name, body, "product-pump")
        client.refresh(lab.NOW)
        assert client.file(stray) is None
        lab.serve_honestly()
        lab.store.files.clear()
        CatalogueClient.initialise(lab.store, lab.repository.root_bytes())


@pytest.mark.parametrize("terminating", [True, False])
def test_a_terminating_delegation_ends_the_search(lab: Any, terminating: bool) -> None:
    """Two roles of one product list a path; where the first is terminating, what it does not list is nowhere."""
    body = lab.repository.targets("product-pump")
    key = lab.signer("product-pump").public_key
    roles = {
        name: DelegatedRole(name, [key.keyid], 1, terminating=terminating, paths=["releases/pump/*/*"])
        for name in ("first", "second")
    }
    body.version, body.delegations = 2, Delegations({key.keyid: key}, roles)
    lab.serve_targets("product-pump", body, "product-pump")
    listed = Targets(1, None, body.expires, {path(7): TargetFile(7, {"sha256": "b" * 64}, path(7))})
    lab.serve_targets("first", Targets(1, None, body.expires), "product-pump")
    lab.serve_targets("second", listed, "product-pump")
    found = refreshed(lab).file(path(7))
    assert (found is None) == terminating
