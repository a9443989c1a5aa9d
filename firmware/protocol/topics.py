"""The only topic literals of the project.

`otaria/v1/{shard}/{agent}/…`; `shard` is the first byte of sha256(agent id) as two hex digits, so that workers can
split ingest by topic on any broker. A topic whose shard does not fit its agent is refused.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN, ReasonKind

ROOT = "otaria/v1"
CATALOGUE = f"{ROOT}/catalogue"
"""The doorbell: retained; says that new metadata may be fetched. Its content is trusted for nothing."""

FROM_AGENTS = (
    f"{ROOT}/+/+/presence",
    f"{ROOT}/+/+/t/+/report",
    f"{ROOT}/+/+/t/+/inventory",
    f"{ROOT}/+/+/t/+/want",
)
"""What the server subscribes to."""

PARSED_KEPT = 16_384
"""Topics whose parts are remembered: a device's few, or those of as many devices as speak at a time."""
_ID = re.compile(ID_PATTERN)


class Leaf(StrEnum):
    """The last part of a topic."""

    PRESENCE = "presence"
    ORDER = "order"
    PERMIT = "permit"
    REPORT = "report"
    ACK = "ack"
    INVENTORY = "inventory"
    WANT = "want"
    BLOCK = "block"
    LOGS = "logs"


SENT_BY_AGENT = frozenset({Leaf.PRESENCE, Leaf.REPORT, Leaf.INVENTORY, Leaf.WANT})
SENT_BY_SERVER = frozenset({Leaf.ORDER, Leaf.PERMIT, Leaf.ACK, Leaf.BLOCK, Leaf.LOGS})


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A parsed topic of ours; `target` is None for presence."""

    agent: str
    target: str | None
    leaf: Leaf


def shard_of(agent: str) -> str:
    """Two hex digits: the first byte of sha256(agent id)."""
    return hashlib.sha256(agent.encode()).hexdigest()[:2]


def presence(agent: str) -> str:
    """Topic of an agent's presence and last will."""
    return f"{ROOT}/{shard_of(agent)}/{agent}/{Leaf.PRESENCE}"


def of_target(agent: str, target: str, leaf: Leaf) -> str:
    """Topic of one target of an agent."""
    return f"{ROOT}/{shard_of(agent)}/{agent}/t/{target}/{leaf}"


def for_agent(agent: str) -> tuple[str, ...]:
    """What an agent subscribes to: its own targets' orders, permits, acks and blocks, and the doorbell."""
    own = f"{ROOT}/{shard_of(agent)}/{agent}/t/+"
    return (*(f"{own}/{leaf}" for leaf in sorted(SENT_BY_SERVER)), CATALOGUE)


@lru_cache(maxsize=PARSED_KEPT)
def parse(topic: str) -> Topic:
    """Parse a topic; raises `RefusedError` (`malformed`) for anything that is not ours or carries a foreign shard."""
    parts = topic.split("/") if len(topic) <= 512 else []
    agent = parts[3] if len(parts) > 3 else ""
    if parts[:2] != ROOT.split("/") or not _ID.match(agent) or parts[2] != shard_of(agent):
        raise RefusedError(
            ReasonKind.MALFORMED, "The topic is not one of Otaria's or its shard does not fit its agent."
        )
    if parts[4:] == [Leaf.PRESENCE]:
        return Topic(agent=agent, target=None, leaf=Leaf.PRESENCE)
    if len(parts) == 7 and parts[4] == "t" and _ID.match(parts[5]) and parts[6] in SENT_BY_AGENT | SENT_BY_SERVER:
        leaf = Leaf(parts[6])
        if leaf is not Leaf.PRESENCE:
            return Topic(agent=agent, target=parts[5], leaf=leaf)
    raise RefusedError(ReasonKind.MALFORMED, "The topic is not one of Otaria's.")
