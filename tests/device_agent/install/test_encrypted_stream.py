"""The installer and encrypted releases: what arrives is decrypted on its way, and what does not open leaves no trace."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec.structs import replace

from device_agent.boot.files import encode_status
from device_agent.boot.layout import Board
from device_agent.decryption import DECRYPTION_KEY_FILE, DecryptionKey
from device_agent.effects import FileEffects
from device_agent.install.stream import StreamInstaller
from device_agent.ports import BootOutcome, BootStatus, Slot
from device_agent.slots.files import board_slots, create_board
from firmware.encryption.layout import CHUNK_BYTES, TAG_BYTES, encrypted_offset
from firmware.errors import OtariaError, UnavailableError
from firmware.manifest import WINDOW_BYTES
from firmware.protocol.order import DeltaRef, Order, OrderedImage

CAPACITY = 4 << 20
SEALED = CHUNK_BYTES + TAG_BYTES


class NotingEffects(FileEffects):
    """Notes what is appended to files."""

    def __init__(self) -> None:
        self.appended = b""

    def append(self, path: Path, data: bytes) -> None:
        self.appended += data
        super().append(path, data)


@dataclass
class Device:
    """A board that runs the old image from slot A, and its decryption key."""

    stage: Any
    board: Board
    effects: FileEffects
    private: X25519PrivateKey
    has_keys: bool = True

    def run(self, delta: DeltaRef | None = None, order: Order | None = None) -> None:
        installer = StreamInstaller(
            effects=self.effects,
            slots=board_slots(self.effects, self.board.directory),
            source=self.stage.shelf,
            directory=self.board.agent,
            keys=DecryptionKey(self.private) if self.has_keys else None,
        )
        order = order or self.stage.order(delta)
        installer.stage(order, self.stage.manifest, active=Slot.A, on_progress=lambda *_: None, stop=lambda: False)

    def refused(self, order: Order | None = None) -> OtariaError:
        """The refusal; the new slot does not boot, and holds only checked windows of the plain image."""
        with pytest.raises(OtariaError) as caught:
            self.run(order=order)
        assert self.slot[:512] == bytes(512)
        for start in range(512, len(self.stage.new), WINDOW_BYTES):
            window = self.slot[start : start + 4096]
            assert window in (bytes(4096), self.stage.new[start : start + 4096]), f"other bytes at {start}"
        return caught.value

    @property
    def slot(self) -> bytes:
        return self.board.slot(Slot.B).read_bytes()

    @property
    def is_staged(self) -> bool:
        return self.slot[: len(self.stage.new)] == self.stage.new

    def order(self, **changes: Any) -> Order:
        return replace(self.stage.order(), **changes)


@pytest.fixture
def device(stage: Any) -> Device:
    image = stage.folder / "factory.img"
    image.write_bytes(stage.old)
    board, effects = create_board(stage.folder / "board", image, CAPACITY, "sim-1"), FileEffects()
    effects.replace(board.status, encode_status(BootStatus(boot_id="b", slot=Slot.A, outcome=BootOutcome.NORMAL)))
    private = X25519PrivateKey.generate()
    stage.encrypt(private.public_key())
    return Device(stage=stage, board=board, effects=effects, private=private)


def test_an_encrypted_image_arrives_as_the_plain_one(device: Device) -> None:
    device.run()
    assert device.is_staged
    assert device.stage.shelf.given == device.stage.file.length
    assert not list(device.board.agent.iterdir())


@pytest.mark.parametrize("chunk", [1000, SEALED - 1, SEALED, 3 << 20])
def test_portions_of_any_size_make_the_same_slot(device: Device, chunk: int) -> None:
    device.stage.shelf.chunk = chunk
    device.run()
    assert device.is_staged


def test_a_download_that_died_goes_on_at_the_first_missing_window(device: Device) -> None:
    shelf = device.stage.shelf
    shelf.faults[device.stage.file.sha256] = [f"dead {encrypted_offset(WINDOW_BYTES) + 300_000}"]
    with pytest.raises(UnavailableError):
        device.run()
    shelf.given = 0
    device.run()
    assert device.is_staged
    assert shelf.opened[-1] == (device.stage.file.path, encrypted_offset(WINDOW_BYTES))
    assert shelf.given == device.stage.file.length - encrypted_offset(WINDOW_BYTES)


@pytest.mark.parametrize(
    "place", [0, SEALED - 1, encrypted_offset(WINDOW_BYTES) + 7, encrypted_offset(2 * WINDOW_BYTES)]
)
def test_security_a_changed_byte_does_not_open_and_is_not_written(device: Device, place: int) -> None:
    device.stage.shelf.faults[device.stage.file.sha256] = [f"changed {place}"]
    assert device.refused().kind == "cannot-decrypt"
    device.run()
    assert device.is_staged


@pytest.mark.parametrize(
    ("fault", "kind"), [("truncated 900000", "artifact-truncated"), ("long 1", "artifact-too-long")]
)
def test_security_a_shorter_or_longer_file_is_refused(device: Device, fault: str, kind: str) -> None:
    device.stage.shelf.faults[device.stage.file.sha256] = [fault]
    assert device.refused().kind == kind


def test_security_a_file_cut_after_a_chunk_is_refused(device: Device) -> None:
    device.stage.shelf.faults[device.stage.file.sha256] = [f"truncated {encrypted_offset(WINDOW_BYTES)}"]
    assert device.refused().kind == "artifact-truncated"


def test_security_endless_data_is_not_read_to_its_end(device: Device) -> None:
    device.stage.shelf.faults[device.stage.file.sha256] = ["endless"]
    assert device.refused().kind == "artifact-too-long"
    assert device.stage.shelf.given <= device.stage.file.length + device.stage.shelf.chunk


def test_security_chunks_that_changed_places_are_refused(device: Device) -> None:
    files, name = device.stage.shelf.files, device.stage.file.sha256
    data = files[name]
    files[name] = data[SEALED : 2 * SEALED] + data[:SEALED] + data[2 * SEALED :]
    assert device.refused().kind == "cannot-decrypt"


def test_security_the_plain_image_served_in_its_place_is_refused(device: Device) -> None:
    """Its windows are those of the manifest; nobody who holds the store may make a device take it unencrypted."""
    device.stage.shelf.files[device.stage.file.sha256] = device.stage.new
    assert device.refused().kind == "cannot-decrypt"


def test_security_keys_that_are_not_this_devices_are_refused_before_anything_is_fetched(device: Device) -> None:
    stage, mine = device.stage, device.private.public_key()
    stranger = X25519PrivateKey.generate().public_key()
    foreign = stage.wrapped_for(stranger)
    bad = [
        None,
        foreign,
        replace(foreign, key_id=stage.wrapped_key.key_id),
        stage.wrapped_for(mine, target="d2"),
        stage.wrapped_for(mine, hardware="sim-2"),
        stage.wrapped_for(mine, version="1.0"),
        stage.wrapped_for(mine, artifact="a" * 64),
        stage.wrapped_for(mine, recipient="server"),
        replace(stage.wrapped_key, data="AAAA"),
        replace(stage.wrapped_key, data="A"),
        replace(stage.wrapped_key, suite="hpke-later"),
    ]
    for wrapped in bad:
        assert device.refused(device.order(wrapped_key=wrapped)).kind == "cannot-decrypt"
    assert not stage.shelf.opened
    assert device.slot == bytes(CAPACITY)
    assert "another key than this device's" in device.refused(device.order(wrapped_key=foreign)).text


def test_security_an_agent_without_a_key_fetches_nothing(device: Device) -> None:
    device.has_keys = False
    assert device.refused().kind == "cannot-decrypt"
    assert not device.stage.shelf.opened


def test_security_the_plain_image_cannot_be_ordered(device: Device) -> None:
    image = device.stage.manifest.images[0]
    plain = device.stage.shelf.put(device.stage.new, image.path)
    assert device.refused(device.order(images=[OrderedImage(file=plain)])).kind == "catalogue-mismatch"


def test_an_encrypted_delta_arrives_as_the_plain_image_and_lies_encrypted_on_the_device(device: Device) -> None:
    delta = device.stage.encrypted_delta()
    device.effects = effects = NotingEffects()
    device.run(delta)
    assert device.is_staged
    assert device.stage.shelf.opened == [(delta.file.path, 0)]
    assert effects.appended == device.stage.shelf.files[delta.file.sha256], "other bytes"


def test_a_delta_that_does_not_open_costs_only_the_saving(device: Device) -> None:
    delta = device.stage.encrypted_delta()
    device.run(replace(delta, salt="0" * 64))
    assert device.is_staged
    assert device.stage.shelf.opened[-1] == (device.stage.file.path, 0)


def test_a_delta_of_a_length_that_no_encrypted_file_has_costs_only_the_saving(device: Device) -> None:
    plain = device.stage.delta()
    device.run(replace(plain, salt="0" * 64))
    assert device.is_staged


# The device's own key


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / DECRYPTION_KEY_FILE
    made = DecryptionKey.load_or_make(FileEffects(), path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert DecryptionKey.load_or_make(FileEffects(), path).announced == made.announced
    assert made.announced.public.encode() not in path.read_bytes()


def test_a_damaged_key_is_replaced_by_another_that_is_announced(tmp_path: Path) -> None:
    path = tmp_path / DECRYPTION_KEY_FILE
    made = DecryptionKey.load_or_make(FileEffects(), path)
    path.write_bytes(path.read_bytes()[:50])
    assert DecryptionKey.load_or_make(FileEffects(), path).announced != made.announced


MEMORY = """
import resource, sys
from firmware.encryption.chunked import Decryption, Encryption
from firmware.encryption.content_key import ContentKey
key = ContentKey.new()
encryption = Encryption(key)
length = 96 << 20
portions = (bytes(1 << 16) for _ in range(length >> 16))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = Decryption(key, encryption.salt, length).decrypt(encryption.encrypt(portions))
assert sum(map(len, out)) == length
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_does_not_grow_with_the_file() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 << 20
