"""What can be asked of the packages of hosts: who has a source package below a version, and what waits in a group."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from firmware.deb_version import version_order
from firmware.errors import RefusedError
from firmware.host_packages import Offered, PackageHere
from firmware.protocol.words import ReasonKind
from server.ports import HostHeld, Unit
from server.ports.querying import Query

PAGE = 1000
MAX_NAMED = 8


class PendingOffer(Struct, frozen=True, kw_only=True):
    """A package that waits in a group, at the highest version that any of its hosts is offered. `hosts`: how many are; `others`:
    how many are offered a lower version, by version."""

    offer: Offered
    hosts: int
    others: dict[str, int]


class PendingInGroup(Struct, frozen=True, kw_only=True):
    """What waits in a group. `hosts` told their packages, `silent` targets of the group never did; `hardware`: of the hosts."""

    hardware: str
    hosts: int
    silent: int
    pending: list[PendingOffer]


@dataclass
class _Tally:
    """What hosts are offered of one package: by version the offer, and how many are."""

    offers: dict[str, Offered] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, one: Offered, hosts: int) -> None:
        held = self.offers.setdefault(one.version, one)
        if held.sha256 and one.sha256 and (held.length, held.sha256) != (one.length, one.sha256):
            text = f"Hosts were offered different files as {one.key}={one.version}; one of their archives isn't the other's."
            raise RefusedError(ReasonKind.PLAN_DIFFERS, text)
        if one.sha256 and not held.sha256:
            self.offers[one.version] = one
        self.hosts[one.version] += hosts

    def highest(self) -> PendingOffer:
        best = max(self.offers, key=version_order)
        others = {version: number for version, number in sorted(self.hosts.items()) if version != best}
        return PendingOffer(offer=self.offers[best], hosts=self.hosts[best], others=others)


def behind(packages: Sequence[PackageHere], below: str | None) -> list[PackageHere]:
    """Those of a source package whose source is below a version; all of them without one."""
    if below is None:
        return list(packages)
    bound = version_order(below)
    return [one for one in packages if version_order(one.of_source[1]) < bound]


def pending_in(unit: Unit, query: Query, *, security_only: bool) -> PendingInGroup:
    """What waits on the hosts that fit a query. Raises `RefusedError`: `nothing-pending`, `plan-differs` when hosts of several
    kinds fit, or one version is offered as different files."""
    hardware: set[str] = set()
    hosts = silent = 0
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    named: dict[int, int] = defaultdict(int)
    for page in _pages(unit, query):
        told = unit.packages.pending_chunks([target for target, _ in page])
        hosts, silent = hosts + len(told), silent + len(page) - len(told)
        hardware |= {kind for target, kind in page if target in told}
        for chunk in told.values():
            named[chunk] += 1
    if len(hardware) > 1:
        text = (
            f"Hosts of several kinds fit ({', '.join(sorted(hardware)[:MAX_NAMED])}); add hardware:NAME to the query."
        )
        raise RefusedError(ReasonKind.PLAN_DIFFERS, text)
    for chunk, offers in unit.packages.offers(sorted(named)):
        for one in offers:
            if one.is_security or not security_only:
                tallies[one.key].add(one, named[chunk])
    if not tallies:
        text = f"Nothing is pending on the {hosts} hosts of this group that told their packages ({silent} didn't)."
        raise RefusedError("nothing-pending", text)
    pending = [tallies[key].highest() for key in sorted(tallies)]
    return PendingInGroup(hardware=next(iter(hardware)), hosts=hosts, silent=silent, pending=pending)


def hosts_page(
    unit: Unit, *, source: str, below: str | None, security: bool, begin: str, limit: int
) -> tuple[list[tuple[HostHeld, list[PackageHere]]], bool]:
    """Hosts by id, after `begin`, with the packages of `source` (empty: whatever they have) that are below a version; and whether
    there are more."""
    found: list[tuple[HostHeld, list[PackageHere]]] = []
    for held, packages in _candidates(unit, source, below, begin):
        if security and not held.security:
            continue
        if len(found) == limit:
            return found, True
        found.append((held, packages))
    return found, False


def _candidates(unit: Unit, source: str, below: str | None, begin: str) -> Iterator[tuple[HostHeld, list[PackageHere]]]:
    if not source:
        while page := unit.packages.hosts(begin, PAGE):
            yield from ((held, []) for held in page)
            begin = page[-1].target
        return
    for target, packages in unit.packages.having(source):
        if target > begin and (due := behind(packages, below)):
            held = unit.packages.held(target)
            if held is not None:
                yield held, due


def _pages(unit: Unit, query: Query) -> Iterator[list[tuple[str, str]]]:
    cursor = None
    while True:
        page = unit.fleet.page(cursor=cursor, limit=PAGE, query=query)
        yield [(one.id, one.hardware) for one in page.rows]
        if page.next is None:
            return
        cursor = page.next
