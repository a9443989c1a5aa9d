"""Messages from the broker: verified here, once, or dropped. Nothing unverified enters the core.

What a message claims is read first, because that costs nothing: what has another shape needs nobody to verify it.
"""

from dataclasses import dataclass

from device_agent import verify
from device_agent.core import events as ev
from device_agent.core.values import Held
from device_agent.identity import Identity
from device_agent.logs.answer import open_request
from device_agent.ports import Verifier
from firmware.errors import RefusedError
from firmware.protocol import order as order_message
from firmware.protocol import permit as permit_message
from firmware.protocol import report as report_message
from firmware.protocol.logs import LogRequest
from firmware.protocol.order import Order
from firmware.protocol.permit import Permit
from firmware.protocol.report import Ack, Reason
from firmware.protocol.topics import Leaf
from firmware.protocol.unverified import read_unverified
from firmware.protocol.words import ReasonKind

MAX_ACK_BYTES = 8192


@dataclass(frozen=True, kw_only=True)
class PermitOpened:
    """A verified permit."""

    permit: Permit


@dataclass(frozen=True, kw_only=True)
class AckOpened:
    """A verified ack for this target."""

    ack: Ack


Opened = ev.OrderArrived | ev.OrderForeign | PermitOpened | AckOpened | LogRequest


def open_order(data: bytes, keys: Verifier, identity: Identity) -> ev.OrderArrived | ev.OrderForeign:
    """Verify an order. One of an earlier director epoch is as old as can be; one of a later epoch is not believed yet.

    Raises `RefusedError` (`too-large`, `malformed`, `bad-signature`).
    """
    opened = read_unverified(data, order_message.KIND, Order, max_bytes=order_message.MAX_BYTES)
    director = keys.verify(data, order_message.KIND, max_bytes=order_message.MAX_BYTES)
    held = Held(order=opened.message, hash=opened.hash, envelope=data)
    why = verify.foreign(opened.message, identity)
    if why is not None:
        return ev.OrderForeign(held=held, reason=why)
    epoch = opened.message.counter.epoch
    if epoch < director.epoch:
        text = f"The order is of director epoch {epoch}; the catalogue says {director.epoch}. It was ignored."
        return ev.OrderForeign(held=held, reason=Reason(kind=ReasonKind.STALE_COUNTER, text=text))
    if epoch > director.epoch:
        raise RefusedError(
            ReasonKind.BAD_SIGNATURE, "The order is of a director epoch that the catalogue doesn't know."
        )
    return ev.OrderArrived(held=held, reject=verify.reject(opened.message, identity))


def no_longer_signed(held: Held, keys: Verifier) -> Reason | None:
    """Why an order that was believed once is not to be started any more: its key or its epoch is not the director's now."""
    try:
        director = keys.verify(held.envelope, order_message.KIND, max_bytes=order_message.MAX_BYTES)
    except RefusedError as error:
        text = "The catalogue no longer names the key that signed the order; issue a new one."
        return Reason(kind=error.kind, text=text)
    if held.order.counter.epoch != director.epoch:
        text = f"The order is of director epoch {held.order.counter.epoch}; the catalogue says {director.epoch} now."
        return Reason(kind=ReasonKind.STALE_COUNTER, text=text)
    return None


def open_permit(data: bytes, keys: Verifier) -> PermitOpened:
    """Verify a permit; raises `RefusedError`. Whether it answers the open ask is the core's question."""
    opened = read_unverified(data, permit_message.PERMIT_KIND, Permit, max_bytes=permit_message.MAX_BYTES)
    keys.verify(data, permit_message.PERMIT_KIND, max_bytes=permit_message.MAX_BYTES)
    return PermitOpened(permit=opened.message)


def open_ack(data: bytes, keys: Verifier, identity: Identity) -> AckOpened:
    """Verify an ack for this target; raises `RefusedError`."""
    opened = read_unverified(data, report_message.ACK_KIND, Ack, max_bytes=MAX_ACK_BYTES)
    if (opened.message.target, opened.message.agent) != (identity.target, identity.agent):
        raise RefusedError(ReasonKind.WRONG_TARGET, "The ack is for another target.")
    keys.verify(data, report_message.ACK_KIND, max_bytes=MAX_ACK_BYTES)
    return AckOpened(ack=opened.message)


def open_message(leaf: str, data: bytes, keys: Verifier, identity: Identity) -> Opened:
    """Verify a message by the leaf of its topic; raises `RefusedError`."""
    if leaf == Leaf.ORDER:
        return open_order(data, keys, identity)
    if leaf == Leaf.PERMIT:
        return open_permit(data, keys)
    if leaf == Leaf.ACK:
        return open_ack(data, keys, identity)
    if leaf == Leaf.LOGS:
        return open_request(data, keys, identity)
    raise RefusedError(ReasonKind.MALFORMED, f"This agent takes no messages on {leaf}.")
