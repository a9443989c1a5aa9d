"""Releases of several images on the server: published whole, a delta for each image, orders with all of them."""

import hashlib
from typing import Any

import pytest

from firmware.contents import contents_sha256
from firmware.errors import UnavailableError
from server.campaigns import paths
from server.campaigns.savings import savings
from server.planner.words import CampaignState
from server.ports import DeltaNeed, DeltaRecord, Origin, ReleaseImage, ReleaseRecord, StoredFile, Unit
from tests.server.campaigns.conftest import HARDWARE, PRODUCT
from tests.server.campaigns.test_release_service import PROGRAM, Bench, bench

__all__ = ["bench"]
MIB = 1 << 20
SIZES = {"root": 16 * MIB, "boot": 4 * MIB, "app": 8 * MIB}
UNCHANGED = "boot"
ABLE = ("delta-otd1",)


def hash_of(slot: str, version: str) -> str:
    return f"{slot}-{'same' if slot == UNCHANGED else version}".encode().hex().rjust(64, "0")


def content(version: str) -> str:
    return contents_sha256((slot, hash_of(slot, version)) for slot in SIZES)


def release(version: str, **changes: Any) -> ReleaseRecord:
    place = f"releases/{PRODUCT}/{version}"
    images = tuple(
        ReleaseImage(slot=slot, file=StoredFile(path=f"{place}/{slot}.img", length=size, sha256=hash_of(slot, version)))
        for slot, size in SIZES.items()
    )
    manifest = StoredFile(path=f"{place}/manifest.json", length=100, sha256="e" * 64)
    facts = {"product": PRODUCT, "version": version, "counter": int(version), "hardware": (HARDWARE,)}
    return ReleaseRecord(**{**facts, "manifest": manifest, "images": images, **changes})


def delta(slot: str, source: str, target: str, length: int = MIB) -> DeltaRecord:
    return DeltaRecord(
        file=StoredFile(path=f"deltas/{slot}-{source}-{target}.otd", length=length, sha256="d" * 64),
        source_sha256=hash_of(slot, source),
        source_length=SIZES[slot],
        target_sha256=hash_of(slot, target),
    )


def at(version: str, capabilities: tuple[str, ...] = ABLE) -> Origin:
    return Origin(
        hardware=HARDWARE, sha256=content(version), product=PRODUCT, counter=int(version), capabilities=capabilities
    )


def fetched(origin: Origin, *deltas: DeltaRecord) -> dict[str, tuple[int, bool]]:
    """Bytes for each image, and whether by delta, on the way to release 2."""
    releases = [release("1"), release("2")]
    (hop,) = paths.find_path(origin, releases[-1], releases, paths.as_deltas(deltas), min_saving=0.2)
    assert hop.length == sum(fetch.length for fetch in hop.fetches)
    return {fetch.image.slot: (fetch.length, fetch.delta is not None) for fetch in hop.fetches}


# Ways


def test_each_image_is_fetched_as_cheaply_as_can_be() -> None:
    found = fetched(at("1"), delta("app", "1", "2"))
    assert found == {"root": (16 * MIB, False), "boot": (0, False), "app": (MIB, True)}


def test_what_runs_is_known_as_a_whole_only() -> None:
    """A content that no release has tells nothing of its parts."""
    stranger = Origin(hardware=HARDWARE, sha256="f" * 64, product=PRODUCT, counter=1, capabilities=ABLE)
    assert {length for length, _ in fetched(stranger, delta("app", "1", "2")).values()} == set(SIZES.values())


def test_who_cannot_apply_deltas_still_keeps_what_did_not_change() -> None:
    found = fetched(at("1", ()), delta("app", "1", "2"), delta("root", "1", "2"))
    assert found == {"root": (16 * MIB, False), "boot": (0, False), "app": (8 * MIB, False)}


# Campaigns


CAMPAIGN = """
name: spring
product: lamp
version: "2"
strategy:
  name: quick
  cohorts: [{name: canary, count: 1}, {name: rest}]
  patience: 600s
  horizon: 300s
  trial: 60s
  healthy: 10s
"""


async def prepared(stage: Any, *versions: str) -> list[Any]:
    def work(unit: Unit) -> None:
        unit.releases.add(release("1"))
        unit.releases.add(release("2"))

    await stage.database.inner.write(work)
    devices = []
    for number, version in enumerate(versions):
        devices += await stage.enrol(f"t{number}", version=version, content=content)
    await stage.settle()
    return devices


