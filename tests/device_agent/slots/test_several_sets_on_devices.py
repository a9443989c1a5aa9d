"""Several slot sets on real block devices: held together, also as regions of one device, and let go of together."""

import os
from pathlib import Path

import pytest

from device_agent.effects import FileMedia
from device_agent.install.claims import claimed
from device_agent.ports import Slot
from device_agent.slots.devices import DeviceSlots, slot_sets
from device_agent.slots.places import Region, places_of
from firmware.errors import RefusedError
from tests.device_agent.slots.loops import MIB, Bench, bench, run

__all__ = ["bench"]
SETS = ("root", "boot", "app")
LENGTHS = dict.fromkeys(SETS, 3 * MIB)


def sets_in(a: Path, b: Path) -> dict[str, DeviceSlots]:
    """Three sets side by side in one device for each slot; A runs."""
    tables = {
        letter: {name: Region(device=str(device), offset=4 * n * MIB, length=4 * MIB) for n, name in enumerate(SETS)}
        for letter, device in (("A", a), ("B", b))
    }
    return slot_sets(places_of(tables), FileMedia(), protected=lambda: frozenset({Slot.A}))  # type: ignore[arg-type]


@pytest.fixture
def pair(bench: Bench) -> tuple[Path, Path, Path]:
    """Loop devices for A and B, and B's file."""
    b = bench.file("b.img", 12 * MIB)
    return bench.loop(bench.file("a.img", 12 * MIB)), bench.loop(b), b


def can_be_opened_exclusively(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError:
        return False
    return True


def test_sets_in_one_device_are_held_together_and_written_apart(pair: tuple[Path, Path, Path]) -> None:
    a, b, file = pair
    sets = sets_in(a, b)
    with claimed(sets, Slot.B, LENGTHS):
        assert not can_be_opened_exclusively(b)
        for number, slots in enumerate(sets.values(), start=1):
            slots.write(Slot.B, 0, bytes([number]) * MIB)
            slots.sync(Slot.B)
        for number, slots in enumerate(sets.values(), start=1):
            slots.drop_cache(Slot.B)
            assert slots.read(Slot.B, 0, 2) == bytes([number]) * 2
    assert can_be_opened_exclusively(b)
    data = file.read_bytes()
    assert [data[4 * n * MIB] for n in range(3)] == [1, 2, 3]


def test_the_hold_lasts_until_the_last_set_is_released(pair: tuple[Path, Path, Path]) -> None:
    a, b, _ = pair
    sets = sets_in(a, b)
    for slots in sets.values():
        slots.claim(Slot.B, MIB)
    sets["root"].release(Slot.B)
    sets["root"].release(Slot.B)
    sets["app"].release(Slot.B)
    assert not can_be_opened_exclusively(b)
    sets["boot"].write(Slot.B, 0, b"x")
    sets["boot"].release(Slot.B)
    assert can_be_opened_exclusively(b)


def test_one_set_that_cannot_be_had_lets_go_of_all(pair: tuple[Path, Path, Path]) -> None:
    a, b, file = pair
    sets = sets_in(a, b)
    with (
        pytest.raises(RefusedError) as caught,
        claimed(sets, Slot.B, {**LENGTHS, "app": 5 * MIB}),
    ):
        raise AssertionError("a set that is too small was claimed")
    assert caught.value.kind == "slot-too-small"
    assert "slot B of app" in caught.value.text
    assert can_be_opened_exclusively(b)
    assert file.read_bytes().count(0) == 12 * MIB


def test_one_set_that_is_mounted_refuses_all(bench: Bench) -> None:
    images = {
        f"{name}-{letter}": bench.loop(bench.file(f"{name}-{letter}", 8 * MIB)) for name in SETS for letter in "ab"
    }
    run("mkfs.ext4", "-q", str(images["app-b"]))
    point = bench.mount(images["app-b"], "-o", "ro")
    tables = {letter.upper(): {name: str(images[f"{name}-{letter}"]) for name in SETS} for letter in "ab"}
    sets = slot_sets(places_of(tables), FileMedia(), protected=lambda: frozenset({Slot.A}))  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match=f"mounted at {point}") as caught, claimed(sets, Slot.B, LENGTHS):
        raise AssertionError("a mounted set was claimed")
    assert caught.value.kind == "slot-in-use"
    assert can_be_opened_exclusively(images["root-b"])
    bench.unmount(point)
    with claimed(sets, Slot.B, LENGTHS):
        assert not can_be_opened_exclusively(images["app-b"])
