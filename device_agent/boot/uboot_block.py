"""U-Boot's exported environment with a checksum, as its `env import -c` and `env export -c` read and write it.

Little-endian CRC-32 of the rest, then `name=value` texts, each ended by a zero byte, an empty one at the end, and zero bytes
up to the fixed size. The same as a stored environment without redundancy, so that `fw_printenv` reads it, too.
"""

import zlib
from collections.abc import Mapping

from device_agent.boot.cells import full

BLOCK_BYTES = 1024
CRC_BYTES = 4


class UBootBlock:
    """`Codec` of checksummed U-Boot environments."""

    size_bytes = BLOCK_BYTES

    def encode(self, variables: Mapping[str, str]) -> bytes:
        """The block. Raises `RefusedError` (`boot-environment-full`)."""
        body = b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items()) + b"\0"
        if len(body) > BLOCK_BYTES - CRC_BYTES:
            raise full(len(body), BLOCK_BYTES - CRC_BYTES)
        body = body.ljust(BLOCK_BYTES - CRC_BYTES, b"\0")
        return zlib.crc32(body).to_bytes(CRC_BYTES, "little") + body

    def decode(self, data: bytes) -> dict[str, str] | None:
        """The variables, or None when the size or the checksum is wrong."""
        if len(data) != BLOCK_BYTES or zlib.crc32(data[CRC_BYTES:]) != int.from_bytes(data[:CRC_BYTES], "little"):
            return None
        variables: dict[str, str] = {}
        for text in data[CRC_BYTES:].split(b"\0\0", 1)[0].split(b"\0"):
            name, separator, value = text.partition(b"=")
            if separator:
                variables[name.decode(errors="replace")] = value.decode(errors="replace")
        return variables
