"""People who must agree to a campaign before it starts. They agree at once, unless the world says by acts when they do."""

from collections import Counter
from collections.abc import Sequence

from server.planner.approvals import labels_of, with_needed
from server.planner.plain import bad
from server.planner.rows import CampaignRow
from server.planner.words import Verb
from simulator.virtual.world import Act, Member, World


class Approvers:
    """A world's."""

    def __init__(self, world: World) -> None:
        self._late = late(world)
        self._heard: Counter[str] = Counter()

    def are_late(self, campaign: str) -> bool:
        """Whether it waits until the world says that somebody agrees."""
        return campaign in self._late

    def who(self, act: Act) -> str:
        """Who says this: everybody who agrees is somebody else."""
        if act.verb is not Verb.APPROVE:
            return "sim"
        self._heard[act.campaign] += 1
        return f"sim-{self._heard[act.campaign]}"

    def asked(self, row: CampaignRow, members: Sequence[Member]) -> CampaignRow:
        """The campaign over these members, with as many approvals as it waits for."""
        if not self.are_late(row.id):
            return row
        labels = labels_of(row.strategy).items()
        fitting = {index for index, own in labels if any(own.items() <= dict(one.labels).items() for one in members)}
        return with_needed(row, size=len(members), labelled=fitting)


def late(world: World) -> frozenset[str]:
    """The campaigns whose approvals come by acts."""
    return frozenset(act.campaign for act in world.acts if act.verb is Verb.APPROVE)


def require_possible(world: World) -> None:
    """Raise `RefusedError` (`bad-strategy`, with its place) for an approval of what nobody has to agree to."""
    strategies = {start.spec.name: start.spec.strategy for start in world.campaigns}
    for n, act in enumerate(world.acts):
        strategy = strategies[act.campaign]
        if act.verb is Verb.APPROVE and not (strategy.approvals.need or strategy.approvals.rules):
            raise bad(f"acts[{n}].verb", f"be another one: the strategy of {act.campaign} asks for no approvals")
