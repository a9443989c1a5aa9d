"""GRUB's environment block, as its `load_env` and `save_env` read and write it.

1024 bytes: a signature line, then `name=value` lines (a backslash escapes itself and a line end), then `#` to the end. GRUB 2.06,
`grub-core/lib/envblk.c`. All variables stay in the first 512 bytes: one sector, which storage writes whole or not at all.
`grub-editenv` must not write it, because it truncates the file first.
"""

import re
from collections.abc import Mapping

from device_agent.boot.cells import full

SIGNATURE = b"# GRUB Environment Block\n"
BLOCK_BYTES = 1024
SECTOR_BYTES = 512
_LINE = re.compile(rb"((?:[^\\\n]|\\.)*+)\n", re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class GrubBlock:
    """`Codec` of GRUB environment blocks."""

    size_bytes = BLOCK_BYTES

    def encode(self, variables: Mapping[str, str]) -> bytes:
        """The block. Raises `RefusedError` (`boot-environment-full`)."""
        lines = "".join(f"{name}={_escape(value)}\n" for name, value in variables.items())
        head = SIGNATURE + lines.encode()
        if len(head) > SECTOR_BYTES:
            raise full(len(head), SECTOR_BYTES)
        return head.ljust(BLOCK_BYTES, b"#")

    def decode(self, data: bytes) -> dict[str, str] | None:
        """The variables, or None for anything but a block of this size with this signature."""
        if len(data) != BLOCK_BYTES or not data.startswith(SIGNATURE):
            return None
        variables: dict[str, str] = {}
        for line in _lines(data[len(SIGNATURE) :]):
            name, separator, value = line.partition(b"=")
            if not line.startswith(b"#") and separator:
                variables[name.decode(errors="replace")] = value.decode(errors="replace")
        return variables


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\\n")


def _lines(data: bytes) -> list[bytes]:
    """Lines with their escapes resolved; what follows the last line end is padding."""
    lines, at = [], 0
    while found := _LINE.match(data, at):
        lines.append(_ESCAPED.sub(rb"\1", found[1]))
        at = found.end()
    return lines
