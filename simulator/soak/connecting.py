"""All devices get power at once and connect over TLS: how long that takes, and what each costs the simulator."""

import time
from dataclasses import dataclass

from firmware.errors import UnavailableError
from simulator.soak.gauges import Gauges
from simulator.wire.crew import Crew
from simulator.wire.hub import rss_bytes

LOOK_S = 0.5
CONNECT_S = 600.0
MOST_ARE, STILL_S = 0.9, 5.0
"""When so large a share is connected and nobody came for so long, the others are those that aren't there now."""


@dataclass(frozen=True, kw_only=True)
class Connected:
    """`seconds` until the last one that is there; `kb_per_device`: what the simulator's processes grew by."""

    seconds: float
    kb_per_device: float


def connect(crew: Crew, gauges: Gauges, devices: int) -> Connected:
    """Start the crew, whose pulses `gauges` hears. Raises `UnavailableError` (`not-connected`) after ten minutes."""
    before = _memory(crew)
    began, most, since = time.monotonic(), 0, time.monotonic()
    crew.start()
    while time.monotonic() - began < CONNECT_S:
        time.sleep(LOOK_S)
        if gauges.connected > most:
            most, since = gauges.connected, time.monotonic()
        if most >= devices or (most >= devices * MOST_ARE and time.monotonic() - since > STILL_S):
            return Connected(seconds=since - began, kb_per_device=(_memory(crew) - before) / 1024 / devices)
    raise UnavailableError("not-connected", f"Only {most} of {devices} devices were connected in {CONNECT_S:g} s.")


def _memory(crew: Crew) -> int:
    return sum(rss_bytes(pid) for pid in crew.pids)
