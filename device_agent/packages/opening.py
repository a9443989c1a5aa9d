"""From `[target]` of the configuration to the parts of a host."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.core.values import Content
from device_agent.drain.command import CommandDrainer
from device_agent.drain.kubernetes import KubernetesDrainer
from device_agent.drain.port import Drainer
from device_agent.drain.settings import CommandDrain, DrainSettings, HttpDrain, KubernetesDrain
from device_agent.drain.web import WebDrainer
from device_agent.effects import FileEffects
from device_agent.packages.apt import Apt, AptSettings
from device_agent.packages.boot import PackageBoot
from device_agent.packages.host import Host, HostTools
from device_agent.packages.installer import PackageInstaller
from device_agent.packages.inventory import shown, take_inventory
from device_agent.packages.settings import HostTarget
from device_agent.packages.slots import PatchSetSlots, identify_host
from device_agent.packages.store import PackageStore
from device_agent.packages.survey import Survey
from device_agent.packages.telling import Teller
from device_agent.packages.transaction import HostPolicy, Transactions
from device_agent.ports import Effects, Installer, Slot, SlotSets
from firmware.errors import RefusedError
from firmware.protocol.packages import PackagesPart
from firmware.protocol.words import ReasonKind

FOLDER = "packages"


@dataclass(frozen=True, kw_only=True)
class HostParts:
    """What the agent, and its worker, need of a host."""

    transactions: Transactions
    survey: Survey
    teller: Teller
    boot: PackageBoot
    slots: PatchSetSlots

    def installer(self, images: Installer) -> PackageInstaller:
        """What stages patch sets, over what fetches their documents."""
        return PackageInstaller(images, self.slots, self.transactions)

    def tell(self, told: str, now: float) -> list[PackagesPart]:
        """What to tell of the packages, as they were looked at last, to somebody who was told `told`."""
        return [] if self.survey.state is None else self.teller.next(self.survey.state, told, now)

    def identify(self, sets: SlotSets, slot: Slot) -> Content | None:
        """What a host runs when no journal tells."""
        return identify_host(sets, slot)


def look_at_packages(directory: Path, *, refresh: bool) -> dict[str, Any]:
    """What the host of this agent's directory has, for people and for `otaria release patch-set`. Raises `RefusedError`
    (`wrong-kind`) where the agent updates something else."""
    from device_agent.config import load_config

    target = load_config(directory).target
    if not isinstance(target, HostTarget):
        text = 'This agent updates a device; [target] kind = "host" in agent.toml makes it a host\'s.'
        raise RefusedError(ReasonKind.WRONG_KIND, text)
    one = open_host(target, directory, FileEffects()).transactions
    if refresh:
        one.system.refresh()
    return shown(take_inventory(one.system, one.host))


def drainer_of(settings: DrainSettings | None, host: Host) -> Drainer | None:
    """What takes the host out of service, if anything does."""
    if isinstance(settings, CommandDrain):
        return CommandDrainer(settings, lambda argv, facts, timeout_s: host.hook(argv, facts, timeout_s=timeout_s))
    if isinstance(settings, HttpDrain):
        return WebDrainer(settings)
    if isinstance(settings, KubernetesDrain):
        return KubernetesDrainer(settings, os.uname().nodename.lower())
    return None


def open_host(target: HostTarget, directory: Path, effects: Effects) -> HostParts:
    """The parts of the host whose agent has this directory."""
    folder = directory / FOLDER
    store = PackageStore(effects, folder)
    root = Path(target.root)
    settings = AptSettings(
        root=root,
        config=Path(target.apt_config) if target.apt_config else None,
        lock_s=target.lock_s,
        install_s=target.install_s,
    )
    host = Host(effects, HostTools(root=root, needrestart=target.needrestart, reboot=target.reboot))
    policy = HostPolicy(
        restart=target.restart,
        restart_services=target.restart_services,
        way_back=target.way_back,
        snapshot=target.snapshot,
        restore=target.restore,
        previous_kernel=target.previous_kernel,
        hook_s=target.hook_s,
        room_bytes=target.keep_free_mib << 20,
    )
    transactions = Transactions(store, Apt(settings, store.work), host, policy, drainer_of(target.drain, host))
    return HostParts(
        transactions=transactions,
        survey=Survey(transactions),
        teller=Teller(effects, folder),
        boot=PackageBoot(transactions, host),
        slots=PatchSetSlots(effects, folder, store),
    )
