"""What a hostile broker makes of the blocks of somebody who reaches nothing else: said first, in place of the true ones.

None of it is signed, so the agent takes what comes first, in the right place of its stream, for as long as it isn't checked.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from firmware.errors import RefusedError
from firmware.protocol.blocks import Block, encode_block, parse_block

SHARE, SMALL_SHARE = 0.05, 0.3
"""Of all blocks that pass, and of those that are a whole file, as the catalogue's are."""


def forged(payload: bytes, earlier: Sequence[bytes], chances: random.Random) -> bytes | None:
    """What is said in place of a block: with one byte another one, as if the file ended there or weren't there, or with the bytes
    of an earlier one. None: it passes."""
    try:
        block = parse_block(payload)
    except RefusedError:
        return None
    share = SMALL_SHARE if len(block.data) == block.total else SHARE
    if chances.random() >= share or block.absent:
        return None
    kind = chances.randrange(4)
    if kind == 0:
        place = chances.randrange(len(block.data))
        data = block.data[:place] + bytes([block.data[place] ^ 1]) + block.data[place + 1 :]
        return encode_block(replace(block, data=data))
    if kind == 1:
        return encode_block(replace(block, total=block.offset + len(block.data)))
    if kind == 2:
        return encode_block(Block(stream=block.stream, offset=0, total=0, absent=True))
    other = parse_block(chances.choice(earlier)) if earlier else block
    return encode_block(replace(block, data=other.data or b"-", total=block.offset + len(other.data or b"-")))
