"""How an operator says where a slot is: a block device by name, or a region of a block device or file.

"/dev/mmcblk0p2"   "/dev/disk/by-partlabel/root-a"   "PARTLABEL=root-a"   "PARTUUID=…"   "LABEL=…"   "UUID=…"
{device = "/dev/mmcblk0", offset = "4MiB", length = "16MiB"}
{file = "/srv/board/flash.img", offset = 0, length = "64MiB"}
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct

from device_agent.ports import Slot
from firmware.contents import ROOT_SET
from firmware.errors import RefusedError
from firmware.protocol.words import MAX_IMAGE_BYTES, Id

TAGS = ("PARTLABEL", "PARTUUID", "LABEL", "UUID")
ALIGNMENT = 4096
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB|)\Z")
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

Name = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[^\x00\n]*\Z")]
Size = Annotated[int, Meta(ge=0, le=MAX_IMAGE_BYTES)] | Annotated[str, Meta(max_length=24)]


class Region(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A region as `agent.toml` has it: exactly one of `device`, `file`; sizes as bytes or text such as `"16MiB"`."""

    device: Name | None = None
    file: Name | None = None
    offset: Size = 0
    length: Size | None = None


SlotTable = Annotated[dict[Id, Name | Region], Meta(max_length=16)]
SlotTables = dict[Literal["A", "B"], SlotTable]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one slot of one set is. `length` None: from `offset` to the end."""

    slot: Slot
    slot_set: str
    name: str
    is_file: bool = False
    offset: int = 0
    length: int | None = None

    @property
    def title(self) -> str:
        """How errors name it."""
        return f"slot {self.slot.value} of {self.slot_set} ({self.name})"


def places_of(tables: SlotTables) -> dict[str, dict[Slot, Place]]:
    """The places by slot set. Both slots need the same sets, and `root` among them; none at all is fine too.

    Raises `RefusedError` (`bad-config`).
    """
    if not tables:
        return {}
    first, second = tables.get("A", {}), tables.get("B", {})
    if set(first) != set(second) or ROOT_SET not in first:
        raise _bad(f"[slots.A] and [slots.B] must name the same slot sets, and {ROOT_SET!r} among them")
    return {
        name: {Slot.A: _place(Slot.A, name, first[name]), Slot.B: _place(Slot.B, name, second[name])} for name in first
    }


def parse_size(size: int | str) -> int:
    """Bytes from a number or text such as `"16MiB"`. Raises `RefusedError` (`bad-config`)."""
    if isinstance(size, int):
        return size
    found = _SIZE.match(size)
    value = int(found[1]) * _UNITS[found[2]] if found else MAX_IMAGE_BYTES + 1
    if value > MAX_IMAGE_BYTES:
        raise _bad(f'{size!r} is no size; write bytes, or a number with KiB, MiB or GiB such as "16MiB"')
    return value


def _place(slot: Slot, slot_set: str, given: str | Region) -> Place:
    where = f"slots.{slot.value}.{slot_set}"
    region = Region(device=given) if isinstance(given, str) else given
    name = region.device if region.file is None else region.file
    if name is None or (region.device is not None and region.file is not None):
        raise _bad(f"{where} needs either a device or a file")
    is_tag = region.file is None and name.partition("=")[0] in TAGS and name.partition("=")[2] != ""
    if not is_tag and not name.startswith("/"):
        raise _bad(f"{where} must be an absolute path, or one of {', '.join(f'{tag}=…' for tag in TAGS)}")
    offset = parse_size(region.offset)
    length = None if region.length is None else parse_size(region.length)
    if offset % ALIGNMENT or length == 0:
        raise _bad(f"{where} must begin at a multiple of {ALIGNMENT} bytes and not be empty")
    if offset and length is None:
        raise _bad(f"{where} has an offset and needs a length as well")
    return Place(slot=slot, slot_set=slot_set, name=name, is_file=region.file is not None, offset=offset, length=length)


def _bad(what: str) -> RefusedError:
    return RefusedError("bad-config", f"{what}. Correct agent.toml and start again.")
