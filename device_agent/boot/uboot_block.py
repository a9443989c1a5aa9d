"""U-Boot's exported environment with a checksum, as its `env import -c` and `env export -c` read and write it.

Little-endian CRC-32 of the rest, then `name=value` texts, each ended by a zero byte, an empty one at the end, and zero bytes
up to the fixed size; the same as a stored environment without redundancy. It has one variable, `otaria_all`: the commands that
set all the others, because U-Boot's `env export` takes too few arguments (CONFIG_SYS_MAXARGS) to name them.
"""

import re
import zlib
from collections.abc import Mapping

from device_agent.boot.cells import full

BLOCK_BYTES = 1024
CRC_BYTES = 4
ALL = b"otaria_all="
_SET = re.compile(r"setenv ([a-z_]+)(?: ([A-Za-z0-9_-]*))?")


class UBootBlock:
    """`Codec` of checksummed U-Boot environments."""

    size_bytes = BLOCK_BYTES

    def encode(self, variables: Mapping[str, str]) -> bytes:
        """The block. Raises `RefusedError` (`boot-environment-full`)."""
        commands = "; ".join(f"setenv {name} {value}" for name, value in variables.items())
        body = ALL + commands.encode() + b"\0\0"
        if len(body) > BLOCK_BYTES - CRC_BYTES:
            raise full(len(body), BLOCK_BYTES - CRC_BYTES)
        body = body.ljust(BLOCK_BYTES - CRC_BYTES, b"\0")
        return zlib.crc32(body).to_bytes(CRC_BYTES, "little") + body

    def decode(self, data: bytes) -> dict[str, str] | None:
        """The variables, or None when the size or the checksum is wrong, or a command is not one that we write."""
        if len(data) != BLOCK_BYTES or zlib.crc32(data[CRC_BYTES:]) != int.from_bytes(data[:CRC_BYTES], "little"):
            return None
        text = data[CRC_BYTES:].split(b"\0", 1)[0]
        if not text.startswith(ALL):
            return None
        found = [_SET.fullmatch(part) for part in text[len(ALL) :].decode(errors="replace").split("; ")]
        variables = {match[1]: match[2] or "" for match in found if match is not None}
        return variables if len(variables) == len(found) else None
