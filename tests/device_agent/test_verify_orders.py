"""What an order must agree with, one lie at a time."""

from typing import Any

import pytest
from msgspec.structs import replace

from device_agent import verify
from firmware.protocol.order import DeltaRef, FileRef, Order
from tests.crash.world import IDENTITY, Release, World
from tests.device_agent.core.playbook import held

NEW: Release = World().new
DELTA = DeltaRef(
    file=FileRef(path="deltas/a-b.otd", length=9, sha256="d" * 64), source_sha256="1" * 64, source_length=5
)
CATALOGUE = {file.path: file for file in (NEW.manifest_ref, NEW.image_ref, DELTA.file)}


def order() -> Order:
    plain = held().order
    assert plain.release is not None
    release = replace(plain.release, manifest=NEW.manifest_ref)
    return replace(plain, release=release, image=NEW.image_ref, delta=DELTA)


def test_order_that_agrees_is_followed() -> None:
    assert verify.foreign(order(), IDENTITY) is None
    assert verify.reject(order(), IDENTITY) is None
    assert verify.contradicts_catalogue(order(), CATALOGUE.get) is None
    assert verify.contradicts_manifest(order(), NEW.manifest, "board-1", {"demo": 2}) is None


@pytest.mark.parametrize("lie", [{"length": 1}, {"sha256": "e" * 64}])
@pytest.mark.parametrize("path", sorted(CATALOGUE))
def test_every_file_must_be_exactly_the_catalogues(path: str, lie: dict[str, Any]) -> None:
    listed = {**CATALOGUE, path: replace(CATALOGUE[path], **lie)}
    reason = verify.contradicts_catalogue(order(), listed.get)
    assert reason is not None
    assert reason.kind == "catalogue-mismatch"
    del listed[path]
    assert verify.contradicts_catalogue(order(), listed.get) is not None


def test_release_below_the_floor_is_refused() -> None:
    reason = verify.contradicts_manifest(order(), NEW.manifest, "board-1", {"demo": 3})
    assert reason is not None
    assert reason.kind == "below-floor"


def test_image_of_another_slot_set_is_not_taken() -> None:
    other = replace(NEW.manifest, images=[replace(NEW.manifest.images[0], slot="modem")])
    assert verify.contradicts_manifest(order(), other, "board-1", {}) is not None
