"""Slots on real block devices: what is in use is refused before a byte is written, and a slot's bytes go where they should."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.effects import FileMedia, FileMedium
from device_agent.ports import Slot
from device_agent.slots.devices import DeviceSlots, slot_sets
from device_agent.slots.places import Region, places_of
from firmware.errors import RefusedError
from tests.device_agent.slots.loops import MIB, Bench, bench, run

__all__ = ["bench"]


def two_named(bench: Bench) -> str:
    """A table of two partitions, with names that no other test has."""
    return f"label: gpt\nsize=8M, name=a-{bench.tag}\nsize=8M, name=b-{bench.tag}\n"


def slots_of(
    first: str | Region,
    second: str | Region,
    *,
    media: FileMedia | None = None,
    protected: Callable[[], frozenset[Slot]] = lambda: frozenset({Slot.A}),
    **sets: tuple[str | Region, str | Region],
) -> DeviceSlots:
    """The root set over A and B as `agent.toml` would name them; A runs."""
    a = {"root": first} | {name: pair[0] for name, pair in sets.items()}
    b = {"root": second} | {name: pair[1] for name, pair in sets.items()}
    places = places_of({"A": a, "B": b})
    return slot_sets(places, media or FileMedia(), protected=protected)["root"]


def refused(slots: DeviceSlots, disk: Path, length: int = 4096) -> str:
    """The kind that claiming B is refused with; nothing was written then."""
    os.sync()
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    with pytest.raises(RefusedError) as caught:
        slots.claim(Slot.B, length)
    os.sync()
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before
    with pytest.raises(RefusedError):
        slots.write(Slot.B, 0, b"x")
    return caught.value.kind


@pytest.fixture
def pair(bench: Bench) -> tuple[Path, Path, Path]:
    """Loop devices for A and B, and B's file."""
    a, b = bench.file("a.img", 8 * MIB), bench.file("b.img", 8 * MIB)
    return bench.loop(a), bench.loop(b), b


def test_what_is_written_is_on_the_medium_and_read_back_past_the_cache(pair: tuple[Path, Path, Path]) -> None:
    device_a, device_b, file = pair
    slots = slots_of(str(device_a), str(device_b))
    data = os.urandom(MIB + 700)
    slots.claim(Slot.B, len(data))
    slots.write(Slot.B, 512, data[512:])
    slots.write(Slot.B, 0, data[:512])
    slots.sync(Slot.B)
    slots.drop_cache(Slot.B)
    assert slots.reads_directly(Slot.B)
    assert hashlib.sha256(slots.read(Slot.B, 0, len(data))).digest() == hashlib.sha256(data).digest()
    assert slots.read(Slot.B, 1000, 3) == data[1000:1003]
    assert slots.read(Slot.B, 8 * MIB - 5, 100) == bytes(5)
    slots.release(Slot.B)
    assert file.read_bytes()[: len(data)] == data
    assert slots.capacity(Slot.B) == 8 * MIB


def test_read_back_sees_what_the_medium_has_and_not_what_was_written(pair: tuple[Path, Path, Path]) -> None:
    """The file changes below the loop device; only a read that goes past the device's cache can notice."""
    device_a, device_b, file = pair
    slots = slots_of(str(device_a), str(device_b))
    slots.claim(Slot.B, MIB)
    slots.write(Slot.B, 0, b"a" * MIB)
    slots.sync(Slot.B)
    assert slots.read(Slot.B, 0, 4) == b"aaaa"
    with file.open("r+b") as below:
        below.write(b"rust")
    assert slots.read(Slot.B, 0, 4) == b"aaaa"
    slots.drop_cache(Slot.B)
    assert slots.read(Slot.B, 0, 4) == b"rust"
    slots.release(Slot.B)


@pytest.mark.parametrize("options", [(), ("-o", "ro")])
def test_a_mounted_slot_is_refused_and_its_mount_named(
    bench: Bench, pair: tuple[Path, Path, Path], options: tuple[str, ...]
) -> None:
    device_a, device_b, file = pair
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(device_b))
    point = bench.mount(device_b, *options)
    slots = slots_of(str(device_a), str(device_b))
    with pytest.raises(RefusedError, match=f"mounted at {point}"):
        slots.claim(Slot.B, 4096)
    assert refused(slots, file) == "slot-in-use"
    bench.unmount(point)
    slots.claim(Slot.B, 4096)
    slots.release(Slot.B)


