"""Wrapped keys open for one recipient and one purpose, and say which key they hold."""

import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from firmware.encryption.content_key import (
    WRAPPED_BYTES,
    ContentKey,
    Purpose,
    from_text,
    key_id,
    private_from_pem,
    private_pem,
    public_from_text,
    public_text,
    to_text,
    unwrap,
    wrap,
)
from firmware.errors import RefusedError

HOLDER = X25519PrivateKey.generate()
KEY = ContentKey.new()
PURPOSE = Purpose(
    recipient="device", product="pump", version="2.0", counter=2, artifact="a" * 64, target="d-1", hardware="pump-a"
)


def refusal(
    data: bytes, private: X25519PrivateKey = HOLDER, purpose: Purpose = PURPOSE, check: str = KEY.check()
) -> str:
    with pytest.raises(RefusedError) as caught:
        unwrap(data, private, purpose, check=check)
    return caught.value.kind


def test_a_key_opens_for_its_recipient_and_purpose() -> None:
    data = wrap(KEY, HOLDER.public_key(), PURPOSE)
    assert len(data) == WRAPPED_BYTES
    assert KEY.reveal() not in data
    assert unwrap(data, HOLDER, PURPOSE, check=KEY.check()).reveal() == KEY.reveal()
    assert wrap(KEY, HOLDER.public_key(), PURPOSE) != data


def test_a_wrapped_key_is_what_rfc_9180_says() -> None:
    """Opened once more by the RFC's own steps (sections 4.1, 5.1 and 5.2) with the primitives alone."""
    kem, suite = b"KEM\0\x20", b"HPKE\0\x20\0\1\0\2"

    def extract(of: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
        return hmac.digest(salt, b"HPKE-v1" + of + label + material, "sha256")

    def expand(of: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
        labelled = length.to_bytes(2, "big") + b"HPKE-v1" + of + label + info
        return HKDFExpand(hashes.SHA256(), length, labelled).derive(secret)

    data = wrap(KEY, HOLDER.public_key(), PURPOSE)
    encapsulated, sealed = data[:32], data[32:]
    agreed = HOLDER.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    both = encapsulated + HOLDER.public_key().public_bytes_raw()
    shared = expand(kem, extract(kem, b"", b"eae_prk", agreed), b"shared_secret", both, 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", PURPOSE.info())
    secret = extract(suite, shared, b"secret", b"")
    key, nonce = expand(suite, secret, b"key", context, 32), expand(suite, secret, b"base_nonce", context, 12)
    assert AESGCM(key).decrypt(nonce, sealed, None) == KEY.reveal()
    assert PURPOSE.info() == (
        b'otaria content key v1 {"artifact":"' + b"a" * 64 + b'","counter":2,"hardware":"pump-a","product":"pump",'
        b'"recipient":"device","target":"d-1","version":"2.0"}'
    )


def test_a_key_wrapped_for_one_device_does_not_open_for_another() -> None:
    assert refusal(wrap(KEY, HOLDER.public_key(), PURPOSE), X25519PrivateKey.generate()) == "cannot-decrypt"


@pytest.mark.parametrize(
    "change",
    [
        {"recipient": "server"},
        {"product": "valve"},
        {"version": "2.1"},
        {"counter": 3},
        {"artifact": "b" * 64},
        {"target": "d-2"},
        {"hardware": "pump-b"},
    ],
)
def test_a_key_opens_for_no_other_purpose(change: dict[str, str | int]) -> None:
    data = wrap(KEY, HOLDER.public_key(), PURPOSE)
    assert refusal(data, purpose=replace(PURPOSE, **change)) == "cannot-decrypt"


@given(st.integers(0, WRAPPED_BYTES * 8 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    data = bytearray(wrap(KEY, HOLDER.public_key(), PURPOSE))
    data[bit // 8] ^= 1 << bit % 8
    assert refusal(bytes(data)) == "cannot-decrypt"


def test_the_bit_that_x25519_ignores_is_bound_too() -> None:
    data = bytearray(wrap(KEY, HOLDER.public_key(), PURPOSE))
    data[31] ^= 0x80
    assert refusal(bytes(data)) == "cannot-decrypt"


@given(st.binary(max_size=200))
def test_rubbish_is_refused(data: bytes) -> None:
    assert refusal(data) == "cannot-decrypt"


def test_the_key_of_another_release_is_noticed_before_it_is_used() -> None:
    other = ContentKey.new()
    assert refusal(wrap(other, HOLDER.public_key(), PURPOSE)) == "cannot-decrypt"


def test_a_key_of_another_length_is_refused() -> None:
    from firmware.encryption.content_key import _HPKE

    assert refusal(_HPKE.encrypt(bytes(31), HOLDER.public_key(), PURPOSE.info())) == "cannot-decrypt"


def test_public_keys_that_nobody_can_hold_are_refused() -> None:
    nobody = public_from_text(to_text(bytes(32)))
    with pytest.raises(RefusedError) as caught:
        wrap(KEY, nobody, PURPOSE)
    assert caught.value.kind == "bad-encryption-key"


@pytest.mark.parametrize("text", ["", "A" * 42, "A" * 44, "é" * 43, "!" * 43, "A" * 42 + "B", "A" * 5000])
def test_texts_that_are_no_public_key_are_refused(text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        public_from_text(text)
    assert caught.value.kind == "bad-encryption-key"


@pytest.mark.parametrize("pem", [b"", b"x", private_pem(HOLDER)[:-40]], ids=["empty", "short", "cut"])
def test_files_that_are_no_private_key_are_refused(pem: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        private_from_pem(pem)
    assert caught.value.kind == "bad-encryption-key"


def test_keys_survive_their_files() -> None:
    text = public_text(HOLDER.public_key())
    assert public_text(public_from_text(text)) == text
    assert public_text(private_from_pem(private_pem(HOLDER)).public_key()) == text
    assert from_text(to_text(b"\x00\xff")) == b"\x00\xff"
    assert len(key_id(text)) == 64


def test_a_key_is_not_shown() -> None:
    assert KEY.reveal().hex() not in repr(KEY)
    assert str(KEY.reveal()) not in f"{KEY!r} {KEY}"
