"""One installation by our installer, in this process: `python -m bench.install_work MANIFEST IMAGE SLOT_A SLOT_B`.

Puts the image into the block device of slot B, slot A being the one that runs, and says at which monotonic seconds the image was
`written` and flushed, and when it had been read back (`done`). What it does is what the agent's worker does with a full image.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from device_agent.effects import FileEffects, FileMedia, FileMedium
from device_agent.install.stream import StreamInstaller
from device_agent.ports import Slot
from device_agent.slots.devices import slot_sets
from device_agent.slots.places import Place
from firmware.contents import ROOT_SET
from firmware.manifest import parse_manifest
from firmware.protocol.order import Counter, FileRef, Order, OrderedImage, ReleaseRef
from firmware.protocol.words import Action

CHUNK_BYTES = 1 << 16


class OneFile:
    """A `Source` of one file on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        """Its bytes, in chunks of the size that the network gives."""
        with self._path.open("rb", buffering=0) as image:
            image.seek(offset)
            while chunk := image.read(CHUNK_BYTES):
                yield chunk

    def allow(self, bytes_per_s: int | None) -> None:
        """It is as fast as it is."""

    def again(self, file: FileRef, *, wrong: bool) -> bool:
        """There is nobody else."""
        return False

    def evidence(self) -> dict[str, object]:
        return {}


class Watched(FileMedia):
    """Notes when the cache was dropped last: then everything is written and flushed, and reading back begins."""

    dropped_at = 0.0

    def open(self, path: Path, *, writing: bool, exclusive: bool = False) -> FileMedium:
        medium = super().open(path, writing=writing, exclusive=exclusive)
        drop = medium.drop_cache

        def drop_cache() -> None:
            self.dropped_at = time.monotonic()
            drop()

        medium.drop_cache = drop_cache  # type: ignore[method-assign]  # to look at the real one, not to replace it
        return medium


def main(arguments: list[str]) -> None:
    """Install, and say when."""
    manifest_file, image_file, first, second = map(Path, arguments)
    manifest = parse_manifest(manifest_file.read_bytes())
    pair = {
        slot: Place(slot=slot, slot_set=ROOT_SET, name=str(path))
        for slot, path in zip(Slot, (first, second), strict=True)
    }
    media = Watched()
    slots = slot_sets({ROOT_SET: pair}, media, protected=lambda: frozenset({Slot.A}))
    image = manifest.images[0]
    file = FileRef(path=image.path, length=image.length, sha256=image.sha256)
    order = Order(
        target="bench",
        agent="bench",
        hardware="bench",
        counter=Counter(epoch=1, n=1),
        action=Action.INSTALL,
        change_id="bench",
        issued_at=0,
        expires_at=1,
        release=ReleaseRef(product="bench", version="1", counter=1, manifest=file),
        images=[OrderedImage(file=file)],
    )
    with tempfile.TemporaryDirectory(dir=image_file.parent) as folder:
        installer = StreamInstaller(
            effects=FileEffects(), slots=slots, source=OneFile(image_file), directory=Path(folder)
        )
        installer.stage(order, manifest, active=Slot.A, on_progress=lambda *_: None, stop=lambda: False)
    print(json.dumps({"written": media.dropped_at, "done": time.monotonic()}))


if __name__ == "__main__":
    main(sys.argv[1:])
