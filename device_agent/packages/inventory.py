"""What a host has: packages with their sources, what is pending, the kernel, what waits for a restart."""

from typing import Any

from msgspec import Struct, to_builtins

from device_agent.packages.plan import Change, Installed, key_of
from device_agent.packages.port import HostSystem, PackageSystem
from firmware.host_packages import MAX_DRIFT, Drifted, HostFacts, HostState, Offered, PackageHere, host_state


class HostInventory(Struct, frozen=True, kw_only=True):
    """All that is known of a host at one time; packages by their key."""

    kernel: str
    newest_kernel: str | None
    restart_needed: str | None
    services_to_restart: list[str]
    packages: dict[str, PackageHere]
    pending: dict[str, Offered]


def take_inventory(system: PackageSystem, host: HostSystem) -> HostInventory:
    """Look now; what a person holds is not pending. Raises as the port does."""
    installed, waiting, native = system.installed(), host.waiting(), system.native
    held = {key for key, one in installed.items() if one.is_held}
    return HostInventory(
        kernel=host.kernel(),
        newest_kernel=host.newest_kernel(),
        restart_needed=waiting.restart,
        services_to_restart=list(waiting.services),
        packages={key: _here(one) for key, one in sorted(installed.items()) if one.is_there},
        pending={one.key: one for one in system.offered() if key_of(one.name, one.arch, native) not in held},
    )


def state_of(found: HostInventory, drift: list[Change]) -> HostState:
    """As the server is told it; what it would not take is cut or left out."""
    facts = HostFacts(
        kernel=found.kernel[:128],
        newest_kernel=found.newest_kernel[:128] if found.newest_kernel else None,
        restart_needed=found.restart_needed[:256] if found.restart_needed else None,
        services_to_restart=found.services_to_restart,
        drift=[
            Drifted(name=one.name, arch=one.arch, was=one.after or "", now=one.before or "")
            for one in drift[:MAX_DRIFT]
        ],
    )
    return host_state(facts, found.packages.values(), found.pending.values())


def shown(inventory: HostInventory) -> dict[str, Any]:
    """As `otaria-agent packages --json` prints it, and `otaria release patch-set --pending` reads it."""
    facts: dict[str, Any] = to_builtins(inventory)
    facts["packages"] = [to_builtins(one) for one in inventory.packages.values()]
    facts["pending"] = [to_builtins(one) for one in inventory.pending.values()]
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