def test_mounts_are_found_even_where_exclusive_opening_says_nothing(
    bench: Bench, pair: tuple[Path, Path, Path]
) -> None:
    """The two guards stand alone: this media opens without `O_EXCL`."""

    class Polite(FileMedia):
        def open(self, path: Path, *, writing: bool, exclusive: bool = False) -> FileMedium:
            return super().open(path, writing=writing)

    device_a, device_b, file = pair
    run("mkfs.ext4", "-q", str(device_b))
    point = bench.mount(device_b, "-o", "ro")
    slots = slots_of(str(device_a), str(device_b), media=Polite())
    with pytest.raises(RefusedError, match=f"mounted at {point} \\(read-only\\)") as caught:
        slots.claim(Slot.B, 4096)
    assert caught.value.kind == "slot-in-use"
    assert refused(slots, file) == "slot-in-use"


def test_a_mount_in_another_namespace_is_noticed_by_exclusive_opening(
    bench: Bench, pair: tuple[Path, Path, Path]
) -> None:
    device_a, device_b, file = pair
    run("mkfs.ext4", "-q", str(device_b))
    (bench.folder / "elsewhere").mkdir()
    script = f"mount -o ro {device_b} {bench.folder}/elsewhere && echo there && read line"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        assert str(device_b) not in Path("/proc/self/mountinfo").read_text()
        assert refused(slots_of(str(device_a), str(device_b)), file) == "slot-in-use"
        other.communicate("\n", timeout=10)


def test_swap_space_is_refused(bench: Bench, pair: tuple[Path, Path, Path]) -> None:
    device_a, device_b, file = pair
    bench.swap(device_b)
    assert refused(slots_of(str(device_a), str(device_b)), file) == "slot-in-use"


def test_a_file_that_is_mounted_through_another_loop_device_is_refused(bench: Bench) -> None:
    a, b = bench.file("a.img", 8 * MIB), bench.file("b.img", 8 * MIB)
    device_a, device_b, again = bench.loop(a), bench.loop(b), bench.loop(b)
    run("mkfs.ext4", "-q", str(again))
    assert refused(slots_of(str(device_a), str(device_b)), b) == "slot-in-use"
    bench.mount(again, "-o", "ro")
    assert refused(slots_of(str(device_a), str(device_b)), b) == "slot-in-use"
    as_file = Region(file=str(b), length="8MiB")
    assert refused(slots_of(str(device_a), as_file), b) == "slot-in-use"


def test_the_slot_that_runs_is_never_claimed_nor_written(pair: tuple[Path, Path, Path]) -> None:
    device_a, device_b, file = pair
    running = [Slot.A]
    slots = slots_of(str(device_a), str(device_b), protected=lambda: frozenset(running))
    with pytest.raises(RefusedError) as caught:
        slots.claim(Slot.A, 10)
    assert caught.value.kind == "slot-active"
    slots.claim(Slot.B, 10)
    running.append(Slot.B)
    with pytest.raises(RefusedError) as caught:
        slots.write(Slot.B, 0, b"x")
    assert caught.value.kind == "slot-active"
    slots.release(Slot.B)
    assert file.read_bytes()[:1] == b"\0"


def test_what_the_boot_loader_says_is_not_enough(bench: Bench, pair: tuple[Path, Path, Path]) -> None:
    """It says A; but what is mounted is B."""
    device_a, device_b, file = pair
    run("mkfs.ext4", "-q", str(device_b))
    bench.mount(device_b)
    assert refused(slots_of(str(device_a), str(device_b)), file) == "slot-in-use"


def test_one_device_under_two_names_is_refused(bench: Bench, pair: tuple[Path, Path, Path]) -> None:
    _, device_b, file = pair
    link = bench.folder / "by-label-root"
    link.symlink_to(device_b)
    assert refused(slots_of(str(link), str(device_b)), file) == "slot-overlaps"


def test_a_slot_that_overlaps_one_of_another_set_is_refused(pair: tuple[Path, Path, Path]) -> None:
    device_a, device_b, file = pair
    boot = (Region(device=str(device_a), length=4096), Region(device=str(device_b), offset=4096, length=4096))
    root = Region(device=str(device_b), length="1MiB")
    assert refused(slots_of(Region(device=str(device_a), offset=4096, length="1MiB"), root, boot=boot), file) == (
        "slot-overlaps"
    )


