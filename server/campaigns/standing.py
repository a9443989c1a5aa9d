"""A target's standing: what people decide about the agent behind it.

A quarantined agent is heard no more and gets no permit until somebody releases it; a revoked one never again, so it no
longer counts against any budget. Both hold from the commit on: ingest, the devices' listener and the planner ask the same
column. Soon after, its live session ends, and the broker refuses its certificate until it is released. A permit that waits to be
sent is taken back with it, and so is the order that the broker keeps, because of the key that it may bring; who is released
gets it again.
"""

from collections.abc import Callable
from enum import StrEnum

from firmware.errors import RefusedError
from firmware.protocol.topics import Leaf, of_target
from server.errors import NotFoundError
from server.planner import budgets
from server.planner.ledger import Ledger
from server.planner.slices import Footprint
from server.ports import AgentStatus, Clock, Database, TargetView, Unit


class Step(StrEnum):
    """What people do to a target's standing."""

    QUARANTINE = "quarantine"
    RELEASE = "release"
    REVOKE = "revoke"


_AFTER = {
    Step.QUARANTINE: AgentStatus.QUARANTINED,
    Step.RELEASE: AgentStatus.ACTIVE,
    Step.REVOKE: AgentStatus.REVOKED,
}


class StandingService:
    """Changes the standing of targets, each change with a line on the trail."""

    def __init__(self, database: Database, clock: Clock, *, on_outbox: Callable[[], None] = lambda: None) -> None:
        """`on_outbox` is told when there is something to send."""
        self._database = database
        self._clock = clock
        self._on_outbox = on_outbox

    async def change(self, target: str, step: Step, *, by: str, reason: str) -> TargetView:
        """Take a step and return the target as it is then; a step that changes nothing leaves no line.

        Raises `NotFoundError`, or `RefusedError` (`revoked`) for a target whose agent was revoked: that is for ever.
        """
        now = self._clock.now()
        view = await self._database.write(lambda unit: change_standing(unit, target, step, by, reason, now))
        self._on_outbox()
        return view


def keep_order(unit: Unit, agent: str, target: str, *, is_active: bool) -> None:
    """Have the broker keep the target's order, or forget it: an empty message takes the place of one that is kept."""
    topic, current = of_target(agent, target, Leaf.ORDER), unit.orders.current(target)
    if current is not None:
        unit.outbox.take_back(topic)
        unit.outbox.add(topic, current.envelope if is_active else b"", retain=True)


def change_standing(unit: Unit, name: str, step: Step, by: str, reason: str, now: float) -> TargetView:
    """Take a step inside a transaction; raises as `StandingService.change`."""
    before, status = view_of(unit, name), _AFTER[step]
    if before.status is status:
        return before
    if before.status.shut_out:
        raise RefusedError("revoked", f"{name} was {before.status}, and that is for ever; enrol the device anew.")
    unit.identities.set_agent_status(before.agent, status)
    if status is not AgentStatus.ACTIVE:
        unit.outbox.take_back(of_target(before.agent, name, Leaf.PERMIT))
    keep_order(unit, before.agent, name, is_active=status is AgentStatus.ACTIVE)
    unit.identities.set_evicting(before.agent, status is not AgentStatus.ACTIVE)
    if status is AgentStatus.REVOKED:
        free_tokens(unit, name, now)
    text = f"{by} set {name} from {before.status} to {status}." + (f" {reason}" if reason else "")
    unit.audit.add(at=now, kind=f"target-{status}", text=text, actor=by, target=name)
    return view_of(unit, name)


def free_tokens(unit: Unit, name: str, now: float) -> None:
    """Give back every budget token that a target holds."""
    ledger = Ledger(unit.campaigns.load(Footprint(target=name)), now)
    budgets.release(ledger)
    unit.campaigns.commit(ledger.decision())


def view_of(unit: Unit, name: str) -> TargetView:
    """The target as people see it; raises `NotFoundError`."""
    view = unit.fleet.target(name)
    if view is None:
        raise NotFoundError(f"There is no target {name}; `otaria fleet list` shows those there are.")
    return view
