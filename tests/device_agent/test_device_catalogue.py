"""The agent's catalogue over real TUF metadata: whom it names as director and for how long, and who waits for whom."""

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from device_agent.catalogue import MANIFESTS_KEPT, DeviceCatalogue
from device_agent.effects import FileEffects
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.order import FileRef


class Device:
    """A `DeviceCatalogue` over the lab's server; `targets` are the files it has by address."""

    def __init__(self, lab: Any, directory: Path) -> None:
        self.lab, self.directory = lab, directory
        directory.mkdir()
        self.targets: dict[str, bytes] = {}
        self.fetch = lab.fetch
        self.catalogue = self.opened()

    def opened(self, *, is_server: bool = True) -> DeviceCatalogue:
        return DeviceCatalogue(
            FileEffects(),
            self.directory,
            root=self.lab.repository.root_bytes(),
            fetch_metadata=lambda name, limit: self.fetch(name, limit),
            fetch_target=lambda address, limit: self.targets.get(address),
            trusted_time=self.lab.NOW,
            is_server=is_server,
        )

    def release(self, version: str) -> FileRef:
        """Publish a manifest's bytes, without the catalogue; how it is listed is not asked here."""
        data = self.lab.manifest(version)
        digest = hashlib.sha256(data).hexdigest()
        self.targets[f"releases/pump/{version}/{digest}.manifest.json"] = data
        return FileRef(path=f"releases/pump/{version}/manifest.json", length=len(data), sha256=digest)


@pytest.fixture
def device(lab: Any, tmp_path: Path) -> Device:
    return Device(lab, tmp_path / "catalogue")


def keyids(device: Device) -> set[str]:
    return set(device.catalogue.director().keys)


def targets_with(lab: Any, signer: Any) -> Any:
    """The next top-level targets, which name another director key."""
    body = lab.repository.targets()
    body.version += 1
    body.revoke_key(next(iter(body.delegations.roles["director"].keyids)), "director")
    body.add_key(signer.public_key, "director")
    return body


def test_security_rotated_director_key_is_forgotten_with_the_new_metadata(lab: Any, device: Device) -> None:
    device.catalogue.refresh(lab.NOW)
    new = type(lab.signer("targets")).generate_ecdsa()
    lab.serve_targets("targets", targets_with(lab, new), "targets")
    device.catalogue.refresh(lab.NOW)
    assert keyids(device) == {new.public_key.keyid}


def test_security_director_that_the_new_root_no_longer_vouches_for_is_forgotten_at_once(
    lab: Any, device: Device
) -> None:
    """The root was rotated because the targets key was stolen, and the thief holds back what comes after the root."""
    device.catalogue.refresh(lab.NOW)
    new = type(lab.signer("targets")).generate_ecdsa()

    def change(root: Any) -> None:
        root.revoke_key(root.roles["targets"].keyids[0], "targets")
        root.add_key(new.public_key, "targets")

    lab.serve_root(change, "root-1", "root-2")
    lab.served["timestamp.json"] = None
    with pytest.raises(UnavailableError):
        device.catalogue.refresh(lab.NOW)
    with pytest.raises(UnavailableError, match="No verified catalogue"):
        device.catalogue.director()


def test_security_targets_without_a_director_leave_none(lab: Any, device: Device) -> None:
    device.catalogue.refresh(lab.NOW)
    body = lab.repository.targets()
    body.version += 1
    del body.delegations.roles["director"]
    lab.serve_targets("targets", body, "targets")
    device.catalogue.refresh(lab.NOW)
    with pytest.raises(UnavailableError):
        device.catalogue.director()


def test_security_director_of_several_signatures_is_not_weakened_to_one(lab: Any, device: Device) -> None:
    body = lab.repository.targets()
    body.version += 1
    body.delegations.roles["director"].keyids.append(lab.signer("timestamp").public_key.keyid)
    body.delegations.keys[lab.signer("timestamp").public_key.keyid] = lab.signer("timestamp").public_key
    body.delegations.roles["director"].threshold = 2
    lab.serve_targets("targets", body, "targets")
    device.catalogue.refresh(lab.NOW)
    with pytest.raises(UnavailableError):
        device.catalogue.director()


