"""What an installation must remember over a restart, apart from the windows that are in the slot.

A damaged or foreign checkpoint is as good as none: then the installation starts again.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from device_agent.install.target import storage_faults
from device_agent.ports import Effects, Slot
from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Sha256

MAX_BYTES = 8192


class Checkpoint(Struct, frozen=True, kw_only=True):
    """`first_block`: the image's first bytes in hex, held back from the slot. `delta`: the patch whose file is being fetched."""

    image: Sha256
    slot: Slot
    delta: Sha256 | None = None
    delta_failures: Annotated[int, Meta(ge=0, le=1000)] = 0
    first_block: Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{2})*\Z", max_length=1024)] = ""


class CheckpointFile:
    """The one checkpoint of an installer, in one file, replaced atomically."""

    def __init__(self, effects: Effects, path: Path) -> None:
        self._effects = effects
        self._path = path

    def load(self) -> Checkpoint | None:
        """The stored checkpoint, or None when there is none that is whole."""
        with storage_faults("read", "the install checkpoint"):
            size = self._effects.size(self._path)
            data = self._effects.read_at(self._path, 0, MAX_BYTES + 1) if size else b""
        try:
            return convert(parse_json(data, max_bytes=MAX_BYTES), Checkpoint)
        except RefusedError:
            return None

    def store(self, checkpoint: Checkpoint) -> None:
        with storage_faults("write", "the install checkpoint"):
            self._effects.replace(self._path, canonical(checkpoint))

    def clear(self) -> None:
        with storage_faults("remove", "the install checkpoint"):
            self._effects.unlink(self._path)
