"""Orders for unattended use: the windows that they carry stand in for a permit.

Nobody answers an ask at a site without a network, so such an order was permitted when it was given out, for its windows and until
it expires. The server counts the target as down for as long; so nothing may be activated outside, or afterwards.
"""

from itertools import pairwise

from device_agent.core.values import Held
from firmware.protocol.order import Order
from firmware.protocol.report import Reason
from firmware.protocol.words import ReasonKind

ACTIVATION_VALID_S = 300.0
"""An agent that restarts within this time, and within the window, goes on activating."""


def has_windows(order: Order) -> bool:
    """Whether the order lists windows as it must: at least one, none empty, rising and apart."""
    rising = all(before.end < after.start for before, after in pairwise(order.windows))
    return bool(order.windows) and rising and all(span.start < span.end for span in order.windows)


def too_late(held: Held, trusted_time: float) -> Reason | None:
    """Why an unattended order is not to be activated any more, if it isn't."""
    order = held.order
    if not order.unattended:
        return None
    if order.expires_at <= trusted_time:
        text = f"The order expired at {order.expires_at} (POSIX seconds) before it could be activated; issue a new one."
    elif all(span.end <= trusted_time for span in order.windows):
        text = "The last of the order's windows is over; issue a new one."
    else:
        return None
    return Reason(kind=ReasonKind.ORDER_EXPIRED, text=text)


def closed_for(held: Held, trusted_time: float) -> float | None:
    """For how many seconds an unattended order's windows stay closed; None while one is open, or for any other order."""
    if not held.order.unattended or open_for(held, trusted_time) > 0:
        return None
    starts = [span.start - trusted_time for span in held.order.windows if span.start > trusted_time]
    return min(starts, default=float("inf"))


def open_for(held: Held, trusted_time: float) -> float:
    """For how many seconds the window that is open now stays so, at most until the order expires; 0 when none is open."""
    ends = [span.end for span in held.order.windows if span.start <= trusted_time < span.end]
    return max(0.0, min([*ends, held.order.expires_at]) - trusted_time) if ends else 0.0
