"""An image of any size is staged in the same memory: measured as the high-water mark of a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOM_KIB = 24 << 10
"""A few windows, buffers of the file system calls and the list of hashes."""

STAGE = """
import hashlib, sys
from msgspec.structs import replace
from pathlib import Path
from device_agent.boot.files import encode_status
from device_agent.boot.layout import Board
from device_agent.boot.loader import LoaderState, encode_state
from device_agent.effects import FileEffects
from device_agent.install.stream import StreamInstaller
from device_agent.ports import BootOutcome, BootStatus, Slot
from device_agent.slots.files import board_slots
from firmware.encryption.chunked import Encryption
from firmware.encryption.content_key import ContentKey
from firmware.encryption.layout import encrypted_length
from firmware.manifest import Encrypted as EncryptedImage
from firmware.manifest import WINDOW_BYTES, Image, Manifest
from firmware.protocol.order import Counter, FileRef, Order, OrderedImage
from firmware.protocol.words import Action

def high_water_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

board, windows = Board(directory=Path(sys.argv[1])), int(sys.argv[2])
for path in (board.request, board.status, board.agent / "x"):
    path.parent.mkdir(parents=True)
for slot in Slot:
    with board.slot(slot).open("wb") as file:
        file.truncate(windows * WINDOW_BYTES)
effects = FileEffects()
effects.replace(board.loader_copies[0], encode_state(LoaderState()))
effects.replace(board.status, encode_status(BootStatus(boot_id="b", slot=Slot.A, outcome=BootOutcome.NORMAL)))
chunk, whole = b"\\x01" * 65536, hashlib.sha256()
for _ in range(windows * 16):
    whole.update(chunk)
window = hashlib.sha256(b"\\x01" * WINDOW_BYTES).hexdigest()
file = FileRef(path="releases/demo/2.0/image", length=windows * WINDOW_BYTES, sha256=whole.hexdigest())
image = Image(path=file.path, length=file.length, sha256=file.sha256, windows=[window] * windows)
manifest = Manifest(product="demo", version="2.0", counter=2, hardware=["h"], images=[image])
order = Order(target="d", agent="d", hardware="h", counter=Counter(epoch=1, n=1), action=Action.INSTALL,
              change_id="c", issued_at=0, expires_at=1, images=[OrderedImage(file=file)])

class Source:
    def open(self, file, *, offset):
        return (chunk for _ in range(offset // 65536, windows * 16))
    def allow(self, bytes_per_s):
        pass
    def again(self, file, *, wrong):
        return False
    def evidence(self):
        return {}

class Encrypted(Source):
    key = ContentKey.new()
    encryption = Encryption(key)
    def open(self, file, *, offset):
        return self.encryption.encrypt(super().open(file, offset=offset))

class Keys:
    def open(self, order, encrypted):
        return Encrypted.key

source = Source()
if sys.argv[3] == "encrypted":
    source = Encrypted()
    length = encrypted_length(file.length)
    file = FileRef(path=file.path + ".enc", length=length, sha256=file.sha256)
    how = {"image": image.path, "path": file.path, "length": length, "sha256": file.sha256}
    one = EncryptedImage(**how, salt=source.encryption.salt, key_check=source.key.check())
    manifest, order = replace(manifest, encrypted=[one], crit=["encrypted"]), replace(order, images=[OrderedImage(file=file)])
installer = StreamInstaller(effects=effects, slots=board_slots(effects, board.directory), source=source,
                            directory=board.agent, keys=Keys())
before = high_water_kib()
installer.stage(order, manifest, active=Slot.A, on_progress=lambda done, total: None, stop=lambda: False)
print(high_water_kib() - before)
"""


@pytest.mark.parametrize("stored", ["plain", "encrypted"])
@pytest.mark.parametrize("windows", [128, pytest.param(1024, marks=pytest.mark.deep)], ids=["128MiB", "1GiB"])
def test_memory_of_an_installation_does_not_grow_with_the_image(tmp_path: Path, windows: int, stored: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STAGE, str(tmp_path / "board"), str(windows), stored],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < ROOM_KIB
