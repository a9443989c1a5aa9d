"""The soak: how long a committed release runs before its signed floor becomes the target's.

Falling back must stay possible while a release is young, and going back must end once it is trusted. No order that comes
meanwhile ends a soak, else whoever may sign orders could keep the floor down for ever; only another slot's commit does. A
reboot begins it anew, and it counts only while its slot runs and doesn't fail its checks.
"""

from msgspec.structs import replace

from device_agent.core.states import Activating, Soak, Standing, Trial
from device_agent.core.values import Goal, Moment


def soak_at(standing: Standing) -> float | None:
    """When the running release has soaked, or None. Never in mid-activation: then it is about to be left."""
    soak = standing.soak
    if soak is None or soak.slot is not standing.boot.slot or isinstance(standing.state, Activating | Trial):
        return None
    if standing.vigil is not None and standing.vigil.regressed is not None:
        return None
    return soak.soaked_at


def raise_floor(standing: Standing, soak: Soak) -> Standing:
    """The release has soaked: its signed floor becomes the target's."""
    floor = max(standing.floors.get(soak.product, 0), soak.floor)
    return replace(standing, soak=None, floors={**standing.floors, soak.product: floor})


def soak_of(standing: Standing, goal: Goal, moment: Moment) -> Soak | None:
    """The soak that begins when this goal runs and is good; one of the same slot that is under way goes on."""
    product, floor = goal.content.product, min(goal.floor, goal.content.counter)
    if floor <= standing.floors.get(product, 0):
        return None
    begun = Soak(slot=goal.slot, product=product, floor=floor, soaked_at=moment.now + moment.tuning.soak_s)
    known = standing.soak
    return known if known is not None and replace(known, soaked_at=begun.soaked_at) == begun else begun


def soak_of_boot(standing: Standing, same_boot: bool, moment: Moment) -> Soak | None:
    """A reboot begins the soak anew."""
    if standing.soak is None or same_boot:
        return standing.soak
    return replace(standing.soak, soaked_at=moment.now + moment.tuning.soak_s)
