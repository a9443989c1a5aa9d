"""tar, and our own slot image, which is one."""

import tarfile

from firmware.errors import RefusedError
from firmware.images.facts import ImageFacts, printable
from firmware.images.slot_image import read_program
from firmware.images.source import Source


def slot_image(source: Source) -> ImageFacts | None:
    """Our slot image, exactly when a board would boot it."""
    try:
        info, program = read_program(source.read)
    except RefusedError:
        return None
    details = {
        "product": info.product,
        "counter": str(info.counter),
        "entry": info.entry,
        "program_bytes": str(len(program)),
    }
    return ImageFacts(kind="slot-image", size_bytes=source.size_bytes, version=info.version, details=details)


def tar(source: Source) -> ImageFacts | None:
    """A tar archive, by the checksum of its first header."""
    try:
        member = tarfile.TarInfo.frombuf(source.read(0, tarfile.BLOCKSIZE), "utf-8", "replace")
    except (tarfile.HeaderError, ValueError):
        return None
    return ImageFacts(kind="tar", size_bytes=source.size_bytes, details={"first": printable(member.name)})
