"""What an order must agree with, one lie at a time."""

from typing import Any

import pytest
from msgspec.structs import replace

from device_agent import verify
from device_agent.core.values import Content
from firmware.manifest import Requires
from firmware.protocol.order import DeltaRef, FileRef, Order, OrderedImage
from firmware.protocol.words import Action
from tests.crash.world import IDENTITY, Release, World, release
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
    return replace(plain, release=release, images=[OrderedImage(file=NEW.image_ref, delta=DELTA)])


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


THREE = release("2.0", 2, sets=("root", "boot", "app"))


def order_for_three(**changes: Any) -> Order:
    plain = order()
    assert plain.release is not None
    named = replace(plain.release, manifest=THREE.manifest_ref)
    return replace(plain, release=named, images=THREE.ordered, **changes)


def test_every_image_must_be_the_manifests_of_its_set() -> None:
    assert verify.contradicts_manifest(order_for_three(), THREE.manifest, "board-1", {}) is None
    root, boot, app = THREE.ordered
    lies = (
        [root, boot],
        [root, boot, app, replace(app, slot="modem")],
        [root, replace(boot, file=app.file), replace(app, file=boot.file)],
        [root, boot, replace(app, slot="modem")],
    )
    for images in lies:
        reason = verify.contradicts_manifest(replace(order_for_three(), images=images), THREE.manifest, "board-1", {})
        assert reason is not None
        assert reason.kind == "catalogue-mismatch"


def test_every_image_and_every_delta_must_be_the_catalogues() -> None:
    listed = {file.path: file for file in (THREE.manifest_ref, *THREE.refs.values(), DELTA.file)}
    with_delta = [replace(one, delta=DELTA) if one.slot == "app" else one for one in THREE.ordered]
    whole = replace(order_for_three(), images=with_delta)
    assert verify.contradicts_catalogue(whole, listed.get) is None
    for path in listed:
        others = {name: file for name, file in listed.items() if name != path}
        assert verify.contradicts_catalogue(whole, others.get) is not None, path


def test_security_a_slot_set_that_is_listed_twice_is_refused_from_the_orders_own_words() -> None:
    root, boot, app = THREE.ordered
    twice = verify.reject(replace(order_for_three(), images=[root, boot, app, replace(boot, file=app.file)]), IDENTITY)
    assert twice is not None
    assert (twice.kind, twice.text) == (
        "malformed",
        "The order lists two images for the slot set boot; order it again.",
    )


def test_security_seventeen_images_are_refused_from_the_orders_own_words() -> None:
    images = [replace(THREE.ordered[1], slot=f"s{n}") for n in range(17)]
    many = verify.reject(replace(order_for_three(), images=images), IDENTITY)
    assert many is not None
    assert many.kind == "too-large"
    assert verify.reject(replace(order_for_three(), images=images[:16]), IDENTITY) is None


@pytest.mark.parametrize(
    ("sets", "kind"),
    [
        (("root", "boot", "app"), None),
        (("root", "boot"), "slot-missing"),
        (("root", "boot", "app", "modem"), "image-missing"),
        (("root", "boot", "modem"), "slot-missing"),
    ],
)
def test_a_release_brings_exactly_the_sets_of_the_device(sets: tuple[str, ...], kind: str | None) -> None:
    reason = verify.misfits(THREE.manifest, sets)
    assert (reason and reason.kind) == kind


@pytest.mark.parametrize(
    ("device", "kind"), [(("root", "boot"), "slot-missing"), (("root", "app", "x"), "image-missing")]
)
def test_an_agent_refuses_what_does_not_fit_its_sets_once_and_writes_nothing(
    device: tuple[str, ...], kind: str
) -> None:
    world = World(images=device)
    new = release("3.0", 3, sets=("root", "boot", "app") if kind == "slot-missing" else ("root", "app"))
    world.depot.releases.append(new)
    before = {path: data for path, data in world.disk.files.items() if path.name.startswith("slot-")}
    world.server.order(Action.INSTALL, new)
    world.run()
    world.run()
    told = [(report.state.value, report.reason.kind) for report in world.server.told if report.reason]
    assert told == [("refused", kind)]
    assert {path: world.disk.files[path] for path in before} == before


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda images: [*images, images[1]], "malformed"),
        (lambda images: [replace(images[0], slot=f"s{n}") for n in range(17)], "too-large"),
        (lambda images: images[:2], "catalogue-mismatch"),
        (lambda images: [images[0], replace(images[1], file=images[2].file), images[2]], "catalogue-mismatch"),
        (lambda images: [], "malformed"),
    ],
)
def test_security_a_signed_order_with_wrong_images_is_reported_once_and_writes_nothing(spoil: Any, kind: str) -> None:
    world = World(images=("root", "boot", "app"))
    before = {path: data for path, data in world.disk.files.items() if path.name.startswith("slot-")}
    world.server.order(Action.INSTALL, world.new, images=spoil(world.new.ordered))
    world.run()
    world.run()
    told = [(report.state.value, report.reason.kind) for report in world.server.told if report.reason]
    assert told == [("refused", kind)]
    assert {path: world.disk.files[path] for path in before} == before


def runs(counter: int, product: str = "demo") -> Content:
    return Content(product=product, version="x", counter=counter, sha256="0" * 64, length=1)


@pytest.mark.parametrize(
    ("counter", "first"), [(0, 3), (2, 3), (3, 4), (4, 7), (6, 7), (7, None), (8, None), (9, None), (10, None)]
)
def test_a_release_that_must_be_passed_through_comes_first(counter: int, first: int | None) -> None:
    manifest = release("9.0", 9, requires=Requires(min_counter=4, through=[3, 7])).manifest
    reason = verify.jumps_over(manifest, runs(counter))
    assert (reason is None) == (first is None)
    if reason is not None:
        assert reason.kind == "must-pass-through"
        assert reason.text.endswith(f"install the release with counter {first} first.")


def test_what_is_unknown_or_another_product_has_passed_through_nothing() -> None:
    needy = release("9.0", 9, requires=Requires(through=[0])).manifest
    assert verify.jumps_over(needy, runs(0)) is None
    for running in (None, runs(8, "other")):
        reason = verify.jumps_over(needy, running)
        assert reason is not None
        assert reason.kind == "must-pass-through"
    assert verify.jumps_over(NEW.manifest, None) is None


def test_an_agent_refuses_to_jump_and_follows_once_it_has_passed_through() -> None:
    world = World()
    far = release("9.0", 9, requires=Requires(through=[2]))
    world.depot.releases.append(far)
    world.server.order(Action.INSTALL, far)
    world.run()
    told = [report for report in world.server.told if report.reason]
    assert [(report.state, report.reason.kind) for report in told if report.reason] == [
        ("refused", "must-pass-through")
    ]
    world.server.order(Action.INSTALL, world.new)
    world.run()
    world.server.order(Action.INSTALL, far)
    world.run()
    assert world.server.told[-1].state == "committed"
    assert not world.server.told[-1].reason