@pytest.mark.parametrize("lie", ["garbage", "endless", "older"])
def test_security_what_a_broker_makes_of_the_catalogue_delays_an_order_and_ends_none(
    lab: Any, device: Device, lie: str
) -> None:
    """Over TLS from the server itself the same is refused for good."""
    device.catalogue.refresh(lab.NOW)
    before = lab.fetch("timestamp.json", 1 << 20)
    body = lab.repository.targets()
    body.version += 1
    lab.serve_targets("targets", body, "targets")
    device.catalogue.refresh(lab.NOW)
    lab.served["timestamp.json"] = {"garbage": b"{}", "endless": b" " * (1 << 20), "older": before}[lie]
    for is_server, error in ((True, RefusedError), (False, UnavailableError)):
        with pytest.raises(error) as caught:
            device.opened(is_server=is_server).refresh(lab.NOW)
        assert caught.value.kind == "catalogue-refused"


def test_security_a_path_that_a_brokers_catalogue_does_not_list_may_be_in_one_that_it_holds_back(
    lab: Any, device: Device
) -> None:
    found: list[object] = []
    for is_server in (True, False):
        catalogue = device.opened(is_server=is_server)
        catalogue.refresh(lab.NOW)
        try:
            found.append(catalogue.file("releases/pump/9.9.9/manifest.json"))
        except UnavailableError as error:
            found.append(error.kind)
    assert found == [None, "catalogue-mismatch"]


def test_an_expired_catalogue_is_expired_whoever_brought_it(lab: Any, device: Device) -> None:
    with pytest.raises(RefusedError) as caught:
        device.opened(is_server=False).refresh(lab.NOW + 4000 * lab.DAY)
    assert caught.value.kind == "catalogue-expired"


@pytest.mark.parametrize("lie", [None, b"{}"], ids=["missing", "garbage"])
def test_expired_catalogue_or_a_failed_refresh_forgets_no_director(lab: Any, device: Device, lie: bytes | None) -> None:
    device.catalogue.refresh(lab.NOW)
    known = keyids(device)
    with pytest.raises(RefusedError) as caught:
        device.catalogue.refresh(lab.NOW + 4000 * lab.DAY)
    assert caught.value.kind == "catalogue-expired"
    assert keyids(device) == known
    lab.served["timestamp.json"] = lie
    with pytest.raises(OtariaError):
        device.catalogue.refresh(lab.NOW)
    assert keyids(device) == known
    device.catalogue = device.opened()
    assert keyids(device) == known, "also after a restart"


def test_director_is_believed_about_the_time_until_the_first_role_expires(lab: Any, device: Device) -> None:
    device.catalogue.refresh(lab.NOW)
    assert device.catalogue.director().until == lab.repository.timestamp().expires.timestamp()


def test_held_manifest_waits_for_no_refresh(lab: Any, device: Device) -> None:
    """The checks of a trial need it: a server that answers slowly must not cost a good release its deadline."""
    device.catalogue.refresh(lab.NOW)
    file = device.release("1.0")
    device.catalogue.manifest(file)
    seen: list[str] = []

    def meanwhile(name: str, limit: int) -> bytes | None:
        asked = threading.Thread(target=lambda: seen.append(device.catalogue.manifest(file).version), daemon=True)
        asked.start()
        asked.join(2.0)
        return None

    device.fetch = meanwhile
    with pytest.raises(OtariaError):
        device.catalogue.refresh(lab.NOW)
    assert seen[:1] == ["1.0"]


def test_cached_manifests_do_not_fill_the_disk_and_the_newest_stays(lab: Any, device: Device) -> None:
    files = [device.release(f"1.{number}") for number in range(2 * MANIFESTS_KEPT)]
    for number, file in enumerate(files):
        device.catalogue.manifest(file)
        path = device.directory / f"manifest-{file.sha256}.json"
        os.utime(path, (number, number))
    stored = {path.name for path in device.directory.glob("manifest-*")}
    assert MANIFESTS_KEPT <= len(stored) <= MANIFESTS_KEPT + 5
    assert {f"manifest-{file.sha256}.json" for file in files[-MANIFESTS_KEPT:]} <= stored
    device.targets.clear()
    device.catalogue = device.opened()
    assert device.catalogue.manifest(files[-1]).version == f"1.{2 * MANIFESTS_KEPT - 1}"


def test_manifest_that_was_just_fetched_is_kept_whatever_the_clock_says(lab: Any, device: Device) -> None:
    for number in range(MANIFESTS_KEPT + 5):
        file = device.release(f"1.{number}")
        device.catalogue.manifest(file)
        os.utime(device.directory / f"manifest-{file.sha256}.json", (1 << 33, 1 << 33))
    newest = device.release("2.0")
    device.catalogue.manifest(newest)
    assert (device.directory / f"manifest-{newest.sha256}.json").exists()
