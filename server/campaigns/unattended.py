"""Orders for unattended use: what makes an order one, and the times at which it may be activated.

The times are worked out here, as plain moments: the device needs no time zones for them, and no clock changes that it hasn't
heard of. An activation has to begin so early that the way there and back fits into what the strategy's calendar allows.
"""

from datetime import datetime, timedelta

from msgspec.structs import replace

from firmware.errors import RefusedError
from firmware.protocol.order import MAX_SPANS, Order, Span
from server.campaigns.director import Director
from server.planner.calendar import allowed, zone_of
from server.planner.rows import CampaignRow, TargetRow
from server.ports import Unit

_PAGE_DAYS = 32


def windows_of(campaign: CampaignRow, target: TargetRow, now: float, until: float) -> list[Span]:
    """When an order that is given out now may be activated, `until` at the latest.

    Raises `RefusedError` (`no-timezone`, `no-window`, `too-many-windows`).
    """
    calendar = campaign.strategy.calendar
    if not calendar:
        return [Span(start=int(now), end=int(until))]
    name = target.zone or calendar.zone
    zone = zone_of(name)
    if zone is None:
        raise RefusedError("no-timezone", f"Its label timezone is '{name}', and there is no such time zone.")
    first, spans = datetime.fromtimestamp(now, zone).date(), list[tuple[float, float]]()
    for page in range(0, int((until - now) // 86400) + 2, _PAGE_DAYS):
        for start, stop in allowed(calendar, zone, first + timedelta(days=page), _PAGE_DAYS):
            if spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], stop)
            else:
                spans.append((start, stop))
    needs_s = calendar.takes_s + calendar.reserve_s
    cut = [(max(start, now), min(stop - needs_s, until)) for start, stop in spans]
    windows = [Span(start=int(start), end=int(stop)) for start, stop in cut if int(start) < int(stop)]
    if not windows:
        text = "None of the strategy's windows until its orders for unattended use expire is long enough to restart in."
        raise RefusedError("no-window", text)
    if len(windows) > MAX_SPANS:
        text = f"An order lists at most {MAX_SPANS} windows, and it has {len(windows)}; shorten `unattended.expires`."
        raise RefusedError("too-many-windows", text)
    return windows


def for_unattended(
    unit: Unit, director: Director, campaign: CampaignRow, target: TargetRow, order: Order, until: float
) -> Order:
    """The order as it is given out: with its windows, full images only, and a key for a typed code if the device can make one."""
    view = unit.fleet.target(target.id)
    announced = view.encryption_key if view else None
    code_key = director.code_keys.for_device(announced) if director.code_keys and announced else None
    return replace(
        order,
        expires_at=int(until),
        unattended=True,
        windows=windows_of(campaign, target, order.issued_at, until),
        code_key=code_key,
        images=[replace(image, delta=None) for image in order.images],
        crit=[*order.crit, "windows"],
    )
