"""Several slot sets in one installation: all are claimed before any is written, and each is filled from where it is cheapest."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from device_agent.boot.files import encode_status
from device_agent.boot.layout import Board
from device_agent.effects import FileEffects
from device_agent.install.stream import CHECKPOINT_NAME, PATCH_NAME, StreamInstaller
from device_agent.ports import BootOutcome, BootStatus, Slot
from device_agent.slots.files import FileSlots, board_slots, create_board
from firmware.contents import contents_sha256
from firmware.delta.make import make_delta
from firmware.errors import OtariaError, UnavailableError
from firmware.manifest import WINDOW_BYTES, Image, Manifest, describe
from firmware.protocol.order import DeltaRef, Order, OrderedImage
from tests.device_agent.install.conftest import Shelf, some_bytes

CAPACITY = 3 << 20
SETS = ("root", "boot", "app")


@dataclass
class Three:
    """A board of three sets that runs the old images from slot A, and a release with new ones."""

    folder: Path
    stage: Any
    old: dict[str, bytes] = field(default_factory=dict)
    new: dict[str, bytes] = field(default_factory=dict)
    shelf: Shelf = field(default_factory=Shelf)
    effects: FileEffects = field(default_factory=FileEffects)
    wrap: Callable[[str, FileSlots], Any] = lambda name, slots: slots
    progress: list[tuple[int, int]] = field(default_factory=list)
    evidence: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.old = {name: some_bytes(number, 1_300_000 + number) for number, name in enumerate(SETS)}
        self.new = {
            "root": self.old["root"][:1_200_000] + some_bytes(7, 300_000),
            "boot": some_bytes(8, 1_400_000),
            "app": self.old["app"],
        }
        for name, image in self.old.items():
            (self.folder / f"{name}.img").write_bytes(image)
        others = {name: self.folder / f"{name}.img" for name in SETS[1:]}
        self.board: Board = create_board(self.folder / "board", self.folder / "root.img", CAPACITY, "sim-1", others)
        status = BootStatus(boot_id="b", slot=Slot.A, outcome=BootOutcome.NORMAL)
        self.effects.replace(self.board.status, encode_status(status))
        self.files = {name: self.shelf.put(image, f"releases/demo/2.0/{name}.img") for name, image in self.new.items()}

    @property
    def manifest(self) -> Manifest:
        images = []
        for name, file in self.files.items():
            windows = describe([self.new[name]]).windows
            images.append(Image(slot=name, path=file.path, length=file.length, sha256=file.sha256, windows=windows))
        return Manifest(product="demo", version="2.0", counter=2, hardware=["sim-1"], images=images)

    def order(self, **deltas: DeltaRef) -> Order:
        images = [OrderedImage(slot=name, file=file, delta=deltas.get(name)) for name, file in self.files.items()]
        order: Order = replace(self.stage.order(), images=images)
        return order

    def delta(self, name: str) -> DeltaRef:
        old, new, patch = (self.folder / f"{name}.{end}" for end in ("old", "new", "patch"))
        old.write_bytes(self.old[name])
        new.write_bytes(self.new[name])
        make_delta(old, new, patch, level=1)
        file = self.shelf.put(patch.read_bytes(), f"deltas/{name}.otd")
        sha256 = hashlib.sha256(self.old[name]).hexdigest()
        return DeltaRef(file=file, source_sha256=sha256, source_length=len(self.old[name]))

    @property
    def installer(self) -> StreamInstaller:
        """A new one every time: nothing is kept in memory."""
        slots = {name: self.wrap(name, one) for name, one in board_slots(self.effects, self.board.directory).items()}
        return StreamInstaller(effects=self.effects, slots=slots, source=self.shelf, directory=self.board.agent)

    def run(self, order: Order | None = None, manifest: Manifest | None = None) -> None:
        self.evidence = self.installer.stage(
            order or self.order(),
            manifest or self.manifest,
            active=Slot.A,
            on_progress=lambda done, total: self.progress.append((done, total)),
            stop=lambda: False,
        )

    def refused(self, order: Order | None = None, manifest: Manifest | None = None) -> str:
        """The kind of the refusal, which came before a byte was written or fetched."""
        before = {name: self.slot(name) for name in SETS}
        with pytest.raises(OtariaError) as caught:
            self.run(order, manifest)
        assert {name: self.slot(name) for name in SETS} == before
        assert not self.shelf.opened
        assert not list(self.board.agent.iterdir())
        return caught.value.kind

    def slot(self, name: str, slot: Slot = Slot.B) -> bytes:
        return self.board.slot(slot, name).read_bytes()

    def is_staged(self) -> bool:
        same = all(self.slot(name).startswith(image) for name, image in self.new.items())
        return same and all(self.slot(name, Slot.A).startswith(image) for name, image in self.old.items())


@pytest.fixture
def three(tmp_path: Path, stage: Any) -> Three:
    return Three(folder=tmp_path, stage=stage)


def test_all_images_arrive_each_in_its_set(three: Three) -> None:
    three.run()
    assert three.is_staged()
    assert three.installer.verify(Slot.B, three.manifest)
    assert not three.installer.verify(Slot.A, three.manifest)
    assert not list(three.board.agent.iterdir())
    for name in SETS:
        three.effects.write_at(three.board.slot(Slot.B, name), 700_000, b"rust")
        assert not three.installer.verify(Slot.B, three.manifest), name
        three.effects.write_at(three.board.slot(Slot.B, name), 700_000, three.new[name][700_000:700_004])
    assert three.installer.verify(Slot.B, three.manifest)


def test_progress_counts_all_images(three: Three) -> None:
    three.run()
    total = sum(map(len, three.new.values()))
    assert {of for _, of in three.progress} == {total}
    done = [so_far for so_far, _ in three.progress]
    assert done == sorted(done)
    assert done[-1] == total


def test_what_the_active_slot_holds_already_is_copied_and_not_fetched(three: Three) -> None:
    three.run()
    assert three.is_staged()
    assert (three.files["app"].path, 0) not in three.shelf.opened
    assert three.evidence["copied_bytes"] == len(three.new["app"]) + WINDOW_BYTES  # and the first window of root
    assert three.shelf.given <= len(three.new["root"]) - WINDOW_BYTES + len(three.new["boot"])


def test_each_image_has_its_own_delta(three: Three) -> None:
    deltas = {"root": three.delta("root"), "boot": three.delta("boot")}
    three.run(three.order(**deltas))
    assert three.is_staged()
    assert (deltas["root"].file.path, 0) in three.shelf.opened
    assert (three.files["root"].path, 0) not in three.shelf.opened
    assert (three.files["boot"].path, 0) in three.shelf.opened, "a delta that saves nothing was used"


def test_deltas_that_are_mixed_up_cost_only_their_saving(three: Three) -> None:
    three.run(three.order(root=three.delta("app"), app=three.delta("root")))
    assert three.is_staged()
    paths = [path for path, _ in three.shelf.opened]
    assert not [path for path in paths if path.startswith("deltas/")]


def test_a_delta_that_was_cut_off_is_not_taken_for_the_next_images(three: Three) -> None:
    """Two deltas share one file on the device: what is in it belongs to the one that the checkpoint names."""
    three.new["root"] = three.old["root"][:700_000] + some_bytes(12, 1_900_000)  # a delta of more than a window
    three.new["boot"] = three.old["boot"][:900_000] + some_bytes(11, 200_000)
    for name in ("root", "boot"):
        three.files[name] = three.shelf.put(three.new[name], f"releases/demo/2.0/{name}.img")
    deltas = {"root": three.delta("root"), "boot": three.delta("boot")}
    three.shelf.chunk = 10_000
    three.shelf.faults[deltas["root"].file.sha256] = ["dead 1500000"]
    with pytest.raises(UnavailableError):
        three.run(three.order(**deltas))
    assert (three.board.agent / PATCH_NAME).stat().st_size == WINDOW_BYTES
    three.shelf.opened.clear()
    three.shelf.faults[deltas["boot"].file.sha256] = ["changed 100"]  # one failure is allowed, and this is it
    three.run(three.order(boot=deltas["boot"]))
    assert three.is_staged()
    assert [one for one in three.shelf.opened if "boot" in one[0]] == [(deltas["boot"].file.path, 0)] * 2


def test_a_download_that_died_in_the_second_image_goes_on_there(three: Three) -> None:
    three.shelf.faults[three.files["boot"].sha256] = [f"dead {WINDOW_BYTES + 200_000}"]
    with pytest.raises(UnavailableError):
        three.run()
    assert three.slot("root")[:512] == bytes(512), "root looks as if it could boot, and not all is there"
    three.shelf.opened.clear()
    three.run()
    assert three.is_staged()
    assert three.shelf.opened == [(three.files["boot"].path, WINDOW_BYTES)]


def test_root_is_sealed_last_and_made_unbootable_first(three: Three) -> None:
    firsts: list[tuple[str, bool]] = []

    class Noted(FileSlots):
        def __init__(self, name: str) -> None:
            super().__init__(three.effects, three.board.directory, name)
            self.name = name

        def write(self, slot: Slot, offset: int, data: bytes) -> None:
            if offset == 0:
                firsts.append((self.name, data.count(0) == len(data)))
            super().write(slot, offset, data)

    for name in SETS:
        three.effects.write_at(three.board.slot(Slot.B, name), 0, b"\1" * 600)
    three.wrap = lambda name, slots: Noted(name)
    three.run()
    assert three.is_staged()
    assert firsts[0] == ("root", True)
    assert firsts[-1] == ("root", False)
    assert [name for name, blank in firsts if blank] == ["root", "app", "boot"]


def test_a_set_that_gives_back_other_bytes_leaves_root_unbootable(three: Three) -> None:
    class Forgetful(FileSlots):
        def write(self, slot: Slot, offset: int, data: bytes) -> None:
            if offset != WINDOW_BYTES:
                super().write(slot, offset, data)

    three.wrap = lambda name, slots: Forgetful(three.effects, three.board.directory, name) if name == "boot" else slots
    with pytest.raises(OtariaError) as caught:
        three.run()
    assert caught.value.kind == "read-back-differs"
    assert caught.value.text.startswith("Slot B of boot ")
    assert three.slot("root")[:512] == bytes(512)


# Refused before a byte is written


@pytest.mark.parametrize("name", SETS)
def test_security_an_image_that_does_not_fit_its_set(three: Three, name: str) -> None:
    with three.board.slot(Slot.B, name).open("r+b") as file:
        file.truncate(len(three.new[name]) - 1)
    assert three.refused() == "slot-too-small"


def test_security_an_image_for_a_set_that_is_not_here(three: Three) -> None:
    for slot in Slot:
        three.board.slot(slot, "app").rename(three.folder / f"{slot.value}.gone")
    before = {name: three.slot(name) for name in ("root", "boot")}
    with pytest.raises(OtariaError) as caught:
        three.run()
    assert caught.value.kind == "slot-missing"
    assert {name: three.slot(name) for name in ("root", "boot")} == before


def test_security_a_release_without_an_image_for_a_set_of_the_device(three: Three) -> None:
    manifest, order = three.manifest, three.order()
    manifest = replace(manifest, images=[image for image in manifest.images if image.slot != "boot"])
    order = replace(order, images=[image for image in order.images if image.slot != "boot"])
    assert three.refused(order, manifest) == "image-missing"


def test_security_another_sets_file_is_not_taken(three: Three) -> None:
    root, boot, app = three.order().images
    swapped = replace(three.order(), images=[replace(root, file=boot.file), replace(boot, file=root.file), app])
    assert three.refused(swapped) == "catalogue-mismatch"


@pytest.mark.parametrize("names", [("root", "boot"), ("root", "boot", "boot", "app"), ("root",) * 3])
def test_security_an_order_that_does_not_name_exactly_the_manifests_images(
    three: Three, names: tuple[str, ...]
) -> None:
    known = {image.slot: image for image in three.order().images}
    assert three.refused(replace(three.order(), images=[known[name] for name in names])) == "catalogue-mismatch"


def test_a_claim_that_fails_lets_go_of_the_sets_before_it(three: Three) -> None:
    held: set[str] = set()

    class Held(FileSlots):
        def __init__(self, name: str) -> None:
            super().__init__(three.effects, three.board.directory, name)
            self.name = name

        def claim(self, slot: Slot, length: int) -> None:
            if self.name == "boot":
                raise OtariaError("slot-in-use", "Slot B of boot is mounted.")
            held.add(self.name)

        def release(self, slot: Slot) -> None:
            held.discard(self.name)

    three.wrap = lambda name, slots: Held(name)
    assert three.refused() == "slot-in-use"
    assert not held


def test_a_damaged_checkpoint_is_as_good_as_none(three: Three) -> None:
    three.shelf.faults[three.files["boot"].sha256] = ["dead 1"]
    with pytest.raises(UnavailableError):
        three.run()
    (three.board.agent / CHECKPOINT_NAME).write_bytes(b'{"slot":"B","images":[{}]}')
    three.run()
    assert three.is_staged()


def test_content_has_one_name_whatever_the_order_of_its_images() -> None:
    pairs = [("root", "a" * 64), ("app", "b" * 64)]
    assert contents_sha256(pairs) == contents_sha256(reversed(pairs))
    assert contents_sha256(pairs) != contents_sha256([("root", "b" * 64), ("app", "a" * 64)])
    assert contents_sha256([("root", "a" * 64)]) == "a" * 64
    assert contents_sha256([("app", "a" * 64)]) != "a" * 64
