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
