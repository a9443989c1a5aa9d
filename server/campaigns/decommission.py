"""Decommissioning: a device leaves the fleet for ever, in order.

One transaction ends its part in every campaign, gives its budget tokens back, withdraws its order by a signed `nothing`, and
shuts its agent out. What it did, said and was decided about stays. Its id and its report key are never used again, so a
board that comes back comes as another target, with keys and a claim token of its own.
"""

from firmware.protocol.topics import Leaf, of_target
from server.campaigns.director import Director
from server.campaigns.standing import free_tokens, view_of
from server.campaigns.turn import Turn
from server.planner.events import Decommissioned
from server.ports import AgentStatus, Clock, Database, TargetView, Unit


class DecommissionService:
    """Takes targets out of the fleet."""

    def __init__(self, database: Database, clock: Clock, director: Director) -> None:
        self._database, self._clock, self._director = database, clock, director

    async def decommission(self, target: str, *, by: str, reason: str) -> TargetView:
        """Take a target out of the fleet and return it as it is then; again changes nothing. Raises `NotFoundError`."""
        now = self._clock.now()
        return await self._database.write(lambda unit: self._take_out(unit, target, by, reason, now))

    def _take_out(self, unit: Unit, name: str, by: str, reason: str, now: float) -> TargetView:
        before = view_of(unit, name)
        if before.status is AgentStatus.DECOMMISSIONED:
            return before
        turn = Turn(unit, self._director, now)
        why = f"{by} took it out of the fleet." + (f" {reason}" if reason else "")
        for campaign in unit.campaigns.open_for(name):
            turn.feed(Decommissioned(campaign=campaign, target=name, reason=why, at=now))
        free_tokens(unit, name, now)
        turn.withdraw(name)
        unit.identities.set_agent_status(before.agent, AgentStatus.DECOMMISSIONED)
        unit.outbox.take_back(of_target(before.agent, name, Leaf.PERMIT))
        unit.identities.set_evicting(before.agent, True)
        text = f"{by} decommissioned {name}, which was {before.status}." + (f" {reason}" if reason else "")
        unit.audit.add(at=now, kind="target-decommissioned", text=text, actor=by, target=name)
        return view_of(unit, name)
