"""Encrypted files: any portions, any place to go on from, and nothing but the very bytes that were encrypted."""

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from firmware.encryption.chunked import Decryption, Encryption
from firmware.encryption.content_key import ContentKey
from firmware.encryption.layout import CHUNK_BYTES, TAG_BYTES, encrypted_length, encrypted_offset, plain_length
from firmware.errors import RefusedError

KEY = ContentKey(bytes(range(32)))
SEALED = CHUNK_BYTES + TAG_BYTES
LENGTHS = st.sampled_from(
    [1, 2, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 1, 3 * CHUNK_BYTES]
) | (st.integers(1, 3 * CHUNK_BYTES))


def some_bytes(length: int) -> bytes:
    return random.Random(length).randbytes(length)


def portions(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return (data[start:end] for start, end in pairwise(places))


def sealed(data: bytes, cuts: list[int] | None = None) -> tuple[str, bytes]:
    encryption = Encryption(KEY)
    return encryption.salt, b"".join(encryption.encrypt(portions(data, cuts or [])))


def opened(salt: str, length: int, data: bytes, *, offset: int = 0, key: ContentKey = KEY) -> bytes:
    return b"".join(Decryption(key, salt, length).decrypt([data], offset=offset))


def refusal(salt: str, length: int, data: bytes, **changes: ContentKey) -> str:
    with pytest.raises(RefusedError) as caught:
        opened(salt, length, data, **changes)
    return caught.value.kind


@given(LENGTHS, st.lists(st.integers(0, 1 << 20), max_size=6), st.lists(st.integers(0, 1 << 20), max_size=6))
def test_bytes_come_back_in_whatever_portions_they_went_and_came(length: int, into: list[int], out: list[int]) -> None:
    data = some_bytes(length)
    salt, file = sealed(data, into)
    assert len(file) == encrypted_length(length)
    assert plain_length(len(file)) == length
    back = b"".join(Decryption(KEY, salt, length).decrypt(portions(file, out)))
    assert back == data, "other bytes"


@given(LENGTHS, st.integers(0, 3))
def test_going_on_needs_nothing_before_the_chunk(length: int, chunk: int) -> None:
    offset = min(chunk, (length - 1) // CHUNK_BYTES) * CHUNK_BYTES
    data = some_bytes(length)
    salt, file = sealed(data)
    assert opened(salt, length, file[encrypted_offset(offset) :], offset=offset) == data[offset:], "other bytes"


@given(LENGTHS, st.integers(min_value=0), st.integers(0, 7))
def test_any_flipped_bit_is_refused_and_nothing_of_its_chunk_comes_out(length: int, place: int, bit: int) -> None:
    data = some_bytes(length)
    salt, file = sealed(data)
    place %= len(file)
    spoilt = bytearray(file)
    spoilt[place] ^= 1 << bit
    out: list[bytes] = []
    with pytest.raises(RefusedError) as caught:
        out.extend(Decryption(KEY, salt, length).decrypt([bytes(spoilt)]))
    assert caught.value.kind == "cannot-decrypt"
    assert b"".join(out) == data[: place // SEALED * CHUNK_BYTES], "other bytes"


def test_every_bit_of_a_small_file_counts() -> None:
    salt, file = sealed(b"small")
    for place in range(len(file) * 8):
        spoilt = bytearray(file)
        spoilt[place // 8] ^= 1 << place % 8
        assert refusal(salt, 5, bytes(spoilt)) == "cannot-decrypt"


def test_chunks_that_changed_places_or_came_twice_are_refused() -> None:
    length = 4 * CHUNK_BYTES
    salt, file = sealed(some_bytes(length))
    first, second, third, last = (file[at : at + SEALED] for at in range(0, len(file), SEALED))
    assert refusal(salt, length, second + first + third + last) == "cannot-decrypt"
    assert refusal(salt, length, first + first + third + last) == "cannot-decrypt"
    assert refusal(salt, length, first + second + last + third) == "cannot-decrypt"
    assert refusal(salt, length, first + second + last) == "cannot-decrypt"


def test_a_file_that_ends_after_a_chunk_is_not_taken_for_a_shorter_one() -> None:
    """Whoever lies about the length as well still lacks a chunk that says it is the last."""
    length = 3 * CHUNK_BYTES
    salt, file = sealed(some_bytes(length))
    assert refusal(salt, 2 * CHUNK_BYTES, file[: 2 * SEALED]) == "cannot-decrypt"
    assert refusal(salt, 4 * CHUNK_BYTES, file + bytes(SEALED)) == "cannot-decrypt"


@given(LENGTHS, st.integers(min_value=1))
def test_a_file_that_ends_early_or_goes_on_is_refused(length: int, less: int) -> None:
    salt, file = sealed(some_bytes(length))
    assert refusal(salt, length, file[: -(less % len(file) or 1)]) == "artifact-truncated"
    assert refusal(salt, length, file + b"x") == "artifact-too-long"
    assert refusal(salt, length, b"") == "artifact-truncated"


def test_another_key_or_salt_opens_nothing() -> None:
    salt, file = sealed(b"secret")
    other, _ = sealed(b"secret")
    assert refusal(other, 6, file) == "cannot-decrypt"
    assert refusal(salt, 6, file, key=ContentKey(bytes(32))) == "cannot-decrypt"


def test_encrypting_the_same_again_shares_neither_key_nor_bytes() -> None:
    """Two files under one key and nonce would show their difference."""
    data = bytes(3 * CHUNK_BYTES)
    (salt, file), (again, other) = sealed(data), sealed(data)
    assert salt != again
    pieces = {part[at : at + 16] for part in (file, other) for at in range(0, len(part) - 16, 16)}
    assert len(pieces) == len(range(0, len(file) - 16, 16)) * 2


def test_a_salt_serves_one_file() -> None:
    encryption = Encryption(KEY)
    list(encryption.encrypt([b"once"]))
    with pytest.raises(ValueError, match="one file"):
        list(encryption.encrypt([b"twice"]))


def test_empty_files_and_places_inside_a_chunk_are_wrong_use() -> None:
    with pytest.raises(ValueError, match="nothing"):
        list(Encryption(KEY).encrypt([b"", b""]))
    with pytest.raises(ValueError, match="No chunk"):
        encrypted_offset(5)


@given(st.integers(1, 1 << 40))
def test_lengths_are_each_others_reverse(length: int) -> None:
    assert plain_length(encrypted_length(length)) == length


@pytest.mark.parametrize("length", [0, 1, TAG_BYTES, SEALED + 1, SEALED + TAG_BYTES])
def test_lengths_that_no_file_has_are_refused(length: int) -> None:
    with pytest.raises(RefusedError):
        plain_length(length)


def test_the_format_is_what_the_documents_say() -> None:
    """Written out once more with the primitives alone, so that a change of format is noticed."""
    data = some_bytes(CHUNK_BYTES + 5)
    salt, file = sealed(data)
    info = b"otaria file key v1 aes-256-gcm-64k"
    derived = HKDF(hashes.SHA256(), 39, bytes.fromhex(salt), info).derive(KEY.reveal())
    aead, prefix = AESGCM(derived[:32]), derived[32:]
    nonces = (prefix + bytes([0, 0, 0, 0, 0]), prefix + bytes([0, 0, 0, 1, 1]))
    assert aead.decrypt(nonces[0], file[:SEALED], None) == data[:CHUNK_BYTES], "other bytes"
    assert aead.decrypt(nonces[1], file[SEALED:], None) == data[CHUNK_BYTES:]
