"""Lines of the trail as CloudEvents 1.0: which kinds are told, under which type, and what an event says.

A type never changes its meaning and is never taken back; new ones may come. An event's id is made of its line, so that it is the
same however often it is sent, and another one for another line that came to the same number after a backup was restored.
"""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from firmware.errors import RefusedError
from server.ports import AuditRecord

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
PREFIX = "otaria."
TEST = "otaria.webhook.test"
MAX_PATTERNS = 64
_DIGEST_CHARS = 16

_OF_CAMPAIGNS = {
    **{f"campaign-{word}": f"otaria.campaign.{word}" for word in ("created", "revised", "scheduled", "started")},
    **{f"campaign-{word}": f"otaria.campaign.{word}" for word in ("paused", "resumed", "watching", "completed")},
    **{
        f"campaign-{word}": f"otaria.campaign.{word}" for word in ("reopened", "aborted", "rolling-back", "rolled-back")
    },
    "cohort-opened": "otaria.campaign.cohort-opened",
    "cohort-taken-back": "otaria.campaign.cohort-taken-back",
    "rollback-proposed": "otaria.campaign.rollback-proposed",
    "release-published": "otaria.release.published",
    "release-suspect": "otaria.release.suspect",
    "release-cleared": "otaria.release.cleared",
}
_OF_GATES = {
    "cohort-passed": "otaria.gate.passed",
    "gate-failed": "otaria.gate.failed",
    "gate-reopened": "otaria.gate.reopened",
    "gate-accepted": "otaria.gate.accepted",
    "gate-answered": "otaria.gate.answered",
}
_OF_TARGETS = {
    **{
        word: f"otaria.target.{word}" for word in ("committed", "verified", "failed", "fell-back", "refused", "missing")
    },
    **{word: f"otaria.target.{word}" for word in ("regressed", "drift", "drift-over", "drift-corrected", "skipped")},
    **{word: f"otaria.target.{word}" for word in ("superseded", "expired", "retry", "rolled-back", "clone")},
    "permit-granted": "otaria.target.permitted",
    "agent-enrolled": "otaria.target.enrolled",
    "target-quarantined": "otaria.target.quarantined",
    "target-active": "otaria.target.released",
    "target-revoked": "otaria.target.revoked",
    "target-decommissioned": "otaria.target.decommissioned",
}
_OF_APPROVALS = {
    "approval-asked": "otaria.approval.asked",
    "approval-owed": "otaria.approval.owed",
    "approval-overdue": "otaria.approval.overdue",
    "approval-declined": "otaria.approval.declined",
    "approved": "otaria.approval.given",
    "rejected": "otaria.approval.rejected",
    "approval-lapsed": "otaria.approval.lapsed",
    "revision-proposed": "otaria.approval.revision-proposed",
}
_OF_KEYS = {
    "ca-rotate": "otaria.key.ca-rotated",
    "ca-switch": "otaria.key.ca-switched",
    "ca-retire": "otaria.key.ca-retired",
    "certificate-renewed": "otaria.key.certificate-renewed",
    "claim-created": "otaria.key.claim-created",
    "access-given": "otaria.key.access-given",
    "access-changed": "otaria.key.access-changed",
    "access-expired": "otaria.key.access-expired",
    "access-removed": "otaria.key.access-removed",
}
_OF_THE_SERVER = {
    "leader-changed": "otaria.server.leader-changed",
    "revocation-list-old": "otaria.server.revocation-list-old",
    "revocation-list-renewed": "otaria.server.revocation-list-renewed",
    "webhook-off": "otaria.webhook.off",
}
TYPES: Mapping[str, str] = {
    **_OF_CAMPAIGNS,
    **_OF_GATES,
    **_OF_TARGETS,
    **_OF_APPROVALS,
    **_OF_KEYS,
    **_OF_THE_SERVER,
}
"""By the kind of a line, the type of the event. Kinds that aren't here are told to nobody."""
TESTS: Mapping[str, str] = {"webhook-tested": TEST}
"""What only the address that it is about is sent."""


class Event(Struct, frozen=True, kw_only=True):
    """One event as it is sent."""

    id: str
    type: str
    line: int
    body: bytes


def type_of(record: AuditRecord) -> str | None:
    """The type of the event that tells of a line; None when it is told to nobody by itself."""
    return TYPES.get(record.kind)


def id_of(record: AuditRecord) -> str:
    """The same for the same line, always."""
    said = (record.id, record.at, record.kind, record.text, record.actor, record.campaign, record.target)
    digest = hashlib.sha256(msgspec.json.encode(said)).hexdigest()
    return f"evt-{record.id}-{digest[:_DIGEST_CHARS]}"


def line_of(event: str) -> int | None:
    """The number of the line that an event's id names; None for what is no such id."""
    words = event.split("-")
    if len(words) != 3 or words[0] != "evt" or len(words[2]) != _DIGEST_CHARS:
        return None
    number = words[1]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else None


def event_of(record: AuditRecord, source: str) -> Event:
    """The event that tells of a line; raises `KeyError` for one that is never told."""
    kind = {**TYPES, **TESTS}[record.kind]
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": id_of(record),
        "source": source,
        "type": kind,
        "time": _stamp(record.at),
        "datacontenttype": "application/json",
        "data": {
            "line": record.id,
            "kind": record.kind,
            "text": record.text,
            "actor": record.actor,
            "change_id": record.change_id,
            "campaign": record.campaign,
            "target": record.target,
            "details": dict(record.data),
        },
    }
    if subject := _subject(record):
        event["subject"] = subject
    if record.change_id:
        event["changeid"] = record.change_id
    body = msgspec.json.encode(event, order="deterministic")
    return Event(id=event["id"], type=kind, line=record.id, body=body)


def matches(patterns: Sequence[str], kind: str) -> bool:
    """Whether a type is among those wanted: a type, or `otaria.gate.*` for all that begin so. None: every type."""
    return not patterns or any(kind.startswith(one[:-1]) if one.endswith(".*") else kind == one for one in patterns)


def check_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """Patterns of types that exist, each once. Raises `RefusedError` (`unknown-type`, `too-large`)."""
    if len(patterns) > MAX_PATTERNS:
        raise RefusedError("too-large", f"A webhook may name {MAX_PATTERNS} types; use patterns such as otaria.gate.*.")
    known = sorted(set(TYPES.values()))
    for one in patterns:
        if not one.startswith(PREFIX) or not any(matches((one,), kind) for kind in known):
            near = difflib.get_close_matches(one, [*known, *_groups(known)], n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_groups(known))}."
            raise RefusedError("unknown-type", f"No event has the type {one!r}; {hint}")
    return tuple(dict.fromkeys(patterns))


def _groups(known: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(kind.rpartition(".")[0] + ".*" for kind in known))


def _subject(record: AuditRecord) -> str:
    if record.target is not None:
        return f"targets/{record.target}"
    return f"campaigns/{record.campaign}" if record.campaign is not None else ""


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
