"""What a slot holds, named by one hash, however many images it is made of.

A slot (A or B) spans one image per *slot set*: `root`, which the boot loader boots, and whatever else a device keeps twice, such
as `boot` or `app`. A release brings an image for every set, and what runs on a target is compared, delta by delta and campaign by
campaign, as a whole: another byte in any set is other content.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from firmware.protocol.words import ID_PATTERN

ROOT_SET = "root"
"""The slot set that every device and every release has."""
MAX_IMAGES = 16


def contents_sha256(images: Iterable[tuple[str, str]]) -> str:
    """The hash of a slot's content, from (slot set, sha256 of its image), in any order.

    For one image in `root` it is that image's own hash. For anything else it is the sha256 of a text that no image can be taken
    for: a heading, then a line `SET SHA256` for each set, sorted.
    """
    pairs = sorted(images)
    if [name for name, _ in pairs] == [ROOT_SET]:
        return pairs[0][1]
    lines = "".join(f"{name} {sha256}\n" for name, sha256 in pairs)
    return hashlib.sha256(f"otaria contents v1\n{lines}".encode()).hexdigest()


def twice(names: Iterable[str]) -> str | None:
    """The first name that comes a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def named_file(text: str) -> tuple[str, Path]:
    """Slot set and path out of `SET=FILE`, or of `FILE` alone, which is for `root`."""
    name, _, path = text.partition("=")
    is_set = path != "" and re.match(ID_PATTERN, name) is not None
    return (name, Path(path)) if is_set else (ROOT_SET, Path(text))
