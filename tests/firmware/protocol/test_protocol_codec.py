"""Strict JSON: what it refuses, and that nothing but `RefusedError` comes out of it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.protocol.codec import MAX_DEPTH, canonical, parse_json


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b'{"a":1,"a":2}', "malformed", "repeats a key"),
        (b'{"a":{"b":1,"b":1}}', "malformed", "repeats a key"),
        (b'{"a":NaN}', "malformed", "NaN"),
        (b'{"a":-Infinity}', "malformed", "Infinity"),
        (b"[1]", "malformed", "object"),
        (b"{", "malformed", "not JSON"),
        (b'{"a":"\xff"}', "malformed", "not JSON"),
        (b"", "malformed", "not JSON"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "too-large", "bytes"),
        (b'{"a":' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}", "malformed", "deeper"),
        (b'{"a":' + b"1" * 900 + b"}", "malformed", "number"),
    ],
)
def test_refuses(data: bytes, kind: str, says: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_json(data, max_bytes=1000)
    assert caught.value.kind == kind
    assert says in caught.value.text


def test_deepest_allowed_nesting_is_accepted() -> None:
    data = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert "a" in parse_json(data, max_bytes=1000)


@given(st.binary(max_size=200))
def test_hostile_bytes_give_an_object_or_a_refusal(data: bytes) -> None:
    try:
        value: object = parse_json(data, max_bytes=150)
    except RefusedError:
        value = {}
    assert isinstance(value, dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=5))
def test_canonical_form_does_not_depend_on_key_order(value: dict[str, object]) -> None:
    mixed = dict(reversed(value.items()))
    assert canonical(value) == canonical(mixed)
    assert json.loads(canonical(value)) == value
