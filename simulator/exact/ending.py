"""The end of an exact run: what the server has is held against what the devices are and said, once all is quiet.

Rules
- A world whose days are over before its campaigns are goes on only as far as it is under way: nobody gets a permit any more.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from server.planner.ledger import Ledger as PlannersLedger
from server.planner.waits import Wait, wait
from server.ports import TargetView
from simulator.soak.books import Ledger
from simulator.soak.evidence import Reports, compare_bricked, compare_fleet, quiet
from simulator.virtual.world import Member, World
from simulator.wire.plan import Truth

QUIET_S = 4 * 3600.0
"""How long it may take until all is said and heard, over links that lose nothing and are quick."""


def quiet_within_s(members: Iterable[Member]) -> float:
    """The same for these members' links, and for who is in the middle of a trial."""
    some = list(members)
    latency_s, health_s = max(one.link.latency_s for one in some), max(one.health_s for one in some)
    arrives = min(1 - one.link.loss for one in some)
    return (QUIET_S + 8 * latency_s + 2 * health_s) / arrives**2


def nobody(ledger: PlannersLedger) -> Wait | None:
    """`server.planner.ask_events.Check`: nobody may activate any more."""
    return wait(ledger, "over", "The world's days are over.", "nothing")


def unrest(truths: Iterable[Truth], unheard: int) -> str:
    """What keeps a run from being quiet, of those who can still come up; empty when nothing does. `unheard`: messages that the
    server has not taken in."""
    why = quiet(one for one in truths if not one.is_bricked)
    return why or (f"the server has {unheard} messages to take in" if unheard else "")


def hold_against(
    world: World,
    truths: Mapping[str, Truth],
    shown: Sequence[TargetView],
    reports: Reports,
    ledger: Ledger,
    at_s: float,
) -> None:
    """Note in the ledger where reports that are stored, or targets as the server shows them, are not what these devices said
    and are."""
    reports.compare(truths.values(), at_s, {})
    brings = {start.spec.name: start.spec.version for start in world.campaigns}
    alive = {one.target: one for one in truths.values() if not one.is_bricked}
    fleet = [row_of(one) for one in shown]
    compare_fleet(fleet, alive, brings, ledger, at_s, {})
    compare_bricked(fleet, truths.values(), ledger, at_s)


def row_of(one: TargetView) -> Mapping[str, Any]:
    """What is held against devices, as the API has it."""
    names = ("id", "campaign", "state", "running_version", "running_sha256", "status", "presence")
    return {name: getattr(one, name) for name in names}
