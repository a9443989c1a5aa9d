"""Whoever reads without verifying must read what was verified: a difference between the two would be a way in."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.report import ACK_KIND, Ack
from firmware.protocol.unverified import payload_type, read_unverified

SIGNER = CryptoSigner.generate_ed25519()
KEYS = {SIGNER.public_key.keyid: SIGNER.public_key}
ACK = Ack(target="dev-1", agent="dev-1", journal="j", seq=1, report_hash="0" * 64, issued_at=1)
GOOD = seal(ACK, ACK_KIND, SIGNER)


def both(data: bytes) -> tuple[Any, Any]:
    """What is read without verifying, and with it; the kind of the error for what is refused."""
    found: list[Any] = []
    for read in (
        lambda: read_unverified(data, ACK_KIND, Ack),
        lambda: open_envelope(data, ACK_KIND, Ack, KEYS),
    ):
        try:
            opened = read()
            found.append((opened.message, opened.hash))
        except RefusedError as error:
            found.append(error.kind)
    return found[0], found[1]


def test_what_is_verified_is_read_the_same_without() -> None:
    unverified, verified = both(GOOD)
    assert unverified == verified
    assert verified[0] == ACK


@pytest.mark.parametrize(
    "change",
    [
        {"payload": None},
        {"payload": b64encode(canonical(ACK)).decode().rstrip("=") + "\n"},
        {"payload": b64encode(canonical(ACK)).decode().replace("=", "") + "AA"},
        {"payloadType": payload_type("order")},
        {"payloadType": 7},
        {"signatures": []},
        {"signatures": [{}] * 9},
    ],
)
def test_what_has_another_shape_needs_nobody_to_verify_it(change: dict[str, Any]) -> None:
    unverified, verified = both(json.dumps({**json.loads(GOOD), **change}).encode())
    assert isinstance(unverified, str)
    assert isinstance(verified, str)


@given(data=st.binary(max_size=200), at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_nothing_is_verified_that_reads_differently(data: bytes, at: int, byte: int) -> None:
    for changed in (data, GOOD[:at] + bytes([byte]) + GOOD[at + 1 :], GOOD[:at] + data + GOOD[at:]):
        unverified, verified = both(changed)
        assert isinstance(verified, str) or unverified == verified
