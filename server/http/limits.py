"""How often somebody may ask: a bucket of tokens for each address and for each API token, in bounded memory.

A bucket holds `burst` tokens and is filled at `rate` a second; a request takes one. Of more callers than `MAX_KEPT` those
that asked least lately are forgotten, which gives them a full bucket: whoever has that many addresses is stopped by no
limit per address."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

from firmware.errors import UnavailableError
from server.config_limits import LimitSettings

MAX_KEPT = 10_000
STRANGER_COST = 20.0
"""What a request with a bad token takes from its address."""


class TooManyError(UnavailableError):
    """Somebody asks too often. `retry_after_s`: after that long, in whole seconds, there is a token again."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too-many-requests", f"You ask too often; ask again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


@dataclass(kw_only=True)
class Buckets:
    """Buckets by key. `now` gives seconds that only go forward."""

    rate: float
    burst: float
    now: Callable[[], float] = time.monotonic
    _kept: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, key: str, cost: float = 1.0) -> None:
        """Take tokens. Raises `TooManyError` when there aren't enough; they are left then."""
        now = self.now()
        left, at = self._kept.pop(key, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.rate)
        enough = left >= cost
        self._kept[key] = (left - cost if enough else left, now)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        if not enough:
            raise TooManyError(max(1, ceil((cost - left) / self.rate)))

    def drain(self, key: str, cost: float) -> None:
        """Take as many as there are, up to `cost`."""
        now = self.now()
        left, at = self._kept.pop(key, (self.burst, now))
        self._kept[key] = (max(0.0, min(self.burst, left + (now - at) * self.rate) - cost), now)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of the people's listener: for each address before anything is looked at, and for each token."""

    addresses: Buckets = field(default_factory=lambda: Buckets(rate=200, burst=2000))
    tokens: Buckets = field(default_factory=lambda: Buckets(rate=100, burst=1000))


def limits_from(settings: LimitSettings) -> Limits:
    """Those that are configured."""
    return Limits(
        addresses=Buckets(rate=settings.address_per_s, burst=settings.address_burst),
        tokens=Buckets(rate=settings.token_per_s, burst=settings.token_burst),
    )


def network_of(address: str | None) -> str:
    """What counts as one address: of IPv6 the /64, of which whoever has one address has all."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
