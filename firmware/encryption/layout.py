"""How long an encrypted file is and where its chunks lie: arithmetic alone, for whoever only needs that."""

from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

CIPHER = "aes-256-gcm-64k"
CHUNK_BYTES = 1 << 16
TAG_BYTES = 16
SEALED_BYTES = CHUNK_BYTES + TAG_BYTES


def encrypted_length(length: int) -> int:
    """Bytes that `length` bytes, at least one, have once they are encrypted."""
    return length + TAG_BYTES * -(-length // CHUNK_BYTES)


def plain_length(length: int) -> int:
    """The reverse of `encrypted_length`; raises `RefusedError` (`malformed`) for a length that no encrypted file has."""
    plain = length - TAG_BYTES * -(-length // SEALED_BYTES)
    if plain < 1 or encrypted_length(plain) != length:
        raise RefusedError(ReasonKind.MALFORMED, f"No encrypted file has {length} bytes.")
    return plain


def encrypted_offset(offset: int) -> int:
    """Where in the encrypted file the chunk begins that begins at `offset`, a multiple of `CHUNK_BYTES`, of the plain one."""
    return chunk_index(offset) * SEALED_BYTES


def chunk_index(offset: int) -> int:
    """The number of the chunk that begins at `offset` of the plain file; raises `ValueError` when none does."""
    index, rest = divmod(offset, CHUNK_BYTES)
    if rest:
        raise ValueError(f"No chunk begins at {offset}.")
    return index
