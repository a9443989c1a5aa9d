"""What was signed about a target, for people: each order, permit and report with its key, whether the signature still holds,
and the record of the trail that tells of it.

Nothing here decides anything: reports were verified before they were stored. That a signature is looked at once more, against the
key that is known now, shows that nobody changed the envelope since.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from securesystemslib.signer import Key

from firmware.errors import OtariaError
from firmware.protocol import order, permit, report
from firmware.protocol.codec import parse_json
from firmware.protocol.envelope import claimed, key_from_dict, verify_envelope
from firmware.protocol.unverified import payload_hash
from server.audit.chain import REPORTS_STORED
from server.errors import NotFoundError
from server.ports import AuditRecord, EnvelopeKind, SignedEnvelope, StoredOrder, Unit

KINDS = {
    EnvelopeKind.ORDER: order.KIND,
    EnvelopeKind.PERMIT: permit.PERMIT_KIND,
    EnvelopeKind.REPORT: report.REPORT_KIND,
}
MAX_BYTES = 1 << 20
PAGE = 200
DEVICES = "devices"


class Evidence(Struct, frozen=True, kw_only=True):
    """An envelope with what is known of it. `says`: its payload; `keyid`: of who signed it; `verified`: whether the signature
    holds by a key that the server knows now, and if not, `why`; `record`: of the trail, None when there is none (any more)."""

    id: int
    target: str
    kind: EnvelopeKind
    at: float
    hash: str
    campaign: str | None
    keyid: str
    verified: bool
    why: str
    record: int | None
    envelope: dict[str, Any]
    says: dict[str, Any]


def file_order(unit: Unit, made: StoredOrder, now: float) -> None:
    """Keep an order's envelope after it was sent."""
    unit.envelopes.add(
        SignedEnvelope(
            target=made.target,
            kind=EnvelopeKind.ORDER,
            at=now,
            hash=made.hash,
            campaign=made.campaign,
            envelope=made.envelope,
        )
    )


def file_permit(unit: Unit, made: permit.Permit, envelope: bytes, now: float) -> None:
    """Keep the envelope of a permit, or of the word that there is none yet."""
    unit.envelopes.add(
        SignedEnvelope(
            target=made.target,
            kind=EnvelopeKind.PERMIT,
            at=now,
            hash=payload_hash(made),
            campaign=made.campaign,
            envelope=envelope,
        )
    )


def file_report(unit: Unit, message: report.Report, *, digest: str, envelope: bytes, now: float) -> None:
    """Keep a report's envelope, unless it only brings metrics: of these there are many, and nobody decides by one."""
    if message.metrics is not None and message.order_hash is None:
        return
    unit.envelopes.add(
        SignedEnvelope(
            target=message.target, kind=EnvelopeKind.REPORT, at=now, hash=digest, campaign=None, envelope=envelope
        )
    )


def evidence(unit: Unit, target: str, envelope_id: int, director: Key) -> Evidence:
    """One envelope of a target. Raises `NotFoundError`."""
    found = unit.envelopes.get(envelope_id)
    if found is None or found.target != target:
        raise NotFoundError(f"There is no envelope {envelope_id} of {target}; they are kept for 30 days.")
    verified, why = _verified(found, _keys(unit, found, director))
    _, says = claimed(found.envelope, max_bytes=MAX_BYTES)
    whole = parse_json(found.envelope, max_bytes=MAX_BYTES)
    known = {name: getattr(found, name) for name in ("id", "target", "kind", "at", "hash", "campaign")}
    return Evidence(
        **known,
        keyid=keyid_of(found),
        verified=verified,
        why=why,
        record=_record(unit, found),
        envelope=whole,
        says=says,
    )


def keyid_of(found: SignedEnvelope) -> str:
    """The id of the key that signed it, as it says itself."""
    signatures = msgspec.json.decode(found.envelope).get("signatures") or [{}]
    return str(signatures[0].get("keyid", ""))


def _keys(unit: Unit, found: SignedEnvelope, director: Key) -> Mapping[str, Key]:
    if found.kind is not EnvelopeKind.REPORT:
        return {director.keyid: director}
    view = unit.fleet.target(found.target)
    agent = unit.identities.agent(view.agent) if view else None
    return {agent.report_keyid: key_from_dict(agent.report_keyid, dict(agent.report_key))} if agent else {}


def _verified(found: SignedEnvelope, keys: Mapping[str, Key]) -> tuple[bool, str]:
    keyid = keyid_of(found)
    if keyid not in keys:
        return False, f"It was signed by the key {keyid[:16]}…, which isn't the one in use now."
    try:
        verify_envelope(found.envelope, KINDS[found.kind], keys, max_bytes=MAX_BYTES)
    except OtariaError as error:
        return False, error.text
    return True, ""


def _record(unit: Unit, found: SignedEnvelope) -> int | None:
    """What the trail tells of it: written in the same transaction, so at the same time."""
    if found.kind is EnvelopeKind.REPORT:
        return _record_of_report(unit, found)
    before: int | None = None
    while records := unit.audit.latest(target=found.target, limit=PAGE, before=before):
        same = [record.id for record in records if record.at == found.at]
        if same:
            return same[-1]
        if records[-1].at < found.at:
            return None
        before = records[-1].id
    return None


def _record_of_report(unit: Unit, found: SignedEnvelope) -> int | None:
    """Ingest records the hashes of what it stores, many at once and in the order of time."""
    head = unit.audit.heads().get(DEVICES)
    low, high = (0, 0) if head is None else (head.gone_number, head.number)
    while low < high:
        middle = (low + high) // 2
        (record,) = unit.audit.chain(DEVICES, after=middle, upto=middle + 1, limit=1) or (None,)
        low, high = (middle + 1, high) if record is None or record.at < found.at else (low, middle)
    for record in unit.audit.chain(DEVICES, after=low, upto=low + PAGE, limit=PAGE):
        if record.at > found.at:
            return None
        if _tells_of(record, found.hash):
            return record.id
    return None


def _tells_of(record: AuditRecord, digest: str) -> bool:
    reports: Sequence[Sequence[Any]] = record.data.get("reports", ()) if record.kind == REPORTS_STORED else ()
    return any(digest in one for one in reports)
