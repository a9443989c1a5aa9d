"""Where slots are, as `agent.toml` says it; what mounts and swaps say; what stands on what, on a made-up system without root."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from device_agent.boot.control import FileBoot
from device_agent.boot.files import encode_status
from device_agent.boot.layout import Board
from device_agent.config import load_config
from device_agent.effects import FileEffects, FileMedia, FileMedium
from device_agent.ports import BootOutcome, BootStatus, Slot
from device_agent.slots.devices import DeviceSlots, protected_by, slot_sets
from device_agent.slots.layers import Extent, Layers, shared
from device_agent.slots.places import Region, SlotTables, parse_size, places_of
from device_agent.slots.usage import Mount, Usage, parse_mounts, parse_swaps
from firmware.errors import RefusedError

MIB = 1 << 20
MOUNTS = r"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
36 27 8:2 / /mnt/with\040space ro,nosuid shared:5 - ext4 /dev/sda2 rw
37 27 8:3 / /ro ro - squashfs /dev/sda3 ro
38 27 0:30 / /btrfs rw - btrfs /dev/sda4 rw
39 27 0:31 / /volatile rw - tmpfs tmpfs rw
garbage
40 27 x:y / /bad rw - ext4 /dev/x rw
"""


def test_mounts_say_where_and_whether_the_file_system_is_writable() -> None:
    found = {mount.point: mount for mount in parse_mounts(MOUNTS)}
    assert list(found) == ["/", "/mnt/with space", "/ro", "/btrfs", "/volatile"]
    assert found["/mnt/with space"] == Mount(number=(8, 2), point="/mnt/with space", source="/dev/sda2", writes=True), (
        "this mount is read-only, the file system is not"
    )
    assert not found["/ro"].writes


def test_swaps_are_read_past_their_heading() -> None:
    text = "Filename\tType\tSize\n/dev/sda5   partition 1 0 -2\n/swap\\040file file 1 0 -3\n\n"
    assert parse_swaps(text) == ["/dev/sda5", "/swap file"]


@pytest.mark.parametrize(
    ("size", "value"), [(0, 0), (4096, 4096), ("4096", 4096), ("16MiB", 16 * MIB), ("1GiB", 1 << 30), ("8KiB", 8192)]
)
def test_sizes(size: int | str, value: int) -> None:
    assert parse_size(size) == value


