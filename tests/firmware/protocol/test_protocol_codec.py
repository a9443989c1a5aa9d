"""Strict JSON: what it refuses, and that nothing but `RefusedError` comes out of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.protocol import codec
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


def outcome(parse: Callable[[bytes], dict[str, Any]], data: bytes) -> object:
    try:
        return repr(parse(data))  # tells 1 from 1.0 and from True
    except RefusedError as error:
        return error.kind


def closely(data: bytes) -> dict[str, Any]:
    return codec._look_closely(data)


def quickly(data: bytes) -> dict[str, Any]:
    return parse_json(data, max_bytes=1 << 20)


NUMBERS = st.one_of(
    st.integers(), st.sampled_from([(1 << 63) - 1, 1 << 63, -(1 << 63), -(1 << 63) - 1, 1 << 64]), st.floats()
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=30,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), st.booleans(), st.booleans())
def test_the_quick_look_says_what_the_close_one_does(value: dict[str, Any], ascii_only: bool, tight: bool) -> None:
    separators = (",", ":") if tight else None
    text = json.dumps(value, ensure_ascii=ascii_only, sort_keys=True, separators=separators)
    data = text.encode(errors="surrogatepass")
    assert outcome(quickly, data) == outcome(closely, data)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":{"b":1,"b":1}}',
        '{"a":9223372036854775807}',
        '{"a":9223372036854775808}',
        '{"a":[18446744073709551615]}',
        '{"a":-9223372036854775809}',
        '{"a":1e400}',
        '{"a":-0}',
        '{"a":-0.0}',
        '{"a":1.0}',
        '{"a":1E2}',
        '{"a":NaN}',
        '{"a":"\\ud800"}',
        '{"a":"\x7f"}',
        '{"a":' + "[" * 15 + "]" * 15 + "}",
        '{"a":' + "[" * 16 + "]" * 16 + "}",
        '{"a":' + "[" * 17 + "]" * 17 + "}",
        "[]",
        '{"a":1} ',
        '\ufeff{"a":1}',
        "",
    ],
)
def test_the_quick_look_is_as_strict_about_edges(text: str) -> None:
    assert outcome(quickly, text.encode()) == outcome(closely, text.encode())


@given(st.binary(max_size=40))
def test_the_quick_look_is_as_strict_about_bytes(data: bytes) -> None:
    wrapped = b'{"a":"' + data + b'"}'
    assert outcome(quickly, wrapped) == outcome(closely, wrapped)


FIRST_USES = """
import sys, threading
from enum import StrEnum
from msgspec import Struct
from firmware.protocol.codec import convert
sys.setswitchinterval(1e-6)
for number in range(60):
    Word = StrEnum(f"Word{number}", [f"w{place}" for place in range(20)])
    class Inner(Struct): word: Word
    class Outer(Struct): one: Inner; more: list[Inner]; word: Word
    inner, start = {"word": "w1"}, threading.Barrier(4)
    def use():
        start.wait()
        convert({"one": inner, "more": [inner], "word": "w2"}, Outer)
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_threads_that_meet_a_type_for_the_first_time_do_not_crash_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_USES], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
