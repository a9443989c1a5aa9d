"""What hostile devices say: forged messages of every shape, words in others' names, and the scripts of those that lie.

All of it is made from what the device knows anyway: its own last report, its orders, and what it overheard.
"""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from securesystemslib.signer import CryptoSigner, Signer

from firmware.errors import OtariaError
from firmware.protocol.blocks import Block, parse_block
from firmware.protocol.codec import canonical, convert
from firmware.protocol.envelope import claimed, seal, seal_payload
from firmware.protocol.order import KIND as ORDER_KIND
from firmware.protocol.order import Order
from firmware.protocol.permit import ASK_KIND, PERMIT_KIND, Permit
from firmware.protocol.report import MAX_REPORT_BYTES, REPORT_KIND, Presence, Progress, Report, Running
from firmware.protocol.unverified import payload_type
from firmware.protocol.words import AgentState
from simulator.wire.parts import HASH_BYTES

M = TypeVar("M", Report, Order, Permit)


def report_in(envelope: bytes) -> Report | None:
    """The report that an envelope claims to be; None when it is something else."""
    return _in(envelope, REPORT_KIND, Report)


def order_in(envelope: bytes) -> Order | None:
    """The order that an envelope claims to be."""
    return _in(envelope, ORDER_KIND, Order)


def permit_in(envelope: bytes) -> Permit | None:
    """The permit that an envelope claims to be."""
    return _in(envelope, PERMIT_KIND, Permit)


def block_in(frame: bytes) -> Block | None:
    """The block that a frame is."""
    try:
        return parse_block(frame)
    except OtariaError:
        return None


def is_ask(envelope: bytes) -> bool:
    """Whether it claims to be an ask."""
    return payload_type(ASK_KIND).encode() in envelope


def _in(envelope: bytes, kind: str, model: type[M]) -> M | None:
    try:
        found, value = claimed(envelope)
        return convert(value, model) if found == payload_type(kind) else None
    except OtariaError:
        return None


def short(payload: bytes) -> bytes:
    """The beginning of the sha256 of a payload, by which books know it."""
    return hashlib.sha256(payload).digest()[:HASH_BYTES]


def stranger(seed: int) -> Signer:
    """A key that no server knows."""
    secret = hashlib.sha256(f"otaria simulated stranger {seed}".encode()).digest()
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(secret))


def runs_new(report: Report, order: Order) -> Running:
    """What a device would run that had followed this order to install."""
    release, image = order.release, order.images[0].file if order.images else None
    if release is None or image is None:
        return report.running
    return Running(
        slot="A" if report.running.slot == "B" else "B",
        product=release.product,
        version=release.version,
        release_counter=release.counter,
        sha256=image.sha256,
        length=image.length,
        previous_version=report.running.version,
        rollback_available=True,
    )


def claim(report: Report, order: Order, order_hash: str, state: AgentState, *, seq: int, new: bool) -> Report:
    """A report of this number about this order, that claims to be in this state, on the release (`new`) or not."""
    return replace(
        report,
        seq=seq,
        oldest=min(report.oldest, seq),
        state=state,
        running=runs_new(report, order) if new else report.running,
        counter=order.counter,
        order_hash=order_hash,
        campaign=order.campaign,
        change_id=order.change_id,
        reason=None,
        inventory=None,
    )


# Forged, on its own topics

Forgery = Callable[[Report, Signer, Signer], bytes]
"""Makes a message that says this, given the device's own key and another one."""


def _bare(report: Report, own: Signer, other: Signer) -> bytes:
    return canonical(report)


def _unsigned(report: Report, own: Signer, other: Signer) -> bytes:
    return _changed(seal(report, REPORT_KIND, own), signatures=[])


def _signed_by_another(report: Report, own: Signer, other: Signer) -> bytes:
    return seal(report, REPORT_KIND, other)


def _signed_by_another_under_its_name(report: Report, own: Signer, other: Signer) -> bytes:
    value = json.loads(seal(report, REPORT_KIND, other))
    return _changed(canonical(value), signatures=[{**value["signatures"][0], "keyid": own.public_key.keyid}])


def _signed_then_changed(report: Report, own: Signer, other: Signer) -> bytes:
    genuine = seal(replace(report, state=AgentState.DEFERRED), REPORT_KIND, own)
    return _changed(genuine, payload=b64encode(canonical(report)).decode())


