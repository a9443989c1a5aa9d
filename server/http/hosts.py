"""What hosts have, over REST: one host's packages, hosts by a source package, and what waits in a group."""

from collections.abc import Sequence
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.host_packages import PENDING, HostFacts, Offered, PackageHere
from firmware.patch_set import PackageVersion
from server.campaigns.hosts import PendingInGroup, hosts_page, pending_in
from server.errors import NotFoundError
from server.http.access import Caller, Need
from server.http.bodies import path_id, read_query
from server.http.paging import Paged, after, paged_reply, place
from server.http.routes import Route, reply
from server.ports import Database, Unit
from server.ports.querying import MAX_CHARS, parse


class PackageShown(Struct, frozen=True, kw_only=True):
    """An installed package, with its source package. `unsound`: dpkg's status of one that isn't wholly installed."""

    name: str
    arch: str
    version: str
    source: str
    source_version: str
    held: bool
    unsound: str


class HostShown(Struct, frozen=True, kw_only=True):
    """A host. `pending`, `security`: how many packages are offered newer, and how many of those by a security archive; `found`:
    its packages that were asked for."""

    target: str
    told_at: float
    facts: HostFacts
    pending: int
    security: int
    found: list[PackageShown]


class HostPage(Struct, frozen=True, kw_only=True):
    """A page of hosts, by id."""

    hosts: list[HostShown]
    next: str | None


class PackagesShown(Struct, frozen=True, kw_only=True):
    """A host's packages as it told them last. In `facts`, `drift` is what isn't as the committed set has it. `pending`: what it
    is offered, that of security archives first."""

    target: str
    told_at: float
    digest: str
    facts: HostFacts
    packages: list[PackageShown]
    pending: list[Offered]


class WhichHosts(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of hosts. `source`: only those that have packages of this source package, with `below` only in versions below
    it; `security`: only those with pending security updates."""

    source: Annotated[str, Meta(max_length=128)] = ""
    below: PackageVersion | None = None
    security: bool = False


class WhichGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`query`: which hosts, in the fleet's query language; `security`: only what a security archive offers."""

    query: Annotated[str, Meta(max_length=MAX_CHARS)] = ""
    security: bool = False


class HostRoutes:
    """Handlers about hosts. All of it is what the hosts' signed reports told; none of it moves anything."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def routes(self) -> Sequence[Route]:
        return (
            Route(method="GET", path="/hosts", need=Need.READ, action=self.hosts, query=WhichHosts, answer=HostPage),
            Route(
                method="GET",
                path="/hosts-pending",
                need=Need.READ,
                action=self.pending,
                query=WhichGroup,
                answer=PendingInGroup,
            ),
            Route(
                method="GET",
                path="/fleet/{target}/packages",
                need=Need.READ,
                action=self.packages,
                answer=PackagesShown,
            ),
        )

    async def hosts(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Hosts by id: those that have a source package below a version, or wait for security updates."""
        which = read_query(request, WhichHosts)
        if which.below is not None and not which.source:
            raise RefusedError("bad-query", "Say with `source` which source package is to be below that version.")
        key = place(request, which, str)
        found, more = await self._database.read(
            lambda unit: hosts_page(
                unit,
                source=which.source,
                below=which.below,
                security=which.security,
                begin=str(key[0]) if key else "",
                limit=which.limit,
            )
        )
        shown = [
            HostShown(
                target=held.target,
                told_at=held.told_at,
                facts=held.facts,
                pending=held.pending,
                security=held.security,
                found=[_shown(one) for one in packages],
            )
            for held, packages in found
        ]
        following = after(request, (shown[-1].target,)) if more else None
        return paged_reply(request, HostPage(hosts=shown, next=following))

    async def pending(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """What waits on the hosts of a group, each package at the highest version that any of them is offered."""
        which = read_query(request, WhichGroup)
        query = parse(which.query)
        return reply(await self._database.read(lambda unit: pending_in(unit, query, security_only=which.security)))

    async def packages(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """A host's packages."""
        name = path_id(request, "target")
        shown = await self._database.read(lambda unit: packages_of(unit, name))
        if shown is None:
            raise NotFoundError(f"{name} has told nothing of packages; hosts do, after they start.")
        return reply(shown)


def packages_of(unit: Unit, target: str) -> PackagesShown | None:
    """What a host told; None when it never did."""
    held = unit.packages.held(target)
    if held is None:
        return None
    chunks = unit.packages.chunks(target)
    pending = [one for one in chunks.pop(PENDING, {}).values() if isinstance(one, Offered)]
    packages = [one for chunk in chunks.values() for one in chunk.values() if isinstance(one, PackageHere)]
    return PackagesShown(
        target=target,
        told_at=held.told_at,
        digest=held.digest,
        facts=held.facts,
        packages=[_shown(one) for one in sorted(packages, key=lambda one: one.key)],
        pending=sorted(pending, key=lambda one: (not one.is_security, one.key)),
    )


def _shown(one: PackageHere) -> PackageShown:
    source, source_version = one.of_source
    return PackageShown(
        name=one.name,
        arch=one.arch,
        version=one.version,
        source=source,
        source_version=source_version,
        held=one.held,
        unsound=one.unsound,
    )
