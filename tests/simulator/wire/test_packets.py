"""MQTT packets: made here, taken apart here, and cut anywhere in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.wire import packets

WORDS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=40)


@given(
    messages=st.lists(st.tuples(WORDS, st.binary(max_size=400), st.integers(0, 60_000)), max_size=8),
    cuts=st.lists(st.integers(1, 200), min_size=1, max_size=20),
)
def test_what_is_published_comes_out_the_same_however_it_is_cut(
    messages: list[tuple[str, bytes, int]], cuts: list[int]
) -> None:
    data = b"".join(packets.publish(topic, payload, number=number) for topic, payload, number in messages)
    stream, found, place = packets.Stream(), [], 0
    while place < len(data):
        size = cuts[place % len(cuts)]
        for kind, flags, body in stream.feed(data[place : place + size]):
            assert kind == packets.PUBLISH
            found.append(packets.message(flags, body))
        place += size
    assert found == messages


def test_a_last_will_is_retained_at_qos_1_before_the_name_of_the_user() -> None:
    packet = packets.connect("me", keepalive_s=60, will=("t", b"gone"))
    assert packet == b"\x10\x1b\x00\x04MQTT\x04\xae\x00\x3c\x00\x02me\x00\x01t\x00\x04gone\x00\x02me"


def test_without_a_will_there_is_no_trace_of_one() -> None:
    assert packets.connect("me", keepalive_s=60) == b"\x10\x12\x00\x04MQTT\x04\x82\x00\x3c\x00\x02me\x00\x02me"


def test_a_retained_message_says_so() -> None:
    assert packets.publish("t", b"x", retain=True)[0] == 0x31
    assert packets.publish("t", b"x", number=7, retain=True)[0] == 0x33


def test_a_length_of_five_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="four bytes"):
        list(packets.Stream().feed(b"\x30\xff\xff\xff\xff\x01"))
