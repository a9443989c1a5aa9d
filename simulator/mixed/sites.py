"""Who is at the sites, what is redundant to whom, and who is reached through whom: plain data.

    server ── core-a ─┬─ edge ─┬─ web-1   (hosts)
           └─ core-b ─┘        ├─ web-2
                               └─ meter-1, meter-2   (devices)

A site has two core routers, of which one must stay up; an edge router behind both; and behind that two servers, of which one
must stay up, and two devices.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

SITES = ("berlin", "ulm", "wien")
APPLIANCE, HOST, DEVICE = "appliance", "host", "device"
KINDS = (HOST, DEVICE, APPLIANCE)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A target. `pair`: it and another are redundant. `above`: the names of those it is reached through, directly."""

    name: str
    kind: str
    site: str
    role: str
    pair: str = ""
    above: tuple[str, ...] = ()


def members_of(site: str) -> list[Member]:
    """Everybody at a site, whoever is nearer to the server first."""
    cores = (f"{site}-core-a", f"{site}-core-b")
    edge = f"{site}-edge"
    return [
        *(Member(name=name, kind=APPLIANCE, site=site, role="core", pair=f"{site}-core") for name in cores),
        Member(name=edge, kind=APPLIANCE, site=site, role="edge", above=cores),
        *(
            Member(name=f"{site}-web-{number}", kind=HOST, site=site, role="web", pair=f"{site}-web", above=(edge,))
            for number in (1, 2)
        ),
        *(
            Member(name=f"{site}-meter-{number}", kind=DEVICE, site=site, role="meter", above=(edge,))
            for number in (1, 2)
        ),
    ]


def everybody(sites: Sequence[str] = SITES) -> list[Member]:
    """All members of all sites."""
    return [member for site in sites for member in members_of(site)]


def layers(members: Iterable[Member]) -> list[list[Member]]:
    """By how far they are from the server: whoever is above others comes in an earlier layer than they."""
    depth: dict[str, int] = {}
    for one in members:
        depth[one.name] = 1 + max((depth[name] for name in one.above), default=-1)
    return [[one for one in members if depth[one.name] == level] for level in sorted(set(depth.values()))]


def pairs(members: Iterable[Member]) -> dict[str, tuple[str, ...]]:
    """Who is in each pair."""
    found: dict[str, tuple[str, ...]] = {}
    for one in members:
        if one.pair:
            found[one.pair] = (*found.get(one.pair, ()), one.name)
    return found


def paths(members: Iterable[Member]) -> dict[str, frozenset[str]]:
    """Everybody whom each is reached through, however far."""
    found: dict[str, frozenset[str]] = {}
    for one in members:
        found[one.name] = frozenset(one.above).union(*(found[name] for name in one.above))
    return found


def labels_of(member: Member, targets: Mapping[str, str]) -> dict[str, str]:
    """The labels a member enrols with. `targets`: the ids that the server gave to those above it, by name."""
    found = {"name": member.name, "site": member.site, "role": member.role}
    if member.pair:
        found["pair"] = member.pair
    for number, name in enumerate(member.above, 1):
        found["gateway" if number == 1 else f"gateway.{number}"] = targets[name]
    return found