def test_too_small_read_only_gone_and_what_is_no_block_device(bench: Bench, pair: tuple[Path, Path, Path]) -> None:
    device_a, device_b, file = pair
    a = str(device_a)
    assert refused(slots_of(a, str(device_b)), file, 8 * MIB + 1) == "slot-too-small"
    assert refused(slots_of(a, Region(device=str(device_b), offset="4MiB", length="5MiB")), file) == "slot-too-small"
    fifo = bench.folder / "fifo"
    os.mkfifo(fifo)
    for name in ("/dev/null", str(bench.folder), str(fifo), str(file)):
        assert refused(slots_of(a, name), file) == "slot-not-block"
    assert refused(slots_of(a, "/dev/no-such-device"), file) == "slot-missing"
    assert slots_of(a, "/dev/no-such-device").capacity(Slot.B) == 0
    run("losetup", "-d", str(device_b))
    read_only = bench.loop(file, "--read-only")
    assert refused(slots_of(a, str(read_only)), file) == "slot-read-only"


def test_nobody_can_mount_a_slot_while_it_is_claimed(bench: Bench, pair: tuple[Path, Path, Path]) -> None:
    device_a, device_b, _ = pair
    run("mkfs.ext4", "-q", str(device_b))
    slots = slots_of(str(device_a), str(device_b))
    slots.claim(Slot.B, 4096)
    with pytest.raises(AssertionError, match=r"already mounted|busy"):
        bench.mount(device_b)
    slots.release(Slot.B)
    bench.mount(device_b)


def test_a_link_that_moves_while_it_is_opened_is_noticed(bench: Bench, pair: tuple[Path, Path, Path]) -> None:
    device_a, device_b, file = pair
    third = bench.loop(bench.file("c.img", 8 * MIB))
    link = bench.folder / "by-partlabel-root-b"
    link.symlink_to(device_b)

    class Moving(FileMedia):
        def open(self, path: Path, *, writing: bool, exclusive: bool = False) -> FileMedium:
            opened = super().open(path, writing=writing, exclusive=exclusive)
            if writing:
                link.unlink()
                link.symlink_to(third)
            return opened

    assert refused(slots_of(str(device_a), str(link), media=Moving()), file) == "slot-moved"


def test_a_node_that_is_another_device_by_now_is_noticed(bench: Bench, pair: tuple[Path, Path, Path]) -> None:
    device_a, device_b, file = pair

    class Swapped(FileMedia):
        def open(self, path: Path, *, writing: bool, exclusive: bool = False) -> FileMedium:
            wrong = third if path == device_b else path
            return super().open(wrong, writing=writing, exclusive=exclusive)

    third = bench.loop(bench.file("c.img", 8 * MIB))
    assert refused(slots_of(str(device_a), str(device_b), media=Swapped()), file) == "slot-moved"


def test_partitions_are_found_by_label_and_uuid_without_links(bench: Bench) -> None:
    disk = bench.file("disk.img", 32 * MIB)
    device = bench.loop(disk)
    first, second = bench.partitions(device, two_named(bench))
    uuid = run("sfdisk", "--part-uuid", str(device), "2").lower()
    data = os.urandom(5000)
    for name in (f"PARTLABEL=b-{bench.tag}", f"PARTUUID={uuid}", f"PARTUUID={uuid.upper()}", str(second)):
        slots = slots_of(f"PARTLABEL=a-{bench.tag}", name)
        assert slots.capacity(Slot.B) == 8 * MIB
        slots.claim(Slot.B, len(data))
        slots.write(Slot.B, 0, data)
        slots.sync(Slot.B)
        slots.release(Slot.B)
        start = 2048 * 512 + 8 * MIB
        assert disk.read_bytes()[start : start + len(data)] == data
        second.write_bytes(bytes(5000))
    assert first.stat().st_rdev != second.stat().st_rdev
    assert refused(slots_of(f"PARTLABEL=a-{bench.tag}", f"PARTLABEL=c-{bench.tag}"), disk) == "slot-missing"


def test_a_label_that_two_partitions_bear_is_refused(bench: Bench) -> None:
    disk = bench.file("disk.img", 32 * MIB)
    device = bench.loop(disk)
    bench.partitions(device, f"{two_named(bench)}size=4M, name=b-{bench.tag}\n")
    assert refused(slots_of(f"PARTLABEL=a-{bench.tag}", f"PARTLABEL=b-{bench.tag}"), disk) == "slot-ambiguous"


