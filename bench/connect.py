"""Simulated devices connect over TLS, each with a certificate and an agent of its own, to a real Mosquitto with a real server
behind it: how long until all are, and what each costs the simulator."""

from bench.plan import Plan
from bench.result import Outcome, Skipped, against_limit
from server.transport.broker import find_mosquitto
from simulator.soak import fleet
from simulator.soak.connecting import Connected, connect
from simulator.soak.gauges import Gauges
from simulator.wire.plan import Tempo
from simulator.wire.scene import Scene

DEVICES, PROCESSES, SEED = 10_000, 2, 1
LIMIT_S, LIMIT_KB = 60.0, 60.0
"""For ten thousand; for each."""


def connecting(plan: Plan) -> list[Outcome]:
    """Seconds, and KB for each device."""
    if find_mosquitto() is None:
        return [Skipped(name="connect.seconds", reason="Mosquitto is missing: apt-get install mosquitto")]
    devices = plan.size(DEVICES)
    found = _once(plan, devices)
    limit_s, whose = LIMIT_S * devices / DEVICES, f"{LIMIT_S:g} s for {DEVICES:,}"
    return [
        against_limit(f"connect.seconds.{devices}", "s", [found.seconds], limit_s, whose),
        against_limit(f"connect.memory.{devices}", "KB per device", [found.kb_per_device], LIMIT_KB),
    ]


def _once(plan: Plan, devices: int) -> Connected:
    gauges = Gauges(0.0)
    scene = Scene(
        plan.scratch,
        product=fleet.PRODUCT,
        members=fleet.members(devices, SEED),
        releases=[fleet.release(0)],
        seed=SEED,
        begins=fleet.BEGINS,
        tempo=Tempo(),
        processes=PROCESSES,
        published=0,
        on_pulse=gauges.hear,
    )
    try:
        scene.open()
        return connect(scene.crew, gauges, devices)
    finally:
        scene.close()
