"""What a host has: packages with their sources, what is pending, the kernel, what waits for a restart; and what of it changed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct, to_builtins

from device_agent.packages.plan import Installed
from device_agent.packages.port import HostSystem, Offered, PackageSystem

T = TypeVar("T")


class PackageHere(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One installed package. `source` and `source_version` are left out where they are the package's own. `unsound`: dpkg's
    status of one that isn't wholly installed."""

    name: str
    arch: str
    version: str
    source: str = ""
    source_version: str = ""
    held: bool = False
    unsound: str = ""


class HostInventory(Struct, frozen=True, kw_only=True):
    """All that is known of a host at one time; by key, so that two can be compared."""

    kernel: str
    newest_kernel: str | None
    restart_needed: str | None
    services_to_restart: list[str]
    packages: dict[str, PackageHere]
    pending: dict[str, Offered]


class Difference(Struct, frozen=True, kw_only=True):
    """What became of an inventory: packages and offers that are new or changed, keys that are gone, the host's other facts."""

    kernel: str
    newest_kernel: str | None
    restart_needed: str | None
    services_to_restart: list[str]
    packages: dict[str, PackageHere]
    packages_gone: list[str]
    pending: dict[str, Offered]
    pending_gone: list[str]

    @property
    def is_empty(self) -> bool:
        """Whether no package and no offer changed."""
        return not (self.packages or self.packages_gone or self.pending or self.pending_gone)


def take_inventory(system: PackageSystem, host: HostSystem, *, services: bool = True) -> HostInventory:
    """Look now. Without `services`, running programs aren't looked at, which takes longest. Raises as the port does."""
    installed = system.installed()
    return HostInventory(
        kernel=host.kernel(),
        newest_kernel=host.newest_kernel(),
        restart_needed=host.restart_needed(),
        services_to_restart=host.services_to_restart() if services else [],
        packages={key: _here(one) for key, one in sorted(installed.items()) if one.is_there},
        pending={f"{one.name}:{one.arch}": one for one in system.offered()},
    )


def difference(before: HostInventory, after: HostInventory) -> Difference:
    """What has to be said to somebody who knows `before`."""
    packages, packages_gone = _changed(before.packages, after.packages)
    pending, pending_gone = _changed(before.pending, after.pending)
    return Difference(
        kernel=after.kernel,
        newest_kernel=after.newest_kernel,
        restart_needed=after.restart_needed,
        services_to_restart=after.services_to_restart,
        packages=packages,
        packages_gone=packages_gone,
        pending=pending,
        pending_gone=pending_gone,
    )


def applied(before: HostInventory, told: Difference) -> HostInventory:
    """The reverse of `difference`."""
    return HostInventory(
        kernel=told.kernel,
        newest_kernel=told.newest_kernel,
        restart_needed=told.restart_needed,
        services_to_restart=told.services_to_restart,
        packages=_kept(before.packages, told.packages_gone) | told.packages,
        pending=_kept(before.pending, told.pending_gone) | told.pending,
    )


def shown(inventory: HostInventory) -> dict[str, Any]:
    """As `otaria-agent packages --json` prints it, and `otaria release patch-set --pending` reads it."""
    facts: dict[str, Any] = to_builtins(inventory)
    facts["packages"] = [to_builtins(one) for one in inventory.packages.values()]
    facts["pending"] = [dataclasses.asdict(one) for one in inventory.pending.values()]
    return facts


def _here(one: Installed) -> PackageHere:
    is_own = (one.source, one.source_version) in {(one.name, one.version), ("", "")}
    return PackageHere(
        name=one.name,
        arch=one.arch,
        version=one.version,
        source="" if is_own else one.source,
        source_version="" if is_own else one.source_version,
        held=one.is_held,
        unsound="" if one.is_sound else one.status.strip(),
    )


def _changed(before: Mapping[str, T], after: Mapping[str, T]) -> tuple[dict[str, T], list[str]]:
    new = {key: one for key, one in after.items() if before.get(key) != one}
    return new, sorted(set(before) - set(after))


def _kept(before: Mapping[str, T], gone: Sequence[str]) -> dict[str, T]:
    left_out = set(gone)
    return {key: one for key, one in before.items() if key not in left_out}
