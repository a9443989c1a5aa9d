"""A bundle's catalogue goes through the device's own client: whatever the network could not get past it, a stick can't either."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from device_agent.bundle.bringing import order_in
from device_agent.bundle.shelf import Shelf
from device_agent.catalogue import DeviceCatalogue
from device_agent.effects import FileEffects
from firmware.bundle.gather import gather
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.order import FileRef
from tests.device_agent.bundle.sticks import Stick, offline_catalogue


@pytest.fixture
def stick(lab: Any, tmp_path: Path) -> Stick:
    return Stick(lab, tmp_path / "spring.bundle")


@pytest.fixture
def catalogue(lab: Any, tmp_path: Path) -> DeviceCatalogue:
    return offline_catalogue(lab, tmp_path / "catalogue")


def refused(catalogue: DeviceCatalogue, stick: Stick, envelope: bytes, *, now: float | None = None) -> OtariaError:
    with pytest.raises(OtariaError) as caught:
        catalogue.bring(stick.path, envelope, stick.lab.NOW if now is None else now)
    return caught.value


def test_afterwards_everything_the_order_needs_is_held_without_a_network(
    stick: Stick, catalogue: DeviceCatalogue, lab: Any, tmp_path: Path
) -> None:
    catalogue.bring(stick.path, stick.write(), lab.NOW)
    for one in (catalogue, offline_catalogue(lab, tmp_path / "catalogue")):  # and after a restart
        with pytest.raises(UnavailableError):
            one.refresh(lab.NOW)
        one.use_held(lab.NOW)
        assert set(one.director().keys) == {stick.director.public_key.keyid}
        assert one.file(stick.image_ref.path) == stick.image_ref
        assert one.file(stick.manifest_ref.path) == stick.manifest_ref
        assert one.manifest(stick.manifest_ref).version == "2.0"


def test_an_expired_timestamp_starts_nothing_and_says_so(stick: Stick, catalogue: DeviceCatalogue, lab: Any) -> None:
    envelope = stick.write()
    late = lab.NOW + 400 * lab.DAY
    assert refused(catalogue, stick, envelope, now=late).kind == "catalogue-expired"


def test_what_is_held_is_used_only_until_it_expires(stick: Stick, catalogue: DeviceCatalogue, lab: Any) -> None:
    catalogue.bring(stick.path, stick.write(), lab.NOW)
    with pytest.raises(RefusedError) as caught:
        catalogue.use_held(lab.NOW + 400 * lab.DAY)
    assert caught.value.kind == "catalogue-expired"


def test_an_older_snapshot_than_the_one_held_is_a_rollback(
    stick: Stick, catalogue: DeviceCatalogue, lab: Any, tmp_path: Path
) -> None:
    old = stick.write()
    old_file = stick.path.read_bytes()
    lab.publish("3.0", 3)
    catalogue.bring(stick.path, stick.write(), lab.NOW)
    stick.path.write_bytes(old_file)
    error = refused(catalogue, stick, old)
    assert error.kind == "catalogue-refused"
    catalogue.use_held(lab.NOW)
    assert catalogue.file("releases/pump/3.0/pump.img") is not None, "what was held is still held"


@pytest.mark.parametrize("missing", ["timestamp", "snapshot", "targets", "product-pump", "manifest"])
def test_a_partial_bundle_is_refused(stick: Stick, catalogue: DeviceCatalogue, missing: str) -> None:
    def leave_out(parts: dict[str, bytes]) -> None:
        for name in list(parts):
            if name.endswith(f"{missing}.json") or (
                missing == "manifest" and name == f"artifacts/{stick.manifest_ref.sha256}"
            ):
                del parts[name]

    envelope = stick.write(change=leave_out)
    assert refused(catalogue, stick, envelope).kind == "bundle-malformed"


def test_metadata_of_two_snapshots_does_not_mix(stick: Stick, catalogue: DeviceCatalogue, lab: Any) -> None:
    older = stick.parts({})
    lab.publish("3.0", 3)

    def mix(parts: dict[str, bytes]) -> None:
        name = next(name for name in older if name.endswith("product-pump.json"))
        newer = next(name for name in parts if name.endswith("product-pump.json"))
        parts[newer] = older[name]

    assert refused(catalogue, stick, stick.write(change=mix)).kind == "catalogue-refused"


def test_a_manifest_of_other_bytes_is_refused(stick: Stick, catalogue: DeviceCatalogue) -> None:
    def change(parts: dict[str, bytes]) -> None:
        name = f"artifacts/{stick.manifest_ref.sha256}"
        parts[name] = parts[name].replace(b"pump", b"pomp")

    envelope = stick.write(change=change)
    assert refused(catalogue, stick, envelope).kind == "bundle-malformed"


def test_a_stranger_s_catalogue_is_refused(stick: Stick, catalogue: DeviceCatalogue, lab: Any, tmp_path: Path) -> None:
    from tests.device_agent.conftest import _LAB

    other = Stick(_LAB.Lab(tmp_path / "other"), stick.path)
    assert refused(catalogue, stick, other.write()).kind == "catalogue-refused"


def test_a_rotated_root_is_followed_version_by_version(stick: Stick, catalogue: DeviceCatalogue, lab: Any) -> None:
    lab.serve_root(lambda root: None, "root-1", "root-2")
    envelope = stick.write()
    catalogue.bring(stick.path, envelope, lab.NOW)
    catalogue.use_held(lab.NOW)


def test_a_bundle_without_an_order_for_this_target_says_so(stick: Stick) -> None:
    stick.write({"dev-2": b"{}"})
    bundle = Shelf(FileEffects(), stick.path.parent).open(stick.path)
    with pytest.raises(RefusedError) as caught:
        order_in(bundle, "dev-1")
    assert caught.value.kind == "not-in-bundle"


def test_gathering_refuses_what_the_catalogue_does_not_have(stick: Stick, lab: Any) -> None:
    other = FileRef(path="releases/pump/2.0/pump.img", length=1, sha256=hashlib.sha256(b"?").hexdigest())
    with pytest.raises(RefusedError) as caught:
        gather(lab.repository.root_bytes(), lab.fetch, [other], lab.NOW)
    assert caught.value.kind == "catalogue-mismatch"
    with pytest.raises(RefusedError):
        gather(lab.repository.root_bytes(), lab.fetch, [], lab.NOW + 400 * lab.DAY)
