"""Topics: only ours, only with the shard that fits, and never anything but a typed refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.protocol import topics
from firmware.protocol.topics import Leaf, Topic


def test_round_trip_of_every_leaf() -> None:
    for leaf in set(Leaf) - {Leaf.PRESENCE}:
        assert topics.parse(topics.of_target("d-1", "t-1", leaf)) == Topic(agent="d-1", target="t-1", leaf=leaf)
    assert topics.parse(topics.presence("d-1")) == Topic(agent="d-1", target=None, leaf=Leaf.PRESENCE)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "otaria/v1",
        "otaria/v1/catalogue",
        "otaria/v1/00/d-1/presence",
        "otaria/v2/{s}/d-1/presence",
        "otaria/v1/{s}/d-1/t/t-1",
        "otaria/v1/{s}/d-1/t/t-1/order/x",
        "otaria/v1/{s}/d-1/t/t-1/presence",
        "otaria/v1/{s}/d-1/t/T_1/order",
        "otaria/v1/{s}/d-1/t/t-1\n/order",
        "otaria/v1/{s}/d-1/x/t-1/order",
        "$SYS/broker",
        "otaria/v1/{s}/+/presence",
        "x" * 100_000,
    ],
)
def test_refuses(topic: str) -> None:
    with pytest.raises(RefusedError):
        topics.parse(topic.replace("{s}", topics.shard_of("d-1")))


@given(st.text(max_size=60))
def test_hostile_text_never_escapes_the_typed_error(text: str) -> None:
    with pytest.raises(RefusedError):
        topics.parse(text)


def test_an_agent_subscribes_below_its_own_id_only() -> None:
    own = f"otaria/v1/{topics.shard_of('d-1')}/d-1/"
    assert all(topic.startswith(own) or topic == topics.CATALOGUE for topic in topics.for_agent("d-1"))
