"""Who may publish, subscribe and receive what, decided from the name in a client's certificate; pure.

The embedded broker asks here. Mosquitto's access list says the same in its own words (`mosquitto.py`), except that it
cannot compute a shard and filters what a subscription delivers instead of refusing it.
"""

import re

from firmware.errors import RefusedError
from firmware.protocol import topics
from firmware.protocol.words import ID_PATTERN
from server.identity.authority import MQTT_IDENTITY

_ID = re.compile(ID_PATTERN)


def may_publish(name: str, topic: str) -> bool:
    """An agent: its own reports, inventory, wants and presence, under its own shard. The server: everything of ours."""
    if name == MQTT_IDENTITY:
        return topic.startswith(f"{topics.ROOT}/")
    parsed = _parsed(topic)
    return parsed is not None and parsed.agent == name and parsed.leaf in topics.SENT_BY_AGENT


def may_receive(name: str, topic: str) -> bool:
    """An agent: orders, permits, acks and blocks below its own id, and the doorbell. The server: everything of ours."""
    if name == MQTT_IDENTITY:
        return topic.startswith(f"{topics.ROOT}/")
    if topic == topics.CATALOGUE:
        return True
    parsed = _parsed(topic)
    return parsed is not None and parsed.agent == name and parsed.leaf in topics.SENT_BY_SERVER


def may_subscribe(name: str, topic_filter: str) -> bool:
    """Whether everything that the filter can match may be received. Of wildcards, an agent may use `+` for the target."""
    if name == MQTT_IDENTITY:
        return topic_filter.startswith(f"{topics.ROOT}/")
    parts = topic_filter.split("/")
    if len(parts) == 7 and parts[5] == "+":
        parts[5] = name
    return may_receive(name, "/".join(parts))


def is_agent(name: str) -> bool:
    """Whether the name can be an agent's."""
    return _ID.match(name) is not None


def _parsed(topic: str) -> topics.Topic | None:
    try:
        return topics.parse(topic)
    except RefusedError:
        return None
