"""Encrypted files: chunks of 64 KiB, each sealed by itself, so that a download is decrypted as it arrives and resumes anywhere.

Chunk i of a file is AES-256-GCM under the file's own key; its nonce holds i and whether it is the last one. This is the STREAM
construction (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance",
2015), with a key for each file derived by HKDF-SHA256 from the content key and the file's random salt, as in Tink's
AES-GCM-HKDF streaming. A changed, swapped, repeated or missing chunk does not open; nor does a file that was cut after a chunk.

A salt is made where a file is encrypted and never given by a caller: two encryptions never share a key, so no nonce
occurs twice, whatever is encrypted again. There is no header: salt and length come from something signed.
"""

import secrets
from collections.abc import Iterable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from firmware.encryption.content_key import ContentKey
from firmware.encryption.layout import CHUNK_BYTES, CIPHER, SEALED_BYTES, TAG_BYTES, chunk_index
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

SALT_BYTES = 32
_KEY_BYTES = 32
_PREFIX_BYTES = 7
_INFO = b"otaria file key v1 " + CIPHER.encode()


class Encryption:
    """Encrypts one file; `salt` (hex) belongs to it from then on."""

    def __init__(self, content_key: ContentKey) -> None:
        self.salt = secrets.token_bytes(SALT_BYTES).hex()
        self._chunks = _Chunks(content_key, self.salt)
        self._index, self._held = 0, bytearray()
        self._used = self._ended = False

    def encrypt(self, data: Iterable[bytes]) -> Iterator[bytes]:
        """The encrypted file, chunk by chunk, of bytes that come in any portions; at least one byte, and
        only once; raises `ValueError` otherwise."""
        if self._used:
            raise _used_up()
        for portion in data:
            yield from self.feed(portion)
        yield self.finish()

    def feed(self, portion: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """The chunks that are full with some more bytes; to be read to their end. Raises `ValueError` behind the end."""
        if self._ended:
            raise _used_up()
        self._used = True
        view = memoryview(portion)
        while view:
            if len(self._held) == CHUNK_BYTES:
                yield self._sealed(is_last=False)
            room = CHUNK_BYTES - len(self._held)
            self._held += view[:room]
            view = view[room:]

    def finish(self) -> bytes:
        """The last chunk; raises `ValueError` when there was nothing to encrypt, or behind the end."""
        if self._ended:
            raise _used_up()
        self._used = self._ended = True
        if not self._held:
            raise ValueError("There is nothing to encrypt.")
        return self._sealed(is_last=True)

    def _sealed(self, *, is_last: bool) -> bytes:
        sealed = self._chunks.seal(self._index, bytes(self._held), is_last=is_last)
        self._index += 1
        self._held.clear()
        return sealed


class Decryption:
    """Decrypts one file of `length` plain bytes, from any chunk on."""

    def __init__(self, content_key: ContentKey, salt: str, length: int) -> None:
        self._chunks = _Chunks(content_key, salt)
        self._length = length

    def decrypt(self, data: Iterable[bytes], *, offset: int = 0) -> Iterator[bytes]:
        """Plain chunks from `offset`, a multiple of `CHUNK_BYTES`, of the encrypted bytes from `encrypted_offset(offset)` on.

        Each chunk is authentic when it is given out. Memory stays at a chunk and one portion of `data`. Raises `RefusedError`
        (`cannot-decrypt`, `artifact-truncated`, `artifact-too-long`).
        """
        index, last, held = chunk_index(offset), (self._length - 1) // CHUNK_BYTES, bytearray()
        for portion in data:
            held += portion
            while index <= last and len(held) >= (size := self._sealed_bytes(index)):
                yield self._chunks.open(index, bytes(held[:size]), is_last=index == last)
                del held[:size]
                index += 1
            if index > last and held:
                raise RefusedError(
                    ReasonKind.ARTIFACT_TOO_LONG, "The encrypted file goes on after its end; publish it again."
                )
        if index <= last:
            raise RefusedError(
                ReasonKind.ARTIFACT_TRUNCATED, "The encrypted file ends early; publish it again or clear the cache."
            )

    def _sealed_bytes(self, index: int) -> int:
        return min(CHUNK_BYTES, self._length - index * CHUNK_BYTES) + TAG_BYTES


class _Chunks:
    """The chunks of the file with this salt."""

    def __init__(self, content_key: ContentKey, salt: str) -> None:
        size = _KEY_BYTES + _PREFIX_BYTES
        derived = HKDF(hashes.SHA256(), size, bytes.fromhex(salt), _INFO).derive(content_key.reveal())
        self._aead, self._prefix = AESGCM(derived[:_KEY_BYTES]), derived[_KEY_BYTES:]

    def seal(self, index: int, plain: bytes, *, is_last: bool) -> bytes:
        return self._aead.encrypt(self._nonce(index, is_last), plain, None)

    def open(self, index: int, sealed: bytes, *, is_last: bool) -> bytes:
        try:
            return self._aead.decrypt(self._nonce(index, is_last), sealed, None)
        except InvalidTag as error:
            raise RefusedError(
                ReasonKind.CANNOT_DECRYPT,
                f"Bytes from {index * SEALED_BYTES} on of the encrypted file do not open with the release's key: they were "
                "changed or are another file's. Publish it again or clear the cache.",
            ) from error

    def _nonce(self, index: int, is_last: bool) -> bytes:
        return self._prefix + index.to_bytes(4, "big") + bytes([is_last])


def _used_up() -> ValueError:
    return ValueError("A salt serves one file; make another Encryption.")
