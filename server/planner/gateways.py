"""The management path of a target: the gateways it is reached through, as labels name them.

Rules
- The label `gateway` holds the id of the target's gateway; `gateway.2` to `gateway.4` those of others. They are an operator's
  word; only without any do the device's own (`agent.gateway` and so on) count.
- A gateway may have one itself: a path has all of them. It is at most `MAX_DEPTH` deep and has at most `MAX_GATEWAYS`.
- A path that comes back to its target, or is longer, is a fault: nobody knows then what may be in flight.
- Who is in flight counts in `gate:ITSELF`, when something is behind it, and in `behind:GATEWAY` for each of its gateways. So both
  directions are counters: a leaf looks at `gate:` of its gateways, a gateway at what is `behind:` it.
- What is counted for another reason (missing, failed, unhealthy) still blocks those behind it, but not its own gateway any more,
  which would else wait for something that may never come back.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from server.planner.rows import TargetRow
from server.planner.surroundings import AGENT_LABEL

LABELS = ("gateway", "gateway.2", "gateway.3", "gateway.4")
"""What names a target's gateways, as operators write it."""
OWN_LABELS = tuple(AGENT_LABEL + name for name in LABELS)
"""As the device itself says it."""
MAX_DEPTH = 4
MAX_GATEWAYS = 8

Hops = Callable[[Sequence[str]], Mapping[str, tuple[str, ...]]]
"""The gateways that each of these targets names."""


class Path(Struct, frozen=True, kw_only=True, gc=False):
    """All gateways above a target, nearest first, and what is wrong with that (empty: nothing)."""

    gateways: tuple[str, ...] = ()
    fault: str = ""


def gate_group(gateway: str) -> str:
    """The group that a gateway counts in itself; a label's key holds a `=` and so never equals it."""
    return f"gate:{gateway}"


def behind_group(gateway: str) -> str:
    """The group that those behind a gateway count in."""
    return f"behind:{gateway}"


def own_groups(target: TargetRow) -> tuple[str, ...]:
    """The groups of its path that a target counts in while it is in flight."""
    own = (gate_group(target.id),) if target.is_gateway else ()
    return (*own, *(behind_group(gateway) for gateway in target.gateways))


def path_groups(target: TargetRow) -> tuple[str, ...]:
    """All groups that matter to a target's path: its own, and those it looks at."""
    below = (behind_group(target.id),) if target.is_gateway else ()
    return (*own_groups(target), *below, *(gate_group(gateway) for gateway in target.gateways))


def is_behind(key: str) -> bool:
    """Whether a group is that of what is behind a gateway."""
    return key.startswith("behind:")


def named(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The gateways that a target's labels name."""
    for names in (LABELS, OWN_LABELS):
        found = tuple(dict.fromkeys(labels[name] for name in names if name in labels))
        if found:
            return found
    return ()


def path_of(target: str, hops: Hops) -> Path:
    """Everything above a target, level by level."""
    found: dict[str, str] = {}
    frontier = [target]
    for _ in range(MAX_DEPTH):
        above = hops(frontier)
        frontier = []
        for below in above:
            for gateway in above[below]:
                if gateway == target:
                    return Path(gateways=tuple(found), fault=_cycle(target, below, found))
                if gateway not in found:
                    found[gateway] = below
                    frontier.append(gateway)
        if not frontier:
            return Path(gateways=tuple(found))
        if len(found) > MAX_GATEWAYS:
            return Path(
                gateways=tuple(found)[:MAX_GATEWAYS], fault=f"it has more than {MAX_GATEWAYS} gateways above it"
            )
    if any(hops(frontier).values()):
        return Path(gateways=tuple(found), fault=f"its gateways are more than {MAX_DEPTH} levels deep")
    return Path(gateways=tuple(found))


def _cycle(target: str, last: str, below_of: Mapping[str, str]) -> str:
    names = [last]
    while names[-1] != target:
        names.append(below_of[names[-1]])
    return f"its gateways form a cycle: {' → '.join([*reversed(names), target])}"