def _signed_as_an_order(report: Report, own: Signer, other: Signer) -> bytes:
    return seal_payload(canonical(report), ORDER_KIND, own)


def _truncated(report: Report, own: Signer, other: Signer) -> bytes:
    whole = seal(report, REPORT_KIND, own)
    return whole[: len(whole) * 2 // 3]


def _oversize(report: Report, own: Signer, other: Signer) -> bytes:
    return seal(replace(report, evidence={"more": "x" * MAX_REPORT_BYTES}), REPORT_KIND, own)


def _twice_the_same_key(report: Report, own: Signer, other: Signer) -> bytes:
    return b'{"payloadType":"",' + seal(report, REPORT_KIND, own)[1:]


def _nested(report: Report, own: Signer, other: Signer) -> bytes:
    return b'{"payloadType":' + b"[" * 4000


def _garbage(report: Report, own: Signer, other: Signer) -> bytes:
    return b"\xff{\x00" * 40


def _progress(report: Report, own: Signer, other: Signer) -> bytes:
    return canonical(Progress(progress=AgentState.COMMITTED, order_hash=report.order_hash, done=1, total=1))


FORGERIES: Mapping[str, Forgery] = {
    "bare": _bare,
    "unsigned": _unsigned,
    "signed by another key": _signed_by_another,
    "signed by another key, under its own name": _signed_by_another_under_its_name,
    "signed, then changed": _signed_then_changed,
    "signed as an order": _signed_as_an_order,
    "truncated": _truncated,
    "oversize": _oversize,
    "one key twice": _twice_the_same_key,
    "nested": _nested,
    "garbage": _garbage,
    "progress": _progress,
}


def _changed(envelope: bytes, **fields: Any) -> bytes:
    return canonical({**json.loads(envelope), **fields})


def payload_of(message: bytes) -> bytes:
    """What a server that checked nothing would store of it: the envelope's payload, or the whole."""
    try:
        return b64decode(msgspec.json.decode(message)["payload"])
    except (msgspec.MsgspecError, KeyError, RecursionError, TypeError, ValueError):
        return message


# Lies, signed rightly


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that a liar says: a `state`, as one that runs the release (`new`) or not; or an ask, whose permit it waits for.
    `skips` so many numbers, saying (`gone`) that there is nothing before; with `again` it gives the last number once more."""

    state: AgentState | None = None
    new: bool = False
    skips: int = 0
    gone: bool = False
    again: bool = False


ASKS = Step()
_S = AgentState
LIES: Mapping[str, tuple[Step, ...]] = {
    "installed nothing": (
        Step(state=_S.DOWNLOADING),
        Step(state=_S.STAGED),
        ASKS,
        Step(state=_S.ACTIVATING),
        Step(state=_S.TRIAL, new=True),
        Step(state=_S.COMMITTED, new=True),
    ),
    "failed": (Step(state=_S.DOWNLOADING), Step(state=_S.FAILED)),
    "committed at once": (Step(state=_S.COMMITTED, new=True),),
    "fell back": (Step(state=_S.STAGED), ASKS, Step(state=_S.ACTIVATING), Step(state=_S.FELL_BACK)),
    "goes unasked": (Step(state=_S.ACTIVATING), Step(state=_S.TRIAL)),
    "jumps": (
        Step(state=_S.TRIAL),
        Step(state=_S.ORDERED),
        Step(state=_S.FELL_BACK, new=True),
        Step(state=_S.STAGED),
        Step(state=_S.COMMITTED),
        Step(state=_S.ACTIVATING, new=True),
        Step(state=_S.IDLE),
        Step(state=_S.COMMITTED, new=True),
        Step(state=_S.FAILED, new=True),
    ),
    "numbers far ahead": (
        Step(state=_S.COMMITTED, new=True, skips=1 << 40),
        Step(state=_S.DOWNLOADING),
        Step(state=_S.STAGED, skips=1 << 20, gone=True),
    ),
    "a number twice": (Step(state=_S.DOWNLOADING), Step(state=_S.COMMITTED, new=True, again=True)),
}


# In others' names


def presence(session: str, *, online: bool) -> bytes:
    """The unsigned word of who is there."""
    return canonical(Presence(session=session, online=online))
