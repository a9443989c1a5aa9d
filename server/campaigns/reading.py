"""Reading what agents send: from a topic and bytes to a verified message, or a typed refusal.

Nothing unverified leaves here except hints, which say so by their type and move nothing. A message is believed only when
its topic, its words and the key that signed it name the same agent, and the target is that agent's.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from firmware.errors import RefusedError
from firmware.protocol.codec import convert, parse_json
from firmware.protocol.envelope import Opened, key_from_dict, open_envelope
from firmware.protocol.logs import PART_BYTES, PART_KIND, LogPart
from firmware.protocol.permit import ASK_KIND, Ask
from firmware.protocol.permit import MAX_BYTES as MAX_ASK_BYTES
from firmware.protocol.report import (
    MAX_PRESENCE_BYTES,
    MAX_PROGRESS_BYTES,
    MAX_REPORT_BYTES,
    REPORT_KIND,
    Presence,
    Progress,
    Report,
)
from firmware.protocol.topics import Leaf, Topic, parse
from firmware.protocol.unverified import payload_type
from firmware.protocol.words import ReasonKind
from server.ports import AgentRecord, AgentStatus, Unit


@dataclass(frozen=True, kw_only=True)
class PresenceHint:
    """Unsigned: an agent says it is online, or its last will says it is not."""

    agent: str
    online: bool


@dataclass(frozen=True, kw_only=True)
class ProgressHint:
    """Unsigned: how far a target is, for people."""

    target: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Said:
    """A verified report, ask or part of a log: its words, the payload's hash, the payload itself as plain JSON, and
    the envelope as it came."""

    message: Report | Ask | LogPart
    hash: str
    body: Mapping[str, Any]
    envelope: bytes


Reading = PresenceHint | ProgressHint | Said


def read_message(unit: Unit, topic: str, payload: bytes, *, retained: bool) -> Reading:
    """Parse and verify one message.

    Raises `RefusedError` with why it is dropped: `malformed`, `too-large`, `bad-signature`, `foreign-topic`,
    `wrong-topic`, `retained-report`, `unknown-agent`, `agent-not-active`, `foreign-target`.
    """
    place = _place(topic)
    if place.leaf is Leaf.PRESENCE:
        presence = convert(parse_json(payload, max_bytes=MAX_PRESENCE_BYTES), Presence)
        return PresenceHint(agent=_agent(unit, place).id, online=presence.online)
    if retained:
        raise RefusedError("retained-report", "Reports are never retained; whoever retained this replays it.")
    value = parse_json(payload, max_bytes=MAX_REPORT_BYTES)
    agent = _agent(unit, place)
    if "payloadType" in value:
        return _said(place, payload, value["payloadType"], agent)
    return _progress(place, value, len(payload))


def expect(unit: Unit, topics: Sequence[str]) -> None:
    """Fetch at once what `read_message` will ask about messages on these topics."""
    places = []
    for topic in topics:
        with suppress(RefusedError):
            places.append(parse(topic))
    unit.identities.expect([place.agent for place in places])
    unit.fleet.expect([place.target for place in places if place.target is not None and place.target != place.agent])


def _place(topic: str) -> Topic:
    try:
        place = parse(topic)
    except RefusedError as error:
        raise RefusedError("foreign-topic", error.text) from error
    if place.leaf not in (Leaf.PRESENCE, Leaf.REPORT, Leaf.INVENTORY):
        raise RefusedError("wrong-topic", f"The server does not read {place.leaf} topics.")
    return place


def _agent(unit: Unit, place: Topic) -> AgentRecord:
    agent = unit.identities.agent(place.agent)
    if agent is None:
        raise RefusedError("unknown-agent", f"No agent {place.agent} is enrolled here; enrol it.")
    if agent.status is not AgentStatus.ACTIVE:
        raise RefusedError(
            "agent-not-active", f"The agent {place.agent} is {agent.status}; clear that to hear it again."
        )
    if place.target not in (None, place.agent):
        target = unit.fleet.announced(place.target or "")
        if target is None or target.agent != place.agent:
            raise RefusedError("foreign-target", f"{place.target} is not a target of {place.agent}.")
    return agent


def _said(place: Topic, payload: bytes, kind: object, agent: AgentRecord) -> Said:
    keys = {agent.report_keyid: key_from_dict(agent.report_keyid, dict(agent.report_key))}
    opened: Opened[Report] | Opened[Ask] | Opened[LogPart]
    if kind == payload_type(ASK_KIND):
        opened = open_envelope(payload, ASK_KIND, Ask, keys, max_bytes=MAX_ASK_BYTES)
    elif kind == payload_type(PART_KIND):
        opened = open_envelope(payload, PART_KIND, LogPart, keys, max_bytes=MAX_REPORT_BYTES)
    else:
        opened = open_envelope(payload, REPORT_KIND, Report, keys, max_bytes=MAX_REPORT_BYTES)
    message = opened.message
    _check_place(place, message)
    return Said(message=message, hash=opened.hash, body=msgspec.to_builtins(message), envelope=payload)


def _check_place(place: Topic, message: Report | Ask | LogPart) -> None:
    leaf = Leaf.INVENTORY if isinstance(message, Report) and message.inventory is not None else Leaf.REPORT
    if (message.agent, message.target, leaf) != (place.agent, place.target, place.leaf):
        raise RefusedError("wrong-topic", "The message names another agent, target or kind than its topic does.")
    if isinstance(message, LogPart) and (message.index >= message.count or len(message.data) > PART_BYTES):
        raise RefusedError(ReasonKind.MALFORMED, "The part of a log has no place among the others, or is too long.")
    if isinstance(message, Report) and message.oldest > message.seq:
        raise RefusedError(ReasonKind.MALFORMED, "The report's `oldest` is above its own `seq`.")


def _progress(place: Topic, value: dict[str, Any], size: int) -> ProgressHint:
    if place.leaf is not Leaf.REPORT or place.target is None:
        raise RefusedError("wrong-topic", "Progress belongs on the report topic.")
    if size > MAX_PROGRESS_BYTES:
        raise RefusedError(ReasonKind.TOO_LARGE, f"Progress has at most {MAX_PROGRESS_BYTES} bytes.")
    progress = convert(value, Progress)
    share = f" {min(100, 100 * progress.done // progress.total)} %" if progress.total else ""
    return ProgressHint(target=place.target, text=f"{progress.progress}{share}")
