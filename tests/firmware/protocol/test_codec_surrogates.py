"""Half a surrogate pair is refused at the edge; a whole one is a character like any other."""

import pytest

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, parse_json


@pytest.mark.parametrize("text", [rb'{"a":"\ud800"}', rb'{"\udfff":1}', rb'{"a":[{"b":"x\udc00y"}]}'])
def test_half_a_pair_is_refused(text: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_json(text, max_bytes=100)
    assert caught.value.kind == "malformed"


def test_a_whole_pair_and_a_backslash_pass() -> None:
    value = parse_json(rb'{"a":"\ud83d\ude00","b":"\\ud800"}', max_bytes=100)
    assert value == {"a": "😀", "b": "\\ud800"}
    assert parse_json(canonical(value), max_bytes=100) == value


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":"\xed\xa0\x80"}',
        b'{"\xed\xb0\x80":1}',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-32"),
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
    ],
)
def test_what_is_not_plain_utf_8_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        parse_json(data, max_bytes=1000)
    assert refused.value.kind == "malformed"


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" + b"0" * 400 + b".0"])
def test_a_number_that_would_become_infinite_is_refused(number: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        parse_json(b'{"a":' + number + b"}", max_bytes=1000)
    assert refused.value.kind == "malformed"
