"""Signed envelopes: only the right key over exactly these words of this kind is accepted."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from firmware.errors import RefusedError
from firmware.protocol import order as orders
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.order import Counter, Order, check_crit
from firmware.protocol.unverified import payload_hash

SIGNER = CryptoSigner.generate_ecdsa()
OTHER = CryptoSigner.generate_ecdsa()
KEYS = {SIGNER.public_key.keyid: SIGNER.public_key}


def an_order(**changes: object) -> Order:
    fields: dict[str, object] = {
        "target": "d-1",
        "agent": "d-1",
        "hardware": "board-1",
        "counter": Counter(epoch=1, n=1),
        "action": "nothing",
        "change_id": "chg-1",
        "issued_at": 10,
        "expires_at": 20,
    }
    return Order(**(fields | changes))  # type: ignore[arg-type]


def refused(data: bytes, kind: str = orders.KIND) -> str:
    with pytest.raises(RefusedError) as caught:
        open_envelope(data, kind, Order, KEYS, max_bytes=orders.MAX_BYTES)
    return caught.value.kind


def test_round_trip_and_hash() -> None:
    message = an_order()
    opened = open_envelope(seal(message, orders.KIND, SIGNER), orders.KIND, Order, KEYS)
    assert opened.message == message
    assert opened.hash == payload_hash(message)
    assert opened.keyid == SIGNER.public_key.keyid


def test_two_signatures_over_the_same_words_have_one_hash() -> None:
    first, second = (open_envelope(seal(an_order(), "order", SIGNER), "order", Order, KEYS) for _ in range(2))
    assert first.hash == second.hash


def test_another_key_is_refused() -> None:
    assert refused(seal(an_order(), orders.KIND, OTHER)) == "bad-signature"


def test_another_kind_is_refused_even_when_signed() -> None:
    assert refused(seal(an_order(), "permit", SIGNER)) == "bad-signature"


def test_a_signature_moved_to_another_kind_is_refused() -> None:
    envelope = json.loads(seal(an_order(), "permit", SIGNER))
    envelope["payloadType"] = "application/vnd.otaria.order.v1+json"
    assert refused(json.dumps(envelope).encode()) == "bad-signature"


def test_changed_words_are_refused() -> None:
    envelope = json.loads(seal(an_order(), "order", SIGNER))
    payload = base64.b64decode(envelope["payload"]).replace(b"nothing", b"install")
    envelope["payload"] = base64.b64encode(payload).decode()
    assert refused(json.dumps(envelope).encode()) == "bad-signature"


def test_a_foreign_signature_under_our_key_id_is_refused() -> None:
    envelope = json.loads(seal(an_order(), "order", OTHER))
    envelope["signatures"][0]["keyid"] = SIGNER.public_key.keyid
    assert refused(json.dumps(envelope).encode()) == "bad-signature"


def test_no_and_too_many_signatures_are_refused() -> None:
    envelope = json.loads(seal(an_order(), "order", SIGNER))
    assert refused(json.dumps(envelope | {"signatures": []}).encode()) == "malformed"
    assert refused(json.dumps(envelope | {"signatures": envelope["signatures"] * 9}).encode()) == "malformed"


def test_a_signed_payload_with_a_repeated_key_is_refused() -> None:
    from securesystemslib.dsse import Envelope

    envelope = Envelope(b'{"v":1,"v":1}', "application/vnd.otaria.order.v1+json", {})
    envelope.sign(SIGNER)
    assert refused(json.dumps(envelope.to_dict()).encode()) == "malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "../etc"},
        {"target": "UPPER"},
        {"target": "d-1\n"},
        {"agent": "a" * 64},
        {"issued_at": -1},
        {"trial_s": 10**9},
        {"hardware": "x" * 200},
        {"crit": ["x"] * 33},
    ],
)
def test_signed_but_out_of_bounds_fields_are_refused(changes: dict[str, object]) -> None:
    assert refused(seal(an_order(**changes), "order", SIGNER)) == "malformed"


def test_crit_fields_must_be_known() -> None:
    check_crit(an_order(crit=["trial_s"]))
    with pytest.raises(RefusedError) as caught:
        check_crit(an_order(crit=["reboot-twice"]))
    assert caught.value.kind == "not-understood"
    assert "reboot-twice" in caught.value.text


def test_counters_are_ordered_by_epoch_first() -> None:
    assert Counter(epoch=1, n=99) < Counter(epoch=2, n=1) < Counter(epoch=2, n=2)


GOOD = seal(an_order(), "order", SIGNER)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused_or_says_the_same(position: int, mask: int) -> None:
    changed = bytearray(GOOD)
    changed[position] ^= mask
    try:
        opened = open_envelope(bytes(changed), "order", Order, KEYS)
    except RefusedError:
        return
    assert opened.message == an_order()