async def test_a_campaign_brings_all_images_with_a_delta_for_each_that_changed(stage: Any) -> None:
    devices = await prepared(stage, "1", "1", "2")
    stage.maker.length = MIB
    await stage.start(CAMPAIGN)
    await stage.live(lambda view: view.row.state is CampaignState.COMPLETED, rounds=200)
    assert [device.version for device in devices] == ["2", "2", "2"]
    (order,) = devices[0].orders
    by_slot = {image.slot: image for image in order.images}
    assert list(by_slot) == list(SIZES)
    for slot, image in by_slot.items():
        assert image.file.sha256 == hash_of(slot, "2")
        assert (image.delta is None) == (slot == UNCHANGED)
        assert image.delta is None or image.delta.source_sha256 == hash_of(slot, "1")
    assert devices[2].orders == [], "who runs all of it already was ordered to install it"


async def test_legs_count_what_each_image_needs(stage: Any) -> None:
    await prepared(stage, "1", "1", "2")
    stage.maker.length = MIB
    await stage.start(CAMPAIGN)
    await stage.settle()
    view = await stage.service.view("spring")
    assert {leg.slot: (leg.targets, leg.capable, leg.need) for leg in view.legs} == {
        "root": (2, 2, DeltaNeed.MADE),
        "app": (2, 2, DeltaNeed.MADE),
    }
    assert stage.maker.asked == [("1", "2")] * 2
    sums = savings(view.legs, min_saving=0.2)
    assert (sums.full_bytes, sums.expected_bytes) == (2 * 24 * MIB, 2 * 2 * MIB)


async def test_another_image_in_any_set_is_drift(stage: Any) -> None:
    """A report of the same version whose `app` differs is not what the campaign installed."""
    devices = await prepared(stage, "1")
    await stage.start(CAMPAIGN)
    await stage.live(
        lambda view: (view.row.state is CampaignState.WATCHING) or view.row.state is CampaignState.COMPLETED
    )
    (device,) = devices
    device.content = lambda version: contents_sha256(
        [("root", hash_of("root", version)), ("boot", hash_of("boot", version)), ("app", "c" * 64)]
    )
    device.report("committed")
    await stage.settle()
    assert (await stage.states()) == {"t0": "drifted"}


# Publishing


async def test_publishing_makes_a_delta_for_each_image_that_changed(bench: Bench) -> None:
    boot = bytes(300_000)
    await bench.publish("1.0", bench.build("1.0", 1, PROGRAM, boot=boot, app=PROGRAM[::-1]))
    changed = PROGRAM[:400_000] + b"!" + PROGRAM[400_001:]
    await bench.publish("1.1", bench.build("1.1", 2, changed, boot=boot, app=PROGRAM[::-1] + b"more"))
    made = await bench.service.make_deltas("gateway", "1.1")
    one, two = await bench.database.read(lambda unit: unit.releases.list())
    pairs = {(delta.source_sha256, delta.target_sha256) for delta in made}
    assert pairs == {
        (one.image(slot).file.sha256, two.image(slot).file.sha256)  # type: ignore[union-attr]
        for slot in ("root", "app")
    }
    assert "differ in no image for boot" in await bench.service.make_delta(one, two, "boot")
    held = await bench.database.read(lambda unit: unit.releases.holding(two.sha256))
    assert held == two


async def test_a_release_with_an_image_that_is_not_here_is_not_published(bench: Bench) -> None:
    signed = bench.build("1.0", 1, PROGRAM, app=b"gone")
    stored = bench.artifacts.find(hashlib.sha256(b"gone").hexdigest())
    assert stored is not None
    stored.unlink()
    assert await bench.refused("1.0", signed) == "artifact-missing"


async def test_a_release_without_an_image_for_root_is_refused(bench: Bench) -> None:
    assert await bench.refused("1.0", bench.build("1.0", 1, PROGRAM, root="modem")) == "image-missing"


async def test_a_disk_that_refuses_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.publish("1.0", bench.build("1.0", 1, PROGRAM, app=PROGRAM[::-1]))
    await bench.publish("1.1", bench.build("1.1", 2, PROGRAM + b"x", app=PROGRAM[::-1] + b"x"))

    def full(*_: object, **__: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.artifacts, "add_file", full)
    with pytest.raises(UnavailableError) as caught:
        await bench.service.make_deltas("gateway", "1.1")
    assert "The delta of root from 1.0 to 1.1 could not be stored" in caught.value.text
