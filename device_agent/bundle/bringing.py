"""Bringing a bundle to the agent: its catalogue is taken over, its order for this target is verified and handed to the core.

From then on the order is like any other: same counter rules, same checks, same journal. Only an order signed for unattended use
is taken from a bundle. One for another target, or that waits for a permit, is reported once and moves nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_agent.bundle.returns import Returns
from device_agent.bundle.shelf import Shelf
from device_agent.core import events as ev
from device_agent.core.states import Standing
from device_agent.ports import Catalogue
from firmware.bundle.read import Bundle
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.report import Reason
from firmware.protocol.words import Action, ReasonKind

Reply = Callable[[str | OtariaError], None]
"""Told once what became of it: the hash of the order that was taken up, or why none was."""


@dataclass(frozen=True, kw_only=True)
class Brought:
    """The target's order out of a bundle whose catalogue was taken over; nobody has verified it yet."""

    envelope: bytes
    reply: Reply


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """What an agent needs to install from bundles. `forgive`: told when one is brought."""

    shelf: Shelf
    returns: Returns
    forgive: Callable[[], None] = lambda: None


def bring(bundles: Bundles, catalogue: Catalogue, target: str, path: Path, now: float, reply: Reply) -> Brought | None:
    """Take a bundle's catalogue over at trusted time `now` and note the bundle as the one in use. Blocking."""
    try:
        bundle = bundles.shelf.open(path)
        envelope = order_in(bundle, target)
        catalogue.bring(path, envelope, now)
        bundles.shelf.put(path, bundle)
    except OtariaError as error:
        reply(error)
        return None
    except OSError as error:
        text = f"The storage failed: {error.strerror or error}."
        reply(UnavailableError(ReasonKind.STORAGE_FAULT, text))
        return None
    bundles.forgive()
    return Brought(envelope=envelope, reply=reply)


def order_in(bundle: Bundle, target: str) -> bytes:
    """The target's order. Raises `RefusedError` (`not-in-bundle`, `bundle-malformed`)."""
    data = bundle.order(target)
    if data is None:
        text = f"The bundle has no order for {target}; make one that names it."
        raise RefusedError(ReasonKind.NOT_IN_BUNDLE, text)
    return data


def as_brought(opened: ev.OrderArrived | ev.OrderForeign) -> ev.OrderArrived | ev.OrderForeign:
    """The order as the core is to take it: one that is not for unattended use is only noted."""
    if (
        isinstance(opened, ev.OrderForeign)
        or opened.held.order.unattended
        or opened.held.order.action is Action.NOTHING
    ):
        return opened
    text = "The order waits for a permit, which a bundle can't bring; make the bundle with orders for unattended use."
    return ev.OrderForeign(held=opened.held, reason=Reason(kind=ReasonKind.ATTENDED_ORDER, text=text))


def why_not(standing: Standing, opened: ev.OrderArrived | ev.OrderForeign) -> Reason | None:
    """Why the order is not taken up by a target that stands here; None when it is, or was before."""
    if isinstance(opened, ev.OrderForeign):
        return opened.reason
    counter, highest = opened.held.order.counter, standing.highest
    if highest is not None and counter < highest:
        text = f"This target took order {highest.epoch}.{highest.n} already, which is newer; make another bundle."
        return Reason(kind=ReasonKind.STALE_COUNTER, text=text)
    if counter == highest and opened.held.hash != standing.highest_hash:
        text = "Another order with the same counter was taken before; check who holds the director key."
        return Reason(kind=ReasonKind.EQUIVOCATION, text=text)
    return opened.reject if counter != highest else None


def is_known(standing: Standing, opened: ev.OrderArrived | ev.OrderForeign) -> bool:
    """Whether this very order was taken before."""
    return isinstance(opened, ev.OrderArrived) and opened.held.hash == standing.highest_hash