def test_mbr_partitions_have_uuids_too(bench: Bench) -> None:
    device = bench.loop(bench.file("disk.img", 32 * MIB))
    bench.partitions(device, f"label: dos\nlabel-id: 0xab{bench.tag}\nsize=8M\nsize=4M\n")
    slots = slots_of(f"PARTUUID=ab{bench.tag}-01", f"PARTUUID=AB{bench.tag.upper()}-02")
    slots.claim(Slot.B, 10)
    slots.release(Slot.B)
    assert [slots.capacity(slot) for slot in Slot] == [8 * MIB, 4 * MIB]
    for slot in Slot:
        slots.release(slot)


def test_file_systems_are_found_by_label_and_uuid(bench: Bench, pair: tuple[Path, Path, Path]) -> None:
    device_a, device_b, _ = pair
    run("mkfs.ext4", "-q", "-L", f"a-{bench.tag}", str(device_a))
    run("mkfs.vfat", "-n", f"B{bench.tag.upper()}", str(device_b))
    uuid = run("blkid", "-o", "value", "-s", "UUID", str(device_b))
    for name in (f"LABEL=B{bench.tag.upper()}", f"UUID={uuid}"):
        slots = slots_of(f"LABEL=a-{bench.tag}", name)
        mark = name.encode().ljust(4096, b".")
        slots.claim(Slot.B, MIB + len(mark))
        slots.write(Slot.B, MIB, mark)
        slots.sync(Slot.B)
        slots.release(Slot.B)
        for device, holds in ((device_b, True), (device_a, False)):
            with device.open("rb") as file:
                file.seek(MIB)
                assert (file.read(len(mark)) == mark) is holds, f"{name} was taken for another device"


def test_a_region_of_a_disk_leaves_its_partitions_and_table_alone(bench: Bench) -> None:
    disk = bench.file("disk.img", 32 * MIB)
    device = bench.loop(disk)
    bench.partitions(device, "label: gpt\nfirst-lba: 34\nstart=4096, size=8192, name=data\n")
    a = Region(device=str(device), offset="24MiB", length="1MiB")

    def boot(offset: int, length: int) -> DeviceSlots:
        return slots_of(a, Region(device=str(device), offset=offset, length=length))

    assert refused(boot(0, 4096), disk) == "slot-overlaps"
    assert refused(boot(16384, 4096), disk) == "slot-overlaps"
    assert refused(boot(MIB, MIB + 4096), disk) == "slot-overlaps"
    slots = boot(MIB, MIB)
    slots.claim(Slot.B, MIB)
    slots.write(Slot.B, MIB - 3, b"end")
    with pytest.raises(RefusedError):
        slots.write(Slot.B, MIB - 2, b"end")
    slots.sync(Slot.B)
    slots.drop_cache(Slot.B)
    assert slots.read(Slot.B, MIB - 3, 10) == b"end"
    slots.release(Slot.B)
    assert disk.read_bytes()[2 * MIB - 3 : 2 * MIB + 3] == b"end" + bytes(3)


def test_a_disk_whose_partition_is_mounted_is_refused_as_a_whole(bench: Bench) -> None:
    disk = bench.file("disk.img", 32 * MIB)
    device = bench.loop(disk)
    first, _ = bench.partitions(device, two_named(bench))
    run("mkfs.ext4", "-q", str(first))
    bench.mount(first, "-o", "ro")  # else the kernel itself may write between two looks
    other = bench.loop(bench.file("a.img", MIB))
    assert refused(slots_of(str(other), str(device)), disk) == "slot-overlaps"
    slots = slots_of(f"PARTLABEL=a-{bench.tag}", f"PARTLABEL=b-{bench.tag}")
    slots.claim(Slot.B, 10)
    slots.release(Slot.B)
    assert refused(slots_of(f"PARTLABEL=b-{bench.tag}", f"PARTLABEL=a-{bench.tag}"), disk) == "slot-in-use"


def test_only_what_nobody_writes_is_a_source(bench: Bench, pair: tuple[Path, Path, Path]) -> None:
    device_a, device_b, _ = pair
    run("mkfs.ext4", "-q", str(device_a))
    slots = slots_of(str(device_a), str(device_b))
    assert slots.unsteady(Slot.A) is None
    point = bench.mount(device_a)
    assert slots.unsteady(Slot.A) == f"mounted at {point}"
    run("mount", "-o", "remount,ro,bind", str(point))
    assert slots.unsteady(Slot.A) == f"mounted at {point}", "the mount is read-only, the file system is not"
    bench.unmount(point)
    bench.mount(device_a, "-o", "ro")
    assert slots.unsteady(Slot.A) is None
    slots.release(Slot.A)