@pytest.mark.parametrize("size", ["", "-1", "1MB", "1.5MiB", "MiB", "1 MiB", "1_0", "99999999GiB", "١MiB"])
def test_what_is_no_size(size: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_size(size)
    assert caught.value.kind == "bad-config"


BAD: Sequence[SlotTables] = [
    {"A": {"root": "/dev/a"}},
    {"A": {"root": "/dev/a"}, "B": {"root": "/dev/b", "boot": "/dev/c"}},
    {"A": {"boot": "/dev/a"}, "B": {"boot": "/dev/b"}},
    {"A": {"root": "dev/a"}, "B": {"root": "/dev/b"}},
    {"A": {"root": "LABEL="}, "B": {"root": "/dev/b"}},
    {"A": {"root": "ID=a"}, "B": {"root": "/dev/b"}},
    {"A": {"root": Region()}, "B": {"root": "/dev/b"}},
    {"A": {"root": Region(device="/a", file="/a")}, "B": {"root": "/dev/b"}},
    {"A": {"root": Region(file="LABEL=a")}, "B": {"root": "/dev/b"}},
    {"A": {"root": Region(device="/a", offset=512, length=512)}, "B": {"root": "/dev/b"}},
    {"A": {"root": Region(device="/a", offset=4096)}, "B": {"root": "/dev/b"}},
    {"A": {"root": Region(device="/a", length=0)}, "B": {"root": "/dev/b"}},
]


@pytest.mark.parametrize("tables", BAD)
def test_places_that_cannot_be_meant(tables: SlotTables) -> None:
    with pytest.raises(RefusedError) as caught:
        places_of(tables)
    assert caught.value.kind == "bad-config"
    assert "agent.toml" in caught.value.text


def test_agent_toml_names_slots(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        '[slots.A]\nroot = "PARTLABEL=root-a"\nboot = {device = "/dev/mmcblk0", offset = "4MiB", length = "8MiB"}\n'
        '[slots.B]\nroot = "PARTLABEL=root-b"\nboot = {device = "/dev/mmcblk0", offset = "12MiB", length = "8MiB"}\n'
    )
    places = places_of(load_config(tmp_path).slots)
    assert set(places) == {"root", "boot"}
    boot = places["boot"][Slot.B]
    assert (boot.name, boot.offset, boot.length) == ("/dev/mmcblk0", 12 * MIB, 8 * MIB)
    for wrong in ('[slots.C]\nroot = "/dev/a"\n', "[slots.A]\nroot = 7\n", '[slots.A]\nroot = {size = "1MiB"}\n'):
        config.write_text(wrong)
        with pytest.raises(RefusedError) as caught:
            load_config(tmp_path)
        assert caught.value.kind == "bad-config"


class Machine:
    """A made-up `/sys` and `/proc`, in which nothing is a real device."""

    def __init__(self, folder: Path) -> None:
        self.sys, self.proc = folder / "sys", folder / "proc"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/mountinfo").write_text("")
        (self.proc / "swaps").write_text("Filename\n")
        for place in ("dev/block", "class/block"):
            (self.sys / place).mkdir(parents=True)

    @property
    def layers(self) -> Layers:
        return Layers(sys=self.sys)

    def add(self, name: str, number: str, size: int, parent: str = "", **files: str) -> Path:
        node = self.sys / "devices" / parent / name
        node.mkdir(parents=True)
        (node / "dev").write_text(f"{number}\n")
        (node / "size").write_text(f"{size // 512}\n")
        for file, text in files.items():
            path = node / file.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{text}\n")
        (self.sys / "dev/block" / number).symlink_to(node)
        (self.sys / "class/block" / name).symlink_to(node)
        return node

    def stack(self, upper: Path, lower: Path) -> None:
        for folder, name, to in ((upper / "slaves", lower.name, lower), (lower / "holders", upper.name, upper)):
            folder.mkdir(exist_ok=True)
            (folder / name).symlink_to(to)

    def mounts(self, number: str, options: str = "rw") -> None:
        (self.proc / "self/mountinfo").write_text(f"1 1 {number} / /there rw - ext4 /dev/x {options}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def disk_with_mapping(machine: Machine) -> None:
    machine.add("sda", "8:0", 64 * MIB)
    part = machine.add("sda2", "8:2", 16 * MIB, "sda", partition="2", start=str(8 * MIB // 512))
    machine.add("sda3", "8:3", 16 * MIB, "sda", partition="3", start=str(24 * MIB // 512))
    mapping = machine.add("dm-0", "252:0", 16 * MIB)
    other = machine.add("dm-1", "252:1", 8 * MIB)
    machine.stack(mapping, part)
    machine.stack(other, part)


def test_a_mount_of_a_mapping_uses_the_partition_and_the_disk_below(machine: Machine) -> None:
    disk_with_mapping(machine)
    machine.mounts("252:0")
    (use,) = Usage(layers=machine.layers, proc=machine.proc).uses()
    names = {(extent.store, extent.start, extent.end) for extent in use.extents}
    assert names == {("252:0", 0, 16 * MIB), ("8:2", 0, 16 * MIB), ("8:0", 8 * MIB, 24 * MIB)}
    layers = machine.layers
    assert shared(use.extents, layers.extents((8, 2), 0, 16 * MIB))
    assert shared(use.extents, layers.extents((8, 0), 20 * MIB, 21 * MIB))
    assert not shared(use.extents, layers.extents((8, 0), 24 * MIB, 25 * MIB))
    assert not shared(use.extents, layers.extents((8, 3), 0, 16 * MIB))
    assert not shared(use.extents, layers.extents((252, 1), 0, 8 * MIB)), "another mapping on the same partition"
    assert layers.holders((8, 2)) == ["dm-0", "dm-1"]
    assert layers.partitions((8, 0)) == {(8, 2): (8 * MIB, 24 * MIB), (8, 3): (24 * MIB, 40 * MIB)}


def test_a_loop_device_shows_its_file_from_its_offset(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    file.write_bytes(bytes(4096))
    machine.add("loop3", "7:3", 4 * MIB, loop__backing_file=str(file), loop__offset=str(MIB))
    machine.add("loop4", "7:4", 4 * MIB, loop__backing_file=f"{file} (deleted)")
    (own, below) = machine.layers.extents((7, 3), 10, 20)
    assert own == Extent(store="7:3", start=10, end=20)
    assert (below.start, below.end) == (MIB + 10, MIB + 20)
    assert below.store.endswith(f"/{file.stat().st_ino}")
    assert len(list(machine.layers.extents((7, 4), 0, 1))) == 1
    assert machine.layers.loops() == [(7, 3), (7, 4)]


def test_mappings_in_a_circle_end(machine: Machine) -> None:
    first, second = machine.add("dm-0", "252:0", MIB), machine.add("dm-1", "252:1", MIB)
    machine.stack(first, second)
    machine.stack(second, first)
    assert len(list(machine.layers.extents((252, 0), 0, MIB, used=True))) < 20


def file_slots(machine: Machine, folder: Path, media: FileMedia | None = None) -> DeviceSlots:
    """Both slots as regions of one regular file; A runs."""
    file = folder / "flash.img"
    if not file.exists():
        file.write_bytes(bytes(2 * MIB))
    a, b = (Region(file=str(file), offset=offset, length=MIB) for offset in (0, MIB))
    places = places_of({"A": {"root": a}, "B": {"root": b}})
    only_a = frozenset({Slot.A})
    return slot_sets(places, media or FileMedia(), protected=lambda: only_a, sys=machine.sys, proc=machine.proc)["root"]


def test_regions_of_one_file_are_slots_without_root(machine: Machine, tmp_path: Path) -> None:
    slots = file_slots(machine, tmp_path)
    data = os.urandom(5000)
    slots.claim(Slot.B, MIB)
    slots.write(Slot.B, MIB - 5000, data)
    slots.sync(Slot.B)
    slots.drop_cache(Slot.B)
    assert slots.read(Slot.B, MIB - 5000, 6000) == data
    slots.release(Slot.B)
    whole = (tmp_path / "flash.img").read_bytes()
    assert hashlib.sha256(whole).digest() == hashlib.sha256(bytes(2 * MIB - 5000) + data).digest()
    assert slots.capacity(Slot.A) == MIB


def test_a_file_region_that_a_loop_device_shows_is_refused(machine: Machine, tmp_path: Path) -> None:
    slots = file_slots(machine, tmp_path)
    file = str(tmp_path / "flash.img")
    machine.add("loop1", "7:1", MIB, loop__backing_file=file, loop__offset="0")
    slots.claim(Slot.B, MIB)
    machine.add("loop2", "7:2", 4096, loop__backing_file=file, loop__offset=str(MIB))
    with pytest.raises(RefusedError) as caught:
        slots.claim(Slot.B, MIB)
    assert caught.value.kind == "slot-in-use"
    assert slots.unsteady(Slot.A) == "shown by loop device 7:1 too"


def test_a_swap_file_is_refused(machine: Machine, tmp_path: Path) -> None:
    slots = file_slots(machine, tmp_path)
    (machine.proc / "swaps").write_text(f"Filename\n{tmp_path / 'flash.img'} file 1 0 -2\n")
    with pytest.raises(RefusedError) as caught:
        slots.claim(Slot.B, MIB)
    assert caught.value.kind == "slot-in-use"


def test_where_nothing_can_be_known_about_use_nothing_is_written(machine: Machine, tmp_path: Path) -> None:
    slots = file_slots(machine, tmp_path)
    (machine.proc / "self/mountinfo").unlink()
    with pytest.raises(OSError, match="mountinfo"):
        slots.claim(Slot.B, MIB)
    with pytest.raises(RefusedError):
        slots.write(Slot.B, 0, b"x")


@pytest.mark.parametrize(
    ("outcome", "protected"),
    [(BootOutcome.NORMAL, {Slot.B}), (BootOutcome.FELL_BACK, {Slot.B}), (BootOutcome.TRIAL, {Slot.A, Slot.B})],
)
def test_the_boot_loader_says_what_is_never_written(tmp_path: Path, outcome: BootOutcome, protected: set[Slot]) -> None:
    board, effects = Board(directory=tmp_path), FileEffects()
    boot = FileBoot(effects, tmp_path)
    assert protected_by(boot) == set(Slot), "it says nothing yet"
    board.status.parent.mkdir()
    effects.replace(board.status, encode_status(BootStatus(boot_id="b", slot=Slot.B, outcome=outcome)))
    assert protected_by(boot) == protected


def test_every_descriptor_is_given_back(machine: Machine, tmp_path: Path) -> None:
    opened: list[FileMedium] = []

    class Counting(FileMedia):
        def open(self, path: Path, *, writing: bool, exclusive: bool = False) -> FileMedium:
            opened.append(super().open(path, writing=writing, exclusive=exclusive))
            return opened[-1]

    slots = file_slots(machine, tmp_path, Counting())
    before = len(list(Path("/proc/self/fd").iterdir()))
    for length in (MIB, MIB + 1):
        with pytest.raises(RefusedError) if length > MIB else contextlib.nullcontext():
            slots.claim(Slot.B, length)
            slots.drop_cache(Slot.B)
            slots.unsteady(Slot.A)
            slots.drop_cache(Slot.A)
        slots.release(Slot.A)
        slots.release(Slot.B)
    assert opened
    assert len(list(Path("/proc/self/fd").iterdir())) == before
